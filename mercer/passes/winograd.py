"""Which convolutions are computed by Winograd's algorithm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.convolution import FEW_PIXELS, Convolution, is_integer, recognize
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import extent, statement_cost
from mercer.passes.fuse import has_reduction
from mercer.passes.integer_bounds import Integers
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext

LANES = 8
"""Of the vectors for which costs are compared."""

CACHE = 1 << 18
"""Bytes of weights that stay in the second cache."""

ARRIVING = 8.0
"""Bytes of other weights that arrive in the time of a pair of vector multiply-adds."""


@dataclass(frozen=True)
class Winograd(Pass):
    """Marks convolutions with windows of 3 x 3 and stride 1 as `winograd4` or `winograd2`.

    Needs Nests, gives the same Nests, with an `algorithm` that a backend may follow: F(4x4, 3x3) takes 36 products in
    place of 144, F(2x2, 3x3) 16 in place of 36, and both add transforms and have more weights to read. The cheaper one
    is taken if it saves at least the part `saving`. Last of all, since what changes a nest may change whether it pays.
    Class: real. In f32 the error of F(4x4, 3x3) is about 1e-5 of the largest output, that of F(2x2, 3x3) and of the
    plain sum about 1e-6; `largest=2` leaves F(4x4, 3x3) out, `smallest=4` F(2x2, 3x3). Of products of i16 the class is
    bit: a multiple of each sum is computed modulo 2**32, where the transformed numbers and that multiple are known to
    be small enough.
    """

    name: ClassVar[str] = "winograd"
    level: ClassVar[Level] = Level.NESTS
    source: ClassVar[str] = "Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016"
    smallest: int = 2
    largest: int = 4
    saving: float = 0.2

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        constants = {constant.name for constant in nests.constants}
        known = Integers(nests)
        statements: list[Statement] = []
        for statement in nests.statements:
            if isinstance(statement, Nest) and has_reduction(statement.body):
                statement = self._marked(statement, types, constants, known, context)
            statements.append(statement)
        return replace(nests, statements=tuple(statements))

    def _marked(
        self,
        nest: Nest,
        types: Mapping[str, TensorType],
        constants: set[str],
        known: Integers,
        context: PassContext,
    ) -> Nest:
        start = time.perf_counter()
        found = recognize(nest, types, constants)
        if isinstance(found, str):
            found = recognize(nest, types, constants, DType.I32)
        if isinstance(found, str) or found.taps == 1:
            return nest
        reason, best = _obstacle(found), 0
        if not reason:
            allowed = [m for m in (2, 4) if self.smallest <= m <= self.largest]
            sizes = [m for m in allowed if not found.is_integer or _is_exact(found, m, known)]
            best = min(sizes, key=lambda m: _time(found, m), default=0)
            reason = None if sizes else "its integers are too large"
            saved = 1 - _time(found, best) / _time(found, 0) if best else 0.0
            if sizes and saved < self.saving:
                reason = f"it would take {1 - saved:.0%} of the time"
        before = statement_cost(nest, types)
        costs = None if reason else (before, before + _change(found, best))
        seconds = time.perf_counter() - start
        kept = Exactness.BIT if found.is_integer else Exactness.REAL
        context.record_statement(self.name, f"winograd{best or 4}", nest, kept, reason, costs, seconds)
        return nest if reason else replace(nest, algorithm=f"winograd{best}")


def _obstacle(convolution: Convolution) -> str | None:
    if not convolution.is_integer and is_integer(convolution.nest.body):
        return "its sums are integers, which it would round"
    if convolution.dtype is DType.I8:
        return "its products are those of bytes"
    if len(convolution.windows) != 2 or any(window.size != 3 for window in convolution.windows):
        return f"a window of {' x '.join(str(window.size) for window in convolution.windows)}"
    if any(window.stride != 1 or window.dilation != 1 for window in convolution.windows):
        return "a stride or dilation over 1"
    if any(not 0 <= window.pad <= 2 for window in convolution.windows):
        return "padding beyond the window"
    if convolution.is_integer and convolution.channels % 2:
        return "an odd number of channels"
    if convolution.groups > 1:
        return "groups of channels"
    if min(convolution.channels, convolution.outputs) < LANES:
        return f"fewer than {LANES} channels"
    return None


def _is_exact(convolution: Convolution, m: int, known: Integers) -> bool:
    """Whether transformed inputs and weights have 16 bits, and the multiples of sums that are divided 32.

    The rows of the transforms add to at most 2 and 10 in magnitude for inputs, 3 and 7 for weights; the sums are
    multiplied by 4 and 64 beside what has an inverse modulo 2**32.
    """
    inputs, weights, multiple = {2: (2, 3, 4), 4: (10, 7, 64)}[m]
    largest = [max(map(abs, known.interval(name))) for name in (convolution.data, convolution.weight)]
    narrow = all(each * rows**2 < 2**15 for each, rows in zip(largest, (inputs, weights), strict=True))
    return narrow and known.largest_sum(convolution.reduce) * multiple < 2**31


def beats_bytes(convolution: Convolution, known: Integers) -> bool:
    """Whether products of i16 in Winograd's algorithm take less time than those of bytes in the plain sum."""
    pairs, fours = replace(convolution, dtype=DType.I16), replace(convolution, dtype=DType.I8)
    sizes = [m for m in (2, 4) if not _obstacle(pairs) and _is_exact(pairs, m, known)]
    return any(_time(pairs, m) < _time(fours, 0) for m in sizes)


def _tiles(convolution: Convolution, m: int) -> int:
    """Of all images, with one for a symbolic batch."""
    vertical, horizontal = convolution.windows
    return extent(convolution.batch.extent) * -(-vertical.outputs // m) * -(-horizontal.outputs // m)


def _transforms(m: int) -> int:
    """Additions and multiplications of one tile of inputs, and as many of one tile of outputs."""
    return {2: 32, 4: 144}[m]


def _time(convolution: Convolution, m: int) -> float:
    """In pairs of vector multiply-adds, of F(m x m, 3 x 3), or of the plain sum for m = 0.

    Products and the arrival of weights overlap for the most part.
    """
    pairs = convolution.channels * convolution.outputs
    if m == 0:
        products = extent(convolution.batch.extent) * convolution.products
        places, transforms = 9, 0.0
    else:
        tiles, places = _tiles(convolution, m), (m + 2) ** 2
        products = -(-tiles // 4) * 4 * places * pairs
        transforms = 1.5 * tiles * (convolution.channels + convolution.outputs) / LANES * _transforms(m)
    if convolution.dtype is DType.I8:  # vectors along channels compute nothing twice
        products, pairs = products * (5 if convolution.pixels <= FEW_PIXELS else 6) // 20, pairs / 4
    elif convolution.is_integer:  # two of them in 1.25 times the time
        products, pairs = products * 5 // 8, pairs / 2
    computed, arriving = products / (2 * LANES), max(0, 4 * places * pairs - CACHE) / ARRIVING
    return max(computed, arriving) + 0.3 * min(computed, arriving) + transforms


def _change(convolution: Convolution, m: int) -> Cost:
    """What F(m x m, 3 x 3) costs more than the plain sum: operations, and bytes of weights."""
    pairs, tiles = convolution.channels * convolution.outputs, _tiles(convolution, m)
    plain = 2 * extent(convolution.batch.extent) * convolution.products
    ours = 2 * tiles * (m + 2) ** 2 * pairs + tiles * (convolution.channels + convolution.outputs) * _transforms(m)
    return Cost(ours - plain, 4 * pairs * ((m + 2) ** 2 - 9))
