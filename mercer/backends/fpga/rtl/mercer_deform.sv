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
// s_axis_b with the first beat of each tap and group (SQUARE: of each pixel). LATENCY 9, 6 with ROUNDED.
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
  localparam int OUT_ROW_BITS = OUT_HEIGHT > 1 ? $clog2(OUT_HEIGHT) : 1;
  localparam int OUT_COLUMN_BITS = OUT_WIDTH > 1 ? $clog2(OUT_WIDTH) : 1;
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

  // The oldest row that a window with its top at `place` needs.
  function automatic logic signed [ROW_BITS-1:0] needed(input logic signed [ROW_BITS-1:0] place);
    needed = place < 0 ? '0 : place > ROW_BITS'(HEIGHT) ? ROW_BITS'(HEIGHT) : place;
  endfunction

  function automatic logic signed [MOVE_BITS-1:0] bounded(input logic signed [MOVE_BITS-1:0] move);
    if (move > MOVE_BITS'(LIMIT)) bounded = MOVE_BITS'(LIMIT);
    else if (move < MOVE_BITS'(-LIMIT)) bounded = MOVE_BITS'(-LIMIT);
    else bounded = move;
  endfunction

  wire advance = !m_axis_tvalid || m_axis_tready;

  // The place in the loops over output rows, output columns, tap rows, tap columns and beats.
  logic [OUT_ROW_BITS-1:0] out_row;
  logic [OUT_COLUMN_BITS-1:0] out_column;
  logic [TAP_ROW_BITS-1:0] tap_row;
  logic [TAP_COLUMN_BITS-1:0] tap_column;
  logic [BEAT_BITS-1:0] beat;
  logic [GROUP_BITS-1:0] group_beat;
  wire last_beat = beat == BEAT_BITS'(BEATS - 1);
  wire last_tap_column = last_beat && tap_column == TAP_COLUMN_BITS'(KERNEL_WIDTH - 1);
  wire last_tap = last_tap_column && tap_row == TAP_ROW_BITS'(KERNEL_HEIGHT - 1);
  wire last_column = last_tap && out_column == OUT_COLUMN_BITS'(OUT_WIDTH - 1);
  wire last = last_column && out_row == OUT_ROW_BITS'(OUT_HEIGHT - 1);

  // The first row and column that the window can reach, the slot of that row, and the tap's distance from them.
  logic signed [ROW_BITS-1:0] top;
  logic signed [COLUMN_BITS-1:0] left;
  logic [SLOT_BITS-1:0] slot;
  logic [ROW_BITS-1:0] down;
  logic [COLUMN_BITS-1:0] across;
  wire signed [ROW_BITS-1:0] next_top = last ? ROW_BITS'(-TOP) : top + ROW_BITS'(STRIDE_HEIGHT);
  wire signed [ROW_BITS-1:0] next_needed = last ? ROW_BITS'(HEIGHT) : needed(next_top);

  // What the window needs of the buffer, and what the buffer holds.
  wire signed [ROW_BITS-1:0] lowest = top + ROW_BITS'(SPAN_HEIGHT - 1);
  wire signed [COLUMN_BITS-1:0] rightmost = left + COLUMN_BITS'(SPAN_WIDTH - 1);
  wire signed [ROW_BITS-1:0] bottom =
    lowest >= ROW_BITS'(HEIGHT) ? ROW_BITS'(HEIGHT - 1) : TOP >= SPAN_HEIGHT && lowest < 0 ? '0 : lowest;
  wire signed [COLUMN_BITS-1:0] right =
    rightmost >= COLUMN_BITS'(WIDTH) ? COLUMN_BITS'(WIDTH - 1) : LEFT >= SPAN_WIDTH && rightmost < 0 ? '0 : rightmost;
  wire signed [ROW_BITS-1:0] rows;
  wire signed [COLUMN_BITS-1:0] columns;
  wire available = rows > bottom || (rows == bottom && columns > right);

  wire takes_offset = SQUARE != 0 ? tap_row == '0 && tap_column == '0 && beat == '0 : group_beat == '0;
  wire fire = advance && available && (!takes_offset || s_axis_b_tvalid);
  wire write = s_axis_a_tvalid && s_axis_a_tready;
  assign s_axis_b_tready = advance && available && takes_offset;

  always_ff @(posedge clk)
    if (rst) begin
      {out_row, out_column, tap_row, tap_column, beat, group_beat, down, across} <= '0;
      top <= ROW_BITS'(-TOP);
      left <= COLUMN_BITS'(-LEFT);
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
      if (last_tap) begin
        out_column <= last_column ? '0 : out_column + 1'b1;
        left <= last_column ? COLUMN_BITS'(-LEFT) : left + COLUMN_BITS'(STRIDE_WIDTH);
      end
      if (last_column) begin
        out_row <= last ? '0 : out_row + 1'b1;
        top <= next_top;
        slot <= last ? around(slot, (SLOT_BITS + 1)'((SAMPLE % ROWS + ROWS) % ROWS))
                     : around(slot, (SLOT_BITS + 1)'(STRIDE_HEIGHT % ROWS));
      end
    end

  // Rows are given up when the reads of the last tap are done, 4 cycles after its firing.
  logic [4*ROW_BITS-1:0] freed;
  always_ff @(posedge clk)
    if (rst) freed <= '0;
    else if (advance) freed <= {freed[3*ROW_BITS-1:0], fire && last_column ? next_needed - needed(top) : ROW_BITS'(0)};

  mercer_rows #(
    .HEIGHT(HEIGHT), .WIDTH(WIDTH), .BEATS(BEATS), .ROWS(ROWS), .ROW_BITS(ROW_BITS), .COLUMN_BITS(COLUMN_BITS)
  ) book (
    .clk(clk), .rst(rst), .write(write), .room(s_axis_a_tready),
    .freed(advance ? freed[4*ROW_BITS-1:3*ROW_BITS] : '0), .done(fire && last), .rows(rows), .columns(columns)
  );

  // 1: the offset, which several beats share.
  logic [OFFSET_WIDTH-1:0] offset;
  logic signed [ROW_BITS-1:0] top_1, top_2;
  logic signed [COLUMN_BITS-1:0] left_1;
  logic [SLOT_BITS-1:0] slot_1, slot_2;
  logic [ROW_BITS-1:0] down_1, down_2;
  logic [COLUMN_BITS-1:0] across_1;
  logic [BEAT_BITS-1:0] beat_1, beat_2, beat_3;
  always_ff @(posedge clk)
    if (advance) begin
      if (fire && takes_offset) offset <= s_axis_b_tdata;
      {top_1, left_1, slot_1, down_1, across_1, beat_1} <= {top, left, slot, down, across, beat};
    end

  // 2: whole pixels and the fraction of the bounded move.
  wire signed [MOVE_BITS-1:0] move_down, move_across;
  generate
    if (SQUARE != 0) begin : square
      logic signed [4:0] tap_down, tap_across;
      always_ff @(posedge clk)
        if (advance) begin
          tap_down <= 5'(tap_row) - 5'((KERNEL_HEIGHT - 1)/2);
          tap_across <= 5'(tap_column) - 5'((KERNEL_WIDTH - 1)/2);
        end
      assign move_down = bounded(MOVE_BITS'($signed(offset)) * MOVE_BITS'(tap_down));
      assign move_across = bounded(MOVE_BITS'($signed(offset)) * MOVE_BITS'(tap_across));
    end else begin : free
      assign move_down = bounded(MOVE_BITS'($signed(offset[OFFSET_BITS-1:0])));
      assign move_across = bounded(MOVE_BITS'($signed(offset[2*OFFSET_BITS-1:OFFSET_BITS])));
    end
  endgenerate
  localparam int HALF = ROUNDED != 0 && FRACTION > 0 ? 1 << (FRACTION - 1) : 0;
  logic signed [COLUMN_BITS-1:0] column_2;
  always_ff @(posedge clk)
    if (advance) begin
      down_2 <= down_1 + ROW_BITS'(BOUND) + ROW_BITS'((move_down + MOVE_BITS'(HALF)) >>> FRACTION);
      column_2 <= left_1 + across_1 + COLUMN_BITS'(BOUND) + COLUMN_BITS'((move_across + MOVE_BITS'(HALF)) >>> FRACTION);
      {top_2, slot_2, beat_2} <= {top_1, slot_1, beat_1};
    end

  // 3: the slot of that row and of the one below, and which of the pixels lie in the image.
  logic [SLOT_BITS-1:0] slot_3, below_3;
  logic signed [COLUMN_BITS-1:0] column_3, beside_3;
  logic [3:0] covered_3;
  wire signed [ROW_BITS-1:0] row_2 = top_2 + down_2;
  wire [SLOT_BITS-1:0] reached = around(slot_2, (SLOT_BITS + 1)'(down_2));
  wire [1:0] row_covered = {row_2 >= -1 && row_2 < ROW_BITS'(HEIGHT - 1), row_2 >= 0 && row_2 < ROW_BITS'(HEIGHT)};
  wire [1:0] column_covered =
    {column_2 >= -1 && column_2 < COLUMN_BITS'(WIDTH - 1), column_2 >= 0 && column_2 < COLUMN_BITS'(WIDTH)};
  always_ff @(posedge clk)
    if (advance) begin
      slot_3 <= reached;
      below_3 <= around(reached, (SLOT_BITS + 1)'(1));
      column_3 <= column_2;
      beside_3 <= column_2 + 1'b1;
      covered_3 <= {{2{row_covered[1]}} & column_covered, {2{row_covered[0]}} & column_covered};
      beat_3 <= beat_2;
    end

  // The valid bits of the stages behind the firing.
  localparam int DELAY = ROUNDED != 0 ? 5 : 8;
  logic [DELAY-1:0] valid;
  always_ff @(posedge clk)
    if (rst) {m_axis_tvalid, valid} <= '0;
    else if (advance) {m_axis_tvalid, valid} <= {valid, fire};

  generate
    if (ROUNDED != 0) begin : nearest
      // 4: the address, 5: the pixel.
      localparam int ROW = WIDTH*BEATS;
      localparam int DEPTH = ROWS*ROW;
      localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
      logic [ADDRESS_BITS-1:0] write_address, address;
      logic covered_4, covered_5;
      wire [LANES*BITS-1:0] pixel;
      always_ff @(posedge clk)
        if (rst) write_address <= '0;
        else if (write) write_address <= write_address == ADDRESS_BITS'(DEPTH - 1) ? '0 : write_address + 1'b1;
      always_ff @(posedge clk)
        if (advance) begin
          address <= ADDRESS_BITS'(slot_3)*ADDRESS_BITS'(ROW) + ADDRESS_BITS'(column_3)*ADDRESS_BITS'(BEATS) +
            ADDRESS_BITS'(beat_3);
          covered_4 <= covered_3[0];
          covered_5 <= covered_4;
          m_axis_tdata <= covered_5 ? pixel : {LANES{BITS'(ZERO)}};
        end
      mercer_ram #(.WIDTH(LANES*BITS), .DEPTH(DEPTH)) bank (
        .clk(clk), .write(write), .write_address(write_address), .write_data(s_axis_a_tdata),
        .read(advance), .read_address(address), .read_data(pixel)
      );
      wire unused = &{1'b0, covered_3[3:1], below_3, column_3, beside_3};
    end else begin : linear
      mercer_bilinear #(
        .BITS(BITS), .LANES(LANES), .WIDTH(WIDTH), .BEATS(BEATS), .ROWS(ROWS), .FRACTION(FRACTION), .ZERO(ZERO),
        .COLUMN_BITS(COLUMN_BITS)
      ) sampler (
        .clk(clk), .rst(rst), .write(write), .write_data(s_axis_a_tdata), .write_column(COLUMN_BITS'(columns)),
        .advance(advance), .slot(slot_3), .below(below_3), .column(column_3), .beside(beside_3), .beat(beat_3),
        .covered(covered_3), .fractions(fractions), .sample(m_axis_tdata)
      );
      logic [2*FRACTION-1:0] earlier, fractions;
      always_ff @(posedge clk)
        if (advance) {fractions, earlier} <= {earlier, move_down[FRACTION-1:0], move_across[FRACTION-1:0]};
    end
  endgenerate
endmodule
`default_nettype wire
