// Samples times masks (Zhu et al. 2019): (a - ZERO)*b*2**-FRACTION to the nearest integer, halves up, with one b for every
// BLOCKS words of a.
// Schedule: every firing takes a word of s_axis_a and issues one; the first of BLOCKS takes a word of s_axis_b. LATENCY 2.
`default_nettype none
module mercer_modulate #(
  parameter int LANES = 1,
  parameter int BLOCKS = 2,
  parameter int A_BITS = 8,
  parameter int B_BITS = 9,
  parameter int ZERO = 0,
  parameter int FRACTION = 7,
  parameter int OUT_BITS = 10
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*A_BITS-1:0]   s_axis_a_tdata,
  input  wire                       s_axis_a_tvalid,
  output wire                       s_axis_a_tready,
  input  wire  [B_BITS-1:0]         s_axis_b_tdata,
  input  wire                       s_axis_b_tvalid,
  output wire                       s_axis_b_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam int PRODUCT_BITS = A_BITS + 1 + B_BITS;
  localparam int SUM_BITS = (PRODUCT_BITS > FRACTION ? PRODUCT_BITS : FRACTION) + 1;

  logic [BLOCK_BITS-1:0] block;
  wire first = block == '0;
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_a_tvalid && (!first || s_axis_b_tvalid);
  assign s_axis_a_tready = advance && (!first || s_axis_b_tvalid);
  assign s_axis_b_tready = advance && first && s_axis_a_tvalid;

  logic signed [B_BITS-1:0] held;
  wire signed [B_BITS-1:0] mask = first ? s_axis_b_tdata : held;
  logic multiplied;
  always_ff @(posedge clk) begin
    if (rst) begin
      block <= '0;
      multiplied <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      multiplied <= fire;
      m_axis_tvalid <= multiplied;
      if (fire) block <= block == BLOCK_BITS'(BLOCKS - 1) ? '0 : block + 1'b1;
    end
    if (fire) held <= mask;
  end

  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      wire signed [A_BITS:0] sample = (A_BITS + 1)'($signed(s_axis_a_tdata[lane*A_BITS +: A_BITS])) - (A_BITS + 1)'(ZERO);
      logic signed [PRODUCT_BITS-1:0] product;
      wire signed [SUM_BITS-1:0] rounded = SUM_BITS'(product) + (SUM_BITS'(1) <<< FRACTION >>> 1);
      always_ff @(posedge clk)
        if (advance) begin
          product <= PRODUCT_BITS'(sample) * PRODUCT_BITS'(mask);
          m_axis_tdata[lane*OUT_BITS +: OUT_BITS] <= OUT_BITS'(rounded >>> FRACTION);
        end
    end
  endgenerate
endmodule
`default_nettype wire
