// LANES numbers at another scale, each with the multiplier of its channel: SCALE 1 requantizes, 2 wraps to a phase.
// MULTIPLIERS holds WORDS words of LANES multipliers; `word` is the place of those for the values that come 1 enabled cycle
// later, with PIPELINE 2.
// Without handshake: the codes follow their values by 2 enabled cycles, 3 with PIPELINE.
`default_nettype none
module mercer_scaler #(
  parameter int WORDS = 1,
  parameter int LANES = 1,
  parameter int IN_BITS = 20,
  parameter int SCALE = 1,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 8,
  parameter int PIPELINE = 0,
  parameter MULTIPLIERS = "",
  localparam int WORD_BITS = WORDS > 1 ? $clog2(WORDS) : 1
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire                       enable,
  input  wire  [WORD_BITS-1:0]      word,
  input  wire  [LANES*IN_BITS-1:0]  values,
  input  wire                       valid,
  output wire  [LANES*OUT_BITS-1:0] codes,
  output wire                       codes_valid
);
  logic [LANES*MULTIPLIER_BITS-1:0] multipliers [0:WORDS-1];
  logic [LANES*MULTIPLIER_BITS-1:0] multiplier;
  initial $readmemh(MULTIPLIERS, multipliers);

  mercer_delay #(.BITS(1), .CYCLES(2 + PIPELINE)) passing (.clk, .rst, .enable, .value(valid), .delayed(codes_valid));

  generate
    if (WORDS > 1) begin : several
      logic [LANES*MULTIPLIER_BITS-1:0] fetched;
      always_ff @(posedge clk)
        if (enable) fetched <= multipliers[word];
      mercer_delay #(.BITS(LANES*MULTIPLIER_BITS), .CYCLES(PIPELINE)) held (
        .clk, .rst, .enable, .value(fetched), .delayed(multiplier)
      );
    end else begin : single
      assign multiplier = multipliers[0];
      wire unused = &{1'b0, word};
    end
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      if (SCALE == 1) begin : code
        mercer_requantize #(
          .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
          .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS), .PIPELINE(PIPELINE)
        ) requantize (
          .clk, .enable,
          .value(values[lane*IN_BITS +: IN_BITS]),
          .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
          .code(codes[lane*OUT_BITS +: OUT_BITS])
        );
      end else begin : phase
        mercer_wrap #(
          .IN_BITS(IN_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT), .PHASE_BITS(OUT_BITS - 1),
          .PIPELINE(PIPELINE)
        ) wrap (
          .clk, .enable,
          .value(values[lane*IN_BITS +: IN_BITS]),
          .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
          .phase(codes[lane*OUT_BITS +: OUT_BITS])
        );
      end
    end
  endgenerate
endmodule
`default_nettype wire
