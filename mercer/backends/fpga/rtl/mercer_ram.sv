// Memory with one write port and one read port; a word is read one cycle after its address. No address is written and
// read in the same cycle: the user sees to that, so that any block RAM fits.
`default_nettype none
module mercer_ram #(
  parameter int WIDTH = 8,
  parameter int DEPTH = 16,
  localparam int ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1
) (
  input  wire                     clk,
  input  wire                     write,
  input  wire  [ADDRESS_BITS-1:0] write_address,
  input  wire  [WIDTH-1:0]        write_data,
  input  wire                     read,
  input  wire  [ADDRESS_BITS-1:0] read_address,
  output logic [WIDTH-1:0]        read_data
);
  (* no_rw_check *)
  logic [WIDTH-1:0] words [0:DEPTH-1];

  always_ff @(posedge clk) begin
    if (write) words[write_address] <= write_data;
    if (read) read_data <= words[read_address];
  end
endmodule
`default_nettype wire
