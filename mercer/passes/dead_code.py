"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.analysis import live
from mercer.ir.graph import Graph
from mercer.ir.lower import read_names
from mercer.ir.nests import Nests, Statement, defined
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class DeadCode(Pass):
    """Nodes, statements and constants that no output depends on go.

    Needs a Graph or Nests; inputs and parameters stay, they are the signature. Class: bit.
    """

    name: ClassVar[str] = "dead_code"
    level: ClassVar[Level] = Level.BOTH

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        kept = live(graph)
        names = {node.name for node in kept.nodes}
        for node in reversed(graph.nodes):
            if node.name not in names:
                context.record(
                    LedgerEntry(self.name, "remove", node.name, node.operator, node.span, Exactness.BIT, fired=True)
                )
        return kept

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        needed = set(nests.outputs)
        kept: list[Statement] = []
        for statement in reversed(nests.statements):
            names = [value.name for value in defined(statement)]
            if any(name in needed for name in names):
                needed.update(read_names(statement))
                kept.append(statement)
            else:
                context.record_statement(self.name, "remove", statement, Exactness.BIT)
        constants = tuple(c for c in nests.constants if c.name in needed)
        return replace(nests, constants=constants, statements=tuple(reversed(kept)))
