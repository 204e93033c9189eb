// Function of one number by its table: y = TABLE[x - LOW], or the table of the channel when CHANNELS is above 1: a file of
// CHANNELS * ENTRIES numbers, a channel after the other. LANES numbers in one cycle.
// Schedule: every firing takes a word and issues one. LATENCY 1.
`default_nettype none
module mercer_table #(
  parameter int CHANNELS = 1,
  parameter int ENTRIES = 256,
  parameter int LANES = 1,
  parameter int IN_BITS = 8,
  parameter int OUT_BITS = 8,
  parameter int LOW = -128,
  parameter TABLE = ""
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [LANES*IN_BITS-1:0]  s_axis_tdata,
  input  wire                       s_axis_tvalid,
  output logic                      s_axis_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int DEPTH = CHANNELS*ENTRIES;
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int BLOCKS = CHANNELS > LANES ? CHANNELS/LANES : 1;
  localparam int BLOCK_STEP = CHANNELS > 1 ? LANES*ENTRIES : 0;
  localparam int LANE_STEP = CHANNELS > 1 ? ENTRIES : 0;
  localparam int SUM_BITS = (ADDRESS_BITS > IN_BITS ? ADDRESS_BITS : IN_BITS) + 2;

  logic [OUT_BITS-1:0] entries [0:DEPTH-1];
  initial $readmemh(TABLE, entries);

  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  always_ff @(posedge clk)
    if (rst) m_axis_tvalid <= 1'b0;
    else if (advance) m_axis_tvalid <= fire;

  // Where the tables of the block of channels begin.
  logic [ADDRESS_BITS-1:0] base;
  generate
    if (BLOCKS > 1) begin : folded
      localparam [ADDRESS_BITS-1:0] LAST_BASE = ADDRESS_BITS'((BLOCKS - 1)*BLOCK_STEP);
      always_ff @(posedge clk)
        if (rst) base <= '0;
        else if (fire) base <= base == LAST_BASE ? '0 : base + ADDRESS_BITS'(BLOCK_STEP);
    end else begin : unrolled
      assign base = '0;
    end
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      wire [ADDRESS_BITS-1:0] address = base +
        ADDRESS_BITS'(SUM_BITS'($signed(s_axis_tdata[lane*IN_BITS +: IN_BITS])) - SUM_BITS'(LOW - lane*LANE_STEP));
      always_ff @(posedge clk)
        if (advance) m_axis_tdata[lane*OUT_BITS +: OUT_BITS] <= entries[address];
    end
  endgenerate
endmodule
`default_nettype wire
