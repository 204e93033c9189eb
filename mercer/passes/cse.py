"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.graph import Constant, Graph, Node, format_attribute
from mercer.ir.index import Axis, Const, Expr, Reduce, parts, substitute, transform
from mercer.ir.integers import IntExpr
from mercer.ir.lower import rename
from mercer.ir.nests import Nest, Nests, Statement, defined
from mercer.ir.spans import NOWHERE, Span
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Constants with the same contents, and nodes or statements that compute the same, become one.

    Needs a Graph or Nests; nests may differ in the names of their indices. Class: bit. By hashing in program order
    (Cocke 1970).
    """

    name: ClassVar[str] = "cse"
    level: ClassVar[Level] = Level.BOTH

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        constants, same = self._constants(graph.constants, context)
        first: dict[Hashable, Node] = {}
        kept: list[Node] = []
        for node in graph.nodes:
            node = replace(node, operands=tuple(same.get(name, name) for name in node.operands))
            attributes = tuple((name, format_attribute(value)) for name, value in node.attributes)
            types = tuple(value.type for value in node.results)
            leader = first.setdefault((node.operator, node.operands, attributes, types), node)
            if leader is node:
                kept.append(node)
                continue
            same |= {old.name: new.name for old, new in zip(node.results, leader.results, strict=True)}
            self._record("merge_nodes", node.name, node.operator, node.span, context)
        outputs = tuple(same.get(name, name) for name in graph.outputs)
        return replace(graph, constants=constants, nodes=tuple(kept), outputs=outputs)

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        constants, same = self._constants(nests.constants, context)
        first: dict[Hashable, Statement] = {}
        kept: list[Statement] = []
        for statement in nests.statements:
            statement = rename(statement, same, statement.origins)
            leader = first.setdefault(_key(statement), statement)
            if leader is statement:
                kept.append(statement)
                continue
            same |= {old.name: new.name for old, new in zip(defined(statement), defined(leader), strict=True)}
            context.record_statement(self.name, "merge_statements", statement, Exactness.BIT)
        outputs = tuple(same.get(name, name) for name in nests.outputs)
        return replace(nests, constants=constants, statements=tuple(kept), outputs=outputs)

    def _constants(
        self, constants: tuple[Constant, ...], context: PassContext
    ) -> tuple[tuple[Constant, ...], dict[str, str]]:
        """The distinct constants, and the new name of every one that went."""
        first: dict[Hashable, Constant] = {}
        same: dict[str, str] = {}
        for constant in constants:
            leader = first.setdefault((constant.type, constant.data), constant)
            if leader is not constant:
                same[constant.name] = leader.name
                self._record("merge_constants", constant.name, "constant", NOWHERE, context)
        return tuple(first.values()), same

    def _record(self, rewrite: str, name: str, operator: str, span: Span, context: PassContext) -> None:
        context.record(LedgerEntry(self.name, rewrite, name, operator, span, Exactness.BIT, fired=True))


def _key(statement: Statement) -> Hashable:
    """Equal for statements that compute the same."""
    if isinstance(statement, Nest):
        return statement.type, _numbered(statement.body, statement.axes), _signs(statement.body)
    attributes = tuple((name, format_attribute(value)) for name, value in statement.attributes)
    types = tuple(value.type for value in statement.targets)
    return statement.name, statement.operands, attributes, types, statement.scan


def _signs(body: Expr) -> tuple[str, ...]:
    """The literals of a body, spelled so that 0.0 is not -0.0 and 1 is not True."""
    return tuple(str(expr) for expr in parts(body) if isinstance(expr, Const))


def _numbered(body: Expr, axes: tuple[Axis, ...]) -> Expr:
    """The body with its indices named by position, those of reductions included (which do not nest)."""

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Reduce):
            return expr
        names = [f"#r{position}" for position in range(len(expr.axes))]
        new = {axis.name: IntExpr.var(name) for axis, name in zip(expr.axes, names, strict=True)}
        numbered = tuple(Axis(name, axis.extent) for axis, name in zip(expr.axes, names, strict=True))
        return replace(expr, axes=numbered, body=substitute(expr.body, new))

    outer = {axis.name: IntExpr.var(f"#{position}") for position, axis in enumerate(axes)}
    return substitute(transform(body, change), outer)
