// Sigma-Delta quantization: each number becomes the odd code q from 1 - 2**BITS to 2**BITS - 1 that is closest, in units of
// HIGH/(2**BITS - 1), to the number and what the codes before it have lost; upwards from halfway. Errors are summed anew
// for each block of BLOCK numbers (Zhang et al. 2021). ORDER 2 adds half of the sum of these sums.
//   SUMS 0   the codes
//   SUMS 1   the sum of the codes of each block
// STATE_BITS hold 2**BITS*HIGH, or 32: then sums wrap as those of i32 do.
// Schedule: every firing takes a word, BLOCK/LANES of them per block. SUMS 0: each issues a word. SUMS 1: the last of each
// block issues one. LATENCY 1.
`default_nettype none
module mercer_sigma_delta #(
  parameter int BLOCK = 8,
  parameter int LANES = 1,
  parameter int IN_BITS = 8,
  parameter int BITS = 1,
  parameter int ORDER = 1,
  parameter int HIGH = 127,
  parameter int SUMS = 0,
  parameter int STATE_BITS = 9,
  parameter int OUT_BITS = 2,
  localparam int OUT_WIDTH = (SUMS != 0 ? 1 : LANES)*OUT_BITS
) (
  input  wire                     clk,
  input  wire                     rst,
  input  wire [LANES*IN_BITS-1:0] s_axis_tdata,
  input  wire                     s_axis_tvalid,
  output wire                     s_axis_tready,
  output logic [OUT_WIDTH-1:0]    m_axis_tdata,
  output logic                    m_axis_tvalid,
  input  wire                     m_axis_tready
);
  localparam int WORDS = BLOCK/LANES;
  localparam int WORD_BITS = WORDS > 1 ? $clog2(WORDS) : 1;
  localparam int STEP = 2*HIGH;

  logic [WORD_BITS-1:0] word;
  wire first = word == '0;
  wire last = word == WORD_BITS'(WORDS - 1);
  wire advance = !m_axis_tvalid || m_axis_tready;
  wire fire = advance && s_axis_tvalid;
  assign s_axis_tready = advance;

  // The sum of the errors, the sum of these sums, and the sum of the codes, which grow from lane to lane.
  logic signed [STATE_BITS-1:0] errors, again, errors_kept, again_kept;
  logic signed [OUT_BITS-1:0] total, total_kept;
  // What a code has to say; it comes bit by bit, the sign first, and `rest` is less by STEP times the bits so far.
  logic signed [STATE_BITS-1:0] number, ahead, rest;
  logic signed [BITS:0] code;
  logic reached;
  logic [OUT_WIDTH-1:0] codes;
  always_comb begin
    errors = errors_kept;
    again = again_kept;
    total = total_kept;
    if (first) {errors, again, total} = '0;
    codes = '0;
    for (int lane = 0; lane < LANES; lane = lane + 1) begin
      number = STATE_BITS'($signed(s_axis_tdata[lane*IN_BITS +: IN_BITS]));
      ahead = errors + again;
      ahead = ahead >>> 1;
      if (ORDER == 1) ahead = '0;
      rest = (number <<< BITS) - number + errors + ahead;
      code = rest < 0 ? '1 : '0;
      if (rest < 0) rest = rest + STATE_BITS'(STEP << (BITS - 1));
      for (int place = BITS - 2; place >= 0; place = place - 1) begin
        reached = rest >= STATE_BITS'(STEP << place);
        if (reached) rest = rest - STATE_BITS'(STEP << place);
        code = {code[BITS-1:0], reached};
      end
      code = {code[BITS-1:0], 1'b1};
      codes = OUT_WIDTH'({OUT_BITS'(code), codes} >> OUT_BITS);
      total = total + OUT_BITS'(code);
      errors = rest - STATE_BITS'(HIGH) - ahead;
      again = again + errors;
    end
  end

  always_ff @(posedge clk)
    if (rst) begin
      word <= '0;
      m_axis_tvalid <= 1'b0;
    end else begin
      if (fire) word <= last ? '0 : word + 1'b1;
      if (advance) m_axis_tvalid <= fire && (SUMS == 0 || last);
    end

  always_ff @(posedge clk)
    if (fire) begin
      {errors_kept, again_kept, total_kept} <= {errors, again, total};
      m_axis_tdata <= SUMS != 0 ? OUT_WIDTH'(total) : codes;
    end
endmodule
`default_nettype wire
