"""Constant folding through the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, Graph, Node, Value
from mercer.ir.index import Reduce, walk
from mercer.ir.lower import lower, read_names
from mercer.ir.nests import Nest, Nests, Statement, defined, symbols
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, Data
from mercer.passes.cost import size, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, PassContext, RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite
from mercer.runtime.errors import MercerError


@dataclass(frozen=True)
class Fold(RewritePass):
    """What depends on constants alone is computed now, by the reference.

    Needs a Graph or Nests, best after `bind`. A result larger than `free_bytes` must not be larger than `max_growth`
    times what it is computed from. Class: bit, since the reference computes each node as the IR says it rounds; what a
    backend would have computed at run time is only as close as the backend is. This is what makes the generating net of
    a continuous kernel vanish.
    """

    name: ClassVar[str] = "fold"
    source: ClassVar[str] = "Jones et al. 1993, Partial evaluation; Romero et al. 2022, FlexConv"
    level: ClassVar[Level] = Level.BOTH
    free_bytes: int = 1 << 20
    max_growth: int = 4

    def rewrites(self) -> Sequence[Rewrite]:
        return (Rewrite("fold_constants", any_node(test=_reads_constants), self._fold, Exactness.BIT),)

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        check_systems(graph)
        folded = super().on_graph(graph, context)
        check_systems(folded)
        return folded

    def _fold(self, match: Match, build: Builder) -> Outcome:
        node = match.root
        operands = [c for name in dict.fromkeys(node.operands) if (c := match.scope.constant(name)) is not None]
        outputs = tuple(value.name for value in node.results)
        program = lower(Graph(node.name, (), (), tuple(operands), (node,), outputs), build.library)
        if reason := self._obstacle(node.results, program.statements, operands):
            return Refusal(reason)
        results = evaluate(program, {})
        check_domain(node.operator, node.span, operands, results)
        return tuple(build.constant(array, "folded") for array in results)

    def _obstacle(
        self, results: Iterable[Value], statements: Iterable[Statement], operands: Sequence[Constant]
    ) -> str | None:
        """Why something is not folded; None when it can be."""
        for operand in operands:
            if operand.data.array is None:
                return f"the data of %{operand.name} is not loaded"
        symbolic = sorted(frozenset[str]().union(*map(symbols, statements)))
        if symbolic:
            return f"it depends on {', '.join(symbolic)}"
        given = sum(size(operand.type) for operand in operands)
        made = sum(size(value.type) for value in results)
        if made > self.free_bytes and made > self.max_growth * given:
            return f"{made} bytes would be stored for {given} bytes of operands"
        return None

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        constants = {c.name: c for c in nests.constants}
        types = nests.types()
        kept: list[Statement] = []
        fills: dict[str, Statement] = {}  # such as the zeros that a scan starts with: not worth storing for themselves
        for statement in nests.statements:
            names = read_names(statement)
            if not names and isinstance(statement, Nest):
                fills[statement.target] = statement
            if not names & constants.keys() or not names <= constants.keys() | fills.keys():
                kept.append(statement)
                continue
            operands = [constants[name] for name in sorted(names & constants.keys())]
            if _widens(statement, operands):
                kept.append(statement)
                continue
            needed = (*(fills[name] for name in sorted(names & fills.keys())), statement)
            reason = self._obstacle(defined(statement), needed, operands)
            costs = None if reason else (statement_cost(statement, types), Cost(0, 0))
            context.record_statement(self.name, "fold_statement", statement, Exactness.BIT, reason, costs)
            if reason:
                kept.append(statement)
                continue
            outputs = tuple(value.name for value in defined(statement))
            arrays = evaluate(Nests(nests.name, (), (), tuple(operands), needed, outputs), {})
            origin = statement.origins[0] if statement.origins else None
            where = (origin.operator, origin.span) if origin else (outputs[0], NOWHERE)
            check_domain(*where, operands, arrays)
            for value, array in zip(defined(statement), arrays, strict=True):
                constants[value.name] = Constant(value.name, value.type, Data(array))
        used = {name for s in kept for name in read_names(s)} | set(nests.outputs)
        remaining = tuple(c for c in constants.values() if c.name in used)
        unread = [s for name, s in fills.items() if name not in used]
        return replace(nests, constants=remaining, statements=tuple(s for s in kept if s not in unread))


def _widens(statement: Statement, operands: Sequence[Constant]) -> bool:
    """Whether integers only get more bits, or become numbers, which costs less where they are read than to store."""
    if not isinstance(statement, Nest):
        return False
    given = sum(size(operand.type) for operand in operands if operand.type.dtype.is_integer)
    return 0 < given < size(statement.type) and not any(isinstance(part, Reduce) for part in walk(statement.body))


def _reads_constants(node: Node, scope: Scope) -> bool:
    return all(scope.constant(name) is not None for name in node.operands)


_LARGEST_RANK = 1024
"""Up to here the rank of a constant matrix is worked out."""


class DomainError(MercerError):
    """Constants lie outside of the domain of what is computed of them: a negative logarithm, a singular system."""


def check_domain(operator: str, span: Span, operands: Sequence[Constant], results: Sequence[Array]) -> None:
    """Raise DomainError for a result that is not a number although every operand is."""

    def first_nan(array: Array) -> list[int] | None:
        if array.dtype.kind not in "fc" or not np.isnan(array).any():
            return None
        return [int(i) for i in np.unravel_index(int(np.argmax(np.isnan(array))), array.shape)]

    if any(c.data.array is not None and first_nan(c.data.array) is not None for c in operands):
        return
    for result in results:
        place = first_nan(result)
        if place is not None:
            found = [
                f"{c.data.array[tuple(place)]}"
                for c in operands
                if operator in _DOMAINS and c.data.array is not None and c.data.array.shape == result.shape
            ]
            values = f" (found {', '.join(found)})" if found else ""
            message = f"`{operator}` of these constants is not a number, first at {place}{values}"
            raise _domain_error(message, _hint(operator), span)


_SYSTEMS = ("solve", "inverse", "triangular_solve", "solve_positive")
_DOMAINS = {
    "log": "it takes numbers above 0",
    "log1p": "it takes numbers above -1",
    "sqrt": "it takes numbers from 0 up",
    "rsqrt": "it takes numbers above 0",
    "asin": "it takes numbers from -1 to 1",
    "acos": "it takes numbers from -1 to 1",
    "pow": "a negative base takes whole exponents only",
    "div": "0/0 has no value",
    "mod": "the divisor must not be 0",
}


def _hint(operator: str) -> str:
    if operator in ("cholesky", "solve_positive"):
        return "a positive number on the diagonal makes it positive definite: add_diagonal(a; value)"
    if operator in _SYSTEMS:
        return "the matrix is singular: its rows depend on each other"
    general = "a logarithm or root of a negative number, or a matrix that is singular or not positive definite"
    return _DOMAINS.get(operator, general)


def _domain_error(message: str, hint: str, span: Span) -> DomainError:
    where = "" if span == NOWHERE else f"{span}: "
    return DomainError(f"{where}error[domain-error]: {message}", hint)


def _has_factor(matrix: Array) -> bool:
    """Whether a matrix, given by its lower triangle, is positive definite."""
    try:
        np.linalg.cholesky(matrix.astype(np.float64))
    except np.linalg.LinAlgError:
        return False
    return True


def check_systems(graph: Graph) -> None:
    """Raise DomainError for a system of equations whose constant matrix is singular, whatever the other side is."""
    constants = {c.name: c.data.array for c in graph.constants}
    for node in graph.nodes:
        matrix = constants.get(node.operands[0]) if node.operator in _SYSTEMS else None
        if matrix is None or not np.isfinite(matrix).all():
            continue
        if node.operator == "triangular_solve":
            singular = (np.diagonal(matrix, axis1=-2, axis2=-1) == 0).any()
        elif matrix.shape[-1] > _LARGEST_RANK:
            continue
        elif node.operator == "solve_positive":
            singular = not _has_factor(matrix)
        else:
            singular = (np.linalg.matrix_rank(matrix.astype(np.float64)) < matrix.shape[-1]).any()
        if singular:
            kind = "not positive definite" if node.operator == "solve_positive" else "singular"
            message = f"`{node.operator}` of a constant {' x '.join(map(str, matrix.shape[-2:]))} matrix that is {kind}"
            raise _domain_error(message, _hint(node.operator), node.span)
