"""Sums of integer products in bytes, where vector units multiply four pairs of them and add the products."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Const, Expr, Read, Reduce, Reducer, call, variables
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.packed import BYTES_FEATURE, SIGN
from mercer.ir.types import Data, DType, TensorType
from mercer.passes.integer_bounds import Integers, too_few_terms
from mercer.passes.integer_products import convolution_of, exchange_products, lies_in_groups, lies_in_rows
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.winograd import beats_bytes

BYTES = 255
"""The largest number of a byte without a sign."""


@dataclass(frozen=True)
class NarrowBytes(Pass):
    """sum((cast:i32(a) + 128) * cast:i32(b)) + c of i8 for a sum of products of i32 with constants of 8 bits.

    Needs Nests, best before `narrow`, and a CPU that multiplies bytes (VNNI): one instruction multiplies four pairs and
    adds them to i32, twice as many as of i16. One factor of it has no sign, so that a tensor is stored as the distance
    to its least number, less 128; what is missing then is c, the least number times the sum of the constants. Modulo
    2**32 it is the sum of i32. Fours lie along an axis of the sum: that along which the tensor lies in memory, for at
    least `min_lanes` outputs each, or the channels of a convolution. What Winograd's algorithm computes faster in
    i16 is left to it. Class: bit. A sum of fewer than `min_terms` terms is left alone.
    """

    name: ClassVar[str] = "narrow_bytes"
    level: ClassVar[Level] = Level.NESTS
    min_terms: int = 16
    min_lanes: int = 16
    max_taps: int = 64

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        if BYTES_FEATURE not in context.features:
            return nests
        state = Integers(nests)

        def attempt(nest: Nest, e: Reduce, data: Read, weight: Read) -> Expr | str:
            least = _least(data, weight, state)
            if isinstance(least, str):
                return least
            return self._obstacle(nest, e, data, weight, state) or _narrowed(nest, e, data, weight, least, state)

        def record(statement: Statement, reason: str | None, costs: tuple[Cost, Cost] | None) -> None:
            context.record_statement(self.name, "products_of_bytes", statement, Exactness.BIT, reason, costs)

        return exchange_products(nests, state, attempt, record)

    def _obstacle(self, nest: Nest, e: Reduce, data: Read, weight: Read, state: Integers) -> str | None:
        found = convolution_of(nest, e, {weight.tensor}, state)
        if found is not None and lies_in_rows(found, self.max_taps):
            return None
        if few := too_few_terms(e, self.min_terms, _outputs(nest, weight)):
            return few
        if lies_in_groups(4, nest, e, (data, weight), state.types[data.tensor], self.min_lanes):
            return None
        if found is None or found.channels < 3 or found.pixels < self.min_lanes:
            return "its products have no fours"
        if beats_bytes(found, state):
            return "pairs in Winograd's algorithm take less time"
        return None


def _least(data: Read, weight: Read, state: Integers) -> int | str:
    """The number that is stored as -128: 0 or what needs no arithmetic, where it can be."""
    low, high = state.bound(weight)
    if low < -SIGN or high >= SIGN:
        return f"%{weight.tensor} may be as large as {max(-low, high):.0f}"
    low, high = state.bound(data)
    if high - low > BYTES:
        return f"%{data.tensor} may be as large as {max(-low, high):.0f}"
    return next((n for n in (0, -SIGN) if high - BYTES <= n <= low), int(low))


def _narrowed(nest: Nest, e: Reduce, data: Read, weight: Read, least: int, state: Integers) -> Expr:
    shift = least + SIGN
    pad = None if data.pad is None else Const(int(data.pad.number.real) - shift, DType.I8)
    stored = Read(state.copy(data.tensor, DType.I8, less=shift), data.indices, DType.I8, pad)
    byte = call("add", call("cast", stored, dtype=DType.I32), Const(SIGN, DType.I32))
    factor = Read(state.copy(weight.tensor, DType.I8), weight.indices, DType.I8)
    total = Reduce(Reducer.SUM, e.axes, call("mul", byte, call("cast", factor, dtype=DType.I32)))
    return call("add", total, _missing(nest, e, weight, least, state)) if least else total


def _outputs(nest: Nest, weight: Read) -> tuple[Axis, ...]:
    """The axes of results that have weights of their own."""
    return tuple(axis for axis in nest.axes if axis.name in variables(weight))


def _missing(nest: Nest, e: Reduce, weight: Read, least: int, state: Integers) -> Expr:
    """The least number times the sum of the weights, for each output that has weights of its own."""
    axes = _outputs(nest, weight)
    wide = weight if weight.dtype is DType.I32 else call("cast", weight, dtype=DType.I32)
    body = call("mul", Reduce(Reducer.SUM, e.axes, wide), Const(least, DType.I32))
    name = next(n for k in itertools.count() if (n := f"{nest.target}.missing{k or ''}") not in state.types)
    type = TensorType(DType.I32, tuple(axis.extent for axis in axes))
    state.types[name] = type
    state.definitions[name] = Nest(name, type, axes, body, nest.origins)
    array = state.array(name)
    assert array is not None
    state.constants[name] = Constant(name, type, Data(array))
    return Read(name, tuple(IntExpr.var(axis.name) for axis in axes), DType.I32)
