// Matrix-vector product: ROWS sums of COLS products and a bias, SIMD columns of PE rows in one cycle (FINN, Blott et al.
// 2018). With SCALE the sums leave as codes: 1 requantized, 2 wrapped to a phase; with 0 they leave as they are.
// WEIGHTS holds a word of PE x SIMD weights for each (rows, columns) step, BIASES and MULTIPLIERS one of PE per rows.
// Schedule: ROWS/PE * COLS/SIMD firings per vector, columns first. The first COLS/SIMD take a word each (it is kept for
// the other rows); each COLS/SIMD-th issues one. LATENCY 2, +1 when there is more than one step, +2 with SCALE.
`default_nettype none
module mercer_mvu #(
  parameter int ROWS = 4,
  parameter int COLS = 4,
  parameter int PE = 1,
  parameter int SIMD = 1,
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
  input  wire                     clk,
  input  wire                     rst,
  input  wire  [SIMD*IN_BITS-1:0] s_axis_tdata,
  input  wire                     s_axis_tvalid,
  output logic                    s_axis_tready,
  output logic [PE*OUT_BITS-1:0]  m_axis_tdata,
  output logic                    m_axis_tvalid,
  input  wire                     m_axis_tready
);
  localparam int COLUMN_STEPS = COLS/SIMD;
  localparam int ROW_STEPS = ROWS/PE;
  localparam int STEPS = ROW_STEPS*COLUMN_STEPS;
  localparam int COLUMN_BITS = COLUMN_STEPS > 1 ? $clog2(COLUMN_STEPS) : 1;
  localparam int ROW_BITS = ROW_STEPS > 1 ? $clog2(ROW_STEPS) : 1;
  localparam int STEP_BITS = STEPS > 1 ? $clog2(STEPS) : 1;
  localparam int WORD_BITS = SIMD*IN_BITS;
  localparam int PRODUCT_BITS = IN_BITS + WEIGHT_BITS;
  localparam [COLUMN_BITS-1:0] LAST_COLUMN = COLUMN_BITS'(COLUMN_STEPS - 1);
  localparam [ROW_BITS-1:0] LAST_ROW = ROW_BITS'(ROW_STEPS - 1);

  logic [PE*SIMD*WEIGHT_BITS-1:0] weights [0:STEPS-1];
  logic [PE*ACC_BITS-1:0] biases [0:ROW_STEPS-1];
  initial begin
    $readmemh(WEIGHTS, weights);
    $readmemh(BIASES, biases);
  end

  wire advance = !m_axis_tvalid || m_axis_tready;

  // Where the firing stands.
  logic [COLUMN_BITS-1:0] column;
  logic [ROW_BITS-1:0] row;
  logic [STEP_BITS-1:0] step;
  wire takes = row == '0;
  wire fire = advance && (!takes || s_axis_tvalid);
  wire last_column = column == LAST_COLUMN;
  assign s_axis_tready = advance && takes;

  always_ff @(posedge clk)
    if (rst) begin
      column <= '0;
      row <= '0;
      step <= '0;
    end else if (fire) begin
      column <= last_column ? '0 : column + 1'b1;
      if (last_column) row <= row == LAST_ROW ? '0 : row + 1'b1;
      step <= last_column && row == LAST_ROW ? '0 : step + 1'b1;
    end

  // Operands: the vector comes from the stream for the first rows and from its copy for the others.
  logic fetched, fetched_first, fetched_last;
  logic [ROW_BITS-1:0] fetched_row;
  logic [WORD_BITS-1:0] vector;
  logic [PE*SIMD*WEIGHT_BITS-1:0] matrix;
  generate
    if (STEPS > 1) begin : folded
      logic [WORD_BITS-1:0] arrived;
      always_ff @(posedge clk)
        if (rst) fetched <= 1'b0;
        else if (advance) begin
          fetched <= fire;
          fetched_first <= column == '0;
          fetched_last <= last_column;
          fetched_row <= row;
        end
      always_ff @(posedge clk)
        if (advance) begin
          arrived <= s_axis_tdata;
          matrix <= weights[step];
        end
      if (ROW_STEPS > 1) begin : again
        logic [WORD_BITS-1:0] copies [0:COLUMN_STEPS-1];
        logic [WORD_BITS-1:0] copy;
        always_ff @(posedge clk)
          if (advance) begin
            if (fire && takes) copies[column] <= s_axis_tdata;
            copy <= copies[column];
          end
        assign vector = fetched_row == '0 ? arrived : copy;
      end else begin : once
        assign vector = arrived;
      end
    end else begin : unrolled
      assign fetched = fire;
      assign fetched_first = 1'b1;
      assign fetched_last = 1'b1;
      assign fetched_row = '0;
      assign vector = s_axis_tdata;
      assign matrix = weights[0];
    end
  endgenerate

  // Products, then their sum onto the bias or onto what the columns before gave.
  logic multiplied, multiplied_first, multiplied_last;
  logic [PE*ACC_BITS-1:0] bias;
  logic summed;
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
      bias <= biases[fetched_row];
    end

  logic [PE*ACC_BITS-1:0] sums;
  generate
    for (genvar lane = 0; lane < PE; lane = lane + 1) begin : lanes
      /* verilator lint_off UNUSEDSIGNAL */  // sums that are known to be small need not all bits
      logic [SIMD*PRODUCT_BITS-1:0] products;
      /* verilator lint_on UNUSEDSIGNAL */
      logic signed [ACC_BITS-1:0] total;
      integer i;
      always_ff @(posedge clk)
        if (advance)
          for (i = 0; i < SIMD; i = i + 1)
            products[i*PRODUCT_BITS +: PRODUCT_BITS] <=
              PRODUCT_BITS'($signed(vector[i*IN_BITS +: IN_BITS])) *
              PRODUCT_BITS'($signed(matrix[(lane*SIMD + i)*WEIGHT_BITS +: WEIGHT_BITS]));
      integer j;
      always_comb begin
        total = multiplied_first ? bias[lane*ACC_BITS +: ACC_BITS] : sums[lane*ACC_BITS +: ACC_BITS];
        for (j = 0; j < SIMD; j = j + 1)
          total = total + ACC_BITS'($signed(products[j*PRODUCT_BITS +: PRODUCT_BITS]));
      end
      always_ff @(posedge clk)
        if (advance && multiplied) sums[lane*ACC_BITS +: ACC_BITS] <= total;
    end
  endgenerate

  generate
    if (SCALE == 0) begin : plain
      assign m_axis_tdata = sums;
      assign m_axis_tvalid = summed;
    end else begin : scaled
      logic [PE*MULTIPLIER_BITS-1:0] multipliers [0:ROW_STEPS-1];
      logic [PE*MULTIPLIER_BITS-1:0] multiplier;
      logic [ROW_BITS-1:0] multiplied_row;
      logic scaling;
      initial $readmemh(MULTIPLIERS, multipliers);
      always_ff @(posedge clk)
        if (advance) begin
          multiplied_row <= fetched_row;
          multiplier <= multipliers[multiplied_row];
        end
      always_ff @(posedge clk)
        if (rst) begin
          scaling <= 1'b0;
          m_axis_tvalid <= 1'b0;
        end else if (advance) begin
          scaling <= summed;
          m_axis_tvalid <= scaling;
        end
      for (genvar lane = 0; lane < PE; lane = lane + 1) begin : lanes
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
