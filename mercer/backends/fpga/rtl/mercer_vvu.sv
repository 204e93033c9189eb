// Depthwise product: each of CHANNELS channels sums TAPS products of its own and a bias, LANES channels in one cycle.
// With SCALE the sums leave as codes: 1 requantized, 2 wrapped to a phase; with 0 they leave as they are.
// WEIGHTS holds a word of LANES weights for each (tap, channels) step, BIASES and MULTIPLIERS one of LANES per channels.
// Schedule: TAPS * CHANNELS/LANES firings per window, channels first, each takes a word; those of the last tap issue one.
// LATENCY 2, +1 when there is more than one step, +2 with SCALE.
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
  parameter WEIGHTS = "",
  parameter BIASES = "",
  parameter MULTIPLIERS = ""
) (
  input  wire                      clk,
  input  wire                      rst,
  input  wire  [LANES*IN_BITS-1:0] s_axis_tdata,
  input  wire                      s_axis_tvalid,
  output logic                     s_axis_tready,
  output logic [LANES*OUT_BITS-1:0] m_axis_tdata,
  output logic                     m_axis_tvalid,
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

  // Operands.
  logic fetched, fetched_first, fetched_last;
  logic [BLOCK_BITS-1:0] fetched_block;
  logic [LANES*IN_BITS-1:0] vector;
  logic [LANES*WEIGHT_BITS-1:0] column;
  generate
    if (STEPS > 1) begin : folded
      always_ff @(posedge clk)
        if (rst) fetched <= 1'b0;
        else if (advance) fetched <= fire;
      always_ff @(posedge clk)
        if (advance) begin
          fetched_first <= first_tap;
          fetched_last <= last_tap;
          fetched_block <= block;
          vector <= s_axis_tdata;
          column <= weights[step];
        end
    end else begin : unrolled
      assign fetched = fire;
      assign fetched_first = first_tap;
      assign fetched_last = last_tap;
      assign fetched_block = block;
      assign vector = s_axis_tdata;
      assign column = weights[0];
    end
  endgenerate

  // Products, then the running sum of every channel.
  logic multiplied, multiplied_first, multiplied_last, summed;
  logic [BLOCK_BITS-1:0] multiplied_block;
  logic [LANES*ACC_BITS-1:0] bias;
  always_ff @(posedge clk)
    if (rst) begin
      multiplied <= 1'b0;
      summed <= 1'b0;
    end else if (advance) begin
      multiplied <= fetched;
      summed <= multiplied && multiplied_last;
    end
  always_ff @(posedge clk)
    if (advance) begin
      multiplied_first <= fetched_first;
      multiplied_last <= fetched_last;
      multiplied_block <= fetched_block;
      bias <= biases[fetched_block];
    end

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
      logic [LANES*MULTIPLIER_BITS-1:0] multipliers [0:BLOCKS-1];
      logic [LANES*MULTIPLIER_BITS-1:0] multiplier;
      logic scaling;
      initial $readmemh(MULTIPLIERS, multipliers);
      always_ff @(posedge clk)
        if (advance) multiplier <= multipliers[multiplied_block];
      always_ff @(posedge clk)
        if (rst) begin
          scaling <= 1'b0;
          m_axis_tvalid <= 1'b0;
        end else if (advance) begin
          scaling <= summed;
          m_axis_tvalid <= scaling;
        end
      for (genvar lane = 0; lane < LANES; lane = lane + 1) begin : lanes
        if (SCALE == 1) begin : codes
          mercer_requantize #(
            .IN_BITS(ACC_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT),
            .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS)
          ) requantize (
            .clk, .enable(advance),
            .value(sums[lane*ACC_BITS +: ACC_BITS]),
            .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
            .code(m_axis_tdata[lane*OUT_BITS +: OUT_BITS])
          );
        end else begin : phases
          mercer_wrap #(
            .IN_BITS(ACC_BITS), .MULTIPLIER_BITS(MULTIPLIER_BITS), .SHIFT(SHIFT), .PHASE_BITS(OUT_BITS - 1)
          ) wrap (
            .clk, .enable(advance),
            .value(sums[lane*ACC_BITS +: ACC_BITS]),
            .multiplier(multiplier[lane*MULTIPLIER_BITS +: MULTIPLIER_BITS]),
            .phase(m_axis_tdata[lane*OUT_BITS +: OUT_BITS])
          );
        end
      end
    end
  endgenerate
endmodule
`default_nettype wire
