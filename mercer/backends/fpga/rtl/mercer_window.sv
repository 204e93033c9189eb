// Sliding windows over an image: takes [HEIGHT, WIDTH, CHANNELS], gives for every output pixel its taps
// [KERNEL_HEIGHT, KERNEL_WIDTH, CHANNELS], both in beats of LANES elements; taps outside the image are ZERO.
//
// A circular buffer holds ROWS >= SPAN rows, where SPAN = DILATION_HEIGHT*(KERNEL_HEIGHT-1) + 1; rows of the next sample
// flow in as soon as rows of this one are no longer needed. One beat in and one beat out per cycle.
// Schedule: two processes. The first takes a word per firing, HEIGHT*WIDTH*CHANNELS/LANES per sample, while the buffer has
// room. The second issues a word per firing, OUT_HEIGHT*OUT_WIDTH*KERNEL_HEIGHT*KERNEL_WIDTH*CHANNELS/LANES per sample; the
// first tap of a pixel comes 1 cycle or more after the last element of its window. With rows enough (SPAN plus a stride,
// or what Window.rows says) a sample takes as many cycles as the longer of the two. LATENCY 2.
`default_nettype none
module mercer_window #(
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
  parameter int OUT_HEIGHT = (HEIGHT + 2*PAD_TOP - DILATION_HEIGHT*(KERNEL_HEIGHT - 1) - 1)/STRIDE_HEIGHT + 1,
  parameter int OUT_WIDTH = (WIDTH + 2*PAD_LEFT - DILATION_WIDTH*(KERNEL_WIDTH - 1) - 1)/STRIDE_WIDTH + 1,
  parameter int ZERO = 0,
  parameter int ROWS = DILATION_HEIGHT*(KERNEL_HEIGHT - 1) + 1 + STRIDE_HEIGHT
) (
  input  wire                   clk,
  input  wire                   rst,
  input  wire  [LANES*BITS-1:0] s_axis_tdata,
  input  wire                   s_axis_tvalid,
  output wire                   s_axis_tready,
  output logic [LANES*BITS-1:0] m_axis_tdata,
  output logic                  m_axis_tvalid,
  input  wire                   m_axis_tready
);
  localparam int BEATS = CHANNELS/LANES;
  localparam int SPAN_HEIGHT = DILATION_HEIGHT*(KERNEL_HEIGHT - 1) + 1;
  localparam int SPAN_WIDTH = DILATION_WIDTH*(KERNEL_WIDTH - 1) + 1;
  localparam int ROW_BITS = $clog2(HEIGHT + PAD_TOP + ROWS + SPAN_HEIGHT + STRIDE_HEIGHT) + 2;
  localparam int COLUMN_BITS = $clog2(WIDTH + PAD_LEFT + SPAN_WIDTH + STRIDE_WIDTH) + 2;
  localparam int OFFSET_BITS = COLUMN_BITS + $clog2(BEATS);
  localparam int TAP_ROW_BITS = KERNEL_HEIGHT > 1 ? $clog2(KERNEL_HEIGHT) : 1;
  localparam int TAP_COLUMN_BITS = KERNEL_WIDTH > 1 ? $clog2(KERNEL_WIDTH) : 1;
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;

  // Addresses of rows go round in the buffer.
  localparam int ROW = WIDTH*BEATS;
  localparam int DEPTH = ROWS*ROW;
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int SAMPLE = HEIGHT - (OUT_HEIGHT - 1)*STRIDE_HEIGHT;
  localparam [ADDRESS_BITS-1:0] TOP = ADDRESS_BITS'((ROWS - PAD_TOP % ROWS) % ROWS*ROW);
  localparam [ADDRESS_BITS:0] SIZE = (ADDRESS_BITS + 1)'(DEPTH);
  localparam [ADDRESS_BITS:0] NEXT_TAP = (ADDRESS_BITS + 1)'(DILATION_HEIGHT % ROWS*ROW);
  localparam [ADDRESS_BITS:0] NEXT_PIXEL = (ADDRESS_BITS + 1)'(STRIDE_HEIGHT % ROWS*ROW);
  localparam [ADDRESS_BITS:0] NEXT_SAMPLE = (ADDRESS_BITS + 1)'((SAMPLE % ROWS + ROWS) % ROWS*ROW);

  function automatic logic [ADDRESS_BITS-1:0] around(
    input logic [ADDRESS_BITS-1:0] address, input logic [ADDRESS_BITS:0] step
  );
    logic [ADDRESS_BITS:0] sum;
    sum = {1'b0, address} + step;
    around = ADDRESS_BITS'(sum >= SIZE ? sum - SIZE : sum);
  endfunction

  // The place in the loops over output rows, output columns, tap rows, tap columns and beats; the first two are walked by
  // mercer_rows.
  wire last_window_row, last_window_column;
  logic [TAP_ROW_BITS-1:0] tap_row;
  logic [TAP_COLUMN_BITS-1:0] tap_column;
  logic [BEAT_BITS-1:0] beat;
  wire last_beat = beat == BEAT_BITS'(BEATS - 1);
  wire last_tap_column = last_beat && tap_column == TAP_COLUMN_BITS'(KERNEL_WIDTH - 1);
  wire last_tap = last_tap_column && tap_row == TAP_ROW_BITS'(KERNEL_HEIGHT - 1);
  wire last_column = last_tap && last_window_column;

  // The window's first row and column, the tap's, and the addresses of both.
  wire signed [ROW_BITS-1:0] top, top_ahead;
  wire signed [COLUMN_BITS-1:0] left, left_ahead;
  logic signed [ROW_BITS-1:0] row;
  logic signed [COLUMN_BITS-1:0] column;
  logic [ADDRESS_BITS-1:0] top_address, row_address;
  logic signed [OFFSET_BITS-1:0] left_offset, offset;
  wire [ADDRESS_BITS-1:0] next_top_address = around(top_address, last_window_row ? NEXT_SAMPLE : NEXT_PIXEL);

  wire covered = row >= 0 && row < ROW_BITS'(HEIGHT) && column >= 0 && column < COLUMN_BITS'(WIDTH);

  logic read_valid, read_covered;
  wire available;
  wire [ROW_BITS-1:0] frees;
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = available && advance;
  wire write = s_axis_tvalid && s_axis_tready;
  wire [LANES*BITS-1:0] read_data;
  logic [ADDRESS_BITS-1:0] write_address;

  /* verilator lint_off PINCONNECTEMPTY */
  mercer_rows #(
    .HEIGHT(HEIGHT), .WIDTH(WIDTH), .BEATS(BEATS), .ROWS(ROWS), .OUT_HEIGHT(OUT_HEIGHT), .OUT_WIDTH(OUT_WIDTH),
    .SPAN_HEIGHT(SPAN_HEIGHT), .SPAN_WIDTH(SPAN_WIDTH), .STRIDE_HEIGHT(STRIDE_HEIGHT), .STRIDE_WIDTH(STRIDE_WIDTH),
    .TOP(PAD_TOP), .LEFT(PAD_LEFT), .ROW_BITS(ROW_BITS), .COLUMN_BITS(COLUMN_BITS)
  ) book (
    .clk, .rst, .write, .room(s_axis_tready), .column(), .next(fire && last_tap),
    .freed(fire && last_column ? frees : '0), .available, .frees, .top, .top_ahead, .left, .left_ahead,
    .last_row(last_window_row), .last_column(last_window_column)
  );
  /* verilator lint_on PINCONNECTEMPTY */

  mercer_ram #(.WIDTH(LANES*BITS), .DEPTH(DEPTH)) buffer (
    .clk(clk), .write(write), .write_address(write_address), .write_data(s_axis_tdata),
    .read(fire), .read_address(row_address + ADDRESS_BITS'(offset)), .read_data(read_data)
  );

  always_ff @(posedge clk)
    if (rst) write_address <= '0;
    else if (write) write_address <= around(write_address, (ADDRESS_BITS + 1)'(1));

  always_ff @(posedge clk)
    if (rst) begin
      {tap_row, tap_column, beat} <= '0;
      row <= ROW_BITS'(-PAD_TOP);
      column <= COLUMN_BITS'(-PAD_LEFT);
      top_address <= TOP;
      row_address <= TOP;
      left_offset <= OFFSET_BITS'(-PAD_LEFT*BEATS);
      offset <= OFFSET_BITS'(-PAD_LEFT*BEATS);
    end else if (fire) begin
      beat <= last_beat ? '0 : beat + 1'b1;
      if (last_beat) tap_column <= last_tap_column ? '0 : tap_column + 1'b1;
      if (last_tap_column) tap_row <= last_tap ? '0 : tap_row + 1'b1;

      if (!last_beat) begin
        offset <= offset + 1'b1;
      end else if (!last_tap_column) begin
        column <= column + COLUMN_BITS'(DILATION_WIDTH);
        offset <= offset + OFFSET_BITS'((DILATION_WIDTH - 1)*BEATS + 1);
      end else if (!last_tap) begin
        column <= left;
        offset <= left_offset;
        row <= row + ROW_BITS'(DILATION_HEIGHT);
        row_address <= around(row_address, NEXT_TAP);
      end else if (!last_column) begin
        column <= left_ahead;
        left_offset <= left_offset + OFFSET_BITS'(STRIDE_WIDTH*BEATS);
        offset <= left_offset + OFFSET_BITS'(STRIDE_WIDTH*BEATS);
        row <= top;
        row_address <= top_address;
      end else begin
        column <= left_ahead;
        left_offset <= OFFSET_BITS'(-PAD_LEFT*BEATS);
        offset <= OFFSET_BITS'(-PAD_LEFT*BEATS);
        row <= top_ahead;
        top_address <= next_top_address;
        row_address <= next_top_address;
      end
    end

  always_ff @(posedge clk)
    if (rst) begin
      read_valid <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      read_valid <= fire;
      m_axis_tvalid <= read_valid;
    end

  always_ff @(posedge clk) begin
    if (fire) read_covered <= covered;
    if (advance) m_axis_tdata <= read_covered ? read_data : {LANES{BITS'(ZERO)}};
  end
endmodule
`default_nettype wire
