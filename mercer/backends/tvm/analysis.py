"""Questions about index expressions that schedules ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

from mercer.ir.index import Call, Const, Expr, Read, Reduce, Reducer, computed, variables, walk
from mercer.ir.integers import ONE, ZERO, Atom, Computed, Dim, Extremum, IntExpr, Quotient, Remainder, Var
from mercer.ir.types import TensorType

Ranges: TypeAlias = Mapping[str, tuple[IntExpr, IntExpr]]
"""Smallest and largest value of each loop index, as expressions over dims."""


@lru_cache(maxsize=1 << 14)
def free(expr: Expr) -> frozenset[str]:
    """Loop indices that `expr` depends on."""
    return variables(expr)


@lru_cache(maxsize=1 << 14)
def free_in_integer(value: IntExpr) -> frozenset[str]:
    """Loop indices that an integer expression depends on, through computed values too."""
    found = {atom.name for atom in value.atoms() if isinstance(atom, Var)}
    return frozenset(found).union(*map(free, computed(value)))


def free_in_atom(atom: Atom) -> frozenset[str]:
    return free_in_integer(IntExpr.atom(atom))


WORD, DOT, QUAD = "word", "dot", "quad"
"""Functions beside those of index notation: a read with its neighbours, and what `words` adds of two such words."""


def is_word(read: Read, expr: Expr) -> bool:
    """Whether a read in `expr` stands for a word, which must stay where it lies."""
    return any(isinstance(e, Call) and e.function == WORD and e.arguments[0] == read for e in walk(expr))


def in_words(expr: Expr) -> frozenset[str]:
    """Loop indices that words of memory depend on: vectors do not lie along them."""
    return frozenset[str]().union(*(free(e) for e in walk(expr) if isinstance(e, Call) and e.function == WORD))


def is_computed(value: IntExpr) -> bool:
    """Whether the value depends on data."""
    return any(isinstance(atom, Computed) for atom in value.atoms())


def stride(value: IntExpr, name: str) -> int | None:
    """The change of `value` when the index grows by one; None when that is not a constant."""
    total = 0
    for monomial, coefficient in value.terms:
        if name not in frozenset[str]().union(*map(free_in_atom, monomial)):
            continue
        if monomial != (Var(name),):
            return None
        total += coefficient
    return total


def flatten(indices: Iterable[IntExpr], type: TensorType) -> IntExpr:
    """Row-major position of an element."""
    flat = ZERO
    for index, size in zip(indices, type.shape, strict=True):
        flat = flat * size + index
    return flat


def elements(shape: Iterable[IntExpr]) -> IntExpr:
    total = ONE
    for size in shape:
        total = total * size
    return total


def bound(value: IntExpr, ranges: Ranges, upper: bool) -> IntExpr | None:
    """An upper (or lower) bound over all loop indices in range, as a polynomial in dims; None when none was found."""
    total = ZERO
    for monomial, coefficient in value.terms:
        product = IntExpr.constant(coefficient)
        loops: list[tuple[IntExpr, IntExpr]] = []
        for atom in monomial:
            if isinstance(atom, Dim):
                product = product * IntExpr.atom(atom)
                continue
            limits = _limits(atom, ranges)
            if limits is None:
                return None
            loops.append(limits)
        if len(loops) > 1:
            return None
        if loops:
            low, high = loops[0]
            product = product * (high if (coefficient > 0) == upper else low)
        total = total + product
    return total


def _limits(atom: Atom, ranges: Ranges) -> tuple[IntExpr, IntExpr] | None:
    match atom:
        case Var(name):
            return ranges.get(name)
        case Remainder(_, divisor) if divisor.is_constant and divisor.value > 0:
            return ZERO, divisor - 1
        case Quotient(numerator, divisor) if divisor.is_constant and divisor.value > 0:
            low, high = bound(numerator, ranges, False), bound(numerator, ranges, True)
            return (low // divisor, high // divisor) if low is not None and high is not None else None
        case Extremum(kind, left, right):
            lows = [bound(left, ranges, False), bound(right, ranges, False)]
            highs = [bound(left, ranges, True), bound(right, ranges, True)]
            if any(b is None or not b.is_constant for b in (*lows, *highs)):
                return None
            choose = min if kind == "min" else max
            low, high = (choose(b.value for b in side if b is not None) for side in (lows, highs))
            return IntExpr.constant(low), IntExpr.constant(high)
        case _:
            return None


def never_negative(value: IntExpr, ranges: Ranges) -> bool:
    """Whether `value >= 0` can be shown; dims are at least 0, loop indices within their ranges."""
    low = bound(value, ranges, upper=False)
    return low is not None and all(
        coefficient >= 0 and all(isinstance(a, Dim) for a in monomial) for monomial, coefficient in low.terms
    )


def in_bounds(read: Read, type: TensorType, ranges: Ranges) -> bool:
    """Whether every index of the read can be shown to lie inside of the tensor."""
    return all(
        never_negative(index, ranges) and never_negative(size - 1 - index, ranges)
        for index, size in zip(read.indices, type.shape, strict=True)
    )


def is_sign(expr: Expr, sign: int) -> bool:
    """Whether a real number is surely zero or of this sign (1 or -1), or NaN."""
    match expr:
        case Const(int() | float() as number):
            return number * sign >= 0
        case Call("neg", (x,)):
            return is_sign(x, -sign)
        case Call("max" | "min" as name, parts):
            some = (name == "max") == (sign > 0)
            return (any if some else all)(is_sign(x, sign) for x in parts)
        case Call("mul", (a, b)) if a == b:
            return sign > 0
        case Call("div", (_, b)) if not _is_divisor(b):
            return False
        case Call("mul" | "div", (a, b)):
            return any(is_sign(a, s) and is_sign(b, s * sign) for s in (1, -1))
        case Call("add", parts):
            return all(is_sign(x, sign) for x in parts)
        case Call("abs" | "sqrt" | "exp"):
            return sign > 0
        case Reduce(Reducer.SUM, _, body):
            return is_sign(body, sign)
        case _:
            return False


def _is_divisor(expr: Expr) -> bool:
    """Whether a real number is surely not -0.0, by which a positive one divided is -inf."""
    match expr:
        case Const(int() | float() as number):
            return number != 0
        case Call("mul", (a, b)):
            return a == b
        case Call("abs" | "exp"):
            return True
        case _:
            return False
