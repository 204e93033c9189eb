// Numbers at another scale, one multiplier per channel: SCALE 1 requantizes, 2 wraps to a phase. MULTIPLIERS holds a
// word of LANES multipliers for each CHANNELS/LANES step.
// Schedule: every firing takes a word and issues one. LATENCY 2, +1 when there is more than one step.
`default_nettype none
module mercer_scale #(
  parameter int CHANNELS = 1,
  parameter int LANES = 1,
  parameter int IN_BITS = 20,
  parameter int SCALE = 1,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 8,
  parameter MULTIPLIERS = ""
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*IN_BITS-1:0]  s_axis_tdata,
  input  wire                       s_axis_tvalid,
  output logic                      s_axis_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int BLOCKS = CHANNELS/LANES;
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam [BLOCK_BITS-1:0] LAST_BLOCK = BLOCK_BITS'(BLOCKS - 1);

  logic [LANES*MULTIPLIER_BITS-1:0] multipliers [0:BLOCKS-1];
  initial $readmemh(MULTIPLIERS, multipliers);

  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  logic fetched, scaling;
  logic [LANES*IN_BITS-1:0] values;
  logic [LANES*MULTIPLIER_BITS-1:0] multiplier;
  generate
    if (BLOCKS > 1) begin : folded
      logic [BLOCK_BITS-1:0] block;
      always_ff @(posedge clk)
        if (rst) begin
          block <= '0;
          fetched <= 1'b0;
        end else if (advance) begin
          fetched <= fire;
          if (fire) block <= block == LAST_BLOCK ? '0 : block + 1'b1;
        end
      always_ff @(posedge clk)
        if (advance) begin
          values <= s_axis_tdata;
          multiplier <= multipliers[block];
        end
    end else begin : unrolled
      assign fetched = fire;
      assign values = s_axis_tdata;
      assign multiplier = multipliers[LAST_BLOCK];
    end
  endgenerate

  always_ff @(posedge clk)
    if (rst) begin
      scaling <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      scaling <= fetched;
      m_axis_tvalid <= scaling;
    end

  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      if (SCALE == 1) begin : codes
        mercer_requantize #(
          .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
          .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS)
        ) requantize (
          .clk, .enable(advance),
          .value(values[lane*IN_BITS +: IN_BITS]),
          .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
          .code(m_axis_tdata[lane*OUT_BITS +: OUT_BITS])
        );
      end else begin : phases
        mercer_wrap #(
          .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT), .PHASE_BITS(OUT_BITS - 1)
        ) wrap (
          .clk, .enable(advance),
          .value(values[lane*IN_BITS +: IN_BITS]),
          .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
          .phase(m_axis_tdata[lane*OUT_BITS +: OUT_BITS])
        );
      end
    end
  endgenerate
endmodule
`default_nettype wire
