"""Ranges of index expressions: what can be proved about them for every size of the symbolic dims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from mercer.ir.index import Axis
from mercer.ir.integers import ZERO, Atom, Computed, Dim, Extremum, IntExpr, Quotient, Remainder, Var

Range: TypeAlias = tuple[IntExpr, IntExpr]
"""Lowest and highest value, both included."""


def extents(axes: Iterable[Axis]) -> dict[str, IntExpr]:
    return {axis.name: axis.extent for axis in axes}


def non_negative(value: IntExpr) -> bool:
    """Whether the expression over dims is provably at least 0, dims being at least 0."""
    return all(coefficient >= 0 and all(map(_atom_non_negative, atoms)) for atoms, coefficient in value.terms)


def _atom_non_negative(atom: Atom) -> bool:
    match atom:
        case Dim():
            return True
        case Quotient(numerator, denominator):
            return non_negative(numerator) and non_negative(denominator)
        case Remainder(_, denominator):
            return non_negative(denominator)
        case Extremum(kind, left, right):
            both = non_negative(left), non_negative(right)
            return any(both) if kind == "max" else all(both)
        case Var() | Computed():
            return False


def index_range(value: IntExpr, loops: Mapping[str, IntExpr]) -> Range | None:
    """The range of `value` over all values of the loop indices; None when it cannot be told."""
    low = high = ZERO
    for atoms, coefficient in value.terms:
        fixed = [atom for atom in atoms if isinstance(atom, Dim)]
        moving = [atom for atom in atoms if not isinstance(atom, Dim)]
        factor = IntExpr.constant(coefficient)
        for atom in fixed:
            factor = factor * IntExpr.atom(atom)
        if not moving:
            low, high = low + factor, high + factor
            continue
        inner = _atom_range(moving[0], loops) if len(moving) == 1 else None
        if inner is None:
            return None
        ends = (inner[0] * factor, inner[1] * factor)
        low, high = (low + ends[0], high + ends[1]) if coefficient > 0 else (low + ends[1], high + ends[0])
    return low, high


def _atom_range(atom: Atom, loops: Mapping[str, IntExpr]) -> Range | None:
    match atom:
        case Var(name):
            return (ZERO, loops[name] - 1) if name in loops else None
        case Quotient(numerator, denominator) if denominator.is_constant and denominator.value > 0:
            inner = index_range(numerator, loops)
            return None if inner is None else (inner[0] // denominator, inner[1] // denominator)
        case Remainder(_, denominator) if denominator.is_constant and denominator.value > 0:
            return ZERO, denominator - 1
        case _:
            return None


def in_bounds(index: IntExpr, extent: IntExpr, loops: Mapping[str, IntExpr]) -> bool:
    """Whether 0 <= index < extent is provable for all values of the loop indices (of loops that run at all)."""
    found = index_range(index, loops)
    return found is not None and non_negative(found[0]) and non_negative(extent - 1 - found[1])
