// Weighted sum of two streams: A_FACTOR*a + B_FACTOR*b + BIAS (zero points belong to BIAS), LANES numbers per word. With
// SCALE 1 it leaves requantized by MULTIPLIER, with 0 as it is.
// Schedule: every firing takes a word of each input and issues one. LATENCY 1, +2 with SCALE. PIPELINE adds 2, for registers
// before and behind the multiplications, and 1 with SCALE.
`default_nettype none
module mercer_add #(
  parameter int LANES = 1,
  parameter int A_BITS = 8,
  parameter int B_BITS = 8,
  parameter int A_FACTOR = 1,
  parameter int B_FACTOR = 1,
  parameter int BIAS = 0,
  parameter int SUM_BITS = 20,
  parameter int SCALE = 1,
  parameter int MULTIPLIER = 1,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 1,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 8,
  parameter int PIPELINE = 0
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*A_BITS-1:0]   s_axis_a_tdata,
  input  wire                       s_axis_a_tvalid,
  output wire                       s_axis_a_tready,
  input  wire  [LANES*B_BITS-1:0]   s_axis_b_tdata,
  input  wire                       s_axis_b_tvalid,
  output wire                       s_axis_b_tready,
  output wire  [LANES*OUT_BITS-1:0] m_axis_tdata,
  output wire                       m_axis_tvalid,
  input  wire                       m_axis_tready
);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_a_tvalid && s_axis_b_tvalid;
  assign s_axis_a_tready = advance && s_axis_b_tvalid;
  assign s_axis_b_tready = advance && s_axis_a_tvalid;

  wire [LANES*A_BITS-1:0] a;
  wire [LANES*B_BITS-1:0] b;
  mercer_delay #(.BITS(LANES*A_BITS), .CYCLES(PIPELINE)) held_a (
    .clk, .rst, .enable(advance), .value(s_axis_a_tdata), .delayed(a)
  );
  mercer_delay #(.BITS(LANES*B_BITS), .CYCLES(PIPELINE)) held_b (
    .clk, .rst, .enable(advance), .value(s_axis_b_tdata), .delayed(b)
  );

  logic [LANES*SUM_BITS-1:0] sums;
  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      wire signed [SUM_BITS-1:0] a_product = SUM_BITS'($signed(a[lane*A_BITS +: A_BITS])) * SUM_BITS'(A_FACTOR);
      wire signed [SUM_BITS-1:0] b_product = SUM_BITS'($signed(b[lane*B_BITS +: B_BITS])) * SUM_BITS'(B_FACTOR);
      wire signed [SUM_BITS-1:0] a_scaled, b_scaled;
      mercer_delay #(.BITS(2*SUM_BITS), .CYCLES(PIPELINE)) multiplied (
        .clk, .rst, .enable(advance), .value({a_product, b_product}), .delayed({a_scaled, b_scaled})
      );
      always_ff @(posedge clk)
        if (advance) sums[lane*SUM_BITS +: SUM_BITS] <= a_scaled + b_scaled + SUM_BITS'(BIAS);
      if (SCALE == 1) begin : codes
        mercer_requantize #(
          .IN_BITS(SUM_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
          .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS), .PIPELINE(PIPELINE)
        ) requantize (
          .clk, .enable(advance),
          .value(sums[lane*SUM_BITS +: SUM_BITS]),
          .multiplier(MULTIPLIER_BITS'(MULTIPLIER)),
          .code(m_axis_tdata[lane*OUT_BITS +: OUT_BITS])
        );
      end else begin : plain
        assign m_axis_tdata[lane*OUT_BITS +: OUT_BITS] = OUT_BITS'($signed(sums[lane*SUM_BITS +: SUM_BITS]));
      end
    end
  endgenerate
  mercer_delay #(.BITS(1), .CYCLES(1 + 2*PIPELINE + (SCALE == 1 ? 2 + PIPELINE : 0))) passing (
    .clk, .rst, .enable(advance), .value(fire), .delayed(m_axis_tvalid)
  );
endmodule
`default_nettype wire
