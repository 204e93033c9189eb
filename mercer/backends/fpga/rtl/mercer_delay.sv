// A value CYCLES enabled cycles later; 0 after reset.
`default_nettype none
module mercer_delay #(
  parameter int BITS = 1,
  parameter int CYCLES = 1
) (
  input  wire             clk,
  input  wire             rst,
  input  wire             enable,
  input  wire  [BITS-1:0] value,
  output wire  [BITS-1:0] delayed
);
  generate
    if (CYCLES == 0) begin : direct
      assign delayed = value;
      wire unused = &{1'b0, clk, rst, enable};
    end else begin : registers
      logic [CYCLES*BITS-1:0] kept;
      always_ff @(posedge clk)
        if (rst) kept <= '0;
        else if (enable) kept <= (CYCLES*BITS)'({kept, value});
      assign delayed = kept[(CYCLES - 1)*BITS +: BITS];
    end
  endgenerate
endmodule
`default_nettype wire
