// Numbers at another scale, one multiplier per channel: SCALE 1 requantizes, 2 wraps to a phase. MULTIPLIERS holds a
// word of LANES multipliers for each CHANNELS/LANES step.
// Schedule: every firing takes a word and issues one. LATENCY 2, +1 when there is more than one step; both have 1 more with
// PIPELINE.
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
  parameter int PIPELINE = 0,
  parameter MULTIPLIERS = ""
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*IN_BITS-1:0]  s_axis_tdata,
  input  wire                       s_axis_tvalid,
  output logic                      s_axis_tready,
  output wire  [LANES*OUT_BITS-1:0] m_axis_tdata,
  output wire                       m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int BLOCKS = CHANNELS/LANES;
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam [BLOCK_BITS-1:0] LAST_BLOCK = BLOCK_BITS'(BLOCKS - 1);

  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  // Values wait for their multipliers.
  localparam int WAITING = BLOCKS > 1 ? 1 + PIPELINE : 0;
  logic [BLOCK_BITS-1:0] block;
  wire [LANES*IN_BITS-1:0] values;
  wire waited;
  always_ff @(posedge clk)
    if (rst) block <= '0;
    else if (fire) block <= block == LAST_BLOCK ? '0 : block + 1'b1;
  mercer_delay #(.BITS(1), .CYCLES(WAITING)) waiting (
    .clk, .rst, .enable(advance), .value(fire), .delayed(waited)
  );
  mercer_delay #(.BITS(LANES*IN_BITS), .CYCLES(WAITING)) held (
    .clk, .rst, .enable(advance), .value(s_axis_tdata), .delayed(values)
  );

  mercer_scaler #(
    .WORDS(BLOCKS), .LANES(LANES), .IN_BITS(IN_BITS), .SCALE(SCALE), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
    .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS), .PIPELINE(PIPELINE), .MULTIPLIERS(MULTIPLIERS)
  ) scaler (
    .clk, .rst, .enable(advance), .word(block), .values, .valid(waited),
    .codes(m_axis_tdata), .codes_valid(m_axis_tvalid)
  );
endmodule
`default_nettype wire
