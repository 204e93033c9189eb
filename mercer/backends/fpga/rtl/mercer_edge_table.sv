// Kolmogorov-Arnold layer: every output is the sum over INPUTS of the entry that the input selects in the table of their
// edge, TABLE[output][input][x - LOW]; PE outputs in one cycle. TABLE holds a word of PE entries for each (outputs, input,
// entry).
// Schedule: OUTPUTS/PE * INPUTS firings per vector, inputs first. The first INPUTS take a word (a number) each, which is
// kept for the other outputs; each INPUTS-th issues one. LATENCY 3.
`default_nettype none
module mercer_edge_table #(
  parameter int OUTPUTS = 4,
  parameter int INPUTS = 4,
  parameter int PE = 1,
  parameter int ENTRIES = 256,
  parameter int LOW = -128,
  parameter int IN_BITS = 8,
  parameter int ENTRY_BITS = 8,
  parameter int OUT_BITS = 16,
  parameter TABLE = ""
) (
  input  wire                    clk,
  input  wire                    rst,
  input  wire  [IN_BITS-1:0]     s_axis_tdata,
  input  wire                    s_axis_tvalid,
  output wire                    s_axis_tready,
  output wire  [PE*OUT_BITS-1:0] m_axis_tdata,
  output logic                   m_axis_tvalid,
  input  wire                    m_axis_tready
);
  localparam int BLOCKS = OUTPUTS/PE;
  localparam int DEPTH = BLOCKS*INPUTS*ENTRIES;
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int COLUMN_BITS = INPUTS > 1 ? $clog2(INPUTS) : 1;
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam int SUM_BITS = (ADDRESS_BITS > IN_BITS ? ADDRESS_BITS : IN_BITS) + 2;

  logic [PE*ENTRY_BITS-1:0] entries [0:DEPTH-1];
  initial $readmemh(TABLE, entries);

  wire advance = !m_axis_tvalid || m_axis_tready;

  logic [COLUMN_BITS-1:0] column;
  logic [BLOCK_BITS-1:0] block;
  logic [ADDRESS_BITS-1:0] base;
  wire takes = block == '0;
  wire fire = advance && (!takes || s_axis_tvalid);
  wire last_column = column == COLUMN_BITS'(INPUTS - 1);
  wire last = last_column && block == BLOCK_BITS'(BLOCKS - 1);
  assign s_axis_tready = advance && takes;

  always_ff @(posedge clk)
    if (rst) begin
      column <= '0;
      block <= '0;
      base <= '0;
    end else if (fire) begin
      column <= last_column ? '0 : column + 1'b1;
      if (last_column) block <= last ? '0 : block + 1'b1;
      base <= last ? '0 : base + ADDRESS_BITS'(ENTRIES);
    end

  // The number comes from the stream for the first outputs and from its copy for the others.
  logic [IN_BITS-1:0] number;
  generate
    if (BLOCKS > 1) begin : folded
      logic [IN_BITS-1:0] copies [0:INPUTS-1];
      logic [IN_BITS-1:0] copy;
      always_ff @(posedge clk) if (fire && takes) copies[column] <= s_axis_tdata;
      assign copy = copies[column];
      assign number = takes ? s_axis_tdata : copy;
    end else begin : once
      assign number = s_axis_tdata;
    end
  endgenerate

  // The address, the entries, and their sum onto those of the inputs before.
  logic [ADDRESS_BITS-1:0] address;
  logic addressed, addressed_first, addressed_last;
  logic fetched, fetched_first, fetched_last;
  logic [PE*ENTRY_BITS-1:0] word;
  always_ff @(posedge clk)
    if (rst) begin
      addressed <= 1'b0;
      fetched <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      addressed <= fire;
      fetched <= addressed;
      m_axis_tvalid <= fetched && fetched_last;
    end
  always_ff @(posedge clk)
    if (advance) begin
      address <= base + ADDRESS_BITS'(SUM_BITS'($signed(number)) - SUM_BITS'(LOW));
      addressed_first <= column == '0;
      addressed_last <= last_column;
      word <= entries[address];
      fetched_first <= addressed_first;
      fetched_last <= addressed_last;
    end

  logic [PE*OUT_BITS-1:0] sums;
  assign m_axis_tdata = sums;
  generate
    for (genvar lane = 0; lane < PE; lane = lane + 1) begin : lanes
      wire [OUT_BITS-1:0] earlier = fetched_first ? '0 : sums[lane*OUT_BITS +: OUT_BITS];
      always_ff @(posedge clk)
        if (advance && fetched)
          sums[lane*OUT_BITS +: OUT_BITS] <= earlier + OUT_BITS'($signed(word[lane*ENTRY_BITS +: ENTRY_BITS]));
    end
  endgenerate
endmodule
`default_nettype wire
