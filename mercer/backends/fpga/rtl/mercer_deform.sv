// Windows of a deformable convolution whose offsets are bounded (CoDeNet, Dong et al. 2021): as mercer_window, with tap
// (i, j) moved by an offset in units of 2**-FRACTION pixels, held to -BOUND..BOUND pixels. The samples are codes of the
// image's scale; outside the image they are ZERO.
//   SQUARE 0   s_axis_b gives (row, column) of the offset for every tap and each of GROUPS groups of channels
//   SQUARE 1   s_axis_b gives one number t per output pixel; tap (i, j) moves by t*(i - (KERNEL_HEIGHT-1)/2) rows and
//              t*(j - (KERNEL_WIDTH-1)/2) columns: windows stay squares, their dilation varies
//   ROUNDED 0  linear interpolation of four pixels, rounded half up after the exact sum; four banks of memory by the
//              parity of row and column are read at once
//   ROUNDED 1  the nearest pixel, half up; one bank
// The circular buffer holds ROWS >= SPAN rows with SPAN = DILATION_HEIGHT*(KERNEL_HEIGHT-1) + 1 + 2*BOUND; ROWS is even
// when ROUNDED is 0.
// Schedule: two processes. The first takes a word of s_axis_a per firing, HEIGHT*WIDTH*CHANNELS/LANES per sample. The second
// issues a word per firing, OUT_HEIGHT*OUT_WIDTH*KERNEL_HEIGHT*KERNEL_WIDTH*CHANNELS/LANES per sample, and takes a word of
// s_axis_b with the first beat of each tap and group (SQUARE: of each pixel). LATENCY 15, 8 with ROUNDED.
`default_nettype none
module mercer_deform #(
  parameter int BITS = 8,
  parameter int LANES = 1,
  parameter int CHANNELS = 1,
  parameter int HEIGHT = 8,
  parameter int WIDTH = 8,
  parameter int KERNEL_HEIGHT = 3,
  parameter int KERNEL_WIDTH = 3,
  parameter int STRIDE_HEIGHT = 1,
  parameter int STRIDE_WIDTH = 1,
  parameter int PAD_TOP = 1,
  parameter int PAD_LEFT = 1,
  parameter int DILATION_HEIGHT = 1,
  parameter int DILATION_WIDTH = 1,
  parameter int OUT_HEIGHT = 8,
  parameter int OUT_WIDTH = 8,
  parameter int ZERO = 0,
  parameter int OFFSET_BITS = 8,
  parameter int FRACTION = 4,
  parameter int BOUND = 2,
  parameter int SQUARE = 0,
  parameter int ROUNDED = 0,
  parameter int GROUPS = 1,
  parameter int ROWS = 8,
  localparam int OFFSET_WIDTH = (SQUARE != 0 ? 1 : 2)*OFFSET_BITS
) (
  input  wire                      clk,
  input  wire                      rst,
  input  wire  [LANES*BITS-1:0]    s_axis_a_tdata,
  input  wire                      s_axis_a_tvalid,
  output wire                      s_axis_a_tready,
  input  wire  [OFFSET_WIDTH-1:0]  s_axis_b_tdata,
  input  wire                      s_axis_b_tvalid,
  output wire                      s_axis_b_tready,
  output logic [LANES*BITS-1:0]    m_axis_tdata,
  output logic                     m_axis_tvalid,
  input  wire                      m_axis_tready
);
  localparam int BEATS = CHANNELS/LANES;
  localparam int GROUP_BEATS = BEATS/GROUPS;
  localparam int SPAN_HEIGHT = DILATION_HEIGHT*(KERNEL_HEIGHT - 1) + 1 + 2*BOUND;
  localparam int SPAN_WIDTH = DILATION_WIDTH*(KERNEL_WIDTH - 1) + 1 + 2*BOUND;
  localparam int TOP = PAD_TOP + BOUND;
  localparam int LEFT = PAD_LEFT + BOUND;
  localparam int ROW_BITS = $clog2(HEIGHT + TOP + ROWS + SPAN_HEIGHT + STRIDE_HEIGHT) + 2;
  localparam int COLUMN_BITS = $clog2(WIDTH + LEFT + SPAN_WIDTH + STRIDE_WIDTH) + 2;
  localparam int SLOT_BITS = $clog2(ROWS);
  localparam int TAP_ROW_BITS = KERNEL_HEIGHT > 1 ? $clog2(KERNEL_HEIGHT) : 1;
  localparam int TAP_COLUMN_BITS = KERNEL_WIDTH > 1 ? $clog2(KERNEL_WIDTH) : 1;
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
  localparam int GROUP_BITS = GROUP_BEATS > 1 ? $clog2(GROUP_BEATS) : 1;
  localparam int SAMPLE = HEIGHT - (OUT_HEIGHT - 1)*STRIDE_HEIGHT;
  localparam int LIMIT = BOUND << FRACTION;
  localparam int LIMIT_BITS = $clog2(LIMIT + 1) + 2;
  localparam int MOVE_BITS = OFFSET_BITS + 5 > LIMIT_BITS ? OFFSET_BITS + 5 : LIMIT_BITS;

  // A slot of the buffer `step` rows on.
  function automatic logic [SLOT_BITS-1:0] around(input logic [SLOT_BITS-1:0] slot, input logic [SLOT_BITS:0] step);
    logic [SLOT_BITS:0] sum;
    sum = {1'b0, slot} + step;
    around = SLOT_BITS'(sum >= (SLOT_BITS + 1)'(ROWS) ? sum - (SLOT_BITS + 1)'(ROWS) : sum);
  endfunction

  function automatic logic signed [MOVE_BITS-1:0] bounded(input logic signed [MOVE_BITS-1:0] move);
    if (move > MOVE_BITS'(LIMIT)) bounded = MOVE_BITS'(LIMIT);
    else if (move < MOVE_BITS'(-LIMIT)) bounded = MOVE_BITS'(-LIMIT);
    else bounded = move;
  endfunction

  wire advance = !m_axis_tvalid || m_axis_tready;

  // The place in the loops over output rows, output columns, tap rows, tap columns and beats; the first two are walked by
  // mercer_rows.
  wire last_window_row, last_window_column;
  logic [TAP_ROW_BITS-1:0] tap_row;
  logic [TAP_COLUMN_BITS-1:0] tap_column;
  logic [BEAT_BITS-1:0] beat;
  logic [GROUP_BITS-1:0] group_beat;
  wire last_beat = beat == BEAT_BITS'(BEATS - 1);
  wire last_tap_column = last_beat && tap_column == TAP_COLUMN_BITS'(KERNEL_WIDTH - 1);
  wire last_tap = last_tap_column && tap_row == TAP_ROW_BITS'(KERNEL_HEIGHT - 1);
  wire last_column = last_tap && last_window_column;

  // The first row and column that the window can reach, the slot of that row, and the tap's distance from them.
  wire signed [ROW_BITS-1:0] top;
  wire signed [COLUMN_BITS-1:0] left;
  logic [SLOT_BITS-1:0] slot;
  logic [ROW_BITS-1:0] down;
  logic [COLUMN_BITS-1:0] across;

  wire takes_offset = SQUARE != 0 ? tap_row == '0 && tap_column == '0 && beat == '0 : group_beat == '0;
  wire available;
  wire fire = advance && available && (!takes_offset || s_axis_b_tvalid);
  wire write = s_axis_a_tvalid && s_axis_a_tready;
  assign s_axis_b_tready = advance && available && takes_offset;

  always_ff @(posedge clk)
    if (rst) begin
      {tap_row, tap_column, beat, group_beat, down, across} <= '0;
      slot <= SLOT_BITS'((ROWS - TOP % ROWS) % ROWS);
    end else if (fire) begin
      beat <= last_beat ? '0 : beat + 1'b1;
      group_beat <= group_beat == GROUP_BITS'(GROUP_BEATS - 1) ? '0 : group_beat + 1'b1;
      if (last_beat) begin
        tap_column <= last_tap_column ? '0 : tap_column + 1'b1;
        across <= last_tap_column ? '0 : across + COLUMN_BITS'(DILATION_WIDTH);
      end
      if (last_tap_column) begin
        tap_row <= last_tap ? '0 : tap_row + 1'b1;
        down <= last_tap ? '0 : down + ROW_BITS'(DILATION_HEIGHT);
      end
      if (last_column)
        slot <= last_window_row ? around(slot, (SLOT_BITS + 1)'((SAMPLE % ROWS + ROWS) % ROWS))
                                : around(slot, (SLOT_BITS + 1)'(STRIDE_HEIGHT % ROWS));
    end

  // Rows are given up when the reads of the last tap are done, READING cycles after its firing.
  localparam int READING = 6;
  wire [ROW_BITS-1:0] freed;
  wire [ROW_BITS-1:0] frees;
  wire [COLUMN_BITS-1:0] write_column;
  mercer_delay #(.BITS(ROW_BITS), .CYCLES(READING)) freeing (
    .clk, .rst, .enable(advance), .value(fire && last_column ? frees : '0), .delayed(freed)
  );

  /* verilator lint_off PINCONNECTEMPTY */
  mercer_rows #(
    .HEIGHT(HEIGHT), .WIDTH(WIDTH), .BEATS(BEATS), .ROWS(ROWS), .OUT_HEIGHT(OUT_HEIGHT), .OUT_WIDTH(OUT_WIDTH),
    .SPAN_HEIGHT(SPAN_HEIGHT), .SPAN_WIDTH(SPAN_WIDTH), .STRIDE_HEIGHT(STRIDE_HEIGHT), .STRIDE_WIDTH(STRIDE_WIDTH),
    .TOP(TOP), .LEFT(LEFT), .ROW_BITS(ROW_BITS), .COLUMN_BITS(COLUMN_BITS)
  ) book (
    .clk, .rst, .write, .room(s_axis_a_tready), .column(write_column), .next(fire && last_tap),
    .freed(advance ? freed : '0), .available, .frees, .top, .top_ahead(), .left, .left_ahead(),
    .last_row(last_window_row), .last_column(last_window_column)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  // 1: the offset, which several beats share, and the pixel from which it moves.
  logic [OFFSET_WIDTH-1:0] offset;
  logic [ROW_BITS-1:0] down_1, down_2, down_3, down_4;
  logic signed [COLUMN_BITS-1:0] column_1, column_2, column_3, column_4;
  wire signed [ROW_BITS-1:0] top_4;
  wire [SLOT_BITS-1:0] slot_4;
  wire [BEAT_BITS-1:0] beat_4;
  always_ff @(posedge clk)
    if (advance) begin
      if (fire && takes_offset) offset <= s_axis_b_tdata;
      down_1 <= down + ROW_BITS'(BOUND);
      column_1 <= left + across + COLUMN_BITS'(BOUND);
    end
  mercer_delay #(.BITS(ROW_BITS + SLOT_BITS + BEAT_BITS), .CYCLES(4)) carried (
    .clk, .rst, .enable(advance), .value({top, slot, beat}), .delayed({top_4, slot_4, beat_4})
  );

  // 2: the move, 3: held to the bound, 4: in whole pixels.
  logic signed [MOVE_BITS-1:0] wanted_down, wanted_across, move_down, move_across;
  generate
    if (SQUARE != 0) begin : square
      logic signed [4:0] tap_down, tap_across;
      always_ff @(posedge clk)
        if (advance) begin
          tap_down <= 5'(tap_row) - 5'((KERNEL_HEIGHT - 1)/2);
          tap_across <= 5'(tap_column) - 5'((KERNEL_WIDTH - 1)/2);
          wanted_down <= MOVE_BITS'($signed(offset)) * MOVE_BITS'(tap_down);
          wanted_across <= MOVE_BITS'($signed(offset)) * MOVE_BITS'(tap_across);
        end
    end else begin : free
      always_ff @(posedge clk)
        if (advance) begin
          wanted_down <= MOVE_BITS'($signed(offset[OFFSET_BITS-1:0]));
          wanted_across <= MOVE_BITS'($signed(offset[2*OFFSET_BITS-1:OFFSET_BITS]));
        end
    end
  endgenerate
  localparam int HALF = ROUNDED != 0 && FRACTION > 0 ? 1 << (FRACTION - 1) : 0;
  always_ff @(posedge clk)
    if (advance) begin
      {down_2, column_2} <= {down_1, column_1};
      move_down <= bounded(wanted_down);
      move_across <= bounded(wanted_across);
      {down_3, column_3} <= {down_2, column_2};
      down_4 <= down_3 + ROW_BITS'((move_down + MOVE_BITS'(HALF)) >>> FRACTION);
      column_4 <= column_3 + COLUMN_BITS'((move_across + MOVE_BITS'(HALF)) >>> FRACTION);
    end

  // 5: the slot of that row and of the one below, and which of the pixels lie in the image.
  logic [SLOT_BITS-1:0] slot_5, below_5;
  logic signed [COLUMN_BITS-1:0] column_5, beside_5;
  logic [3:0] covered_5;
  logic [BEAT_BITS-1:0] beat_5;
  wire signed [ROW_BITS-1:0] row_4 = top_4 + down_4;
  wire [SLOT_BITS-1:0] reached = around(slot_4, (SLOT_BITS + 1)'(down_4));
  wire [1:0] row_covered = {row_4 >= -1 && row_4 < ROW_BITS'(HEIGHT - 1), row_4 >= 0 && row_4 < ROW_BITS'(HEIGHT)};
  wire [1:0] column_covered =
    {column_4 >= -1 && column_4 < COLUMN_BITS'(WIDTH - 1), column_4 >= 0 && column_4 < COLUMN_BITS'(WIDTH)};
  always_ff @(posedge clk)
    if (advance) begin
      slot_5 <= reached;
      below_5 <= around(reached, (SLOT_BITS + 1)'(1));
      column_5 <= column_4;
      beside_5 <= column_4 + 1'b1;
      covered_5 <= {{2{row_covered[1]}} & column_covered, {2{row_covered[0]}} & column_covered};
      beat_5 <= beat_4;
    end

  // The valid bits of the stages behind the firing.
  localparam int DELAY = ROUNDED != 0 ? 7 : 14;
  logic [DELAY-1:0] valid;
  always_ff @(posedge clk)
    if (rst) {m_axis_tvalid, valid} <= '0;
    else if (advance) {m_axis_tvalid, valid} <= {valid, fire};

  generate
    if (ROUNDED != 0) begin : nearest
      // 6: the address, 7: the pixel.
      localparam int ROW = WIDTH*BEATS;
      localparam int DEPTH = ROWS*ROW;
      localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
      logic [ADDRESS_BITS-1:0] write_address, address;
      logic covered_6, covered_7;
      wire [LANES*BITS-1:0] pixel;
      // Where each slot begins, and where each pixel begins in it.
      localparam int PLACE_BITS = WIDTH > 1 ? $clog2(WIDTH) : 1;
      logic [ADDRESS_BITS-1:0] firsts [0:ROWS-1];
      logic [ADDRESS_BITS-1:0] pixels [0:WIDTH-1];
      initial begin
        for (int i = 0; i < ROWS; i = i + 1) firsts[i] = ADDRESS_BITS'(i*ROW);
        for (int i = 0; i < WIDTH; i = i + 1) pixels[i] = ADDRESS_BITS'(i*BEATS);
      end
      always_ff @(posedge clk)
        if (rst) write_address <= '0;
        else if (write) write_address <= write_address == ADDRESS_BITS'(DEPTH - 1) ? '0 : write_address + 1'b1;
      always_ff @(posedge clk)
        if (advance) begin
          address <= firsts[slot_5] + (pixels[PLACE_BITS'(column_5)] + ADDRESS_BITS'(beat_5));
          covered_6 <= covered_5[0];
          covered_7 <= covered_6;
          m_axis_tdata <= covered_7 ? pixel : {LANES{BITS'(ZERO)}};
        end
      mercer_ram #(.WIDTH(LANES*BITS), .DEPTH(DEPTH)) bank (
        .clk(clk), .write(write), .write_address(write_address), .write_data(s_axis_a_tdata),
        .read(advance), .read_address(address), .read_data(pixel)
      );
      wire unused = &{1'b0, covered_5[3:1], below_5, column_5, beside_5, write_column};
    end else begin : linear
      mercer_bilinear #(
        .BITS(BITS), .LANES(LANES), .WIDTH(WIDTH), .BEATS(BEATS), .ROWS(ROWS), .FRACTION(FRACTION), .ZERO(ZERO),
        .COLUMN_BITS(COLUMN_BITS)
      ) sampler (
        .clk(clk), .rst(rst), .write(write), .write_data(s_axis_a_tdata), .write_column,
        .advance(advance), .slot(slot_5), .below(below_5), .column(column_5), .beside(beside_5), .beat(beat_5),
        .covered(covered_5), .fractions(fractions), .sample(m_axis_tdata)
      );
      logic [2*FRACTION-1:0] earlier, fractions;
      always_ff @(posedge clk)
        if (advance) {fractions, earlier} <= {earlier, move_down[FRACTION-1:0], move_across[FRACTION-1:0]};
    end
  endgenerate
endmodule
`default_nettype wire
