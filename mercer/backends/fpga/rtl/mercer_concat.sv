// Channels of two streams one after the other: for every pixel A_BEATS words of a, then B_BEATS words of b, LANES numbers
// each.
// Schedule: A_BEATS + B_BEATS firings per pixel; each takes a word of one input and issues it. LATENCY 1.
`default_nettype none
module mercer_concat #(
  parameter int LANES = 1,
  parameter int A_BITS = 8,
  parameter int B_BITS = 8,
  parameter int OUT_BITS = 8,
  parameter int A_BEATS = 1,
  parameter int B_BEATS = 1
) (
  input  wire                         clk,
  input  wire                         rst,
  input  wire  [LANES*A_BITS-1:0]     s_axis_a_tdata,
  input  wire                         s_axis_a_tvalid,
  output wire                         s_axis_a_tready,
  input  wire  [LANES*B_BITS-1:0]     s_axis_b_tdata,
  input  wire                         s_axis_b_tvalid,
  output wire                         s_axis_b_tready,
  output logic [LANES*OUT_BITS-1:0]   m_axis_tdata,
  output logic                        m_axis_tvalid,
  input  wire                         m_axis_tready
);
  localparam int STEP_BITS = $clog2(A_BEATS + B_BEATS);

  logic [STEP_BITS-1:0] step;
  wire from_a = step < STEP_BITS'(A_BEATS);
  wire last = step == STEP_BITS'(A_BEATS + B_BEATS - 1);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && (from_a ? s_axis_a_tvalid : s_axis_b_tvalid);

  assign s_axis_a_tready = advance && from_a;
  assign s_axis_b_tready = advance && !from_a;

  always_ff @(posedge clk)
    if (rst) begin
      step <= '0;
      m_axis_tvalid <= 1'b0;
    end else begin
      if (fire) step <= last ? '0 : step + 1'b1;
      if (advance) m_axis_tvalid <= fire;
    end

  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      always_ff @(posedge clk)
        if (fire)
          m_axis_tdata[lane*OUT_BITS +: OUT_BITS] <=
            from_a ? OUT_BITS'($signed(s_axis_a_tdata[lane*A_BITS +: A_BITS]))
                   : OUT_BITS'($signed(s_axis_b_tdata[lane*B_BITS +: B_BITS]));
    end
  endgenerate
endmodule
`default_nettype wire
