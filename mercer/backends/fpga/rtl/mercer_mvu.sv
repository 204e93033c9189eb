// Matrix-vector product: ROWS sums of COLS products and a bias, SIMD columns of PE rows in one cycle (FINN, Blott et al.
// 2018). With SCALE the sums leave as codes: 1 requantized, 2 wrapped to a phase; with 0 they leave as they are.
// WEIGHTS holds a word of PE x SIMD weights for each (rows, columns) step, BIASES and MULTIPLIERS one of PE per rows.
// Schedule: ROWS/PE * COLS/SIMD firings per vector, columns first. The first COLS/SIMD take a word each (it is kept for
// the other rows); each COLS/SIMD-th issues one. LATENCY 2, +1 when there is more than one step, +2 with SCALE. PIPELINE adds
// 1 behind the memory when there is more than one step, $clog2(SIMD) in the sum of the products, and 1 with SCALE.
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
  parameter int PIPELINE = 0,
  parameter WEIGHTS = "",
  parameter BIASES = "",
  parameter MULTIPLIERS = ""
) (
  input  wire                     clk,
  input  wire                     rst,
  input  wire  [SIMD*IN_BITS-1:0] s_axis_tdata,
  input  wire                     s_axis_tvalid,
  output logic                    s_axis_tready,
  output wire  [PE*OUT_BITS-1:0]  m_axis_tdata,
  output wire                     m_axis_tvalid,
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

  // What goes along with a firing: its row, and whether it is the first or the last one of a sum.
  localparam int FETCHING = STEPS > 1 ? 1 : 0;
  localparam int HOLDING = PIPELINE != 0 && STEPS > 1 ? 1 : 0;
  localparam int LEVELS = PIPELINE != 0 ? $clog2(SIMD) : 0;
  wire [ROW_BITS-1:0] fetched_row;
  wire multiplied, multiplied_first, multiplied_last;
  mercer_delay #(.BITS(ROW_BITS), .CYCLES(FETCHING)) row_fetched (
    .clk, .rst, .enable(advance), .value(row), .delayed(fetched_row)
  );
  mercer_delay #(.BITS(3), .CYCLES(FETCHING + HOLDING + 1 + LEVELS)) ends (
    .clk, .rst, .enable(advance), .value({fire, column == '0, last_column}),
    .delayed({multiplied, multiplied_first, multiplied_last})
  );

  // Operands: the vector comes from the stream for the first rows and from its copy for the others.
  wire [WORD_BITS-1:0] fetched_vector, vector;
  wire [PE*SIMD*WEIGHT_BITS-1:0] fetched_matrix, matrix;
  generate
    if (STEPS > 1) begin : folded
      logic [WORD_BITS-1:0] arrived;
      logic [PE*SIMD*WEIGHT_BITS-1:0] word;
      assign fetched_matrix = word;
      always_ff @(posedge clk)
        if (advance) begin
          arrived <= s_axis_tdata;
          word <= weights[step];
        end
      if (ROW_STEPS > 1) begin : again
        logic [WORD_BITS-1:0] copies [0:COLUMN_STEPS-1];
        logic [WORD_BITS-1:0] copy;
        always_ff @(posedge clk)
          if (advance) begin
            if (fire && takes) copies[column] <= s_axis_tdata;
            copy <= copies[column];
          end
        assign fetched_vector = fetched_row == '0 ? arrived : copy;
      end else begin : once
        assign fetched_vector = arrived;
      end
    end else begin : unrolled
      assign fetched_vector = s_axis_tdata;
      assign fetched_matrix = weights[0];
    end
  endgenerate
  mercer_delay #(.BITS(WORD_BITS), .CYCLES(HOLDING)) held_vector (
    .clk, .rst, .enable(advance), .value(fetched_vector), .delayed(vector)
  );
  mercer_delay #(.BITS(PE*SIMD*WEIGHT_BITS), .CYCLES(HOLDING)) held_matrix (
    .clk, .rst, .enable(advance), .value(fetched_matrix), .delayed(matrix)
  );

  // The bias comes with the first products; with PIPELINE there is a register behind its memory as well.
  wire [ROW_BITS-1:0] bias_row;
  wire [PE*ACC_BITS-1:0] bias;
  generate
    if (ROW_STEPS > 1) begin : several_biases
      logic [PE*ACC_BITS-1:0] word;
      mercer_delay #(.BITS(ROW_BITS), .CYCLES(HOLDING + LEVELS - PIPELINE)) waiting (
        .clk, .rst, .enable(advance), .value(fetched_row), .delayed(bias_row)
      );
      always_ff @(posedge clk)
        if (advance) word <= biases[bias_row];
      mercer_delay #(.BITS(PE*ACC_BITS), .CYCLES(PIPELINE)) held (
        .clk, .rst, .enable(advance), .value(word), .delayed(bias)
      );
    end else begin : one_bias
      assign bias_row = fetched_row;
      assign bias = biases[0];
      wire unused = &{1'b0, bias_row};
    end
  endgenerate

  // Products, then their sum onto the bias or onto what the columns before gave.
  wire summed;
  mercer_delay #(.BITS(1), .CYCLES(1)) ending (
    .clk, .rst, .enable(advance), .value(multiplied && multiplied_last), .delayed(summed)
  );
  logic [PE*ACC_BITS-1:0] sums;
  generate
    for (genvar lane = 0; lane < PE; lane = lane + 1) begin : lanes
      /* verilator lint_off UNUSEDSIGNAL */  // sums that are known to be small need not all bits
      logic [SIMD*PRODUCT_BITS-1:0] products;
      /* verilator lint_on UNUSEDSIGNAL */
      logic signed [ACC_BITS-1:0] total;
      wire signed [ACC_BITS-1:0] onto =
        multiplied_first ? bias[lane*ACC_BITS +: ACC_BITS] : sums[lane*ACC_BITS +: ACC_BITS];
      always_ff @(posedge clk)
        if (advance)
          for (int i = 0; i < SIMD; i = i + 1)
            products[i*PRODUCT_BITS +: PRODUCT_BITS] <=
              PRODUCT_BITS'($signed(vector[i*IN_BITS +: IN_BITS])) *
              PRODUCT_BITS'($signed(matrix[(lane*SIMD + i)*WEIGHT_BITS +: WEIGHT_BITS]));
      if (PIPELINE != 0) begin : two_by_two
        wire signed [ACC_BITS-1:0] sum;
        mercer_tree #(.COUNT(SIMD), .IN_BITS(PRODUCT_BITS), .OUT_BITS(ACC_BITS)) tree (
          .clk, .enable(advance), .terms(products), .sum
        );
        assign total = onto + sum;
      end else begin : at_once
        always_comb begin
          total = onto;
          for (int i = 0; i < SIMD; i = i + 1)
            total = total + ACC_BITS'($signed(products[i*PRODUCT_BITS +: PRODUCT_BITS]));
        end
      end
      always_ff @(posedge clk)
        if (advance && multiplied) sums[lane*ACC_BITS +: ACC_BITS] <= total;
    end

    if (SCALE == 0) begin : plain
      assign m_axis_tdata = sums;
      assign m_axis_tvalid = summed;
    end else begin : scaled
      wire [ROW_BITS-1:0] scaled_row;
      mercer_delay #(.BITS(ROW_BITS), .CYCLES(1)) row_scaled (
        .clk, .rst, .enable(advance), .value(bias_row), .delayed(scaled_row)
      );
      mercer_scaler #(
        .WORDS(ROW_STEPS), .LANES(PE), .IN_BITS(ACC_BITS), .SCALE(SCALE), .MULTIPLIER_BITS(MULTIPLIER_BITS),
        .SHIFT(SHIFT), .ZERO(ZERO), .LOW(LOW), .HIGH(HIGH), .OUT_BITS(OUT_BITS), .PIPELINE(PIPELINE),
        .MULTIPLIERS(MULTIPLIERS)
      ) scaler (
        .clk, .rst, .enable(advance), .word(scaled_row), .values(sums), .valid(summed),
        .codes(m_axis_tdata), .codes_valid(m_axis_tvalid)
      );
    end
  endgenerate
endmodule
`default_nettype wire
