"""Scalar index notation to TIR expressions, on one element or on a vector of neighbours along one loop index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.analysis import QUAD, Ranges, flatten, free, free_in_atom, is_computed, never_negative
from mercer.backends.tvm.scalar import combine, convert, function, identity, literal, pack, unpack, wide
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, children
from mercer.ir.integers import ONE, ZERO, Atom, Computed, Dim, Extremum, IntExpr, Monomial, Quotient, Remainder, Var
from mercer.ir.types import DType, TensorType

I64 = "int64"


def int64(value: int) -> TirExpr:
    return tirx.const(value, I64)


@dataclass(frozen=True)
class Tensor:
    """A tensor in memory: a flat TIR buffer, the type that gives it a shape, and where in the buffer it begins."""

    buffer: Any
    type: TensorType
    start: TirExpr = None

    def place(self, position: TirExpr) -> TirExpr:
        """Where in the buffer the element at a row-major position lies."""
        if self.start is None:
            return position
        if isinstance(position, tirx.Ramp):  # stays one, so that neighbours are loaded as one vector
            return T.ramp(position.base + self.start, position.stride, vm.lanes(position))
        return position + vm.broadcast(self.start, vm.lanes(position))


@dataclass(frozen=True)
class Scope:
    """The values that are known at one place of the program.

    `indices` are the loop indices in scope. The vector covers `width` values of the index `lane`, beginning at
    `indices[lane]`; what does not depend on it stays scalar. Scopes of one place that differ by a constant offset of
    some indices carry it in `offsets` and share `done`, so that what does not depend on an offset is computed once.
    """

    tensors: Mapping[str, Tensor]
    dims: Mapping[str, TirExpr]
    indices: Mapping[str, TirExpr]
    ranges: Ranges
    lane: str = ""
    width: int = 1
    offsets: Mapping[str, int] = field(default_factory=dict[str, int])
    done: dict[Any, TirExpr] = field(default_factory=dict[Any, TirExpr])
    outer: Scope | None = None

    def inside(self, axes: Sequence[Axis], values: Sequence[TirExpr]) -> Scope:
        """The scope within loops over `axes`."""
        ranges = {axis.name: (ZERO, axis.extent - 1) for axis in axes}
        indices = {axis.name: value for axis, value in zip(axes, values, strict=True)}
        outer = None if self.indices.keys() & indices.keys() else self
        return replace(
            self, indices={**self.indices, **indices}, ranges={**self.ranges, **ranges}, done={}, outer=outer
        )

    def vector(self, lane: str, start: TirExpr, width: int, limits: tuple[IntExpr, IntExpr]) -> Scope:
        """The scope of `width` neighbours along `lane`, which lie within `limits`."""
        scope = self.inside([Axis(lane, ONE)], [start])
        return replace(scope, lane=lane if width > 1 else "", width=width, ranges={**scope.ranges, lane: limits})

    def at(self, offsets: Mapping[str, int]) -> Scope:
        """The same place, some indices shifted by constants."""
        shifted = {name: self.indices[name] + int64(k) if k else self.indices[name] for name, k in offsets.items()}
        return replace(self, indices={**self.indices, **shifted}, offsets=offsets)

    # --- values -------------------------------------------------------------------------------------------------------

    def key(self, expr: Expr | Atom, names: frozenset[str]) -> Any:
        return expr, tuple((name, k) for name, k in self.offsets.items() if name in names)

    def known(self, expr: Expr | Atom, names: frozenset[str]) -> TirExpr | None:
        """The value when it was computed before, here or around this place."""
        key = self.key(expr, names)
        scope: Scope | None = self
        while scope is not None:
            if key in scope.done:
                return scope.done[key]
            scope = scope.outer
        return None

    def value(self, expr: Expr) -> TirExpr:
        """The value of `expr` in its stored element type; a scalar when it does not depend on the lane."""
        match expr:
            case Const(number, dtype):
                return literal(number, dtype)
            case Index(value):
                return vm.cast(self.integer(value), "int32")
            case _:
                pass
        found = self.known(expr, free(expr))
        if found is None:
            match expr:
                case Read():
                    found = vm.let(self.read(expr))
                case Call("word", (Read() as read,)):
                    found = T.bind(self.word(read))
                case Call("cast", (Call("floordiv", (x, Const(d))),), DType.I32) if words.is_high(x.dtype, d):
                    found = vm.kept(self.high(x, d))
                case Call("cast") if nearest := words.Nearest.of(expr):
                    found = vm.kept(nearest.value(self.value(nearest.x), self.value(nearest.y)))
                case Call("add", (Const(1), Call("erf", (x,)))) if x.dtype is DType.F32:
                    found = vm.let(vm.one_plus_erf(vm.let(self.value(x))))
                case Call(name, arguments, dtype):
                    result = function(name, [self.value(a) for a in arguments], arguments, dtype)
                    found = vm.kept(result) if dtype.is_integer else vm.let(result)
                case Reduce():
                    found = vm.let(self.reduce(expr))
            self.done[self.key(expr, free(expr))] = found
        return found

    def hoist(self, expr: Expr) -> None:
        """Compute here what inner loops will need and what depends on nothing inside of them."""
        seen: set[Expr] = set()

        def visit(e: Expr) -> None:
            if e in seen or isinstance(e, Const | Index):
                return
            seen.add(e)
            if free(e) <= self.indices.keys():
                self.value(e)
            else:
                for child in children(e):
                    visit(child)

        visit(expr)

    def accumulate(self, expr: Reduce, total: Any, width: int) -> None:
        """One more term of a reduction, other than of positions, into registers of its wide type."""
        whole = vm.whole(width)
        if isinstance(expr.body, Call) and expr.body.function == QUAD:
            added = words.add_quad(total[whole], *(vm.broadcast(self.value(x), width) for x in expr.body.arguments))
        else:
            term = vm.broadcast(vm.cast(self.value(expr.body), wide(expr.dtype)), width)
            added = combine(expr.reducer, total[whole], term)
        T.buffer_store(total, added, [whole])

    def reduce(self, expr: Reduce) -> TirExpr:
        """A serial loop over the axes of the reduction."""
        if expr.reducer in (Reducer.ARGMAX, Reducer.ARGMIN):
            return self._first_position(expr)
        width = self.width if self.lane in free(expr) else 1
        dtype = wide(expr.dtype)
        total = vm.registers(width, dtype)
        place = vm.whole(width)
        T.buffer_store(total, vm.broadcast(identity(expr.reducer, expr.dtype), width), [place])

        loops(self, expr.axes, lambda inside: inside.accumulate(expr, total, width))
        return convert(total[place], expr.dtype)

    def _first_position(self, expr: Reduce) -> TirExpr:
        (axis,) = expr.axes
        width = self.width if self.lane in free(expr) else 1
        best = vm.registers(width, wide(expr.body.dtype))
        position = vm.registers(width, "int32")
        place = vm.whole(width)
        largest = expr.reducer is Reducer.ARGMAX
        start = identity(Reducer.MAX if largest else Reducer.MIN, expr.body.dtype)
        T.buffer_store(best, vm.broadcast(start, width), [place])
        T.buffer_store(position, vm.broadcast(tirx.const(0, "int32"), width), [place])

        def step(scope: Scope) -> None:
            term = vm.broadcast(vm.cast(scope.value(expr.body), wide(expr.body.dtype)), width)
            old = vm.let(best[place])
            better = term > old if largest else term < old
            if expr.body.dtype.is_float:
                better = tirx.Or(better, tirx.And(tirx.isnan(term), tirx.Not(tirx.isnan(old))))
            better = vm.let(better)
            here = vm.broadcast(vm.cast(scope.indices[axis.name], "int32"), width)
            T.buffer_store(position, vm.select(better, here, position[place]), [place])
            T.buffer_store(best, vm.select(better, term, old), [place])

        loops(self, expr.axes, step)
        return position[place]

    # --- reads --------------------------------------------------------------------------------------------------------

    def read(self, expr: Read) -> TirExpr:
        """Never touches memory outside of the tensor: an index that may leave it is clamped or guarded."""
        tensor = self.tensors[expr.tensor]
        if len(expr.indices) == 1 and tensor.type.rank != 1:  # row-major and checked: see schedules/normalize.py
            return self.load(tensor, expr.indices[0])
        inside: list[TirExpr] = []
        clamped: list[IntExpr] = []
        for index, size in zip(expr.indices, tensor.type.shape, strict=True):
            guards = [] if expr.pad is None and not is_computed(index) else [index, size - 1 - index]
            unsure = [g for g in guards if not never_negative(g, self.ranges)]
            inside += [self.integer(g) >= int64(0) for g in unsure] if expr.pad is not None else []
            clamped.append(index.minimum(size - 1).maximum(0) if unsure else index)
        if not inside:
            return self.load(tensor, flatten(clamped, tensor.type))
        pad = literal(expr.pad.number, expr.pad.dtype) if expr.pad is not None else None
        condition = inside[0]
        for other in inside[1:]:
            width = max(vm.lanes(condition), vm.lanes(other))
            condition = tirx.And(vm.broadcast(condition, width), vm.broadcast(other, width))
        if self.width == 1:
            return tirx.if_then_else(condition, self.load(tensor, flatten(expr.indices, tensor.type)), pad)
        return vm.select(condition, self.load(tensor, flatten(clamped, tensor.type)), pad)

    def high(self, x: Expr, divisor: int) -> TirExpr:
        """floor(x / divisor) as i32."""
        match x:
            case Call("add", (Call("mul", (Call("cast", (a,)), Call("cast", (b,)))), Const(int() as rounding))):
                if a.dtype is b.dtype is DType.I32 and self.width >= 4 and self.lane in free(x):
                    return words.scaled(self.value(a), self.value(b), rounding, divisor)
            case _:
                pass
        return words.high(self.value(x), divisor)

    def word(self, read: Read) -> TirExpr:
        """An i16 and the one after it in memory, both inside of the tensor."""
        tensor = self.tensors[read.tensor]
        flat = read.indices[0] if len(read.indices) == 1 else flatten(read.indices, tensor.type)
        return words.load(tensor.buffer, tensor.place(self.integer(flat)))

    def load(self, tensor: Tensor, flat: IntExpr) -> TirExpr:
        place = tensor.place(self.integer(flat))
        twice = isinstance(place, tirx.Ramp) and isinstance(place.stride, tirx.IntImm) and place.stride.value == 2
        if twice and vm.lanes(place) >= 4:
            return unpack(vm.every_second(tensor.buffer, place.base, vm.lanes(place)), tensor.type.dtype)
        return unpack(tensor.buffer[place], tensor.type.dtype)

    def store(self, tensor: Tensor, flat: IntExpr, value: TirExpr) -> None:
        place = tensor.place(self.integer(flat))
        T.buffer_store(tensor.buffer, vm.broadcast(pack(value, tensor.type.dtype), vm.lanes(place)), [place])

    # --- integers -----------------------------------------------------------------------------------------------------

    def integer(self, value: IntExpr) -> TirExpr:
        """As int64; a ramp when it is affine in the lane."""
        uniform, step, varying = self._split(value)
        base = self._sum(uniform)
        if step == 0 and not varying:
            return base
        start = self.indices[self.lane]
        if not varying:
            return T.ramp(base + start * int64(step), int64(step), self.width)
        return vm.broadcast(base, self.width) + vm.cast(self._vector(varying, step), I64)

    def _split(self, value: IntExpr) -> tuple[list[tuple[Monomial, int]], int, list[tuple[Monomial, int]]]:
        """Terms without the lane, the factor of the lane, all other terms."""
        if not self.lane:
            return list(value.terms), 0, []
        uniform: list[tuple[Monomial, int]] = []
        varying: list[tuple[Monomial, int]] = []
        step = 0
        for monomial, coefficient in value.terms:
            if monomial == (Var(self.lane),):
                step = coefficient
            elif any(self.lane in free_in_atom(atom) for atom in monomial):
                varying.append((monomial, coefficient))
            else:
                uniform.append((monomial, coefficient))
        return uniform, step, varying

    def _sum(self, terms: Sequence[tuple[Monomial, int]]) -> TirExpr:
        total: TirExpr = None
        for monomial, coefficient in terms:
            product = int64(coefficient)
            for atom in monomial:
                factor = self._atom(atom)
                product = factor if product is None else product * factor
            total = product if total is None else total + product
        return int64(0) if total is None else total

    def _atom(self, atom: Atom) -> TirExpr:
        match atom:
            case Dim(name):
                return self.dims[name]
            case Var(name):
                return self.indices[name]
            case _:
                pass
        names = free_in_atom(atom)
        found = self.known(atom, names)
        if found is None:
            match atom:
                case Quotient(n, d) | Remainder(n, d):
                    plain = never_negative(n, self.ranges) and never_negative(d, self.ranges)
                    divide = (
                        (T.truncdiv if plain else tirx.floordiv)
                        if isinstance(atom, Quotient)
                        else (T.truncmod if plain else tirx.floormod)
                    )
                    found = vm.let(divide(self.integer(n), self.integer(d)))
                case Extremum(kind, a, b):
                    found = vm.let((tirx.min if kind == "min" else tirx.max)(self.integer(a), self.integer(b)))
                case Computed(inner):
                    found = vm.let(vm.cast(self.value(inner), I64))
            self.done[self.key(atom, names)] = found
        return found

    def _vector(self, terms: Sequence[tuple[Monomial, int]], step: int) -> TirExpr:
        """The part of an index that differs between lanes in a way that is not affine, in int32."""
        start = vm.cast(self.indices[self.lane], "int32")
        total = T.ramp(start * step, step, self.width) if step else None
        for monomial, coefficient in terms:
            product: TirExpr = None
            for atom in monomial:
                factor = self._vector_atom(atom)
                product = factor if product is None else product * factor
            product = product if coefficient == 1 else product * coefficient
            total = product if total is None else total + product
        return total

    def _vector_atom(self, atom: Atom) -> TirExpr:
        names = free_in_atom(atom)
        if self.lane not in names:
            return vm.broadcast(vm.cast(self._atom(atom), "int32"), self.width)
        if isinstance(atom, Var):
            return T.ramp(vm.cast(self.indices[self.lane], "int32"), 1, self.width)
        found = self.known(atom, names)
        if found is None:
            match atom:
                case Quotient(n, d) | Remainder(n, d):
                    divide = tirx.floordiv if isinstance(atom, Quotient) else tirx.floormod
                    found = vm.let(divide(self._vector_integer(n), self._vector_integer(d)))
                case Extremum(kind, a, b):
                    choose = tirx.min if kind == "min" else tirx.max
                    found = vm.let(choose(self._vector_integer(a), self._vector_integer(b)))
                case Computed(inner):
                    found = vm.broadcast(vm.cast(self.value(inner), "int32"), self.width)
                case Dim():
                    raise AssertionError("a dim does not depend on the lane")
            self.done[self.key(atom, names)] = found
        return found

    def _vector_integer(self, value: IntExpr) -> TirExpr:
        return vm.broadcast(vm.cast(self.integer(value), "int32"), self.width)


def loops(scope: Scope, axes: Sequence[Axis], body: Any) -> None:
    """Serial loops over `axes`, the last one innermost; `body` gets the scope inside.

    There is none over a single index: LLVM would keep all that it stores in registers until the loop ends.
    """
    if not axes:
        body(scope)
        return
    if axes[0].extent == ONE:
        loops(scope.inside(axes[:1], [int64(0)]), axes[1:], body)
        return
    with T.serial(int64(0), scope.integer(axes[0].extent)) as index:
        loops(scope.inside(axes[:1], [index]), axes[1:], body)
