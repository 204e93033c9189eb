// Phase of a periodic function: ((value*multiplier + 2**(SHIFT-1)) >>> SHIFT) modulo 2**PHASE_BITS, rounded half up.
// A lane without handshake: `phase`, never negative, follows its operands by 2 enabled cycles, 3 with PIPELINE.
`default_nettype none
module mercer_wrap #(
  parameter int IN_BITS = 20,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int PHASE_BITS = 8,
  parameter int PIPELINE = 0
) (
  input  wire                               clk,
  input  wire                               enable,
  input  wire  signed [IN_BITS-1:0]         value,
  input  wire  signed [MULTIPLIER_BITS-1:0] multiplier,
  output logic signed [PHASE_BITS:0]        phase
);
  wire signed [PHASE_BITS-1:0] level;
  mercer_product #(
    .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT), .LEVEL_BITS(PHASE_BITS), .PIPELINE(PIPELINE)
  ) scaled (.clk, .enable, .value, .multiplier, .level);

  always_ff @(posedge clk)
    if (enable) phase <= {1'b0, level};
endmodule
`default_nettype wire
