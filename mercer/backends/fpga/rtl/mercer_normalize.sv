// Vectors over their standard deviation: y = (v*2**(FRACTION+6) + r/2) / r rounded down, where v = SIZE*x - sum(x) and r is
// the root, rounded down, of 2**12 times the mean of v**2, plus EPS; r is at least 1. With CENTERED 0, v = x and SIZE is a
// power of two. Roots and quotients come bit by bit (Warren 2012, sections 11-1 and 9-4).
// Schedule: SIZE + 4 + POWER_BITS/2 + SIZE*(QUOTIENT_BITS + 3) firings per vector. The first SIZE take a number each; after
// the root, every (QUOTIENT_BITS + 3)-th issues one. LATENCY 2.
`default_nettype none
module mercer_normalize #(
  parameter int SIZE = 8,
  parameter int IN_BITS = 10,
  parameter int FRACTION = 12,
  parameter int CENTERED = 1,
  parameter [63:0] EPS = 0,
  parameter int POWER_BITS = 40,
  parameter int QUOTIENT_BITS = 15,
  parameter int OUT_BITS = 16
) (
  input  wire                clk,
  input  wire                rst,
  input  wire  [IN_BITS-1:0] s_axis_tdata,
  input  wire                s_axis_tvalid,
  output wire                s_axis_tready,
  output logic [OUT_BITS-1:0] m_axis_tdata,
  output logic               m_axis_tvalid,
  input  wire                m_axis_tready
);
  localparam int ROOT_BITS = POWER_BITS/2;
  localparam int INDEX_BITS = SIZE > 1 ? $clog2(SIZE) : 1;
  localparam int SHARE_BITS = $clog2(SIZE);
  localparam int TOTAL_BITS = IN_BITS + SHARE_BITS + 1;
  localparam int SQUARES_BITS = 2*IN_BITS + SHARE_BITS;
  localparam int LONGEST = ROOT_BITS > QUOTIENT_BITS + 3 ? ROOT_BITS : QUOTIENT_BITS + 3;
  localparam int STEP_BITS = $clog2(LONGEST);
  localparam int NUMERATOR_BITS = ROOT_BITS + QUOTIENT_BITS + 2;
  localparam [INDEX_BITS-1:0] LAST = INDEX_BITS'(SIZE - 1);
  localparam [1:0] LOAD = 2'd0, POWER = 2'd1, ROOT = 2'd2, DIVIDE = 2'd3;

  wire advance = !m_axis_tvalid || m_axis_tready;
  logic [1:0] phase;
  logic [INDEX_BITS-1:0] index;
  logic [STEP_BITS-1:0] step;
  wire takes = phase == LOAD;
  wire fire = advance && (!takes || s_axis_tvalid);
  wire last_step = step == (phase == POWER ? STEP_BITS'(3) :
                            phase == ROOT ? STEP_BITS'(ROOT_BITS - 1) : STEP_BITS'(QUOTIENT_BITS + 2));
  wire issues = phase == DIVIDE && last_step;
  assign s_axis_tready = advance && takes;
  logic finished;

  always_ff @(posedge clk)
    if (rst) begin
      phase <= LOAD;
      index <= '0;
      step <= '0;
      finished <= 1'b0;
      m_axis_tvalid <= 1'b0;
    end else if (advance) begin
      finished <= issues;
      m_axis_tvalid <= finished;
      if (fire) begin
        if (takes) begin
          index <= index == LAST ? '0 : index + 1'b1;
          if (index == LAST) phase <= POWER;
        end else begin
          step <= last_step ? '0 : step + 1'b1;
          if (last_step) begin
            if (phase == POWER) phase <= ROOT;
            if (phase == ROOT) phase <= DIVIDE;
            if (phase == DIVIDE) begin
              index <= index == LAST ? '0 : index + 1'b1;
              if (index == LAST) phase <= LOAD;
            end
          end
        end
      end
    end

  // Sums over the vector, which is kept. Squares are summed a firing later.
  logic signed [IN_BITS-1:0] vector [0:SIZE-1];
  logic signed [TOTAL_BITS-1:0] total;
  logic [SQUARES_BITS-1:0] squares;
  logic [2*IN_BITS-1:0] square;
  wire signed [IN_BITS-1:0] element = s_axis_tdata;
  wire second = SIZE > 1 ? takes && index == INDEX_BITS'(1) : phase == POWER;
  always_ff @(posedge clk)
    if (fire && takes) begin
      vector[index] <= element;
      total <= (index == '0 ? '0 : total) + TOTAL_BITS'(element);
      square <= (2*IN_BITS)'(element) * (2*IN_BITS)'(element);
    end
  always_ff @(posedge clk)
    if (fire && (takes ? index != '0 : phase == POWER && step == '0))
      squares <= (second ? '0 : squares) + SQUARES_BITS'(square);

  // 2**12 times the mean of v**2, which is SIZE*sum(x**2) - sum(x)**2 where v is centered.
  logic [POWER_BITS-1:0] sized, squared, mean, power;
  always_ff @(posedge clk)
    if (fire && phase == POWER) begin
      sized <= CENTERED != 0 ? POWER_BITS'(squares)*POWER_BITS'(SIZE) : POWER_BITS'(squares);
      squared <= CENTERED != 0 ? POWER_BITS'(total)*POWER_BITS'(total) : '0;
      mean <= sized - squared;
    end
  wire [POWER_BITS-1:0] scaled = CENTERED != 0 ? mean << 12 : POWER_BITS'({mean, 12'b0} >> SHARE_BITS);

  // The root, two bits of the power after the other.
  logic [ROOT_BITS-1:0] root;
  logic [ROOT_BITS-1:0] left;
  wire [ROOT_BITS+2:0] trial = {1'b0, left, power[POWER_BITS-1 -: 2]} - {1'b0, root, 2'b01};
  wire fits = !trial[ROOT_BITS+2];
  always_ff @(posedge clk)
    if (fire) begin
      if (phase == POWER) begin
        power <= scaled + POWER_BITS'(EPS);
        root <= '0;
        left <= '0;
      end else if (phase == ROOT) begin
        power <= power << 2;
        root <= {root[ROOT_BITS-2:0], fits};
        left <= fits ? trial[ROOT_BITS-1:0] : ROOT_BITS'({left, power[POWER_BITS-1 -: 2]});
      end
    end

  // One quotient after the other; a negative one is rounded away from zero, which is down.
  logic [ROOT_BITS-1:0] divisor;
  logic signed [NUMERATOR_BITS-1:0] deviation, numerator;
  wire negative = numerator[NUMERATOR_BITS-1];
  wire [NUMERATOR_BITS-1:0] magnitude =
    (negative ? ~numerator : numerator) + (negative ? NUMERATOR_BITS'(divisor) : '0);
  logic below;
  logic [ROOT_BITS-1:0] remainder;
  logic [QUOTIENT_BITS-1:0] quotient;
  wire [ROOT_BITS+1:0] difference = {1'b0, remainder, quotient[QUOTIENT_BITS-1]} - {2'b0, divisor};
  wire goes = !difference[ROOT_BITS+1];
  always_ff @(posedge clk)
    if (fire && phase == DIVIDE) begin
      if (step == '0) begin
        divisor <= root == '0 ? ROOT_BITS'(1) : root;
        deviation <= CENTERED != 0 ?
          NUMERATOR_BITS'(vector[index])*NUMERATOR_BITS'(SIZE) - NUMERATOR_BITS'(total) :
          NUMERATOR_BITS'(vector[index]);
      end else if (step == STEP_BITS'(1)) begin
        numerator <= (deviation <<< (FRACTION + 6)) + NUMERATOR_BITS'(root >> 1);
      end else if (step == STEP_BITS'(2)) begin
        below <= negative;
        remainder <= ROOT_BITS'(magnitude >> QUOTIENT_BITS);
        quotient <= QUOTIENT_BITS'(magnitude);
      end else begin
        remainder <= goes ? difference[ROOT_BITS-1:0] : ROOT_BITS'({remainder, quotient[QUOTIENT_BITS-1]});
        quotient <= {quotient[QUOTIENT_BITS-2:0], goes};
      end
    end
  always_ff @(posedge clk)
    if (advance) m_axis_tdata <= below ? OUT_BITS'(-(OUT_BITS'(quotient))) : OUT_BITS'(quotient);
endmodule
`default_nettype wire
