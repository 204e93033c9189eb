// Sum of COUNT signed numbers, two by two with a register behind every addition.
// Without handshake: `sum` follows its terms by $clog2(COUNT) enabled cycles.
`default_nettype none
module mercer_tree #(
  parameter int COUNT = 4,
  parameter int IN_BITS = 16,
  parameter int OUT_BITS = 20
) (
  input  wire                      clk,
  input  wire                      enable,
  /* verilator lint_off UNUSEDSIGNAL */  // sums that are known to be small need not all bits
  input  wire  [COUNT*IN_BITS-1:0] terms,
  /* verilator lint_on UNUSEDSIGNAL */
  output wire  [OUT_BITS-1:0]      sum
);
  localparam int LEVELS = $clog2(COUNT);

  generate
    for (genvar level = 0; level <= LEVELS; level = level + 1) begin : levels
      localparam int NODES = (COUNT + (1 << level) - 1) >> level;
      localparam int BITS = IN_BITS + level < OUT_BITS ? IN_BITS + level : OUT_BITS;
      logic [NODES*BITS-1:0] nodes;
      if (level == 0) begin : leaves
        for (genvar i = 0; i < NODES; i = i + 1) begin : each
          assign nodes[i*BITS +: BITS] = terms[i*IN_BITS +: BITS];
        end
      end else begin : sums
        localparam int BELOW = (COUNT + (1 << (level - 1)) - 1) >> (level - 1);
        localparam int BELOW_BITS = IN_BITS + level - 1 < OUT_BITS ? IN_BITS + level - 1 : OUT_BITS;
        for (genvar i = 0; i < NODES; i = i + 1) begin : each
          wire signed [BITS-1:0] left = BITS'($signed(levels[level-1].nodes[2*i*BELOW_BITS +: BELOW_BITS]));
          if (2*i + 1 < BELOW) begin : pair
            wire signed [BITS-1:0] right = BITS'($signed(levels[level-1].nodes[(2*i + 1)*BELOW_BITS +: BELOW_BITS]));
            always_ff @(posedge clk)
              if (enable) nodes[i*BITS +: BITS] <= left + right;
          end else begin : rest
            always_ff @(posedge clk)
              if (enable) nodes[i*BITS +: BITS] <= left;
          end
        end
      end
    end
    if (LEVELS == 0) begin : single
      wire unused = &{1'b0, clk, enable};
    end
  endgenerate
  localparam int TOP_BITS = IN_BITS + LEVELS < OUT_BITS ? IN_BITS + LEVELS : OUT_BITS;
  assign sum = OUT_BITS'($signed(levels[LEVELS].nodes[TOP_BITS-1:0]));
endmodule
`default_nettype wire
