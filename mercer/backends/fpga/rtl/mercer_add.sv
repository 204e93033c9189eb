// Weighted sum of two streams: A_FACTOR*a + B_FACTOR*b + BIAS (zero points belong to BIAS), LANES numbers per word. With
// SCALE 1 it leaves requantized by MULTIPLIER, with 0 as it is.
// Schedule: every firing takes a word of each input and issues one. LATENCY 1, +2 with SCALE.
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
  parameter int OUT_BITS = 8
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*A_BITS-1:0]   s_axis_a_tdata,
  input  wire                       s_axis_a_tvalid,
  output wire                       s_axis_a_tready,
  input  wire  [LANES*B_BITS-1:0]   s_axis_b_tdata,
  input  wire                       s_axis_b_tvalid,
  output wire                       s_axis_b_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_a_tvalid && s_axis_b_tvalid;
  assign s_axis_a_tready = advance && s_axis_b_tvalid;
  assign s_axis_b_tready = advance && s_axis_a_tvalid;

  logic [LANES*SUM_BITS-1:0] sums;
  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      always_ff @(posedge clk)
        if (advance)
          sums[lane*SUM_BITS +: SUM_BITS] <=
            SUM_BITS'($signed(s_axis_a_tdata[lane*A_BITS +: A_BITS])) * SUM_BITS'(A_FACTOR) +
            SUM_BITS'($signed(s_axis_b_tdata[lane*B_BITS +: B_BITS])) * SUM_BITS'(B_FACTOR) + SUM_BITS'(BIAS);
      if (SCALE == 1) begin : codes
        mercer_requantize #(
          .IN_BITS(SUM_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
          .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS)
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

    if (SCALE == 1) begin : scaled
      logic summed, scaling;
      always_ff @(posedge clk)
        if (rst) {summed, scaling, m_axis_tvalid} <= '0;
        else if (advance) {summed, scaling, m_axis_tvalid} <= {fire, summed, scaling};
    end else begin : direct
      always_ff @(posedge clk)
        if (rst) m_axis_tvalid <= 1'b0;
        else if (advance) m_axis_tvalid <= fire;
    end
  endgenerate
endmodule
`default_nettype wire
