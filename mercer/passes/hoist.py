"""Loop-invariant code motion: expensive parts of a nest that do not depend on all of its loops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.index import Axis, Call, Expr, Read, Reduce, Reducer, children, parts, transform, variables
from mercer.ir.integers import IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import TensorType
from mercer.passes.cost import elements, extent, statement_cost
from mercer.passes.fuse import CHEAP, has_reduction
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class Hoist(Pass):
    """What is expensive and would be computed again for every value of some loop becomes a nest of its own.

    Needs Nests, gives Nests, best before `fuse`, which then finds it a place: in a kernel machine
    sum_m weight[o, m] * exp(-d[n, m]), the exponential does not depend on o; in sum_d q[l, d] * state[d, e] over
    sum_d q[l, d] * mass[d], the divisor does not depend on e. Taken are the largest parts that contain an expensive
    function, and reductions of at least `min_repeats` terms, that would be repeated at least `min_repeats` times (a
    symbolic dim is taken to be that large).
    Refused when the new tensor would have over `max_growth` times the elements of all that the nest reads and writes.
    Class: bit; real where a product of floats leaves a sum, since products inside of a sum are not rounded.
    """

    name: ClassVar[str] = "hoist"
    level: ClassVar[Level] = Level.NESTS
    min_repeats: int = 4
    max_growth: int = 16

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        done: list[Statement] = []
        pending = list(reversed(nests.statements))
        while pending:
            statement = pending.pop()
            start = time.perf_counter()
            found = self._candidate(statement) if isinstance(statement, Nest) else None
            if found is None or not isinstance(statement, Nest):
                done.append(statement)
                continue
            part, loops, exactness = found
            hoisted, rest = _split(statement, part, loops, _fresh(f"{statement.target}.invariant", types))
            reason = self._obstacle(statement, hoisted, types)
            types[hoisted.target] = hoisted.type
            before = statement_cost(statement, types)
            after = statement_cost(hoisted, types) + statement_cost(rest, types)
            costs = None if reason else (before, after)
            seconds = time.perf_counter() - start
            context.record_statement(self.name, "hoist_invariant", statement, exactness, reason, costs, seconds)
            if reason:
                done.append(statement)
            else:
                pending += [rest, hoisted]
        return replace(nests, statements=tuple(done))

    def _obstacle(self, nest: Nest, hoisted: Nest, types: Mapping[str, TensorType]) -> str | None:
        made = elements(hoisted.type.shape)
        present = elements(nest.type.shape) + sum(elements(types[name].shape) for name in read_names(nest))
        if made > self.max_growth * present:
            return f"{made} elements would be stored, where the nest reads and writes {present}"
        return None

    def _candidate(self, nest: Nest) -> tuple[Expr, Mapping[str, IntExpr], Exactness] | None:
        """The first part to take, the loops around it, and what taking it keeps."""
        if not _loops_agree(nest):
            return None
        for part, loops, reducer in _scoped(nest):
            if not self._is_expensive(part):
                continue
            free = variables(part)
            if self._volume(size for name, size in loops.items() if name not in free) >= self.min_repeats:
                product = isinstance(part, Call) and part.function == "mul" and part.dtype.rounds
                return part, loops, Exactness.REAL if product and reducer is Reducer.SUM else Exactness.BIT
        return None

    def _is_expensive(self, part: Expr) -> bool:
        if isinstance(part, Reduce):
            return self._volume(axis.extent for axis in part.axes) >= self.min_repeats
        if not isinstance(part, Call) or has_reduction(part):
            return False
        return any(isinstance(expr, Call) and expr.function not in CHEAP for expr in parts(part))

    def _volume(self, extents: Iterable[IntExpr]) -> int:
        return math.prod(extent(size) if size.is_constant else self.min_repeats for size in extents)


def _scoped(nest: Nest) -> Iterator[tuple[Expr, Mapping[str, IntExpr], Reducer | None]]:
    """Every distinct part of the body, parents first, with the loops around it and the reduction it stands in."""

    def visit(
        expr: Expr, loops: Mapping[str, IntExpr], reducer: Reducer | None, seen: set[Expr]
    ) -> Iterator[tuple[Expr, Mapping[str, IntExpr], Reducer | None]]:
        if expr in seen:
            return
        seen.add(expr)
        yield expr, loops, reducer
        if isinstance(expr, Reduce):
            yield from visit(expr.body, {**loops, **_extents(expr.axes)}, expr.reducer, set())
            return
        for child in children(expr):
            yield from visit(child, loops, reducer, seen)

    return visit(nest.body, _extents(nest.axes), None, set())


def _loops_agree(nest: Nest) -> bool:
    """Whether equal names of indices mean equal loops, in all reductions of the nest."""
    axes = [*nest.axes, *(axis for expr in parts(nest.body) if isinstance(expr, Reduce) for axis in expr.axes)]
    return len({axis.name for axis in axes}) == len(set(axes))


def _extents(axes: Iterable[Axis]) -> dict[str, IntExpr]:
    return {axis.name: axis.extent for axis in axes}


def _split(nest: Nest, part: Expr, loops: Mapping[str, IntExpr], name: str) -> tuple[Nest, Nest]:
    """The nest of `part`, and the nest that reads it."""
    free = variables(part)
    axes = tuple(Axis(loop, size) for loop, size in loops.items() if loop in free)
    kind = TensorType(part.dtype, tuple(axis.extent for axis in axes))
    hoisted = Nest(name, kind, axes, part, nest.origins)
    read = Read(name, tuple(IntExpr.var(axis.name) for axis in axes), part.dtype)
    body = transform(nest.body, lambda expr: read if expr == part else expr)
    return hoisted, replace(nest, body=body)


def _fresh(name: str, taken: Mapping[str, TensorType]) -> str:
    new, count = name, 1
    while new in taken:
        count += 1
        new = f"{name}{count}"
    return new
