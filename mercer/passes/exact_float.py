"""Sums of integer products in floating point, where that is exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mercer.ir.index import Call, Const, Expr, Index, Read, Reduce, Reducer, call, reads, walk
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.packed import packed_factors
from mercer.ir.types import DType
from mercer.passes.integer_bounds import ARITHMETIC, Integers, exchange_sums, too_few_terms
from mercer.passes.integer_products import convolution_of
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext

EXACT = 1 << 24
"""Integers up to this magnitude are float32 numbers, and so are their sums and products as long as they stay below."""


@dataclass(frozen=True)
class ExactFloat(Pass):
    """cast:i32(sum of f32) for a sum of i32 whose terms, and whose every partial sum in any order, stay below 2**24.

    Needs Nests, best before `fuse`. Vector units multiply and add floats in one instruction and have no such
    instruction for 32-bit integers. The bound of a sum of products with constants is that of the constants' values.
    Class: bit. A sum of fewer than `min_terms` terms is left alone. Of sums of products that will not be faster than
    those of real numbers, the ledger says so: `faster_than_f32` is refused.
    """

    name: ClassVar[str] = "exact_float"
    level: ClassVar[Level] = Level.NESTS
    min_terms: int = 4

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        state = _Sums(nests)

        def attempt(nest: Nest, e: Reduce) -> Expr | str:
            reason = self._obstacle(e, state)
            if slow := _slow(nest, e, reason, state):
                context.record_statement(self.name, "faster_than_f32", nest, Exactness.BIT, slow)
            return reason or call("cast", Reduce(Reducer.SUM, e.axes, state.real(e.body)), dtype=DType.I32)

        def record(statement: Statement, reason: str | None, costs: tuple[Cost, Cost] | None) -> None:
            context.record_statement(self.name, "sum_in_f32", statement, Exactness.BIT, reason, costs)

        return exchange_sums(nests, state, attempt, record)

    def _obstacle(self, e: Reduce, state: _Sums) -> str | None:
        if few := too_few_terms(e, self.min_terms):
            return few
        if packed := packed_factors(e.body):
            return f"its products are those of {packed[0].dtype}"
        if any(read.dtype is DType.I16 for read in reads(e.body)):
            return "its products are those of i16"
        if not state.is_polynomial(e.body):
            return "its terms are not sums and products of tensors"
        largest = state.largest_sum(e)
        return None if largest < EXACT else f"a partial sum may reach {largest:.0f}, which f32 rounds"


def _slow(nest: Nest, e: Reduce, reason: str | None, state: Integers) -> str | None:
    """Why a sum of integer products will take as long as one of f32, or longer; `reason` is why it is none."""
    if not any(isinstance(part, Call) and part.function == "mul" for part in walk(e.body)):
        return None
    if reason is None:
        return "its products are those of f32"
    packed = packed_factors(e.body)
    if packed is None:
        return f"its products are those of i32: {reason}"
    constants = {read.tensor for read in packed if state.array(read.tensor) is not None}
    found = convolution_of(nest, e, constants, state)
    if found is None or found.channels > 1:
        return None
    row = found.windows[-1]
    if packed[0].dtype is DType.I16 and row.stride == 1 and row.size <= 3:
        return f"pairs in its rows of {row.size} taps take as many instructions as f32"
    return None


@dataclass
class _Sums(Integers):
    """The sums over these tensors, in f32 too."""

    def is_polynomial(self, e: Expr) -> bool:
        match e:
            case Const() | Read():
                return True
            case Call("cast", (Read(),)):
                return e.dtype.is_integer
            case Call(function, arguments):
                return function in ARITHMETIC and all(map(self.is_polynomial, arguments))
            case _:
                return False

    def real(self, e: Expr) -> Expr:
        """The same value in f32."""
        match e:
            case Const(number):
                return _real(number)
            case Read() | Call("cast", (Read(),)):
                read = e if isinstance(e, Read) else e.arguments[0]
                assert isinstance(read, Read)
                pad = None if read.pad is None else _real(read.pad.number)
                return Read(self.copy(read.tensor, DType.F32, "real"), read.indices, DType.F32, pad)
            case Call(function, arguments):
                return call(function, *map(self.real, arguments))
            case Index() | Reduce():
                raise AssertionError("not a polynomial")


def _real(number: float | int | bool | complex) -> Const:
    assert not isinstance(number, complex)
    return Const(float(number), DType.F32)
