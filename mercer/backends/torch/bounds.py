"""What is known of integer expressions before the program runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mercer.backends.torch.terms import Label
from mercer.ir.integers import ONE, Dim, Extremum, IntExpr, Quotient, Remainder, Var


@dataclass(frozen=True)
class Bounds:
    """A range of integers, both ends included; None where nothing is known."""

    low: int | None
    high: int | None


def nonnegative(value: IntExpr) -> bool:
    """Whether the expression of dims is known to be 0 or more."""
    low = bounds(value, {}).low
    return low is not None and low >= 0


def bounds(value: IntExpr, scope: Mapping[str, Label]) -> Bounds:
    """What is known of an expression when dims are 0 or more and the indices lie in their loops."""
    low: int | None = 0
    high: int | None = 0
    for monomial, coefficient in value.terms:
        factor = Bounds(coefficient, coefficient)
        for atom in monomial:
            factor = _times(_atom_bounds(atom, scope), factor)
        low = None if low is None or factor.low is None else low + factor.low
        high = None if high is None or factor.high is None else high + factor.high
    return Bounds(low, high)


def _times(a: Bounds, b: Bounds) -> Bounds:
    if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
        products = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        return Bounds(min(products), max(products))
    if a.low is not None and b.low is not None and a.low >= 0 and b.low >= 0:
        return Bounds(a.low * b.low, None)
    if a.low is not None and b.high is not None and a.low >= 0 and b.high <= 0:
        return Bounds(None, a.low * b.high)
    return Bounds(None, None)


def _atom_bounds(atom: object, scope: Mapping[str, Label]) -> Bounds:
    match atom:
        case Dim():
            return Bounds(0, None)
        case Var(name):
            last = bounds(scope[name].extent - ONE, {}).high if name in scope else None
            return Bounds(0, last)
        case Quotient(numerator, denominator) if denominator.is_constant and denominator.value > 0:
            inner = bounds(numerator, scope)
            low, high = (None if b is None else b // denominator.value for b in (inner.low, inner.high))
            return Bounds(low, high)
        case Quotient(numerator, _):
            inner = bounds(numerator, scope)
            return Bounds(0 if inner.low is not None and inner.low >= 0 else None, None)
        case Remainder(_, denominator) if denominator.is_constant and denominator.value > 0:
            return Bounds(0, denominator.value - 1)
        case Extremum(kind, left, right):
            a, b = bounds(left, scope), bounds(right, scope)
            lows, highs = [v for v in (a.low, b.low) if v is not None], [v for v in (a.high, b.high) if v is not None]
            if kind == "min":
                return Bounds(min(lows) if len(lows) == 2 else None, min(highs, default=None))
            return Bounds(max(lows, default=None), max(highs) if len(highs) == 2 else None)
        case _:
            return Bounds(None, None)
