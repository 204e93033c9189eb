// The same words for COPIES readers; each takes a word when it will, and the next one comes when all have taken it.
// `m_axis_tdata` serves them all.
// Schedule: every firing takes a word and issues one to each. LATENCY 0: a copy is valid when the word is.
`default_nettype none
module mercer_fork #(
  parameter int WIDTH = 8,
  parameter int COPIES = 2
) (
  input  wire               clk,
  input  wire               rst,
  input  wire  [WIDTH-1:0]  s_axis_tdata,
  input  wire               s_axis_tvalid,
  output wire               s_axis_tready,
  output wire  [WIDTH-1:0]  m_axis_tdata,
  output wire  [COPIES-1:0] m_axis_tvalid,
  input  wire  [COPIES-1:0] m_axis_tready
);
  logic [COPIES-1:0] taken;
  wire [COPIES-1:0] satisfied = taken | m_axis_tready;

  assign m_axis_tdata = s_axis_tdata;
  assign m_axis_tvalid = {COPIES{s_axis_tvalid}} & ~taken;
  assign s_axis_tready = &satisfied;

  always_ff @(posedge clk)
    if (rst) taken <= '0;
    else if (s_axis_tvalid) taken <= s_axis_tready ? '0 : satisfied;
endmodule
`default_nettype wire
