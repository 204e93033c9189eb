"""Running sums of outer products, as in causal linear attention, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.graph import Value
from mercer.ir.index import (
    Axis,
    Call,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    rebuild,
    substitute,
    transform,
    variables,
)
from mercer.ir.integers import Dim, IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Scan, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import elements, parts, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.rewrite import Refusal

STATE = "chunk_scan.state"
"""The carried tensor within a scan."""


@dataclass(frozen=True)
class ChunkScan(Pass):
    """y[t] = sum_d q[t, d] s[t, d, e] with s[t] = s[t - 1] + k[t, d] v[t, e] is computed for `chunk` steps at once.

    Needs Nests, gives Nests. With s the state before a chunk, its steps i are q[i] s + sum_{j <= i} (q[i] k[j]) v[j],
    and after it the state is s + sum_j k[j] v[j]: matrix products that stay in cache, where the plain form moves the
    whole state at every step. The running sum may be written as a cumsum of a tensor that is then multiplied, which is
    never stored, or as a scan. Class: real, as sums take another order. A state of fewer than `min_state` numbers is
    left alone.
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
            if not isinstance(statement, Primitive) or statement.scan is None:
                continue
            start = time.perf_counter()
            found = _recurrence(statement, statement.scan, nests)
            if found is None:
                continue
            reason = self._obstacle(found)
            parted = _parted(found) if reason is None else None
            reason = parted.reason if isinstance(parted, Refusal) else reason
            costs: tuple[Cost, Cost] | None = None
            if isinstance(parted, _Parts):
                new = _Chunks(found, parted, self.chunk, statement.origins).statements()
                types |= {v.name: v.type for s in new if isinstance(s, Primitive) for v in s.targets}
                old = [statement, *(s for s in nests.statements if isinstance(s, Nest) and s.target == found.result)]
                costs = (_cost(old, types), _cost(new, types))
                replaced[found.result] = new
                gone |= {value.name for value in statement.targets}
            seconds = time.perf_counter() - start
            context.record_statement(self.name, "chunk", statement, Exactness.REAL, reason, costs, seconds)
        statements: list[Statement] = []
        for statement in nests.statements:
            names = [v.name for v in statement.targets] if isinstance(statement, Primitive) else [statement.target]
            new = next((replaced[name] for name in names if name in replaced), None)
            if new is not None:
                statements += new
            elif not gone & set(names):
                statements.append(statement)
        return replace(nests, statements=tuple(statements))

    def _obstacle(self, found: _Recurrence) -> str | None:
        if found.state.dtype is not DType.F32:
            return f"the state is of {found.state.dtype}"
        if found.steps.is_constant and found.steps.value < 2 * self.chunk:
            return f"{found.steps} steps are fewer than two chunks of {self.chunk}"
        if elements(found.state.shape[-2:]) < self.min_state:
            return f"a state of {elements(found.state.shape[-2:])} numbers is small (min_state = {self.min_state})"
        return None


def _cost(statements: Sequence[Statement], types: Mapping[str, TensorType]) -> Cost:
    return sum((statement_cost(statement, types) for statement in statements), Cost(0, 0))


# --- what a running sum is --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recurrence:
    """state[t] = state[t - 1] + term[t], and result[..., t, ...] = `body`, which reads `STATE` after step t.

    `term` and `body` are over the axes of the state and of the result without its axis `along`; the step is a dim.
    """

    step: str
    steps: IntExpr
    initial: str
    final: Value
    state: TensorType
    state_axes: tuple[Axis, ...]
    term: Expr
    result: str
    type: TensorType
    axes: tuple[Axis, ...]
    along: int
    body: Expr
    inputs: tuple[Value, ...]


def _recurrence(statement: Primitive, scan: Scan, nests: Nests) -> _Recurrence | None:
    """A scan that carries one running sum, with the tensor that is made of it at every step."""
    body = scan.body
    if scan.carried != 1 or scan.until or len(scan.axes) != 1 or len(body.statements) != 2:
        return None
    found = {s.target: s for s in body.statements if isinstance(s, Nest)}
    update, emitted = found.get(body.outputs[0]), found.get(body.outputs[1])
    if update is None or emitted is None or update is emitted:
        return None
    carried = body.inputs[0]
    here = tuple(IntExpr.var(axis.name) for axis in update.axes)
    old = Read(carried.name, here, carried.type.dtype)
    if not isinstance(update.body, Call) or update.body.function != "add" or old not in update.body.arguments:
        return None
    left, right = update.body.arguments
    term = right if left == old else left
    if _mentions(term, carried.name) or _mentions(emitted.body, carried.name):
        return None
    outer = dict(zip((v.name for v in body.inputs[1:]), statement.operands[1:], strict=True))
    types = nests.types()
    whole = _Recurrence(
        step=scan.step,
        steps=scan.extent,
        initial=statement.operands[0],
        final=statement.targets[0],
        state=carried.type,
        state_axes=update.axes,
        term=_renamed(term, outer),
        result=statement.targets[1].name,
        type=statement.targets[1].type,
        axes=emitted.axes,
        along=scan.axes[0],
        body=_renamed(emitted.body, {**outer, update.target: STATE}),
        inputs=tuple(Value(name, types[name]) for name in statement.operands[1:]),
    )
    own = tuple(IntExpr.var(axis.name) for axis in emitted.axes)
    if whole.body == Read(STATE, own, carried.type.dtype):
        return _with_reader(whole, nests)
    return whole


def _with_reader(sum: _Recurrence, nests: Nests) -> _Recurrence | None:
    """A cumsum together with the nest that multiplies it: what is summed and what is made of it, step by step."""
    readers = [s for s in nests.statements if sum.final.name in read_names(s)]
    if readers or {sum.result, sum.final.name} & set(nests.outputs):
        return None
    readers = [s for s in nests.statements if sum.result in read_names(s)]
    reader = readers[0] if len(readers) == 1 else None
    if not isinstance(reader, Nest):
        return None
    reads = {e for e in parts(reader.body) if isinstance(e, Read) and e.tensor == sum.result}
    place = next(iter(reads)).indices[sum.along].single if len(reads) == 1 else None
    along = [k for k, axis in enumerate(reader.axes) if isinstance(place, Var) and axis.name == place.name]
    if not along:
        return None
    here = IntExpr.dim(sum.step)

    def stepped(e: Expr) -> Expr:
        if isinstance(e, Read) and e.tensor == sum.result:
            return replace(e, tensor=STATE, indices=(*e.indices[: sum.along], *e.indices[sum.along + 1 :]))
        return e

    body = substitute(transform(reader.body, stepped), {reader.axes[along[0]].name: here})
    makers = {s.target: s for s in nests.statements if isinstance(s, Nest)}

    def inlined(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.pad is not None or e.tensor not in makers:
            return e
        maker = makers[e.tensor]
        if not isinstance(maker.body, Call) or maker.body.function != "mul" or maker.body.dtype is not e.dtype:
            return e
        return substitute(maker.body, {axis.name: k for axis, k in zip(maker.axes, e.indices, strict=True)})

    term = transform(sum.term, inlined)
    types = nests.types()
    names = dict.fromkeys(e.tensor for part in (term, body) for e in parts(part) if isinstance(e, Read))
    return replace(
        sum,
        term=term,
        result=reader.target,
        type=reader.type,
        axes=tuple(axis for k, axis in enumerate(reader.axes) if k != along[0]),
        along=along[0],
        body=body,
        inputs=tuple(Value(name, types[name]) for name in names if name != STATE),
    )


def _mentions(body: Expr, tensor: str) -> bool:
    return any(isinstance(e, Read) and e.tensor == tensor for e in parts(body))


def _renamed(body: Expr, names: Mapping[str, str]) -> Expr:
    def change(e: Expr) -> Expr:
        return replace(e, tensor=names.get(e.tensor, e.tensor)) if isinstance(e, Read) else e

    return transform(body, change)


# --- its factors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """The `product` in the body of a result is sum over `inner` of query * state; the term is key * value.

    Queries and keys do not depend on what only values have, values not on `inner`. All are over the axes of the result.
    """

    product: Reduce
    inner: Axis
    state: Read
    query: Expr
    key: Expr
    value: Expr


def _parted(found: _Recurrence) -> _Parts | Refusal:
    reads = [e for e in parts(found.body) if isinstance(e, Read) and e.tensor == STATE]
    sums = [e for e in parts(found.body) if isinstance(e, Reduce) and _mentions(e, STATE)]
    if len(reads) != 1 or len(sums) != 1 or sums[0].reducer is not Reducer.SUM or len(sums[0].axes) != 1:
        return Refusal("the state is not summed over one axis")
    product, state, inner = sums[0], reads[0], sums[0].axes[0]
    queries = _factors(product.body)
    if queries.count(state) != 1:
        return Refusal("the state is not a factor of the sum")
    queries.remove(state)
    places = {axis.name: index for axis, index in zip(found.state_axes, state.indices, strict=True)}
    names = [index.single.name for index in state.indices if isinstance(index.single, Var)]
    if len(set(names)) < len(state.indices) or inner.name not in names:
        return Refusal("the state is not read once")
    factors = _factors(substitute(found.term, places))
    keys = [f for f in factors if inner.name in variables(f)]
    values = [f for f in factors if inner.name not in variables(f)]
    if not keys or not values:
        return Refusal("the summand is not a product of two vectors")
    query, key, value = (_product(each) for each in (queries, keys, values))
    outer = variables(value) - variables(key) - variables(query)
    if not outer:
        return Refusal("the summand is not a product of two vectors")
    return _Parts(product, inner, state, query, key, value)


def _factors(body: Expr) -> list[Expr]:
    if isinstance(body, Call) and body.function == "mul":
        return [factor for argument in body.arguments for factor in _factors(argument)]
    return [body]


def _product(factors: Sequence[Expr]) -> Expr:
    total: Expr = factors[0] if factors else Const(1.0, DType.F32)
    for factor in factors[1:]:
        total = call("mul", total, factor)
    return total


# --- chunks -----------------------------------------------------------------------------------------------------------


class _Chunks:
    """The statements of a running sum in chunks; a number of steps that they do not divide is filled up."""

    def __init__(self, found: _Recurrence, parts: _Parts, chunk: int, origins: tuple[Origin, ...]) -> None:
        self.found, self.parts, self.origins = found, parts, origins
        exact = [
            size for size in range(chunk, chunk // 2, -1) if found.steps.is_constant and not found.steps.value % size
        ]
        self.size = exact[0] if exact else chunk
        self.exact = bool(exact)
        self.count = found.steps // self.size if exact else (found.steps + (self.size - 1)) // self.size
        self.early, self.late = Axis("early", IntExpr.constant(self.size)), Axis("late", IntExpr.constant(self.size))
        self.axes = {axis.name: axis for axis in (*found.axes, parts.inner)}
        self.made: list[Nest] = []

    def statements(self) -> list[Statement]:
        found, parts = self.found, self.parts
        inner = parts.inner.name
        key, value = self._stored("keys", parts.key, self.early), self._stored("values", parts.value, self.early)
        if not self.exact:
            key = self._masked(key)
        query = self._stored("queries", parts.query, self.late)
        turned = self._nest("turned", (*self._axes(key, {inner, "early"}), parts.inner, self.early), key)
        both = (*self._axes(query, {inner, "late"}), *self._axes(key, {inner, "early"}))
        leading = [axis for axis in self.axes.values() if axis in both]
        scores = Reduce(Reducer.SUM, (parts.inner,), call("mul", query, self._read(turned)))
        seen = call("le", Index(IntExpr.var("early")), Index(IntExpr.var("late")))
        masked = call("where", seen, scores, Const(0.0, DType.F32))
        weights = self._nest("weights", (*leading, self.late, self.early), masked)
        before = Reduce(Reducer.SUM, (parts.inner,), call("mul", query, parts.state))
        within = Reduce(Reducer.SUM, (self.early,), call("mul", self._read(weights), value))
        changed: dict[Expr, Expr] = {parts.product: call("add", before, within)}
        body = transform(self._at(found.body, self.late), lambda e: changed.get(e, e))
        axes = (*found.axes[: found.along], self.late, *found.axes[found.along :])
        emitted = self._nest("emitted", axes, body)
        named = {index.single.name: index for index in parts.state.indices if isinstance(index.single, Var)}
        grown = Reduce(Reducer.SUM, (self.early,), call("mul", key, value))
        axes = tuple(self.axes[name] for name in named)
        update = self._nest("next", axes, call("add", parts.state, grown))
        scan = Scan(found.step, self.count, self._body(emitted, update), (found.along,))
        return self._unrolled(scan, emitted)

    def _body(self, emitted: Nest, update: Nest) -> Nests:
        inputs = (Value(STATE, self.found.state), *self.found.inputs)
        return Nests("chunk", inputs, (), (), tuple(self.made), (update.target, emitted.target))

    def _unrolled(self, scan: Scan, emitted: Nest) -> list[Statement]:
        """The scan, and its chunks as one axis."""
        found = self.found
        shape = emitted.type.shape
        along = found.along
        chunks = TensorType(DType.F32, (*shape[:along], self.count, *shape[along:]))
        name = f"{found.result}.chunks"
        operands = (found.initial, *(value.name for value in found.inputs))
        targets = (found.final, Value(name, chunks))
        loop = Primitive("scan", targets, operands, (), self.origins, scan)
        line = TensorType(DType.F32, (*shape[:along], self.count * self.size, *shape[along + 1 :]))
        if self.exact:
            joined = Value(found.result, found.type)
            return [loop, Primitive("reshape", (joined,), (name,), (), self.origins)]
        joined = Value(f"{found.result}.filled", line)
        axes = (*found.axes[:along], Axis("step", found.steps), *found.axes[along:])
        body = Read(joined.name, tuple(IntExpr.var(axis.name) for axis in axes), DType.F32)
        whole = Primitive("reshape", (joined,), (name,), (), self.origins)
        return [loop, whole, Nest(found.result, found.type, axes, body, self.origins)]

    def _nest(self, name: str, axes: Sequence[Axis], body: Expr) -> Nest:
        type = TensorType(DType.F32, tuple(axis.extent for axis in axes))
        nest = Nest(f"{self.found.result}.{name}", type, tuple(axes), body, self.origins)
        self.made.append(nest)
        return nest

    def _read(self, nest: Nest) -> Read:
        return Read(nest.target, tuple(IntExpr.var(axis.name) for axis in nest.axes), DType.F32)

    def _axes(self, expr: Expr, without: set[str]) -> tuple[Axis, ...]:
        """The axes of the result that an expression depends on, and the inner one."""
        names = variables(expr) - without
        return tuple(axis for axis in self.axes.values() if axis.name in names)

    def _stored(self, name: str, expr: Expr, place: Axis) -> Expr:
        """The factor at the steps of a chunk; stored when it is more than a read."""
        moved = self._at(expr, place)
        if isinstance(moved, Read) and self.exact:
            return moved
        mine = self._axes(moved, {self.parts.inner.name})
        last = (self.parts.inner,) if self.parts.inner.name in variables(moved) else mine[-1:]
        axes = (*(axis for axis in mine if axis not in last), place, *last)
        return self._read(self._nest(name, axes, moved))

    def _masked(self, key: Expr) -> Expr:
        """Keys of the steps beyond the last one are zero."""
        nest = next(nest for nest in self.made if nest.target == key.tensor) if isinstance(key, Read) else None
        assert nest is not None
        inside = call("lt", Index(self._place(self.early)), Index(self.found.steps))
        masked = replace(nest, body=call("where", inside, nest.body, Const(0.0, DType.F32)))
        self.made[self.made.index(nest)] = masked
        return key

    def _place(self, axis: Axis) -> IntExpr:
        return IntExpr.dim(self.found.step) * self.size + IntExpr.var(axis.name)

    def _at(self, expr: Expr, axis: Axis) -> Expr:
        """The expression with a step of the chunk in place of the step."""
        place = self._place(axis) if self.exact else self._place(axis).minimum(self.found.steps - 1)

        def moved(value: IntExpr) -> IntExpr:
            return value.substitute(lambda atom: place if atom == Dim(self.found.step) else None)

        def change(e: Expr) -> Expr:
            if e == self.parts.product:
                return e
            new = rebuild(e, change)
            if isinstance(new, Index):
                return Index(moved(new.value))
            return replace(new, indices=tuple(map(moved, new.indices))) if isinstance(new, Read) else new

        return change(expr)
