"""Samples of 16-bit integers, blended and multiplied by a matrix as words: pairs of products, added in 32 bits.

The sums of the terms of two vectors of channels come in the order in which a vector unit interleaves them, in pieces of
`PIECE` channels; the rows of the packed matrix are in that order too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.analysis import free
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules.common import operations, unravel
from mercer.backends.tvm.schedules.gather_kernel import SAMPLES, VECTORS, Kernel, Points
from mercer.backends.tvm.schedules.sample_terms import BLEND
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Read
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.types import Array, DType

PIECE = 8
"""Channels of 128 bits."""


@dataclass(frozen=True)
class WordKernel(Kernel):
    """A sample has words of two channels; `width` channels, two vectors of words, are blended at a time."""

    element: ClassVar[str] = "int32"

    @property
    def depth(self) -> int:
        return -(-self.samples.channel.extent.value // self.width) * self.width // 2

    @property
    def rows_of_tap(self) -> int:
        return self.depth

    @property
    def cost(self) -> float:
        found, points, lanes = self.samples, self.tile * self.taps, self.target.lanes
        assert found.sample is not None
        cycles = points * self.depth / lanes * (4 * len(found.terms) + 2 * operations(found.sample))
        cycles += points * self.depth * self.breadth / lanes
        cycles += self.tile * self.breadth * operations(found.nest.body) / lanes / 4
        return 0.4 * cycles

    def added(self, total: TirExpr, sample: TirExpr, row: TirExpr) -> TirExpr:
        return words.add(total, words.dot(sample, row))

    def weight(self, scope: Scope, k: int) -> TirExpr | None:
        """The word of the weights of terms k and k + 1."""
        if k % 2:
            return None
        low, *high = (vm.cast(scope.value(*term.weights), "int32") for term in self.samples.terms[k : k + 2])
        word = low & vm.const(low, 0xFFFF)
        return word | (high[0] << vm.const(high[0], 16)) if high else word

    def gathered(self, scope: Scope, points: Points, first: TirExpr, some: TirExpr) -> None:
        """Samples at some of the taps: [pixel, tap, word]."""
        found, vectors = self.samples, 2 * self.depth // self.width
        with T.serial(int64(0), int64(points.pixels)) as pixel:
            with T.serial(int64(0), some) as tap:
                places = unravel(scope, found.taps, first + tap)
                here = scope.inside((found.pixel, *found.taps), (points.start + pixel, *places))
                row = T.bind((pixel * int64(self.together) + tap) * int64(self.depth))
                start = here.inside([found.channel], [int64(0)])
                begins = [
                    T.bind(points.place(start, k, pixel) + start.integer(points.uniform[k]))
                    for k in range(len(found.terms))
                ]
                weights = [vm.let(points.weight(here, k, pixel)) for k in range(0, len(found.terms), 2)]
                assert found.sample is not None
                here.hoist(found.sample)
                if vectors <= VECTORS:
                    for v in range(vectors):
                        self._blended(here, begins, weights, row, int64(v * self.width))
                else:
                    with T.serial(int64(0), int64(vectors)) as v:
                        self._blended(here, begins, weights, row, T.bind(v * int64(self.width)))

    def _blended(
        self, scope: Scope, begins: list[TirExpr], weights: list[TirExpr], row: TirExpr, first: TirExpr
    ) -> None:
        """The words of `width` channels of a sample."""
        found, lanes = self.samples, self.width // 2
        assert found.sample is not None
        codes = [
            vm.kept(scope.tensors[term.sample.tensor].buffer[T.ramp(begin + first, 1, self.width)])
            for term, begin in zip(found.terms, begins, strict=True)
        ]
        if len(codes) % 2:
            codes.append(vm.const(codes[0], 0))
        halves: list[TirExpr] = []
        for half in (0, PIECE // 2):
            order = [
                piece + half + k + which
                for piece in range(0, self.width, PIECE)
                for k in range(PIECE // 2)
                for which in (0, self.width)
            ]
            total: TirExpr = None
            for word, pair in zip(weights, zip(codes[::2], codes[1::2], strict=True), strict=True):
                both = tirx.reinterpret(f"int32x{lanes}", tirx.Shuffle(list(pair), order))
                part = vm.kept(words.dot(vm.kept(both), vm.broadcast(word, lanes)))
                total = part if total is None else vm.kept(words.add(total, part))
            limits = ZERO, found.channel.extent - 1
            at = replace(scope, done={}, outer=scope).vector(found.channel.name, first, lanes, limits)
            blend = Read(BLEND, (IntExpr.var(found.channel.name),), DType.I32)
            at.done[at.key(blend, free(blend))] = total
            halves.append(at.value(found.sample))
        low, high = halves
        word = (low & vm.const(low, 0xFFFF)) | (high << vm.const(high, 16))
        place = T.ramp(row + T.truncdiv(first, int64(2)), 1, lanes)
        T.buffer_store(self.own(scope, SAMPLES), word, [place])


def packed(matrix: Array, width: int) -> Array:
    """Words of a matrix of i16 [..., channels, columns], with zeros up to whole groups of `width` channels."""
    *outer, channels, columns = matrix.shape
    filled = np.pad(matrix, [(0, 0)] * len(outer) + [(0, -channels % width), (0, 0)])
    pieces = filled.reshape(*outer, -1, 2, PIECE // 2, columns)
    pairs = np.ascontiguousarray(np.moveaxis(pieces, -3, -1), "<i2")
    return pairs.view("<i4").reshape(*outer, -1, columns)
