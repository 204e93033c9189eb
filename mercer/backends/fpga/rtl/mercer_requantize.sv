// One number at another scale: ((value*multiplier + 2**(SHIFT-1)) >>> SHIFT) + ZERO, rounded half up, held to LOW..HIGH.
// A lane without handshake: `code` follows its operands by 2 enabled cycles.
`default_nettype none
module mercer_requantize #(
  parameter int IN_BITS = 20,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 8
) (
  input  wire                               clk,
  input  wire                               enable,
  input  wire  signed [IN_BITS-1:0]         value,
  input  wire  signed [MULTIPLIER_BITS-1:0] multiplier,
  output logic signed [OUT_BITS-1:0]        code
);
  // Wide enough for the product, for the rounding constant and for every parameter.
  localparam int PRODUCT_BITS = IN_BITS + MULTIPLIER_BITS;
  localparam int SUM_BITS = (PRODUCT_BITS > SHIFT ? PRODUCT_BITS : SHIFT) + 1;
  localparam int LEVEL_BITS = (SUM_BITS - SHIFT > 32 ? SUM_BITS - SHIFT : 32) + 1;

  logic signed [PRODUCT_BITS-1:0] product;
  wire signed [SUM_BITS-1:0] rounded = SUM_BITS'(product) + (SUM_BITS'(1) <<< (SHIFT - 1));
  wire signed [LEVEL_BITS-1:0] level = LEVEL_BITS'(rounded >>> SHIFT) + LEVEL_BITS'(ZERO);

  always_ff @(posedge clk)
    if (enable) begin
      product <= PRODUCT_BITS'(value) * PRODUCT_BITS'(multiplier);
      if (level < LEVEL_BITS'(LOW)) code <= OUT_BITS'(LOW);
      else if (level > LEVEL_BITS'(HIGH)) code <= OUT_BITS'(HIGH);
      else code <= OUT_BITS'(level);
    end
endmodule
`default_nettype wire
