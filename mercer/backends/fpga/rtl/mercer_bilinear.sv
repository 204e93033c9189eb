// The memory of mercer_deform for linear interpolation, and the interpolation: four banks by the parity of slot and column
// hold ROWS rows; at (slot, column), (slot, beside), (below, column) and (below, beside) they are read at once. The sum
// of the four pixels, weighed by the fractions (row, column) of the position, is rounded half up. Pixels that are not
// covered count as ZERO.
// A lane without handshake: `sample` follows its operands by 6 enabled cycles.
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
  localparam int ROW = (WIDTH + 1)/2*BEATS;
  localparam int DEPTH = ROWS/2*ROW;
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam int NEAR_BITS = BITS + FRACTION + 1;
  localparam int SUM_BITS = BITS + 2*FRACTION + 2;

  function automatic logic [ADDRESS_BITS-1:0] place(
    input logic [SLOT_BITS-1:0] row, input logic [COLUMN_BITS-1:0] pixel, input logic [BEAT_BITS-1:0] part
  );
    place = ADDRESS_BITS'(row >> 1)*ADDRESS_BITS'(ROW) + ADDRESS_BITS'(pixel >> 1)*ADDRESS_BITS'(BEATS) +
      ADDRESS_BITS'(part);
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

  // 1: addresses, 2: words of the banks, 3: the four corners; bit 1 of a corner is its row, bit 0 its column.
  logic [3:0] covered_1, covered_2;
  logic [1:0] parity_1, parity_2;
  logic [2*FRACTION-1:0] fractions_1, fractions_2, fractions_3;
  logic [FRACTION-1:0] fraction_4;
  wire [4*LANES*BITS-1:0] words;
  logic [4*LANES*BITS-1:0] corners;
  always_ff @(posedge clk)
    if (advance) begin
      parity_1 <= {slot[0], column[0]};
      {covered_2, covered_1} <= {covered_1, covered};
      parity_2 <= parity_1;
      {fraction_4, fractions_3, fractions_2, fractions_1} <=
        {fractions_3[2*FRACTION-1:FRACTION], fractions_2, fractions_1, fractions};
    end
  generate
    for (genvar bank = 0; bank < 4; bank = bank + 1) begin : banks
      localparam [1:0] PARITY = 2'(bank);
      logic [ADDRESS_BITS-1:0] address;
      always_ff @(posedge clk)
        if (advance)
          address <= place(slot[0] == PARITY[1] ? slot : below, column[0] == PARITY[0] ? column : beside, beat);
      mercer_ram #(.WIDTH(LANES*BITS), .DEPTH(DEPTH)) memory (
        .clk(clk), .write(write && write_slot[0] == PARITY[1] && write_column[0] == PARITY[0]),
        .write_address(place(write_slot, write_column, write_beat)), .write_data(write_data),
        .read(advance), .read_address(address), .read_data(words[bank*LANES*BITS +: LANES*BITS])
      );
      always_ff @(posedge clk)
        if (advance)
          corners[bank*LANES*BITS +: LANES*BITS] <=
            covered_2[bank] ? words[32'(PARITY ^ parity_2)*LANES*BITS +: LANES*BITS] : {LANES{BITS'(ZERO)}};
    end

    // 4: between columns, 5: between rows, 6: rounded.
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      wire signed [NEAR_BITS-1:0] corner_0 = NEAR_BITS'($signed(corners[lane*BITS +: BITS]));
      wire signed [NEAR_BITS-1:0] corner_1 = NEAR_BITS'($signed(corners[(LANES + lane)*BITS +: BITS]));
      wire signed [NEAR_BITS-1:0] corner_2 = NEAR_BITS'($signed(corners[(2*LANES + lane)*BITS +: BITS]));
      wire signed [NEAR_BITS-1:0] corner_3 = NEAR_BITS'($signed(corners[(3*LANES + lane)*BITS +: BITS]));
      wire signed [NEAR_BITS-1:0] across = NEAR_BITS'({1'b0, fractions_3[FRACTION-1:0]});
      wire signed [SUM_BITS-1:0] down = SUM_BITS'({1'b0, fraction_4});
      logic signed [NEAR_BITS-1:0] upper, lower;
      logic signed [SUM_BITS-1:0] total;
      always_ff @(posedge clk)
        if (advance) begin
          upper <= (corner_0 <<< FRACTION) + (corner_1 - corner_0)*across;
          lower <= (corner_2 <<< FRACTION) + (corner_3 - corner_2)*across;
          total <= (SUM_BITS'(upper) <<< FRACTION) + (SUM_BITS'(lower) - SUM_BITS'(upper))*down;
          sample[lane*BITS +: BITS] <= BITS'((total + (SUM_BITS'(1) <<< (2*FRACTION - 1))) >>> (2*FRACTION));
        end
    end
  endgenerate
endmodule
`default_nettype wire
