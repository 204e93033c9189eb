// Depthwise product: each of CHANNELS channels sums TAPS products of its own and a bias, LANES channels in one cycle.
// With SCALE the sums leave as codes: 1 requantized, 2 wrapped to a phase; with 0 they leave as they are.
// WEIGHTS holds a word of LANES weights for each (tap, channels) step, BIASES and MULTIPLIERS one of LANES per channels.
// Schedule: TAPS * CHANNELS/LANES firings per window, channels first, each takes a word; those of the last tap issue one.
// LATENCY 2, +1 when there is more than one step, +2 with SCALE. PIPELINE adds 1 behind the memory when there is more than
// one step, and 1 with SCALE.
`default_nettype none
module mercer_vvu #(
  parameter int CHANNELS = 4,
  parameter int TAPS = 9,
  parameter int LANES = 1,
  parameter int IN_BITS = 8,
  parameter int WEIGHT_BITS = 8,
  parameter int ACC_BITS = 20,
  parameter int SCALE = 0,
  parameter int MULTIPLIER_BITS = 16,
  parameter int SHIFT = 16,
  parameter int ZERO = 0,
  parameter int LOW = -128,
  parameter int HIGH = 127,
  parameter int OUT_BITS = 20,
  parameter int PIPELINE = 0,
  parameter WEIGHTS = "",
  parameter BIASES = "",
  parameter MULTIPLIERS = ""
) (
  input  wire                      clk,
  input  wire                      rst,
  input  wire  [LANES*IN_BITS-1:0] s_axis_tdata,
  input  wire                      s_axis_tvalid,
  output logic                     s_axis_tready,
  output wire  [LANES*OUT_BITS-1:0] m_axis_tdata,
  output wire                      m_axis_tvalid,
  input  wire                      m_axis_tready
);
  localparam int BLOCKS = CHANNELS/LANES;
  localparam int STEPS = TAPS*BLOCKS;
  localparam int BLOCK_BITS = BLOCKS > 1 ? $clog2(BLOCKS) : 1;
  localparam int TAP_BITS = TAPS > 1 ? $clog2(TAPS) : 1;
  localparam int STEP_BITS = STEPS > 1 ? $clog2(STEPS) : 1;
  localparam int PRODUCT_BITS = IN_BITS + WEIGHT_BITS;
  localparam [BLOCK_BITS-1:0] LAST_BLOCK = BLOCK_BITS'(BLOCKS - 1);
  localparam [TAP_BITS-1:0] LAST_TAP = TAP_BITS'(TAPS - 1);

  logic [LANES*WEIGHT_BITS-1:0] weights [0:STEPS-1];
  logic [LANES*ACC_BITS-1:0] biases [0:BLOCKS-1];
  initial begin
    $readmemh(WEIGHTS, weights);
    $readmemh(BIASES, biases);
  end

  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  // Where the firing stands.
  logic [BLOCK_BITS-1:0] block;
  logic [TAP_BITS-1:0] tap;
  logic [STEP_BITS-1:0] step;
  wire last_block = block == LAST_BLOCK;
  wire first_tap = tap == '0;
  wire last_tap = tap == LAST_TAP;
  always_ff @(posedge clk)
    if (rst) begin
      block <= '0;
      tap <= '0;
      step <= '0;
    end else if (fire) begin
      block <= last_block ? '0 : block + 1'b1;
      if (last_block) tap <= last_tap ? '0 : tap + 1'b1;
      step <= last_block && last_tap ? '0 : step + 1'b1;
    end

  // What goes along with a firing: its block of channels, and whether it is of the first or the last tap.
  localparam int FETCHING = STEPS > 1 ? 1 : 0;
  localparam int HOLDING = PIPELINE != 0 && STEPS > 1 ? 1 : 0;
  wire [BLOCK_BITS-1:0] fetched_block, multiplied_block;
  wire multiplied, multiplied_first, multiplied_last;
  mercer_delay #(.BITS(BLOCK_BITS), .CYCLES(FETCHING)) block_fetched (
    .clk, .rst, .enable(advance), .value(block), .delayed(fetched_block)
  );
  mercer_delay #(.BITS(BLOCK_BITS), .CYCLES(HOLDING + 1)) block_multiplied (
    .clk, .rst, .enable(advance), .value(fetched_block), .delayed(multiplied_block)
  );
  mercer_delay #(.BITS(3), .CYCLES(FETCHING + HOLDING + 1)) ends (
    .clk, .rst, .enable(advance), .value({fire, first_tap, last_tap}),
    .delayed({multiplied, multiplied_first, multiplied_last})
  );

  // Operands.
  wire [LANES*IN_BITS-1:0] fetched_vector, vector;
  wire [LANES*WEIGHT_BITS-1:0] fetched_column, column;
  generate
    if (STEPS > 1) begin : folded
      logic [LANES*WEIGHT_BITS-1:0] word;
      assign fetched_column = word;
      always_ff @(posedge clk)
        if (advance) word <= weights[step];
    end else begin : unrolled
      assign fetched_column = weights[0];
    end
  endgenerate
  mercer_delay #(.BITS(LANES*IN_BITS), .CYCLES(FETCHING)) arrived (
    .clk, .rst, .enable(advance), .value(s_axis_tdata), .delayed(fetched_vector)
  );
  mercer_delay #(.BITS(LANES*IN_BITS), .CYCLES(HOLDING)) held_vector (
    .clk, .rst, .enable(advance), .value(fetched_vector), .delayed(vector)
  );
  mercer_delay #(.BITS(LANES*WEIGHT_BITS), .CYCLES(HOLDING)) held_column (
    .clk, .rst, .enable(advance), .value(fetched_column), .delayed(column)
  );

  // The bias comes with the products of the first tap; with PIPELINE there is a register behind its memory as well.
  wire [LANES*ACC_BITS-1:0] bias;
  generate
    if (BLOCKS > 1) begin : several_biases
      logic [LANES*ACC_BITS-1:0] word;
      always_ff @(posedge clk)
        if (advance) word <= biases[fetched_block];
      mercer_delay #(.BITS(LANES*ACC_BITS), .CYCLES(HOLDING)) held (
        .clk, .rst, .enable(advance), .value(word), .delayed(bias)
      );
    end else begin : one_bias
      assign bias = biases[0];
    end
  endgenerate

  // Products, then the running sum of every channel.
  wire summed;
  mercer_delay #(.BITS(1), .CYCLES(1)) ending (
    .clk, .rst, .enable(advance), .value(multiplied && multiplied_last), .delayed(summed)
  );
  logic [LANES*ACC_BITS-1:0] partial [0:BLOCKS-1];
  logic [LANES*ACC_BITS-1:0] carried, totals, sums;
  assign carried = multiplied_first ? bias : partial[multiplied_block];
  generate
    for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
      /* verilator lint_off UNUSEDSIGNAL */  // sums that are known to be small need not all bits
      logic signed [PRODUCT_BITS-1:0] product;
      /* verilator lint_on UNUSEDSIGNAL */
      always_ff @(posedge clk)
        if (advance)
          product <= PRODUCT_BITS'($signed(vector[lane*IN_BITS +: IN_BITS])) *
            PRODUCT_BITS'($signed(column[lane*WEIGHT_BITS +: WEIGHT_BITS]));
      assign totals[lane*ACC_BITS +: ACC_BITS] = carried[lane*ACC_BITS +: ACC_BITS] + ACC_BITS'(product);
    end
  endgenerate
  always_ff @(posedge clk)
    if (advance && multiplied) begin
      partial[multiplied_block] <= totals;
      sums <= totals;
    end

  generate
    if (SCALE == 0) begin : plain
      assign m_axis_tdata = sums;
      assign m_axis_tvalid = summed;
    end else begin : scaled
      wire [BLOCK_BITS-1:0] scaled_block;
      mercer_delay #(.BITS(BLOCK_BITS), .CYCLES(1)) block_scaled (
        .clk, .rst, .enable(advance), .value(fetched_block), .delayed(scaled_block)
      );
      mercer_scaler #(
        .WORDS(BLOCKS), .LANES(LANES), .IN_BITS(ACC_BITS), .SCALE(SCALE), .MULTIPLIER_BITS(MULTIPLIER_BITS),
        .SHIFT(SHIFT), .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS), .PIPELINE(PIPELINE),
        .MULTIPLIERS(MULTIPLIERS)
      ) scaler (
        .clk, .rst, .enable(advance), .word(scaled_block), .values(sums), .valid(summed),
        .codes(m_axis_tdata), .codes_valid(m_axis_tvalid)
      );
    end
  endgenerate
endmodule
`default_nettype wire
