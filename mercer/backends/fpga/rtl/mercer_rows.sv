// Bookkeeping of a circular line buffer of ROWS rows: how much of the reader's sample has come, and whether one more beat
// has room. Rows are counted from the first row of the sample that is being read; while it is read, rows of the next one
// (HEIGHT and above) already come in.
//   freed    number of rows that no later read needs any more; also rows that have not come yet
//   done     the reader goes on to the next sample: row HEIGHT becomes row 0
//   rows     number of complete rows; negative while rows come that no window needed
//   columns  number of complete pixels of the row after them
`default_nettype none
module mercer_rows #(
  parameter int HEIGHT = 8,
  parameter int WIDTH = 8,
  parameter int BEATS = 1,
  parameter int ROWS = 4,
  parameter int ROW_BITS = 6,
  parameter int COLUMN_BITS = 5
) (
  input  wire                           clk,
  input  wire                           rst,
  input  wire                           write,
  output wire                           room,
  input  wire  signed [ROW_BITS-1:0]    freed,
  input  wire                           done,
  output logic signed [ROW_BITS-1:0]    rows,
  output logic signed [COLUMN_BITS-1:0] columns
);
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;

  logic [BEAT_BITS-1:0] beat;
  logic signed [ROW_BITS-1:0] held;
  wire last_beat = beat == BEAT_BITS'(BEATS - 1);
  wire last_column = columns == COLUMN_BITS'(WIDTH - 1);
  wire pixel = write && last_beat;
  wire row = pixel && last_column;

  assign room = held < ROW_BITS'(ROWS);

  always_ff @(posedge clk)
    if (rst) begin
      beat <= '0;
      columns <= '0;
      rows <= '0;
      held <= '0;
    end else begin
      if (write) beat <= last_beat ? '0 : beat + 1'b1;
      if (pixel) columns <= last_column ? '0 : columns + 1'b1;
      rows <= rows + (row ? ROW_BITS'(1) : '0) - (done ? ROW_BITS'(HEIGHT) : '0);
      held <= held + (row ? ROW_BITS'(1) : '0) - freed;
    end
endmodule
`default_nettype wire
