// Marks the last of every WORDS words with tlast: the end of a sample at the border of a design.
`default_nettype none
module mercer_last #(
  parameter int WIDTH = 8,
  parameter int WORDS = 1
) (
  input  wire              clk,
  input  wire              rst,
  input  wire  [WIDTH-1:0] s_axis_tdata,
  input  wire              s_axis_tvalid,
  output wire              s_axis_tready,
  output wire  [WIDTH-1:0] m_axis_tdata,
  output wire              m_axis_tvalid,
  output wire              m_axis_tlast,
  input  wire              m_axis_tready
);
  localparam int COUNT_BITS = WORDS > 1 ? $clog2(WORDS) : 1;

  logic [COUNT_BITS-1:0] word;
  assign m_axis_tdata = s_axis_tdata;
  assign m_axis_tvalid = s_axis_tvalid;
  assign m_axis_tlast = word == COUNT_BITS'(WORDS - 1);
  assign s_axis_tready = m_axis_tready;

  always_ff @(posedge clk)
    if (rst) word <= '0;
    else if (m_axis_tvalid && m_axis_tready) word <= m_axis_tlast ? '0 : word + 1'b1;
endmodule
`default_nettype wire
