"""Sums of integer products in 16 bits, where vector units multiply pairs of such numbers and add them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mercer.ir.index import Call, Const, Expr, Read, Reduce, Reducer, call, computed, reads, variables, walk
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType
from mercer.passes.integer_bounds import Integers, too_few_terms
from mercer.passes.integer_products import convolution_of, exchange_products, lies_in_groups, lies_in_rows, plain_read
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext

LOWEST, HIGHEST = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class Narrow(Pass):
    """sum(cast:i32(a) * cast:i32(b)) of i16 copies for a sum of products of i32 with constants, both within 16 bits.

    Needs Nests, best before `exact_float` and `fuse`. One instruction multiplies the pairs of two vectors of i16 and
    adds neighbours to i32, twice as many products as one of f32 has; it is modulo 2**32 what the sum of i32 is. Pairs
    lie along an axis of the sum: that along which the tensor lies in memory, for at least `min_lanes` outputs each, or
    the channels of a convolution or of samples of i16, or the rows of the windows of a convolution that takes each
    channel by itself, which have at most `max_taps` terms. Class: bit. A sum of fewer than `min_terms` terms is left
    alone.
    """

    name: ClassVar[str] = "narrow"
    level: ClassVar[Level] = Level.NESTS
    min_terms: int = 8
    min_lanes: int = 8
    max_taps: int = 64

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        state = Integers(nests)

        def attempt(nest: Nest, e: Reduce, data: Read, weight: Read) -> Expr | str:
            return self._obstacle(nest, e, data, weight, state) or _narrowed(e, state)

        def record(statement: Statement, reason: str | None, costs: tuple[Cost, Cost] | None) -> None:
            context.record_statement(self.name, "products_of_i16", statement, Exactness.BIT, reason, costs)

        return exchange_products(nests, state, attempt, record)

    def _obstacle(self, nest: Nest, e: Reduce, data: Read, weight: Read, state: Integers) -> str | None:
        if few := too_few_terms(e, self.min_terms):
            return few
        for read in (data, weight):
            low, high = state.bound(read)
            if low <= LOWEST or high > HIGHEST:  # (-2**15)**2 + (-2**15)**2 is no i32
                return f"%{read.tensor} may be as large as {max(-low, high):.0f}"
        if lies_in_groups(2, nest, e, (data, weight), state.types[data.tensor], self.min_lanes):
            return None
        return None if self._is_sampled(nest, data, weight, state) else self._no_convolution(nest, e, weight, state)

    def _is_sampled(self, nest: Nest, data: Read, weight: Read, state: Integers) -> bool:
        """Whether samples of i16, whose channels can lie in pairs, are multiplied by the weights of many outputs."""
        outputs = [axis for axis in nest.axes if axis.name in variables(weight) - variables(data)]
        wide = any(axis.extent.is_constant and axis.extent.value >= self.min_lanes for axis in outputs)
        return wide and data.pad is None and _has_samples(data.tensor, state)

    def _no_convolution(self, nest: Nest, e: Reduce, weight: Read, state: Integers) -> str | None:
        """None for a convolution of several channels of many pixels, or of each by itself with pairs in its rows."""
        found = convolution_of(nest, e, {weight.tensor}, state)
        if found is not None and found.channels > 1 and found.pixels >= self.min_lanes:
            return None
        has_pairs = found is not None and lies_in_rows(found, self.max_taps)
        return None if has_pairs else "its products have no pairs"


def _has_samples(tensor: str, state: Integers) -> bool:
    """Whether it is made element by element of i16 at computed positions."""
    definition = state.definitions.get(tensor)
    if not isinstance(definition, Nest) or any(isinstance(e, Reduce) for e in walk(definition.body)):
        return False
    used = list(reads(definition.body))
    if any(read.dtype is DType.I16 and computed(index) for read in used for index in read.indices):
        return True
    return any(_has_samples(read.tensor, state) for read in used if read.dtype is DType.I32)


def _narrowed(e: Reduce, state: Integers) -> Expr:
    assert isinstance(e.body, Call)
    factors = [_wide(read, state) for read in map(plain_read, e.body.arguments) if read is not None]
    return Reduce(Reducer.SUM, e.axes, call("mul", *factors))


def _wide(read: Read, state: Integers) -> Expr:
    """The same number by way of i16."""
    pad = None if read.pad is None else Const(read.pad.number, DType.I16)
    return call("cast", Read(state.copy(read.tensor, DType.I16), read.indices, DType.I16, pad), dtype=DType.I32)
