// Queue of DEPTH words between two stages. All outputs are registered: no combinational path crosses it.
// Schedule: a word taken in cycle t can leave in cycle t + 1; room that a leaving word makes in cycle t is seen in t + 1.
`default_nettype none
module mercer_fifo #(
  parameter int WIDTH = 8,
  parameter int DEPTH = 2
) (
  input  wire              clk,
  input  wire              rst,
  input  wire  [WIDTH-1:0] s_axis_tdata,
  input  wire              s_axis_tvalid,
  output logic             s_axis_tready,
  output logic [WIDTH-1:0] m_axis_tdata,
  output logic             m_axis_tvalid,
  input  wire              m_axis_tready
);
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int COUNT_BITS = $clog2(DEPTH + 1);
  localparam [ADDRESS_BITS-1:0] LAST = ADDRESS_BITS'(DEPTH - 1);

  logic [WIDTH-1:0] words [0:DEPTH-1];
  logic [ADDRESS_BITS-1:0] head, next_head, tail;
  logic [COUNT_BITS-1:0] count, next_count;

  wire push = s_axis_tvalid && s_axis_tready;
  wire pop = m_axis_tvalid && m_axis_tready;

  always_comb begin
    next_head = head;
    if (pop) next_head = head == LAST ? '0 : head + 1'b1;
    next_count = count + COUNT_BITS'(push) - COUNT_BITS'(pop);
  end

  always_ff @(posedge clk) begin
    if (push) words[tail] <= s_axis_tdata;
    // The word that is written in this cycle is not yet in the memory.
    m_axis_tdata <= push && tail == next_head ? s_axis_tdata : words[next_head];
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      head <= '0;
      tail <= '0;
      count <= '0;
      m_axis_tvalid <= 1'b0;
      s_axis_tready <= 1'b0;
    end else begin
      head <= next_head;
      if (push) tail <= tail == LAST ? '0 : tail + 1'b1;
      count <= next_count;
      m_axis_tvalid <= next_count != '0;
      s_axis_tready <= next_count != COUNT_BITS'(DEPTH);
    end
  end
endmodule
`default_nettype wire
