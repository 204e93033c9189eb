"""Sums over shifted copies of a function that is zero outside of an interval, such as B-splines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from mercer.ir.index import (
    Call,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    parts,
    rebuild,
    substitute,
    transform,
    variables,
)
from mercer.ir.integers import Computed, IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType
from mercer.passes.cost import statement_cost
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.rewrite import Refusal

Interval: TypeAlias = tuple[float, float]

WIDEST = 8
"""Supports up to this width are looked for, between -WIDEST and WIDEST."""

PLACE = Read("compact_support.place", (), DType.F32)
"""Stands for the argument of the function while its support is looked for."""


@dataclass(frozen=True)
class CompactSupport(Pass):
    """sum_m w[m] f(t - m) keeps only the terms where f is not zero: those of the m next to t.

    Needs Nests, gives Nests, in which w is read at positions computed from t. The support of f follows from interval
    arithmetic on its formula, which each of the remaining terms keeps only the branch of minima and maxima that it
    needs from. Fires where at least `min_saving` times as many m are left out as stay. Class: real.
    """

    name: ClassVar[str] = "compact_support"
    level: ClassVar[Level] = Level.NESTS
    min_saving: float = 1.0

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        makers = {s.target: s for s in nests.statements if isinstance(s, Nest)}
        statements: list[Statement] = []
        for statement in nests.statements:
            start = time.perf_counter()
            found = list(_sums(statement, makers)) if isinstance(statement, Nest) else []
            if not isinstance(statement, Nest) or not found:
                statements.append(statement)
                continue
            changed: dict[Expr, Expr] = {}
            reasons: list[str] = []
            for each in found:
                new = self._sparse(each)
                if isinstance(new, Refusal):
                    reasons.append(new.reason)
                else:
                    changed[each.sum] = new
            body = transform(statement.body, lambda e, changed=changed: changed.get(e, e))
            after = replace(statement, body=body)
            statements.append(after)
            costs = (statement_cost(statement, types), statement_cost(after, types)) if changed else None
            reason = None if changed else reasons[0]
            seconds = time.perf_counter() - start
            context.record_statement(self.name, "skip_zeros", statement, Exactness.REAL, reason, costs, seconds)
        return replace(nests, statements=tuple(statements))

    def _sparse(self, found: _Sum) -> Expr | Refusal:
        low, high = found.support
        count = found.extent
        if count < (1 + self.min_saving) * (high - low):
            return Refusal(f"{high - low} of {count} terms are not zero")
        place = call("max", found.place, _real(low - 1))
        place = call("min", place, _real(count + high))
        whole = call("floor", place)
        rest = call("sub", place, whole)
        first = IntExpr.atom(Computed(call("cast", whole, dtype=DType.I32))) - low
        total: Expr | None = None
        for r in range(high - low):
            between = (float(low + r), float(low + r + 1))
            argument = call("add", rest, _real(low + r)) if low + r else rest
            branch = _branch(found.function, between)
            value = transform(branch, lambda e, argument=argument: argument if e == PLACE else e)
            indices = tuple(first - r if index == IntExpr.var(found.axis) else index for index in found.weight.indices)
            term = call("mul", value, replace(found.weight, indices=indices, pad=_real(0)))
            total = term if total is None else call("add", total, term)
        assert total is not None
        for factor in found.others:
            total = call("mul", factor, total)
        axes = tuple(axis for axis in found.sum.axes if axis.name != found.axis)
        return replace(found.sum, axes=axes, body=total) if axes else total


# --- what is looked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sum:
    """The sum over `axis` < `extent` of weight * function(place - axis) * others; `function` is one of PLACE."""

    sum: Reduce
    axis: str
    extent: int
    weight: Read
    function: Expr
    place: Expr
    others: tuple[Expr, ...]
    support: tuple[int, int]


def _sums(nest: Nest, makers: Mapping[str, Nest]) -> Iterator[_Sum]:
    for e in parts(nest.body):
        if not isinstance(e, Reduce) or e.reducer is not Reducer.SUM or e.dtype is not DType.F32:
            continue
        for axis in e.axes:
            found = _sum(e, axis.name, makers) if axis.extent.is_constant else None
            if found is not None:
                yield found
                break


def _sum(e: Reduce, axis: str, makers: Mapping[str, Nest]) -> _Sum | None:
    factors = _factors(e.body)
    own = [factor for factor in factors if axis in variables(factor)]
    others = tuple(factor for factor in factors if axis not in variables(factor))
    if len(own) != 2:
        return None
    for weight, basis in (own, own[::-1]):
        if not isinstance(weight, Read) or weight.pad is not None:
            continue
        moving = [index for index in weight.indices if axis in variables(Index(index))]
        if moving != [IntExpr.var(axis)]:
            continue
        found = _shifted(_inlined(basis, makers), axis)
        support = None if found is None else _support(found[0])
        if found is not None and support is not None:
            extent = next(a.extent.value for a in e.axes if a.name == axis)
            return _Sum(e, axis, extent, weight, found[0], found[1], others, support)
    return None


def _factors(body: Expr) -> list[Expr]:
    if isinstance(body, Call) and body.function == "mul":
        return [factor for argument in body.arguments for factor in _factors(argument)]
    return [body]


def _inlined(basis: Expr, makers: Mapping[str, Nest]) -> Expr:
    """What a read of a computed tensor computes."""
    maker = makers.get(basis.tensor) if isinstance(basis, Read) and basis.pad is None else None
    if maker is None or not isinstance(basis, Read) or maker.body.dtype is not basis.dtype:
        return basis
    if any(isinstance(e, Reduce) for e in parts(maker.body)):
        return basis
    return substitute(maker.body, {a.name: index for a, index in zip(maker.axes, basis.indices, strict=True)})


def _shifted(basis: Expr, axis: str) -> tuple[Expr, Expr] | None:
    """(function of PLACE, t) such that the basis is function(t - axis)."""
    number = call("cast", Index(IntExpr.var(axis)), dtype=DType.F32)
    arguments = {e for e in parts(basis) if isinstance(e, Call) and e.function == "sub" and e.arguments[1] == number}
    if len(arguments) != 1:
        return None
    (argument,) = arguments
    function = transform(basis, lambda e: PLACE if e == argument else e)
    place = argument.arguments[0]
    if variables(function) or axis in variables(place) or place.dtype is not DType.F32:
        return None
    known = all(isinstance(e, Call | Const) or e == PLACE for e in parts(function))
    return (function, place) if known else None


# --- supports ---------------------------------------------------------------------------------------------------------


def _support(function: Expr) -> tuple[int, int] | None:
    """Integers outside of which the function is zero."""
    low = [k for k in range(-WIDEST, WIDEST) if _range(function, (-math.inf, float(k))) == (0.0, 0.0)]
    high = [k for k in range(WIDEST, -WIDEST, -1) if _range(function, (float(k), math.inf)) == (0.0, 0.0)]
    return (low[-1], high[-1]) if low and high and low[-1] < high[-1] else None


def _range(expr: Expr, place: Interval) -> Interval | None:
    """What the values of an expression of PLACE lie between; None when that is not known."""
    if expr == PLACE:
        return place
    if isinstance(expr, Const):
        return (float(expr.number), float(expr.number)) if not isinstance(expr.number, complex) else None
    if not isinstance(expr, Call):
        return None
    inner = [_range(argument, place) for argument in expr.arguments]
    known = [each for each in inner if each is not None]
    if len(known) < len(inner):
        return None
    match expr.function, known:
        case "add", [a, b]:
            return _hull(a[0] + b[0], a[1] + b[1])
        case "sub", [a, b]:
            return _hull(a[0] - b[1], a[1] - b[0])
        case "neg", [a]:
            return -a[1], -a[0]
        case "min", [a, b]:
            return min(a[0], b[0]), min(a[1], b[1])
        case "max", [a, b]:
            return max(a[0], b[0]), max(a[1], b[1])
        case "mul", [a, b]:
            return _hull(*(_times(x, y) for x in a for y in b))
        case "div", [a, (b, c)] if b == c and b != 0:
            return _hull(a[0] / b, a[1] / b)
        case "abs", [a]:
            return max(a[0], -a[1], 0.0), max(-a[0], a[1])
        case "pow", [a, (b, c)] if b == c and b == int(b) and 1 <= b <= 8 and a[0] >= 0:
            return a[0] ** b, a[1] ** b
        case _:
            return None


def _times(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _hull(*ends: float) -> Interval | None:
    return None if any(map(math.isnan, ends)) else (min(ends) + 0.0, max(ends) + 0.0)


def _branch(function: Expr, place: Interval) -> Expr:
    """The function where its argument lies in an interval: minima and maxima that are decided there are gone."""
    if isinstance(function, Const | Read) or not isinstance(function, Call):
        return function
    new = rebuild(function, lambda e: _branch(e, place))
    if not isinstance(new, Call) or new.function not in ("min", "max"):
        return _without_zeros(new)
    a, b = (_range(argument, place) for argument in new.arguments)
    if a is None or b is None:
        return new
    lower = 0 if a[1] <= b[0] else 1 if b[1] <= a[0] else None
    if lower is None:
        return new
    return new.arguments[lower if new.function == "min" else 1 - lower]


def _without_zeros(e: Expr) -> Expr:
    """Products with 0 and sums with it are gone; the argument is finite."""
    if not isinstance(e, Call) or len(e.arguments) != 2:
        return e
    a, b = (isinstance(x, Const) and x.number == 0 for x in e.arguments)
    match e.function:
        case "mul" if a or b:
            return _real(0)
        case "add" if a or b:
            return e.arguments[1 if a else 0]
        case "sub" if b:
            return e.arguments[0]
        case "div" if a:
            return _real(0)
        case _:
            return e


def _real(number: float) -> Const:
    return Const(float(number), DType.F32)
