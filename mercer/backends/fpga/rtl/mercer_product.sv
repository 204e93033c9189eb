// A product in units of 2**SHIFT: (value*multiplier + 2**(SHIFT-1)) >>> SHIFT, rounded half up.
// A lane without handshake: `level` follows its operands by 1 enabled cycle. With PIPELINE it is 2, and there is a register
// between the hardware multipliers, which take 18 x 18 bits, and the sum of their products.
`default_nettype none
module mercer_product #(
  parameter int IN_BITS = 20,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int LEVEL_BITS = 21,
  parameter int PIPELINE = 0
) (
  input  wire                               clk,
  input  wire                               enable,
  input  wire  signed [IN_BITS-1:0]         value,
  input  wire  signed [MULTIPLIER_BITS-1:0] multiplier,
  output wire  signed [LEVEL_BITS-1:0]      level
);
  localparam int PRODUCT_BITS = IN_BITS + MULTIPLIER_BITS;
  localparam int SUM_BITS = (PRODUCT_BITS > SHIFT ? PRODUCT_BITS : SHIFT) + 1;
  localparam signed [SUM_BITS-1:0] HALF = (SUM_BITS'(1) <<< (SHIFT - 1));

  wire signed [SUM_BITS-1:0] rounded;
  assign level = LEVEL_BITS'(rounded >>> SHIFT);

  generate
    if (PIPELINE == 0) begin : whole
      logic signed [PRODUCT_BITS-1:0] product;
      always_ff @(posedge clk)
        if (enable) product <= PRODUCT_BITS'(value) * PRODUCT_BITS'(multiplier);
      assign rounded = SUM_BITS'(product) + HALF;
    end else begin : parts
      // The low 17 bits of an operand, which are not negative, and the rest of it. One bit more is no part of its own.
      localparam int PART = 17;
      localparam int VALUES = IN_BITS > PART + 2 ? 2 : 1;
      localparam int MULTIPLIERS = MULTIPLIER_BITS > PART + 2 ? 2 : 1;
      logic [VALUES*MULTIPLIERS*SUM_BITS-1:0] products;
      for (genvar i = 0; i < VALUES; i = i + 1) begin : values
        localparam int BITS = VALUES == 1 ? IN_BITS : i == 0 ? PART + 1 : IN_BITS - PART;
        wire signed [BITS-1:0] one;
        if (VALUES == 1) begin : all
          assign one = value;
        end else if (i == 0) begin : low
          assign one = {1'b0, value[PART-1:0]};
        end else begin : high
          assign one = value[IN_BITS-1:PART];
        end
        for (genvar j = 0; j < MULTIPLIERS; j = j + 1) begin : multipliers
          localparam int OTHER_BITS = MULTIPLIERS == 1 ? MULTIPLIER_BITS : j == 0 ? PART + 1 : MULTIPLIER_BITS - PART;
          wire signed [OTHER_BITS-1:0] other;
          if (MULTIPLIERS == 1) begin : all
            assign other = multiplier;
          end else if (j == 0) begin : low
            assign other = {1'b0, multiplier[PART-1:0]};
          end else begin : high
            assign other = multiplier[MULTIPLIER_BITS-1:PART];
          end
          logic signed [BITS+OTHER_BITS-1:0] product;
          always_ff @(posedge clk)
            if (enable) product <= (BITS + OTHER_BITS)'(one) * (BITS + OTHER_BITS)'(other);
          assign products[(i*MULTIPLIERS + j)*SUM_BITS +: SUM_BITS] = SUM_BITS'(product) <<< (PART*(i + j));
        end
      end
      logic signed [SUM_BITS-1:0] total, sum;
      always_comb begin
        total = HALF;
        for (int i = 0; i < VALUES*MULTIPLIERS; i = i + 1) total = total + products[i*SUM_BITS +: SUM_BITS];
      end
      always_ff @(posedge clk)
        if (enable) sum <= total;
      assign rounded = sum;
    end
  endgenerate
endmodule
`default_nettype wire
