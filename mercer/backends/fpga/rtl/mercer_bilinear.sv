// The memory of mercer_deform for linear interpolation, and the interpolation: four banks by the parity of slot and column
// hold ROWS rows; at (slot, column), (slot, beside), (below, column) and (below, beside) they are read at once. The sum
// of the four pixels, weighed by the fractions (row, column) of the position, is rounded half up. Pixels that are not
// covered count as ZERO.
// A lane without handshake: `sample` follows its operands by 10 enabled cycles.
`default_nettype none
module mercer_bilinear #(
  parameter int BITS = 8,
  parameter int LANES = 1,
  parameter int WIDTH = 8,
  parameter int BEATS = 1,
  parameter int ROWS = 8,
  parameter int FRACTION = 4,
  parameter int ZERO = 0,
  parameter int COLUMN_BITS = 6,
  localparam int SLOT_BITS = $clog2(ROWS),
  localparam int BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1
) (
  input  wire                          clk,
  input  wire                          rst,
  input  wire                          write,
  input  wire  [LANES*BITS-1:0]        write_data,
  input  wire  [COLUMN_BITS-1:0]       write_column,
  input  wire                          advance,
  input  wire  [SLOT_BITS-1:0]         slot,
  input  wire  [SLOT_BITS-1:0]         below,
  input  wire  [COLUMN_BITS-1:0]       column,
  input  wire  [COLUMN_BITS-1:0]       beside,
  input  wire  [BEAT_BITS-1:0]         beat,
  input  wire  [3:0]                   covered,
  input  wire  [2*FRACTION-1:0]        fractions,
  output logic [LANES*BITS-1:0]        sample
);
  localparam int PAIRS = (WIDTH + 1)/2;
  localparam int PAIR_BITS = PAIRS > 1 ? $clog2(PAIRS) : 1;
  localparam int ROW = PAIRS*BEATS;
  localparam int DEPTH = ROWS/2*ROW;
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int NEAR_BITS = BITS + FRACTION + 1;
  localparam int SUM_BITS = BITS + 2*FRACTION + 2;

  // Where each slot begins, and where each pair of pixels begins in it.
  logic [ADDRESS_BITS-1:0] rows [0:ROWS-1];
  logic [ADDRESS_BITS-1:0] pairs [0:PAIRS-1];
  initial begin
    for (int i = 0; i < ROWS; i = i + 1) rows[i] = ADDRESS_BITS'(i/2*ROW);
    for (int i = 0; i < PAIRS; i = i + 1) pairs[i] = ADDRESS_BITS'(i*BEATS);
  end

  function automatic logic [ADDRESS_BITS-1:0] along(input logic [COLUMN_BITS-1:0] pixel, input logic [BEAT_BITS-1:0] part);
    along = pairs[PAIR_BITS'(pixel >> 1)] + ADDRESS_BITS'(part);
  endfunction

  logic [BEAT_BITS-1:0] write_beat;
  logic [SLOT_BITS-1:0] write_slot;
  wire last_beat = write_beat == BEAT_BITS'(BEATS - 1);
  always_ff @(posedge clk)
    if (rst) begin
      write_beat <= '0;
      write_slot <= '0;
    end else if (write) begin
      write_beat <= last_beat ? '0 : write_beat + 1'b1;
      if (last_beat && write_column == COLUMN_BITS'(WIDTH - 1))
        write_slot <= write_slot == SLOT_BITS'(ROWS - 1) ? '0 : write_slot + 1'b1;
    end

  // 1: addresses, 2: words of the banks, 3: those again, 4: the four corners; bit 1 of a corner is its row, bit 0 its column.
  logic [3:0] covered_1, covered_2, covered_3;
  logic [1:0] parity_1, parity_2, parity_3;
  wire [4*LANES*BITS-1:0] words;
  logic [4*LANES*BITS-1:0] held, corners;
  always_ff @(posedge clk)
    if (advance) begin
      parity_1 <= {slot[0], column[0]};
      {covered_3, covered_2, covered_1} <= {covered_2, covered_1, covered};
      {parity_3, parity_2} <= {parity_2, parity_1};
      held <= words;
    end
  // The fractions wait for the differences that they weigh.
  wire [FRACTION-1:0] across, down;
  mercer_delay #(.BITS(FRACTION), .CYCLES(5)) columns_wait (
    .clk, .rst, .enable(advance), .value(fractions[FRACTION-1:0]), .delayed(across)
  );
  mercer_delay #(.BITS(FRACTION), .CYCLES(8)) rows_wait (
    .clk, .rst, .enable(advance), .value(fractions[2*FRACTION-1:FRACTION]), .delayed(down)
  );
  generate
    for (genvar bank = 0; bank < 4; bank = bank + 1) begin : banks
      localparam [1:0] PARITY = 2'(bank);
      logic [ADDRESS_BITS-1:0] address;
      always_ff @(posedge clk)
        if (advance)
          address <=
            rows[slot[0] == PARITY[1] ? slot : below] + along(column[0] == PARITY[0] ? column : beside, beat);
      mercer_ram #(.WIDTH(LANES*BITS), .DEPTH(DEPTH)) memory (
        .clk(clk), .write(write && write_slot[0] == PARITY[1] && write_column[0] == PARITY[0]),
        .write_address(rows[write_slot] + along(write_column, write_beat)), .write_data(write_data),
        .read(advance), .read_address(address), .read_data(words[bank*LANES*BITS +: LANES*BITS])
      );
      always_ff @(posedge clk)
        if (advance)
          corners[bank*LANES*BITS +: LANES*BITS] <=
            covered_3[bank] ? held[32'(PARITY ^ parity_3)*LANES*BITS +: LANES*BITS] : {LANES{BITS'(ZERO)}};
    end

    // 5 to 7: between columns, 8 to 10: between rows, each the difference, its share, and the sum; rounded at the end.
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      logic signed [NEAR_BITS-1:0] near [0:1];
      for (genvar row = 0; row < 2; row = row + 1) begin : between_columns
        wire signed [BITS-1:0] corner = corners[(2*row*LANES + lane)*BITS +: BITS];
        wire signed [BITS-1:0] next = corners[((2*row + 1)*LANES + lane)*BITS +: BITS];
        logic signed [BITS-1:0] corner_5, corner_6;
        logic signed [BITS:0] difference;
        logic signed [NEAR_BITS-1:0] share;
        always_ff @(posedge clk)
          if (advance) begin
            difference <= (BITS + 1)'(next) - (BITS + 1)'(corner);
            share <= NEAR_BITS'(difference)*NEAR_BITS'($signed({1'b0, across}));
            {corner_6, corner_5} <= {corner_5, corner};
            near[row] <= (NEAR_BITS'(corner_6) <<< FRACTION) + share;
          end
      end
      logic signed [NEAR_BITS:0] difference;
      logic signed [SUM_BITS-1:0] share, from_8, from_9;
      /* verilator lint_off UNUSEDSIGNAL */  // what the rounding cuts off
      wire signed [SUM_BITS-1:0] total = from_9 + share;
      /* verilator lint_on UNUSEDSIGNAL */
      always_ff @(posedge clk)
        if (advance) begin
          difference <= (NEAR_BITS + 1)'(near[1]) - (NEAR_BITS + 1)'(near[0]);
          share <= SUM_BITS'(difference)*SUM_BITS'($signed({1'b0, down}));
          from_8 <= (SUM_BITS'(near[0]) <<< FRACTION) + (SUM_BITS'(1) <<< (2*FRACTION - 1));
          from_9 <= from_8;
          sample[lane*BITS +: BITS] <= total[2*FRACTION +: BITS];
        end
    end
  endgenerate
endmodule
`default_nettype wire
