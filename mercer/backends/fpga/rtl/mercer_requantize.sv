// One number at another scale: ((value*multiplier + 2**(SHIFT-1)) >>> SHIFT) + ZERO, rounded half up, held to LOW..HIGH.
// A lane without handshake: `code` follows its operands by 2 enabled cycles, 3 with PIPELINE.
`default_nettype none
module mercer_requantize #(
  parameter int IN_BITS = 20,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 8,
  parameter int PIPELINE = 0
) (
  input  wire                               clk,
  input  wire                               enable,
  input  wire  signed [IN_BITS-1:0]         value,
  input  wire  signed [MULTIPLIER_BITS-1:0] multiplier,
  output logic signed [OUT_BITS-1:0]        code
);
  // Wide enough for the level and for the difference of any two parameters.
  localparam int PRODUCT_BITS = IN_BITS + MULTIPLIER_BITS;
  localparam int LEVEL_BITS = (PRODUCT_BITS - SHIFT > 32 ? PRODUCT_BITS - SHIFT : 32) + 2;
  localparam signed [LEVEL_BITS-1:0] LEAST = LEVEL_BITS'(LOW) - LEVEL_BITS'(ZERO);
  localparam signed [LEVEL_BITS-1:0] MOST = LEVEL_BITS'(HIGH) - LEVEL_BITS'(ZERO);

  wire signed [LEVEL_BITS-1:0] level;
  mercer_product #(
    .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT), .LEVEL_BITS(LEVEL_BITS), .PIPELINE(PIPELINE)
  ) scaled (.clk, .enable, .value, .multiplier, .level);

  always_ff @(posedge clk)
    if (enable) begin
      if (level < LEAST) code <= OUT_BITS'(LOW);
      else if (level > MOST) code <= OUT_BITS'(HIGH);
      else code <= OUT_BITS'(level) + OUT_BITS'(ZERO);
    end
endmodule
`default_nettype wire
