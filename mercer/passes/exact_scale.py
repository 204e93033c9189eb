"""Integers times a scale, rounded: by floating point, where that is exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Constant
from mercer.ir.index import Call, Const, Expr, Read, Reduce, call, children, transform
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import Data, DType
from mercer.passes.cost import statement_cost
from mercer.passes.integer_bounds import Integers
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext

EXACT = 1 << 24
"""Integers up to this magnitude are float32 numbers."""

LARGEST = 1 << 22
"""Magnitude of the limits: a float32 of 1.5 * 2**23 more than an integer of at most so much has its bits."""


WORD = (1 << 15) - (1 << 9)
"""Magnitude of numbers that have 16 bits, also when a zero has been added to them or taken from them."""


@dataclass(frozen=True)
class ExactScale(Pass):
    """round(f64(f32(x)) * f64(s)) for (x*m + 2**(n-1)) / 2**n with a constant m, s = m/2**n, between limits.

    Needs Nests, best after `narrow` and `fuse`. A product of two numbers of 24 bits is exact in f64, and one f32
    multiply-add that rounds once gives its nearest integer. The scales must be f32 numbers, x smaller than 2**24, and
    no product may lie halfway between two integers, which would be rounded up here and to even there. Where 16 bits
    hold every rounded product, it goes through i16 before it is limited, so that a backend knows it. A cast to codes
    that cannot change anything goes away. Class: bit.
    """

    name: ClassVar[str] = "exact_scale"
    level: ClassVar[Level] = Level.NESTS

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        state = Integers(nests)
        statements: list[Statement] = []
        for statement in nests.statements:
            if isinstance(statement, Nest):
                statement = self._scaled(statement, state, context)
            statements.append(statement)
        constants = (*nests.constants, *state.constants.values())
        return replace(nests, constants=constants, statements=tuple(statements))

    def _scaled(self, nest: Nest, state: Integers, context: PassContext) -> Nest:
        new = nest
        for found in dict.fromkeys(filter(None, map(_limited, _parts(nest.body)))):
            scaled = _scale(found, state)
            if isinstance(scaled, str):
                context.record_statement(self.name, "scale_in_f32", nest, Exactness.BIT, scaled)
                continue
            scale, largest = scaled
            product = call("mul", *(call("cast", e, dtype=DType.F64) for e in (_real(found.value), scale)))
            low, high = (Const(float(each - found.zero), DType.F64) for each in (found.low, found.high))
            rounded = call("round", product)
            if largest <= WORD:
                rounded = call("cast", call("cast", rounded, dtype=DType.I16), dtype=DType.F64)
            nearest = call("min", call("max", rounded, low), high)
            code = call("cast", nearest, dtype=DType.I32)
            code = call("add", code, Const(found.zero, DType.I32)) if found.zero else code
            body = transform(new.body, lambda e, old=found.whole, code=code: code if e == old else e)
            changed = replace(new, body=body)
            costs = statement_cost(new, state.types), statement_cost(changed, state.types)
            context.record_statement(self.name, "scale_in_f32", nest, Exactness.BIT, None, costs)
            new = changed
        return nest if new is nest else replace(new, body=transform(new.body, lambda e: _plain(e, state)))


@dataclass(frozen=True)
class _Limited:
    """`whole` = min(max((value*multiplier + 2**(shift-1)) / 2**shift + zero, low), high)"""

    whole: Expr
    value: Expr
    multiplier: Expr
    shift: int
    zero: int
    low: int
    high: int


def _parts(e: Expr) -> list[Expr]:
    """The expression and what is in it, sums left out."""
    return [e, *(part for child in children(e) for part in _parts(child))] if not isinstance(e, Reduce) else []


def _limited(e: Expr) -> _Limited | None:
    match e:
        case Call("min", (Call("max", (inner, Const(int() as low))), Const(int() as high))) if e.dtype is DType.I32:
            pass
        case _:
            return None
    zero = 0
    match inner:
        case Call("add", (Call() as quotient, Const(int() as zero))):
            inner = quotient
        case _:
            pass
    match inner:
        case Call(
            "cast",
            (Call("floordiv", (Call("add", (Call("mul", (a, b)), Const(int() as half))), Const(int() as divisor))),),
        ):
            pass
        case _:
            return None
    factors = [f.arguments[0] for f in (a, b) if isinstance(f, Call) and f.function == "cast"]
    if len(factors) != 2 or any(f.dtype is not DType.I32 for f in factors):
        return None
    shift = divisor.bit_length() - 1
    if divisor != 1 << shift or half * 2 != divisor or max(map(abs, (low - zero, high - zero))) > LARGEST:
        return None
    return _Limited(e, factors[0], factors[1], shift, zero, low, high)


def _scale(found: _Limited, state: Integers) -> tuple[Expr, float] | str:
    """The scale in f32 and the largest magnitude of a product with it, or why there is none."""
    match found.multiplier:
        case Const(int() as number):
            multipliers = np.array(number, np.int64)
        case Read(tensor, pad=None) if (array := state.array(tensor)) is not None:
            multipliers = array.astype(np.int64)
        case _:
            return "its multiplier is not constant"
    scales = np.ldexp(multipliers.astype(np.float64), -found.shift)
    if (scales.astype(np.float32) != scales).any():
        return "a multiplier has more than 24 bits"
    largest = max(map(abs, state.bound(found.value)))
    if largest >= EXACT:
        return f"%{_name(found.value)} may be as large as {largest:.0f}"
    if (_halfway(multipliers, found.shift) <= largest).any():
        return "a product may lie halfway between two integers"
    product = largest * float(np.abs(scales).max(initial=0.0))
    if isinstance(found.multiplier, Const):
        return Const(float(scales), DType.F32), product
    assert isinstance(found.multiplier, Read)
    name = f"{found.multiplier.tensor}.scale{found.shift}"
    if name not in state.types:
        type = replace(state.types[found.multiplier.tensor], dtype=DType.F32)
        state.types[name] = type
        state.constants[name] = Constant(name, type, Data(scales.astype(np.float32)))
    return Read(name, found.multiplier.indices, DType.F32), product


def _halfway(multipliers: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.float64]:
    """The least x > 0 for which x*m is an odd multiple of 2**(shift-1): a power of two; infinite for m = 0."""
    lowest_bits = (multipliers & -multipliers).astype(np.float64)
    with np.errstate(divide="ignore"):
        least = np.ldexp(1.0, shift - 1) / lowest_bits
    return np.where(least < 1.0, np.inf, least)


def _name(e: Expr) -> str:
    return next((part.tensor for part in _parts(e) if isinstance(part, Read)), "a sum")


def _real(x: Expr) -> Expr:
    return call("cast", x, dtype=DType.F32)


def _plain(e: Expr, state: Integers) -> Expr:
    """Without casts of numbers that fit, and without a zero that is added and taken away."""
    match e:
        case Call("cast", (Call("cast", (inner,)) as code,)) if (
            e.dtype is inner.dtype is DType.I32 and code.dtype.is_integer and state.bound(code) == state.bound(inner)
        ):
            return inner
        case Call("sub", (Call("add", (inner, Const(int() as a))), Const(int() as b))) if a == b:
            return inner if e.dtype is DType.I32 else e
        case _:
            return e
