// Lane converter: words of IN_LANES elements become words of OUT_LANES elements, in the same order. One number of lanes
// divides the other.
// Schedule: max(IN, OUT) / min(IN, OUT) firings per group. Wider: every firing takes a word, the last issues one.
// Narrower: the first firing takes a word, every firing issues one. LATENCY 1.
`default_nettype none
module mercer_width #(
  parameter int BITS = 8,
  parameter int IN_LANES = 4,
  parameter int OUT_LANES = 1
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire  [IN_LANES*BITS-1:0]  s_axis_tdata,
  input  wire                       s_axis_tvalid,
  output logic                      s_axis_tready,
  output logic [OUT_LANES*BITS-1:0] m_axis_tdata,
  output logic                      m_axis_tvalid,
  input  wire                       m_axis_tready
);
  localparam int IN_WIDTH = IN_LANES*BITS;
  localparam int OUT_WIDTH = OUT_LANES*BITS;
  localparam int RATIO = IN_LANES > OUT_LANES ? IN_LANES/OUT_LANES : OUT_LANES/IN_LANES;
  localparam int STEP_BITS = RATIO > 1 ? $clog2(RATIO) : 1;
  localparam [STEP_BITS-1:0] LAST = STEP_BITS'(RATIO - 1);

  wire advance = !m_axis_tvalid || m_axis_tready;
  logic [STEP_BITS-1:0] step;
  logic fire;

  always_ff @(posedge clk)
    if (rst) step <= '0;
    else if (fire) step <= step == LAST ? '0 : step + 1'b1;

  generate
    if (IN_LANES > OUT_LANES) begin : narrower
      logic [IN_WIDTH-OUT_WIDTH-1:0] rest;
      wire [IN_WIDTH-OUT_WIDTH-1:0] shifted;
      if (RATIO > 2) begin : many
        assign shifted = {{OUT_WIDTH{1'b0}}, rest[IN_WIDTH-OUT_WIDTH-1:OUT_WIDTH]};
      end else begin : two
        assign shifted = '0;
      end
      wire first = step == '0;
      assign s_axis_tready = advance && first;
      assign fire = advance && (!first || s_axis_tvalid);
      always_ff @(posedge clk) begin
        if (rst) m_axis_tvalid <= 1'b0;
        else if (advance) m_axis_tvalid <= fire;
        if (fire) begin
          m_axis_tdata <= first ? s_axis_tdata[OUT_WIDTH-1:0] : rest[OUT_WIDTH-1:0];
          rest <= first ? s_axis_tdata[IN_WIDTH-1:OUT_WIDTH] : shifted;
        end
      end
    end else if (IN_LANES < OUT_LANES) begin : wider
      logic [OUT_WIDTH-IN_WIDTH-1:0] earlier;
      wire [OUT_WIDTH-1:0] whole = {s_axis_tdata, earlier};
      assign s_axis_tready = advance;
      assign fire = advance && s_axis_tvalid;
      always_ff @(posedge clk) begin
        if (rst) m_axis_tvalid <= 1'b0;
        else if (advance) m_axis_tvalid <= fire && step == LAST;
        if (fire) begin
          earlier <= whole[OUT_WIDTH-1:IN_WIDTH];
          if (step == LAST) m_axis_tdata <= whole;
        end
      end
    end else begin : same
      assign s_axis_tready = advance;
      assign fire = advance && s_axis_tvalid;
      always_ff @(posedge clk) begin
        if (rst) m_axis_tvalid <= 1'b0;
        else if (advance) m_axis_tvalid <= fire;
        if (fire) m_axis_tdata <= s_axis_tdata;
      end
    end
  endgenerate
endmodule
`default_nettype wire
