// Phase of a periodic function: ((value*multiplier + 2**(SHIFT-1)) >>> SHIFT) modulo 2**PHASE_BITS, rounded half up.
// A lane without handshake: `phase`, never negative, follows its operands by 2 enabled cycles.
`default_nettype none
module mercer_wrap #(
  parameter int IN_BITS = 20,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int PHASE_BITS = 8
) (
  input  wire                               clk,
  input  wire                               enable,
  input  wire  signed [IN_BITS-1:0]         value,
  input  wire  signed [MULTIPLIER_BITS-1:0] multiplier,
  output logic signed [PHASE_BITS:0]        phase
);
  localparam int PRODUCT_BITS = IN_BITS + MULTIPLIER_BITS;
  localparam int SUM_BITS = (PRODUCT_BITS > SHIFT + PHASE_BITS ? PRODUCT_BITS : SHIFT + PHASE_BITS) + 1;

  logic signed [PRODUCT_BITS-1:0] product;
  wire signed [SUM_BITS-1:0] rounded = SUM_BITS'(product) + (SUM_BITS'(1) <<< (SHIFT - 1));

  always_ff @(posedge clk)
    if (enable) begin
      product <= PRODUCT_BITS'(value) * PRODUCT_BITS'(multiplier);
      phase <= {1'b0, PHASE_BITS'(rounded >>> SHIFT)};
    end
endmodule
`default_nettype wire
