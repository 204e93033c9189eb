"""The walk of reverse-mode differentiation over statements.

The statements are walked backward. For y[I] = f(x[J], ...) with the cotangent g of y, the cotangent of x is
xbar[j] = sum over all I with J(I) = j of g[I] * df/dx[J]; `preimage` finds these I without looking at every one. A
pointwise operator has a pointwise gradient, the gradient of a contraction is a contraction, that of a convolution a
transposed one. Reductions: a sum hands g to every term, a product multiplies it by all other factors, `max` and `min`
share it evenly among the terms that reach the extremum. Integers, and with them positions that are computed, have no
derivative; that of `floor` and `round` is 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TypeAlias

from mercer.ir.bounds import in_bounds
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
    children,
    reads,
    substitute,
    transform,
    variables,
)
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Primitive, Statement, defined
from mercer.ir.partials import Cotangent, chosen, conjugate, cotangents, number, total
from mercer.ir.preimage import Preimage, preimage, tidy, within
from mercer.ir.types import DType, TensorType
from mercer.runtime.errors import MercerError


class DerivativeError(MercerError):
    """An operator that cannot be differentiated; `hint` says what may help."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


Rule: TypeAlias = Callable[["Reverse", Primitive], None]
"""Adds what a primitive passes on to the cotangents of its operands."""


class Reverse:
    """One walk backward over statements that read `types`.

    `symbols` are the steps of scans around the statements, and further names that indices must not have. After `run`,
    `forward` and `backward` hold the statements that compute the cotangents, and more; see `needed`.
    """

    def __init__(
        self,
        operator: str,
        types: Mapping[str, TensorType],
        statements: Sequence[Statement],
        rules: Mapping[str, Rule],
        symbols: Sequence[str] = (),
    ) -> None:
        self.operator = operator
        self.rules = rules
        self.nested = bool(symbols)
        self.types = dict(types)
        self.names = {*types, *(value.name for s in statements for value in defined(s))}
        self.backward: list[Statement] = []
        self.forward = tuple(part for s in statements for part in self.flat(s))
        self.types |= {value.name: value.type for s in self.forward for value in defined(s)}
        self.parts: dict[str, list[Expr]] = {}
        self.active: frozenset[str] = frozenset()
        self.taken = {dim for type_ in self.types.values() for extent in type_.shape for dim in extent.dims()}
        self.taken |= {axis.name for s in self.forward if isinstance(s, Nest) for axis in _loops(s)} | {*symbols}
        letters = ("ijklmnopqrstuvwxyz"[k % 18] * (k // 18 + 1) for k in count())
        self.letter = next(c for c in letters if not any(re.fullmatch(rf"{c}\d+", name) for name in self.taken))

    def run(self, wrt: Iterable[str], seeds: Iterable[tuple[str, str]]) -> None:
        """Find the cotangents of the tensors `wrt`, when each output in `seeds` has the given cotangent.

        A cotangent of rank 0 stands for a tensor of equal numbers.
        """
        self.active = dependents(wrt, self.forward)
        for output, given in seeds:
            seed = self.types[given]
            indices = tuple(IntExpr.var(axis.name) for axis in self.axes(self.types[output])) if seed.rank else ()
            self.add(output, Read(given, indices, seed.dtype))
        for statement in reversed(self.forward):
            if not any(value.name in self.parts and value.name in self.active for value in defined(statement)):
                continue
            if isinstance(statement, Nest):
                self.nest(statement)
            elif statement.name in self.rules:
                self.rules[statement.name](self, statement)
            else:
                message = f"`{self.operator}` has no derivative: `{statement.name}` has no rule for it"
                raise DerivativeError(message, "write it in index notation, which has derivatives")

    def add(self, name: str, part: Expr) -> None:
        """Add to the cotangent of `name`, by an expression in `axes` of its type."""
        self.parts.setdefault(name, []).append(part)

    # --- names and statements -----------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        return fresh(hint, self.names)

    def axes(self, type_: TensorType) -> tuple[Axis, ...]:
        """The axes of every nest that computes a cotangent of this type."""
        return tuple(Axis(f"{self.letter}{k}", extent) for k, extent in enumerate(type_.shape))

    def identity(self, name: str) -> Read:
        """The element of a tensor at these axes."""
        type_ = self.types[name]
        return Read(name, tuple(IntExpr.var(a.name) for a in self.axes(type_)), type_.dtype)

    def emit(self, hint: str, axes: tuple[Axis, ...], body: Expr, kept: list[Statement] | None = None) -> str:
        name = self.fresh(hint)
        self.types[name] = TensorType(body.dtype, tuple(axis.extent for axis in axes))
        (self.backward if kept is None else kept).append(Nest(name, self.types[name], axes, body, ()))
        return name

    def summed(self, name: str) -> str:
        """The tensor that holds the cotangent of `name`."""
        type_ = self.types[name]
        parts = self.parts.get(name) or [number(0, type_.dtype)]
        first = parts[0]
        if len(parts) == 1 and isinstance(first, Read) and self.types[first.tensor] == type_:
            if first == self.identity(first.tensor):
                return first.tensor
        if len(parts) > 1:
            parts = [
                self.identity(self.emit(f"{name}.grad", self.axes(type_), part)) if isinstance(part, Reduce) else part
                for part in parts
            ]
        body = parts[0]
        for part in parts[1:]:
            body = call("add", body, part)
        return self.emit(f"{name}.grad", self.axes(type_), body)

    def flat(self, statement: Statement) -> Iterable[Statement]:
        """The statement in parts: a reduction is all of a body, and an extremum is one of stored numbers."""
        if not isinstance(statement, Nest):
            return (statement,)
        made: list[Statement] = []

        def change(expr: Expr) -> Expr:
            if not isinstance(expr, Reduce):
                return expr
            if expr.reducer in (Reducer.MAX, Reducer.MIN) and _rounds(expr.body):
                loops = (*statement.axes, *expr.axes)
                terms = self.emit(f"{statement.target}.terms", loops, expr.body, made)
                places = tuple(IntExpr.var(axis.name) for axis in loops)
                expr = replace(expr, body=Read(terms, places, expr.body.dtype))
            if isinstance(statement.body, Reduce):
                return expr
            free = variables(expr)
            axes = tuple(axis for axis in statement.axes if axis.name in free)
            name = self.emit(f"{statement.target}.{expr.reducer.value}", axes, expr, made)
            return Read(name, tuple(IntExpr.var(axis.name) for axis in axes), expr.dtype)

        body = transform(statement.body, change)
        return (*made, replace(statement, body=body))

    # --- statements, backward -----------------------------------------------------------------------------------------

    def nest(self, statement: Nest) -> None:
        seed, *others = self.parts[statement.target]
        here = tuple(IntExpr.var(axis.name) for axis in statement.axes)
        if not others and isinstance(seed, Read) and not seed.indices:
            name, g = seed.tensor, Cotangent(seed)
        else:
            name = self.summed(statement.target)
            g = Cotangent(Read(name, here, statement.type.dtype))
        body = statement.body
        if isinstance(body, Reduce):
            g, body = self.reduction(statement, body, g)
        for read, part in _reads(body, g, self.active).items():
            found = self.scatter(read, part, statement, name)
            self.add(read.tensor, found)

    def reduction(self, statement: Nest, reduce: Reduce, g: Cotangent) -> tuple[Cotangent, Expr]:
        """The cotangent of every term, and the terms."""
        body, loops = reduce.body, _loops(statement)
        places = tuple(IntExpr.var(axis.name) for axis in loops)
        match reduce.reducer:
            case Reducer.SUM:
                return g, body
            case Reducer.PROD:
                others = self.emit(f"{statement.target}.others", loops, _others(reduce, self.taken))
                return g.times(conjugate(Read(others, places, body.dtype))), body
            case Reducer.MAX | Reducer.MIN:
                here = tuple(IntExpr.var(axis.name) for axis in statement.axes)
                reached = call("eq", body, Read(statement.target, here, body.dtype))
                one, zero = number(1, body.dtype), number(0, body.dtype)
                hits = Reduce(Reducer.SUM, reduce.axes, call("where", reached, one, zero))
                ties = self.emit(f"{statement.target}.ties", statement.axes, hits)
                share = call("div", g.value, Read(ties, here, body.dtype))
                return Cotangent(share, (*g.conditions, reached)), body
            case _:
                raise DerivativeError(f"`{self.operator}` has no derivative: `{reduce.reducer.value}` gives no number")

    def scatter(self, read: Read, g: Cotangent, statement: Nest, cotangent: str) -> Expr:
        """What a read adds to the cotangent of its tensor, as an expression in the axes of that cotangent."""
        position = self.axes(self.types[read.tensor])
        taken = {*self.taken, *(axis.name for axis in position)}
        found = preimage(read.indices, position, _loops(statement), taken, g.conditions)

        def place(expr: Expr) -> Expr:
            expr = _tidied(expr, found.ranges)
            if not isinstance(expr, Read) or expr.pad is not None or not found.bounds:
                return expr
            sizes = zip(expr.indices, self.types[expr.tensor].shape, strict=True)
            inside = all(in_bounds(index, extent, found.ranges) for index, extent in sizes)
            return expr if inside else replace(expr, pad=number(0, expr.dtype))

        value = transform(substitute(g.value, found.values), place)
        by_rows = bool(found.open and found.axes) and not self.nested
        equal = [call("eq", Index(e), Index(IntExpr.var(name))) for name, e in found.open.items()]
        padded = self.types[cotangent].rank > 0 and not _may_overflow(value)
        covered = {axis.name for axis in statement.axes} if padded else set[str]()
        conditions = [c for name, each in found.bounds.items() if name not in covered for c in each]
        conditions += found.conditions if by_rows else (*found.conditions, *equal)
        conditions = [transform(c, place) for c in conditions]
        if padded and conditions:

            def masked(expr: Expr) -> Expr:
                return chosen(conditions, expr) if isinstance(expr, Read) and expr.tensor == cotangent else expr

            value = transform(value, masked)
        elif conditions:
            value = chosen(conditions, value)
        if by_rows:
            return self.added(position, found, value, read.tensor)
        return Reduce(Reducer.SUM, found.axes, value) if found.axes else value

    def added(self, position: tuple[Axis, ...], found: Preimage, value: Expr, tensor: str) -> Expr:
        """The sum over all loops with computed positions, by `scatter_add`: every value is added where it belongs.

        Axes of the tensor that the positions depend on come first, then the rows, one for each value of the loops, then
        the other axes.
        """
        used = frozenset[str]().union(*(variables(Index(e)) for e in found.open.values()))
        groups: tuple[list[Axis], list[Axis], list[Axis]] = [], [], []
        for axis in position:
            groups[1 if axis.name in found.open else 0 if axis.name in used else 2].append(axis)
        around, rows, columns = groups
        inside = [c for a in rows for c in within(found.open[a.name], a.extent)] if len(rows) > 1 else []
        row = _flat([(found.open[a.name], a.extent) for a in rows])
        index = Index(tidy(row, found.ranges))
        where = self.emit(f"{tensor}.rows", (*around, *found.axes), chosen(inside, index, Const(-1, DType.I32)))
        what = self.emit(f"{tensor}.values", (*around, *found.axes, *columns), value)
        batch = tuple(axis.extent for axis in around)
        many, count, width = (_count(axes) for axes in (found.axes, rows, columns))
        base = TensorType(value.dtype, (*batch, count, width))
        operands = (
            self.emit(f"{tensor}.base", self.axes(base), number(0, value.dtype)),
            self.reshape(where, (*batch, many)),
            self.reshape(what, (*batch, many, width)),
        )
        made = self.primitive("scatter_add", operands, base, f"{tensor}.added")
        place = (_flat([(IntExpr.var(a.name), a.extent) for a in axes]) for axes in (rows, columns))
        return Read(made, (*(IntExpr.var(a.name) for a in around), *place), value.dtype)

    def primitive(self, name: str, operands: tuple[str, ...], type_: TensorType, hint: str) -> str:
        """The result of a primitive."""
        result = self.fresh(hint)
        self.types[result] = type_
        self.backward.append(Primitive(name, (Value(result, type_),), operands, (), ()))
        return result

    def reshape(self, name: str, shape: tuple[IntExpr, ...]) -> str:
        type_ = TensorType(self.types[name].dtype, shape)
        return name if type_ == self.types[name] else self.primitive("reshape", (name,), type_, f"{name}.reshape")


def fresh(hint: str, taken: set[str]) -> str:
    """The hint, or the hint with a number, which is not taken; now it is."""
    name, times = hint, 0
    while name in taken:
        times += 1
        name = f"{hint}.{times}"
    taken.add(name)
    return name


# --- expressions ------------------------------------------------------------------------------------------------------

_SELECTING = frozenset(("where", "cast", "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"))
"""Functions without rounding: computed twice, they give the same."""

_OVERFLOWING = frozenset(
    ("div", "floordiv", "mod", "pow", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tan", "asin", "acos")
    + ("sinh", "cosh", "atan2")
)
"""Functions that may be infinite or NaN for a finite argument."""


def _count(axes: Iterable[Axis]) -> IntExpr:
    return math.prod((axis.extent for axis in axes), start=ONE)


def _flat(digits: Iterable[tuple[IntExpr, IntExpr]]) -> IntExpr:
    """The position in row-major order, from indices and their extents."""
    result = ZERO
    for index, extent in digits:
        result = result * extent + index
    return result


def _loops(statement: Nest) -> tuple[Axis, ...]:
    return (*statement.axes, *(statement.body.axes if isinstance(statement.body, Reduce) else ()))


def _rounds(expr: Expr) -> bool:
    if isinstance(expr, Call) and expr.function not in _SELECTING:
        return True
    return any(map(_rounds, children(expr)))


def _may_overflow(expr: Expr) -> bool:
    """Whether a factor of 0 in the expression may leave anything but 0."""
    if isinstance(expr, Call) and expr.function in _OVERFLOWING:
        divisor = expr.arguments[-1]
        if not (expr.function == "div" and isinstance(divisor, Const) and divisor.number != 0):
            return True
    return not isinstance(expr, Read) and any(map(_may_overflow, children(expr)))


def _tidied(expr: Expr, ranges: Mapping[str, IntExpr]) -> Expr:
    match expr:
        case Index(value):
            return Index(tidy(value, ranges))
        case Read(_, indices):
            return replace(expr, indices=tuple(tidy(index, ranges) for index in indices))
        case _:
            return expr


def _reads(body: Expr, g: Cotangent, active: frozenset[str]) -> dict[Read, Cotangent]:
    """The cotangents of all reads of active tensors, when `g` is that of the body."""
    order: dict[Expr, None] = {}

    def visit(expr: Expr) -> None:
        if expr.dtype.rounds and expr not in order:
            if isinstance(expr, Call):
                for argument in expr.arguments:
                    visit(argument)
            order[expr] = None

    visit(body)
    found: dict[Expr, list[Cotangent]] = {body: [g]}
    result: dict[Read, Cotangent] = {}
    for expr in reversed(order):
        if expr not in found:
            continue
        sum_ = total(found[expr])
        if isinstance(expr, Read) and expr.tensor in active:
            result[expr] = sum_
        elif isinstance(expr, Call) and any(r.tensor in active for r in reads(expr)):
            for argument, part in zip(expr.arguments, cotangents(expr, sum_), strict=True):
                if part is not None:
                    found.setdefault(argument, []).append(part)
    return result


def _others(reduce: Reduce, taken: set[str]) -> Reduce:
    """The product over all other values of the indices of `reduce`, which become axes of the nest."""
    second: list[Axis] = []
    for axis in reduce.axes:
        name = axis.name
        while name in taken:
            name += "o"
        taken.add(name)
        second.append(Axis(name, axis.extent))
    pairs = list(zip(reduce.axes, second, strict=True))
    same = [call("eq", Index(IntExpr.var(a.name)), Index(IntExpr.var(b.name))) for a, b in pairs]
    condition = same[0]
    for other in same[1:]:
        condition = call("and", condition, other)
    term = substitute(reduce.body, {a.name: IntExpr.var(b.name) for a, b in pairs})
    return Reduce(Reducer.PROD, tuple(second), call("where", condition, number(1, term.dtype), term))


def dependents(names: Iterable[str], statements: Iterable[Statement]) -> frozenset[str]:
    """The names, and the real and complex tensors that are computed from them."""
    found = {*names}
    for statement in statements:
        if found & read_names(statement):
            found |= {value.name for value in defined(statement) if value.type.dtype.rounds}
    return frozenset(found)


def needed(statements: Sequence[Statement], results: Iterable[str]) -> tuple[Statement, ...]:
    """The statements that the results depend on."""
    found, kept = {*results}, list[Statement]()
    for statement in reversed(statements):
        if any(value.name in found for value in defined(statement)):
            found |= read_names(statement)
            kept.append(statement)
    return tuple(reversed(kept))
