"""Running sums of outer products, as in causal linear attention, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.graph import Value
from mercer.ir.index import (
    Axis,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    rebuild,
    transform,
    variables,
)
from mercer.ir.integers import Dim, IntExpr, Var
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Scan, Statement, defined
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import elements, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.masked_sums import masked
from mercer.passes.rewrite import Refusal
from mercer.passes.running_sums import Parts, Recurrence, parted, recurrence, same_inner, with_makers


@dataclass(frozen=True)
class ChunkScan(Pass):
    """y[t] = sum_d q[t, d] s[t, d, e] with s[t] = s[t - 1] + k[t, d] v[t, e] is computed for `chunk` steps at once.

    Needs Nests, gives Nests. With s the state before a chunk, its steps i are q[i] s + sum_{j <= i} (q[i] k[j]) v[j],
    and after it the state is s + sum_j k[j] v[j]: matrix products that stay in cache, where the plain form moves the
    whole state at every step. The running sum may be written as a cumsum of a tensor that is then multiplied, which is
    never stored, as a scan, or with a mask, as in (q k^T below the diagonal) v, where chunks take fewer operations.
    Class: real, as sums take another order. A state of fewer than `min_state` numbers is left alone.
    """

    name: ClassVar[str] = "chunk_scan"
    level: ClassVar[Level] = Level.NESTS
    source: ClassVar[str] = "Hua et al. 2022, Transformer Quality in Linear Time, section 3.3"
    chunk: int = 16
    min_state: int = 256

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        replaced: dict[str, list[Statement]] = {}
        gone: set[str] = set()
        for statement in nests.statements:
            start = time.perf_counter()
            wanted = _sums(statement, nests)
            if wanted is None:
                continue
            found, before, old = wanted
            found = with_makers(same_inner(found), nests)
            reason = self._obstacle(found)
            factors = parted(found) if reason is None else None
            reason = factors.reason if isinstance(factors, Refusal) else reason
            costs: tuple[Cost, Cost] | None = None
            if isinstance(factors, tuple):
                new = [*before, *_Chunks(found, factors, self.chunk, statement.origins).statements()]
                types |= {value.name: value.type for s in new for value in defined(s)}
                costs = (_cost(old, types), _cost(new, types))
                if isinstance(statement, Nest) and found.steps.is_constant and costs[1].flops >= costs[0].flops:
                    reason = (
                        f"{found.steps} steps in chunks would take {costs[1].flops} operations for {costs[0].flops}"
                    )
                    costs = None
                else:
                    replaced[found.result] = new
                    gone |= {value.name for s in old for value in defined(s)}
            seconds = time.perf_counter() - start
            context.record_statement(self.name, "chunk", statement, Exactness.REAL, reason, costs, seconds)
        statements: list[Statement] = []
        for statement in nests.statements:
            names = [value.name for value in defined(statement)]
            new = next((replaced[name] for name in names if name in replaced), None)
            if new is not None:
                statements += new
            elif not gone & set(names):
                statements.append(statement)
        return replace(nests, statements=tuple(statements))

    def _obstacle(self, found: Recurrence) -> str | None:
        if found.type.dtype is not DType.F32 or any(state.type.dtype is not DType.F32 for state in found.states):
            return "only states and results of f32 are summed in another order"
        if found.steps.is_constant and found.steps.value < 2 * self.chunk:
            return f"{found.steps} steps are fewer than two chunks of {self.chunk}"
        largest = max(elements(state.type.shape[-2:]) for state in found.states)
        if largest < self.min_state:
            return f"a state of {largest} numbers is small (min_state = {self.min_state})"
        return None


def _sums(statement: Statement, nests: Nests) -> tuple[Recurrence, tuple[Nest, ...], list[Statement]] | None:
    """The running sums of a statement, the nests of their initial values, and what they take the place of."""
    if isinstance(statement, Nest):
        sums = masked(statement, nests)
        return None if sums is None else (sums.recurrence, sums.initial, [statement, *sums.makers])
    found = recurrence(statement, statement.scan, nests) if statement.scan is not None else None
    if found is None:
        return None
    return found, (), [statement, *(s for s in nests.statements if isinstance(s, Nest) and s.target == found.result)]


def _cost(statements: Sequence[Statement], types: Mapping[str, TensorType]) -> Cost:
    return sum((statement_cost(statement, types) for statement in statements), Cost(0, 0))


# --- chunks -----------------------------------------------------------------------------------------------------------


class _Chunks:
    """The statements of running sums in chunks; a number of steps that they do not divide is filled up."""

    def __init__(self, found: Recurrence, parts: tuple[Parts, ...], chunk: int, origins: tuple[Origin, ...]) -> None:
        self.found, self.parts, self.origins = found, parts, origins
        sizes = range(chunk, chunk // 2, -1) if found.steps.is_constant else ()
        exact = [size for size in sizes if found.steps.value % size == 0]
        self.size = exact[0] if exact else chunk
        self.exact = bool(exact)
        self.count = found.steps // self.size if exact else (found.steps + (self.size - 1)) // self.size
        self.early, self.late = Axis("early", IntExpr.constant(self.size)), Axis("late", IntExpr.constant(self.size))
        self.axes = {axis.name: axis for axis in (*found.axes, *(each.inner for each in parts))}
        self.made: list[Nest] = []
        self.known: dict[tuple[str, Expr], Expr] = {}

    def statements(self) -> list[Statement]:
        found = self.found
        changed: dict[Expr, Expr] = {}
        grown: list[tuple[Parts, Expr]] = []
        for each in self.parts:
            inner = each.inner
            key, query = (
                self._stored("keys", each.key, self.early, inner),
                self._stored("queries", each.query, self.late, inner),
            )
            value = None if each.value is None else self._stored("values", each.value, self.early)
            weights = self._weights(query, key, inner)
            before = Reduce(Reducer.SUM, (inner,), call("mul", query, each.state))
            within = Reduce(Reducer.SUM, (self.early,), weights if value is None else call("mul", weights, value))
            both = call("add", before, within)
            if value is None:  # fewer numbers than the result has
                both = self._read(self._nest("summed", (*self._axes(both, {inner.name}), self.late), both))
            changed[each.product] = both
            term = key if value is None else call("mul", key, value)
            grown.append((each, Reduce(Reducer.SUM, (self.early,), term)))
        body = transform(self._at(found.body, self.late), lambda e: changed.get(e, e))
        emitted = self._nest("emitted", (*found.axes[: found.along], self.late, *found.axes[found.along :]), body)
        updates: list[Nest] = []
        for number, (each, sum) in enumerate(grown):
            names = [index.single.name for index in each.state.indices if isinstance(index.single, Var)]
            mine = tuple(self.axes[name] if name != each.inner.name else each.inner for name in names)
            updates.append(self._nest(f"next{number}", mine, call("add", each.state, sum)))
        inputs = (*(Value(state.name, state.type) for state in found.states), *found.inputs)
        outputs = (*(update.target for update in updates), emitted.target)
        inside = Nests("chunk", inputs, (), (), tuple(self.made), outputs)
        return self._unrolled(Scan(found.step, self.count, inside, (found.along,)), emitted)

    def _weights(self, query: Expr, key: Expr, inner: Axis) -> Expr:
        """How a step sees those before it in the chunk, and itself."""
        again = (f"weights {query} over {inner}", key)
        if again not in self.known:
            turned = self._nest("turned", (*self._axes(key, {inner.name, "early"}), inner, self.early), key)
            both = {*self._axes(query, {inner.name, "late"}), *self._axes(key, {inner.name, "early"})}
            scores = Reduce(Reducer.SUM, (inner,), call("mul", query, self._read(turned)))
            seen = call("le", Index(IntExpr.var("early")), Index(IntExpr.var("late")))
            masked = call("where", seen, scores, Const(0.0, DType.F32))
            axes = (*(axis for axis in self.axes.values() if axis in both), self.late, self.early)
            self.known[again] = self._read(self._nest("weights", axes, masked))
        return self.known[again]

    def _unrolled(self, scan: Scan, emitted: Nest) -> list[Statement]:
        """The scan, its chunks as one axis, and that axis where the result has it."""
        found, along = self.found, scan.axes[0]
        shape = emitted.type.shape
        name = f"{found.result}.chunks"
        chunks = Value(name, TensorType(DType.F32, (*shape[:along], self.count, *shape[along:])))
        operands = (*(state.initial for state in found.states), *(value.name for value in found.inputs))
        targets = (*(state.final for state in found.states), chunks)
        loop = Primitive("scan", targets, operands, (), self.origins, scan)
        line = TensorType(DType.F32, (*shape[:along], self.count * self.size, *shape[along + 1 :]))
        if self.exact:
            joined = Value(found.result, found.type)
            return [loop, Primitive("reshape", (joined,), (name,), (), self.origins)]
        joined = Value(f"{found.result}.filled", line)
        step = Axis("step", found.steps)
        axes = (*found.axes[: found.along], step, *found.axes[found.along :])
        places = tuple(IntExpr.var((step if axis == self.late else axis).name) for axis in emitted.axes)
        whole = Primitive("reshape", (joined,), (name,), (), self.origins)
        return [loop, whole, Nest(found.result, found.type, axes, Read(joined.name, places, DType.F32), self.origins)]

    def _nest(self, name: str, axes: Sequence[Axis], body: Expr) -> Nest:
        type = TensorType(DType.F32, tuple(axis.extent for axis in axes))
        taken = {nest.target for nest in self.made}
        names = (f"{self.found.result}.{name}{k or ''}" for k in range(len(taken) + 1))
        nest = Nest(next(each for each in names if each not in taken), type, tuple(axes), body, self.origins)
        self.made.append(nest)
        return nest

    def _read(self, nest: Nest) -> Read:
        return Read(nest.target, tuple(IntExpr.var(axis.name) for axis in nest.axes), DType.F32)

    def _axes(self, expr: Expr, without: set[str]) -> tuple[Axis, ...]:
        """The axes of the result that an expression depends on, and the inner one."""
        names = variables(expr) - without
        return tuple(axis for axis in self.axes.values() if axis.name in names)

    def _stored(self, name: str, expr: Expr, place: Axis, inner: Axis | None = None) -> Expr:
        """The factor at the steps of a chunk; stored when it is more than a read. Keys beyond the end are zero."""
        if (name, expr) not in self.known:
            self.known[name, expr] = self._computed(name, expr, place, inner)
        return self.known[name, expr]

    def _computed(self, name: str, expr: Expr, place: Axis, inner: Axis | None) -> Expr:
        moved = self._at(expr, place)
        if isinstance(moved, Read) and self.exact and place.name in variables(Index(moved.indices[-2])):
            return moved  # rows of a chunk lie side by side
        if name == "keys" and not self.exact:
            inside = call("lt", Index(self._place(place)), Index(self.found.steps))
            moved = call("where", inside, moved, Const(0.0, DType.F32))
        without = {place.name, *(() if inner is None else (inner.name,))}
        mine = self._axes(moved, without)
        last = mine[-1:] if inner is None else (inner,)
        axes = (*(axis for axis in mine if axis not in last), place, *last)
        return self._read(self._nest(name, axes, moved))

    def _place(self, axis: Axis) -> IntExpr:
        return IntExpr.dim(self.found.step) * self.size + IntExpr.var(axis.name)

    def _at(self, expr: Expr, axis: Axis) -> Expr:
        """The expression with a step of the chunk in place of the step."""
        place = self._place(axis) if self.exact else self._place(axis).minimum(self.found.steps - 1)

        def moved(value: IntExpr) -> IntExpr:
            return value.substitute(lambda atom: place if atom == Dim(self.found.step) else None)

        def change(e: Expr) -> Expr:
            if any(e == each.product for each in self.parts):
                return e
            new = rebuild(e, change)
            if isinstance(new, Index):
                return Index(moved(new.value))
            return replace(new, indices=tuple(map(moved, new.indices))) if isinstance(new, Read) else new

        return change(expr)
