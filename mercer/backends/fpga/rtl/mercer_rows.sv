// Bookkeeping of a circular line buffer of ROWS rows, and the walk of its reader over the windows of an image, row by row:
// whether all pixels of the present window have come, and whether one more beat has room. Rows of the next sample come in
// while one is read.
//   next       the reader goes on to the next window
//   available  all pixels that the window needs are there
//   frees      rows that no later window needs when the last one of a row is done; also rows that have not come yet
//   freed      that number, in the cycle in which they are given up; else 0
//   column     complete pixels of the row that comes in
`default_nettype none
module mercer_rows #(
  parameter int HEIGHT = 8,
  parameter int WIDTH = 8,
  parameter int BEATS = 1,
  parameter int ROWS = 4,
  parameter int OUT_HEIGHT = 8,
  parameter int OUT_WIDTH = 8,
  parameter int SPAN_HEIGHT = 3,
  parameter int SPAN_WIDTH = 3,
  parameter int STRIDE_HEIGHT = 1,
  parameter int STRIDE_WIDTH = 1,
  parameter int TOP = 1,
  parameter int LEFT = 1,
  parameter int ROW_BITS = 6,
  parameter int COLUMN_BITS = 5
) (
  input  wire                           clk,
  input  wire                           rst,
  input  wire                           write,
  output wire                           room,
  output logic [COLUMN_BITS-1:0]        column,
  input  wire                           next,
  input  wire  [ROW_BITS-1:0]           freed,
  output wire                           available,
  output wire  [ROW_BITS-1:0]           frees,
  output wire  signed [ROW_BITS-1:0]    top,
  output wire  signed [ROW_BITS-1:0]    top_ahead,
  output wire  signed [COLUMN_BITS-1:0] left,
  output wire  signed [COLUMN_BITS-1:0] left_ahead,
  output wire                           last_row,
  output wire                           last_column
);
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
  localparam int COUNT_BITS = $clog2((2*HEIGHT + ROWS)*WIDTH) + 1;
  localparam int PIXEL_BITS = COUNT_BITS > COLUMN_BITS ? COUNT_BITS : COLUMN_BITS;

  // The last pixel of an axis that a window needs.
  function automatic int newest(input int start, input int span, input int size);
    newest = start + span < 1 ? 0 : start + span > size ? size - 1 : start + span - 1;
  endfunction

  // Pixels that the first and the last window of a row and of a sample need.
  localparam int FIRST_RIGHT = newest(-LEFT, SPAN_WIDTH, WIDTH);
  localparam int BACK = FIRST_RIGHT - newest((OUT_WIDTH - 1)*STRIDE_WIDTH - LEFT, SPAN_WIDTH, WIDTH);
  localparam int FIRST_BOTTOM = newest(-TOP, SPAN_HEIGHT, HEIGHT);
  localparam int UP = FIRST_BOTTOM - newest((OUT_HEIGHT - 1)*STRIDE_HEIGHT - TOP, SPAN_HEIGHT, HEIGHT);

  wire signed [PIXEL_BITS-1:0] grows_down;
  wire signed [COLUMN_BITS-1:0] grows_across;
  mercer_walk #(
    .SIZE(HEIGHT), .OUT(OUT_HEIGHT), .SPAN(SPAN_HEIGHT), .STRIDE(STRIDE_HEIGHT), .BEFORE(TOP), .UNIT(WIDTH),
    .EXTRA(BACK), .TURN((HEIGHT + UP)*WIDTH + BACK), .BITS(ROW_BITS), .GROWS_BITS(PIXEL_BITS)
  ) down (
    .clk, .rst, .next(next && last_column), .start(top), .ahead(top_ahead), .last(last_row), .frees, .grows(grows_down)
  );
  /* verilator lint_off PINCONNECTEMPTY */
  mercer_walk #(
    .SIZE(WIDTH), .OUT(OUT_WIDTH), .SPAN(SPAN_WIDTH), .STRIDE(STRIDE_WIDTH), .BEFORE(LEFT), .BITS(COLUMN_BITS),
    .GROWS_BITS(COLUMN_BITS)
  ) across (
    .clk, .rst, .next, .start(left), .ahead(left_ahead), .last(last_column), .frees(), .grows(grows_across)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  logic [BEAT_BITS-1:0] beat;
  wire last_beat = beat == BEAT_BITS'(BEATS - 1);
  wire pixel = write && last_beat;
  wire row = pixel && column == COLUMN_BITS'(WIDTH - 1);

  // Pixels that have come, less those that the window needs; rows that still have room, less one.
  logic signed [PIXEL_BITS-1:0] surplus;
  logic signed [ROW_BITS-1:0] space;
  wire signed [PIXEL_BITS-1:0] grows = last_column ? grows_down : PIXEL_BITS'(grows_across);
  assign available = surplus >= 0;
  assign room = space >= 0;

  always_ff @(posedge clk)
    if (rst) begin
      beat <= '0;
      column <= '0;
      surplus <= PIXEL_BITS'(-(FIRST_BOTTOM*WIDTH + FIRST_RIGHT + 1));
      space <= ROW_BITS'(ROWS - 1);
    end else begin
      if (write) beat <= last_beat ? '0 : beat + 1'b1;
      if (pixel) column <= row ? '0 : column + 1'b1;
      surplus <= surplus + (pixel ? PIXEL_BITS'(1) : '0) - (next ? grows : '0);
      space <= space + freed - (row ? ROW_BITS'(1) : '0);
    end
endmodule
`default_nettype wire
