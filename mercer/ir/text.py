"""The text of the IR: what `--dump-ir` writes and `mercer opt` reads. Reading what was printed gives an equal program.

mercer.nests 1
nests Scale(%x: f32[N, 8]) -> (%y) {
  param @gain: f32[8] = ones()
  %y[n < N, i < 8]: f32 = %x[n, i] * @gain[i]  @ scale %y model.mer:3:7-3:20
}
"""

from mercer.ir.printer import print_graph, print_nests, print_node, print_statement
from mercer.ir.reader import TextError, parse_graph, parse_nests, parse_program

__all__ = [
    "TextError",
    "parse_graph",
    "parse_nests",
    "parse_program",
    "print_graph",
    "print_nests",
    "print_node",
    "print_statement",
]
