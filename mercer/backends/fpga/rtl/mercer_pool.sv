// Largest element or sum of every channel over TAPS words of [TAPS, CHANNELS]: the windows of mercer_window, or all pixels
// of an image (global pool, TAPS = HEIGHT*WIDTH). MODE 0 is the maximum, 1 the sum of element - ZERO.
// Schedule: TAPS*CHANNELS/LANES firings per window, channels first; each takes a word, those of the last tap issue one.
// LATENCY 1.
`default_nettype none
module mercer_pool #(
  parameter int MODE = 0,
  parameter int TAPS = 4,
  parameter int CHANNELS = 1,
  parameter int LANES = 1,
  parameter int IN_BITS = 8,
  parameter int OUT_BITS = 8,
  parameter int ZERO = 0
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*IN_BITS-1:0]  s_axis_tdata,
  input  wire                       s_axis_tvalid,
  output wire                       s_axis_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int BLOCKS = CHANNELS/LANES;
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam int TAP_BITS = TAPS > 1 ? $clog2(TAPS) : 1;

  logic [BLOCK_BITS-1:0] block;
  logic [TAP_BITS-1:0] tap;
  wire last_block = block == BLOCK_BITS'(BLOCKS - 1);
  wire last_tap = tap == TAP_BITS'(TAPS - 1);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  logic [LANES*OUT_BITS-1:0] partial [0:BLOCKS-1];
  logic [LANES*OUT_BITS-1:0] total;
  wire [LANES*OUT_BITS-1:0] earlier = partial[block];
  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      wire signed [OUT_BITS-1:0] element =
        OUT_BITS'($signed(s_axis_tdata[lane*IN_BITS +: IN_BITS])) - OUT_BITS'(MODE == 1 ? ZERO : 0);
      wire signed [OUT_BITS-1:0] kept = earlier[lane*OUT_BITS +: OUT_BITS];
      wire signed [OUT_BITS-1:0] joined = MODE == 1 ? kept + element : kept > element ? kept : element;
      assign total[lane*OUT_BITS +: OUT_BITS] = tap == '0 ? element : joined;
    end
  endgenerate

  always_ff @(posedge clk)
    if (rst) begin
      block <= '0;
      tap <= '0;
      m_axis_tvalid <= 1'b0;
    end else begin
      if (fire) begin
        block <= last_block ? '0 : block + 1'b1;
        if (last_block) tap <= last_tap ? '0 : tap + 1'b1;
      end
      if (advance) m_axis_tvalid <= fire && last_tap;
    end

  always_ff @(posedge clk)
    if (fire) begin
      partial[block] <= total;
      m_axis_tdata <= total;
    end
endmodule
`default_nettype wire
