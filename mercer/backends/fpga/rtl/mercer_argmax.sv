// Position of the largest of CHANNELS numbers, the first one where several are equal; LANES numbers per word.
// Schedule: CHANNELS/LANES firings per vector; each takes a word, the last issues the position. LATENCY 2.
`default_nettype none
module mercer_argmax #(
  parameter int CHANNELS = 10,
  parameter int LANES = 1,
  parameter int IN_BITS = 8,
  parameter int OUT_BITS = $clog2(CHANNELS) + 1
) (
  input  wire                      clk,
  input  wire                      rst,
  input  wire  [LANES*IN_BITS-1:0] s_axis_tdata,
  input  wire                      s_axis_tvalid,
  output wire                      s_axis_tready,
  output wire  [OUT_BITS-1:0]      m_axis_tdata,
  output logic                     m_axis_tvalid,
  input  wire                      m_axis_tready
);
  localparam int BEATS = CHANNELS/LANES;
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;

  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  // The largest of the word.
  logic signed [IN_BITS-1:0] candidate;
  logic [OUT_BITS-1:0] candidate_lane;
  always_comb begin
    candidate = s_axis_tdata[IN_BITS-1:0];
    candidate_lane = '0;
    for (int lane = 1; lane < LANES; lane = lane + 1)
      if ($signed(s_axis_tdata[lane*IN_BITS +: IN_BITS]) > candidate) begin
        candidate = s_axis_tdata[lane*IN_BITS +: IN_BITS];
        candidate_lane = OUT_BITS'(lane);
      end
  end

  logic [BEAT_BITS-1:0] beat;
  logic [OUT_BITS-1:0] place, position, largest_position;
  logic signed [IN_BITS-1:0] number, largest;
  logic compare, initial_word, final_word;
  assign m_axis_tdata = largest_position;

  always_ff @(posedge clk)
    if (rst) begin
      beat <= '0;
      place <= '0;
      compare <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      if (fire) begin
        beat <= beat == BEAT_BITS'(BEATS - 1) ? '0 : beat + 1'b1;
        place <= beat == BEAT_BITS'(BEATS - 1) ? '0 : place + OUT_BITS'(LANES);
      end
      compare <= fire;
      m_axis_tvalid <= compare && final_word;
    end

  always_ff @(posedge clk)
    if (advance) begin
      number <= candidate;
      position <= place + candidate_lane;
      initial_word <= beat == '0;
      final_word <= beat == BEAT_BITS'(BEATS - 1);
      if (compare && (initial_word || number > largest)) begin
        largest <= number;
        largest_position <= position;
      end
    end
endmodule
`default_nettype wire
