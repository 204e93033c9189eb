// Windows along one axis of an image: OUT windows of SPAN pixels over SIZE pixels, the first at -BEFORE, STRIDE apart, again
// and again. Everything about the present window is a register, ready in the cycle after `next`, which goes on to the next.
//   start   its first pixel
//   ahead   the first pixel of the next window
//   last    whether it is the last one
//   frees   pixels at the beginning of the image that the next window does not need any more; of the last one, all others
//   grows   EXTRA and UNIT times the pixels that the next window reaches beyond it; of the last one, TURN
`default_nettype none
module mercer_walk #(
  parameter int SIZE = 8,
  parameter int OUT = 8,
  parameter int SPAN = 3,
  parameter int STRIDE = 1,
  parameter int BEFORE = 1,
  parameter int UNIT = 1,
  parameter int EXTRA = 0,
  parameter int TURN = 0,
  parameter int BITS = 6,
  parameter int GROWS_BITS = 6
) (
  input  wire                          clk,
  input  wire                          rst,
  input  wire                          next,
  output logic signed [BITS-1:0]       start,
  output logic signed [BITS-1:0]       ahead,
  output logic                         last,
  output logic [BITS-1:0]              frees,
  output logic signed [GROWS_BITS-1:0] grows
);
  localparam signed [BITS-1:0] FIRST = BITS'(-BEFORE);
  localparam signed [BITS-1:0] SECOND = BITS'(OUT > 1 ? STRIDE - BEFORE : -BEFORE);
  localparam signed [BITS-1:0] LAST = BITS'((OUT - 1)*STRIDE - BEFORE);

  // The oldest pixel that a window needs is its first one held to 0..SIZE, the newest is its last one held to 0..SIZE-1.
  // From one window to the next these move by STRIDE, but for the windows at the ends of the image.
  function automatic int held(input int place, input int largest);
    held = place < 0 ? 0 : place > largest ? largest : place;
  endfunction

  // The last window at or before a place, or the one before all.
  function automatic int window_at(input int place);
    window_at = (place + BEFORE >= 0 ? (place + BEFORE)/STRIDE : -1)*STRIDE - BEFORE;
  endfunction

  localparam int FREES_FROM = window_at(-1);
  localparam int FREES_TO = window_at(SIZE);
  localparam int GROWS_FROM = window_at(-SPAN);
  localparam int GROWS_TO = window_at(SIZE - SPAN);

  function automatic int freed_from(input int place);
    freed_from = held(place + STRIDE, SIZE) - held(place, SIZE);
  endfunction

  function automatic int grown_from(input int place);
    grown_from = EXTRA + UNIT*(held(place + STRIDE + SPAN - 1, SIZE - 1) - held(place + SPAN - 1, SIZE - 1));
  endfunction

  function automatic logic [BITS-1:0] frees_at(input logic signed [BITS-1:0] place);
    if (place == LAST) frees_at = BITS'(SIZE - held((OUT - 1)*STRIDE - BEFORE, SIZE));
    else if (place == BITS'(FREES_FROM)) frees_at = BITS'(freed_from(FREES_FROM));
    else if (place == BITS'(FREES_TO)) frees_at = BITS'(freed_from(FREES_TO));
    else if (place > BITS'(FREES_FROM) && place < BITS'(FREES_TO)) frees_at = BITS'(STRIDE);
    else frees_at = '0;
  endfunction

  function automatic logic signed [GROWS_BITS-1:0] grows_at(input logic signed [BITS-1:0] place);
    if (place == LAST) grows_at = GROWS_BITS'(TURN);
    else if (place == BITS'(GROWS_FROM)) grows_at = GROWS_BITS'(grown_from(GROWS_FROM));
    else if (place == BITS'(GROWS_TO)) grows_at = GROWS_BITS'(grown_from(GROWS_TO));
    else if (place > BITS'(GROWS_FROM) && place < BITS'(GROWS_TO)) grows_at = GROWS_BITS'(UNIT*STRIDE + EXTRA);
    else grows_at = GROWS_BITS'(EXTRA);
  endfunction

  always_ff @(posedge clk)
    if (rst) begin
      start <= FIRST;
      ahead <= SECOND;
      last <= OUT == 1;
      frees <= frees_at(FIRST);
      grows <= grows_at(FIRST);
    end else if (next) begin
      start <= ahead;
      ahead <= ahead == LAST ? FIRST : ahead + BITS'(STRIDE);
      last <= ahead == LAST;
      frees <= frees_at(ahead);
      grows <= grows_at(ahead);
    end
endmodule
`default_nettype wire
