// Distances of a vector to CENTERS stored centers, for kernel machines: the sum of (x - center)**2 over DIMENSIONS with
// METRIC 0, of |x - center| with 1; SIMD dimensions of PE centers in one cycle. TABLE holds a word of PE x SIMD centers for
// each (centers, dimensions) step. A scale, a table and a matrix-vector product make the rest of the kernel machine.
// Schedule: CENTERS/PE * DIMENSIONS/SIMD firings per vector, dimensions first. The first DIMENSIONS/SIMD take a word each
// (it is kept for the other centers); each DIMENSIONS/SIMD-th issues one. LATENCY 3, +1 when there is more than one step.
// PIPELINE adds 1 behind the memory when there is more than one step, and $clog2(SIMD) in the sum.
`default_nettype none
module mercer_distance #(
  parameter int CENTERS = 4,
  parameter int DIMENSIONS = 4,
  parameter int PE = 1,
  parameter int SIMD = 1,
  parameter int METRIC = 0,
  parameter int IN_BITS = 8,
  parameter int CENTER_BITS = 8,
  parameter int OUT_BITS = 20,
  parameter int PIPELINE = 0,
  parameter TABLE = ""
) (
  input  wire                     clk,
  input  wire                     rst,
  input  wire  [SIMD*IN_BITS-1:0] s_axis_tdata,
  input  wire                     s_axis_tvalid,
  output wire                     s_axis_tready,
  output wire  [PE*OUT_BITS-1:0]  m_axis_tdata,
  output wire                     m_axis_tvalid,
  input  wire                     m_axis_tready
);
  localparam int COLUMN_STEPS = DIMENSIONS/SIMD;
  localparam int ROW_STEPS = CENTERS/PE;
  localparam int STEPS = ROW_STEPS*COLUMN_STEPS;
  localparam int COLUMN_BITS = COLUMN_STEPS > 1 ? $clog2(COLUMN_STEPS) : 1;
  localparam int ROW_BITS = ROW_STEPS > 1 ? $clog2(ROW_STEPS) : 1;
  localparam int STEP_BITS = STEPS > 1 ? $clog2(STEPS) : 1;
  localparam int WORD_BITS = SIMD*IN_BITS;
  localparam int WIDE_BITS = (IN_BITS > CENTER_BITS ? IN_BITS : CENTER_BITS) + 1;
  localparam int TERM_BITS = METRIC == 0 ? 2*WIDE_BITS - 1 : WIDE_BITS;

  logic [PE*SIMD*CENTER_BITS-1:0] centers [0:STEPS-1];
  initial $readmemh(TABLE, centers);

  wire advance = !m_axis_tvalid || m_axis_tready;

  // Where the firing stands.
  logic [COLUMN_BITS-1:0] column;
  logic [ROW_BITS-1:0] row;
  logic [STEP_BITS-1:0] step;
  wire takes = row == '0;
  wire fire = advance && (!takes || s_axis_tvalid);
  wire last_column = column == COLUMN_BITS'(COLUMN_STEPS - 1);
  wire last_row = row == ROW_BITS'(ROW_STEPS - 1);
  assign s_axis_tready = advance && takes;

  always_ff @(posedge clk)
    if (rst) begin
      column <= '0;
      row <= '0;
      step <= '0;
    end else if (fire) begin
      column <= last_column ? '0 : column + 1'b1;
      if (last_column) row <= last_row ? '0 : row + 1'b1;
      step <= last_column && last_row ? '0 : step + 1'b1;
    end

  // What goes along with a firing: whether it is the first or the last one of a sum.
  localparam int FETCHING = STEPS > 1 ? 1 : 0;
  localparam int HOLDING = PIPELINE != 0 && STEPS > 1 ? 1 : 0;
  localparam int LEVELS = PIPELINE != 0 ? $clog2(SIMD) : 0;
  wire measured, measured_first, measured_last;
  mercer_delay #(.BITS(3), .CYCLES(FETCHING + HOLDING + 2 + LEVELS)) ends (
    .clk, .rst, .enable(advance), .value({fire, column == '0, last_column}),
    .delayed({measured, measured_first, measured_last})
  );
  mercer_delay #(.BITS(1), .CYCLES(1)) ending (
    .clk, .rst, .enable(advance), .value(measured && measured_last), .delayed(m_axis_tvalid)
  );

  // Operands: the vector comes from the stream for the first centers and from its copy for the others.
  wire [WORD_BITS-1:0] fetched_vector, vector;
  wire [PE*SIMD*CENTER_BITS-1:0] fetched_matrix, matrix;
  generate
    if (STEPS > 1) begin : folded
      logic [WORD_BITS-1:0] arrived;
      logic [PE*SIMD*CENTER_BITS-1:0] word;
      assign fetched_matrix = word;
      always_ff @(posedge clk)
        if (advance) begin
          arrived <= s_axis_tdata;
          word <= centers[step];
        end
      if (ROW_STEPS > 1) begin : again
        logic [WORD_BITS-1:0] copies [0:COLUMN_STEPS-1];
        logic [WORD_BITS-1:0] copy;
        logic fetched_arrived;
        always_ff @(posedge clk)
          if (advance) begin
            if (fire && takes) copies[column] <= s_axis_tdata;
            copy <= copies[column];
            fetched_arrived <= takes;
          end
        assign fetched_vector = fetched_arrived ? arrived : copy;
      end else begin : once
        assign fetched_vector = arrived;
      end
    end else begin : unrolled
      assign fetched_vector = s_axis_tdata;
      assign fetched_matrix = centers[0];
    end
  endgenerate
  mercer_delay #(.BITS(WORD_BITS), .CYCLES(HOLDING)) held_vector (
    .clk, .rst, .enable(advance), .value(fetched_vector), .delayed(vector)
  );
  mercer_delay #(.BITS(PE*SIMD*CENTER_BITS), .CYCLES(HOLDING)) held_matrix (
    .clk, .rst, .enable(advance), .value(fetched_matrix), .delayed(matrix)
  );

  // Differences, then their squares or sizes, then the sum onto what the columns before gave.
  logic [PE*OUT_BITS-1:0] sums;
  assign m_axis_tdata = sums;
  generate
    for (genvar lane = 0; lane < PE; lane = lane + 1) begin : lanes
      logic [SIMD*TERM_BITS-1:0] terms;
      logic [OUT_BITS-1:0] total;
      wire [OUT_BITS-1:0] onto = measured_first ? '0 : sums[lane*OUT_BITS +: OUT_BITS];
      for (genvar i = 0; i < SIMD; i = i + 1) begin : dimensions
        logic signed [WIDE_BITS-1:0] difference;
        always_ff @(posedge clk)
          if (advance)
            difference <= WIDE_BITS'($signed(vector[i*IN_BITS +: IN_BITS])) -
              WIDE_BITS'($signed(matrix[(lane*SIMD + i)*CENTER_BITS +: CENTER_BITS]));
        if (METRIC == 0) begin : squares
          always_ff @(posedge clk)
            if (advance) terms[i*TERM_BITS +: TERM_BITS] <= TERM_BITS'(difference) * TERM_BITS'(difference);
        end else begin : sizes
          always_ff @(posedge clk)
            if (advance) terms[i*TERM_BITS +: TERM_BITS] <= difference < 0 ? -difference : difference;
        end
      end
      if (PIPELINE != 0) begin : two_by_two
        wire [OUT_BITS-1:0] sum;
        wire [SIMD*(TERM_BITS + 1)-1:0] positive;
        for (genvar i = 0; i < SIMD; i = i + 1) begin : dimensions
          assign positive[i*(TERM_BITS + 1) +: TERM_BITS + 1] = {1'b0, terms[i*TERM_BITS +: TERM_BITS]};
        end
        mercer_tree #(.COUNT(SIMD), .IN_BITS(TERM_BITS + 1), .OUT_BITS(OUT_BITS)) tree (
          .clk, .enable(advance), .terms(positive), .sum
        );
        assign total = onto + sum;
      end else begin : at_once
        always_comb begin
          total = onto;
          for (int i = 0; i < SIMD; i = i + 1) total = total + OUT_BITS'(terms[i*TERM_BITS +: TERM_BITS]);
        end
      end
      always_ff @(posedge clk)
        if (advance && measured) sums[lane*OUT_BITS +: OUT_BITS] <= total;
    end
  endgenerate
endmodule
`default_nettype wire
