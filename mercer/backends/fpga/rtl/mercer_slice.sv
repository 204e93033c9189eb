// Some channels of every pixel: words FIRST to LAST of WORDS pass, the others end here.
// Schedule: every firing takes a word; those of FIRST to LAST issue it. LATENCY 1.
`default_nettype none
module mercer_slice #(
  parameter int WIDTH = 8,
  parameter int WORDS = 4,
  parameter int FIRST = 1,
  parameter int LAST = 2
) (
  input  wire              clk,
  input  wire              rst,
  input  wire  [WIDTH-1:0] s_axis_tdata,
  input  wire              s_axis_tvalid,
  output wire              s_axis_tready,
  output logic [WIDTH-1:0] m_axis_tdata,
  output logic             m_axis_tvalid,
  input  wire              m_axis_tready
);
  localparam int COUNT_BITS = WORDS > 1 ? $clog2(WORDS) : 1;

  logic [COUNT_BITS-1:0] word;
  wire [COUNT_BITS:0] place = {1'b0, word};
  wire passes = place + 1'b1 > (COUNT_BITS + 1)'(FIRST) && place < (COUNT_BITS + 1)'(LAST + 1);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  always_ff @(posedge clk) begin
    if (rst) begin
      word <= '0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      m_axis_tvalid <= fire && passes;
      if (fire) word <= word == COUNT_BITS'(WORDS - 1) ? '0 : word + 1'b1;
    end
    if (fire) m_axis_tdata <= s_axis_tdata;
  end
endmodule
`default_nettype wire
