"""The code of a nest that samples at computed positions, phase after phase for a tile of pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free, free_in_atom, is_computed, stride
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.schedules.common import operations, ravel, size, unravel, volume
from mercer.backends.tvm.schedules.sample_terms import product
from mercer.backends.tvm.schedules.samples import Samples
from mercer.backends.tvm.schedules.transpose import turned
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Expr, computed, reads
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.types import DType, TensorType

VECTORS = 8
"""Sums of one pixel that stay in registers."""

DEEP = 192
"""Channels of all taps whose samples are multiplied at once: sums then seldom leave registers."""

PLACES, WEIGHTS, SAMPLES, RESULT = "gather.places", "gather.weights", "gather.samples", "gather.result"
"""Memory of a thread."""

SCRATCH = 48 << 10
"""Bytes of positions and weights of a tile."""


@dataclass(frozen=True)
class Kernel:
    """Samples in vectors of `width` channels; with a matrix, in blocks of `columns`.

    A tile goes through `block` taps of the first axis at a time, whose part of the data stays in cache; 0: all at once.
    """

    element: ClassVar[str] = "float32"
    """Of the sums."""

    samples: Samples
    target: Target
    width: int
    columns: int
    block: int

    def __str__(self) -> str:
        found = self.samples
        taps = " x ".join(str(tap.extent) for tap in found.taps) or "1"
        product = f", times a matrix by {self.rows} pixels x {self.columns}" if found.matrix is not None else ""
        return (
            f"tiles of {self.tile} {found.pixel.name}, {taps} taps of {len(found.terms)} samples, "
            f"vectors of {self.width} {found.channel.name}{product}"
        )

    # --- sizes --------------------------------------------------------------------------------------------------------

    @property
    def taps(self) -> int:
        return volume(self.samples.taps)

    @property
    def depth(self) -> int:
        """Channels, filled up to whole vectors."""
        return -(-self.samples.channel.extent.value // self.width) * self.width

    @property
    def rows_of_tap(self) -> int:
        """Rows of the packed matrix for one tap."""
        return self.samples.channel.extent.value

    @property
    def breadth(self) -> int:
        """Results of a pixel, filled up."""
        if self.samples.matrix is None:
            return self.depth
        return -(-self.samples.result.extent.value // self.columns) * self.columns

    @property
    def lanes(self) -> int:
        """Of the product with the matrix."""
        return min(self.target.lanes, self.columns)

    @property
    def rows(self) -> int:
        """Pixels of the register tile of the product with the matrix."""
        return 12 * self.target.registers // 16 // (self.columns // self.lanes)

    @property
    def together(self) -> int:
        """Taps whose samples are multiplied at once."""
        return max(1, min(self.taps, DEEP // self.depth))

    @property
    def tile(self) -> int:
        """Pixels of a tile."""
        lanes = self.target.lanes
        if self.samples.matrix is not None:
            most = math.lcm(self.rows, lanes)
        else:
            most = max(lanes, min(32, SCRATCH // (8 * self.taps * len(self.samples.terms)) // lanes * lanes))
        extent = self.samples.pixel.extent
        return min(most, extent.value) if extent.is_constant else most

    @property
    def outer(self) -> tuple[Axis, ...]:
        """The axes around a tile, the last one that of the tiles; a symbolic plane ends with single pixels."""
        extent = self.samples.pixel.extent
        whole, rest = extent // self.tile, extent % self.tile
        tiles = IntExpr.constant(-(-extent.value // self.tile)) if extent.is_constant else whole + rest
        return (*self.samples.outer, Axis("tile", tiles))

    @property
    def cost(self) -> float:
        found = self.samples
        weights = sum(operations(product((*term.weights, *term.vectors))) + 8 for term in found.terms)
        points = self.tile * self.taps
        cycles = points * (weights / self.target.lanes + len(found.terms) * self.depth / self.width)
        if found.matrix is not None:
            cycles += points * self.depth * self.breadth / self.target.lanes / 2
        cycles += self.tile * self.breadth * operations(found.nest.body) / self.target.lanes / 4
        return 0.4 * cycles

    @property
    def workspace(self) -> tuple[Operand, ...]:
        points = self.tile * self.taps * len(self.samples.terms)
        sizes = {PLACES: points, WEIGHTS: points, RESULT: self.tile * self.breadth}
        if self.samples.matrix is not None:
            sizes[SAMPLES] = self.tile * self.together * self.depth
        dtypes = {PLACES: DType.I32}
        sums = DType.F32 if self.element == "float32" else DType.I32
        return tuple(
            Operand(name, TensorType(dtypes.get(name, sums), (IntExpr.constant(n),))) for name, n in sizes.items()
        )

    def own(self, scope: Scope, name: str) -> Any:
        """Memory of the thread."""
        return scope.tensors[name].buffer

    # --- phases -------------------------------------------------------------------------------------------------------

    def emit(self, scope: Scope, unit: TirExpr) -> None:
        *outer, number = unravel(scope, self.outer, unit)
        scope = replace(scope.inside(self.samples.outer, outer), offsets={})
        extent = self.samples.pixel.extent
        if extent.is_constant:
            start = T.min(number * int64(self.tile), int64(extent.value - self.tile))
            self._tile(scope, T.bind(start), self.tile)
            return
        whole = T.bind(scope.integer(extent // self.tile))
        with T.If(number < whole):
            with T.Then():
                self._tile(replace(scope, done={}, outer=scope), T.bind(number * int64(self.tile)), self.tile)
            with T.Else():
                single = T.bind(number + whole * int64(self.tile - 1))
                self._tile(replace(scope, done={}, outer=scope), single, 1)

    def _tile(self, scope: Scope, start: TirExpr, pixels: int) -> None:
        found = self.samples
        points = Points(self, start, pixels)
        points.fill(scope)
        if found.matrix is None:
            self._sums(scope, points)
        else:
            self._multiplied(scope, points)
        if found.channels_last:
            self._finish(scope, start, pixels)
        else:
            self._finish_turned(scope, start, pixels)

    def _sums(self, scope: Scope, points: Points) -> None:
        """The sum over all taps for every channel of a pixel, in registers for a block of taps at a time."""
        taps = self.samples.taps
        if not self.block:
            self._sums_over(scope, points, taps, None)
            return
        self._clear(scope, points)
        extent = taps[0].extent.value
        with T.serial(int64(0), int64(-(-extent // self.block))) as i:
            first = T.bind(i * int64(self.block))
            self._sums_over(scope, points, taps, (first, T.bind(T.min(first + int64(self.block), int64(extent)))))

    def _sums_over(
        self, scope: Scope, points: Points, taps: Sequence[Axis], part: tuple[TirExpr, TirExpr] | None
    ) -> None:
        """With a `part` of the first tap axis, its sums are added to the result; without one they are the result."""
        result, everything = self.own(scope, RESULT), vm.whole(self.width)
        whole, rest = divmod(self.depth // self.width, VECTORS)

        def block(scope: Scope, first: TirExpr, vectors: int, pixel: TirExpr) -> None:
            totals = [vm.registers(self.width, self.element) for _ in range(vectors)]
            corner = T.bind(pixel * int64(self.depth) + first)
            places = [T.ramp(corner + int64(k * self.width), 1, self.width) for k in range(vectors)]
            for total, place in zip(totals, places, strict=True):
                start = vm.broadcast(tirx.const(0, self.element), self.width) if part is None else result[place]
                T.buffer_store(total, start, [everything])

            def tap(inside: Scope) -> None:
                values = self._sampled(inside, points, pixel, first, [total[everything] for total in totals])
                for total, value in zip(totals, values, strict=True):
                    T.buffer_store(total, value, [everything])

            if part is None:
                loops(scope, taps, tap)
            else:
                with T.serial(*part) as i:
                    loops(scope.inside(taps[:1], [i]), taps[1:], tap)
            for total, place in zip(totals, places, strict=True):
                T.buffer_store(result, total[everything], [place])

        with T.serial(int64(0), int64(points.pixels)) as pixel:
            here = scope.inside([self.samples.pixel], [points.start + pixel])
            if whole:
                with T.serial(int64(0), int64(whole)) as i:
                    first = T.bind(i * int64(VECTORS * self.width))
                    block(replace(here, done={}, outer=here), first, VECTORS, pixel)
            if rest:
                block(here, int64(whole * VECTORS * self.width), rest, pixel)

    def _clear(self, scope: Scope, points: Points) -> None:
        result, width = self.own(scope, RESULT), self.lanes if self.columns else self.width
        with T.serial(int64(0), int64(points.pixels * self.breadth // width)) as i:
            T.buffer_store(
                result, vm.broadcast(tirx.const(0, self.element), width), [T.ramp(i * int64(width), 1, width)]
            )

    def _multiplied(self, scope: Scope, points: Points) -> None:
        """The samples of some taps, and their products with the matrix added to the result, until all taps are done."""
        self._clear(scope, points)
        with T.serial(int64(0), int64(-(-self.taps // self.together))) as group:
            first = T.bind(group * int64(self.together))
            some = T.bind(T.min(int64(self.taps) - first, int64(self.together)))
            self.gathered(scope, points, first, some)
            self._product(scope, points.pixels, first, some)

    def gathered(self, scope: Scope, points: Points, first: TirExpr, some: TirExpr) -> None:
        """Samples at some of the taps: [pixel, tap, channel]."""
        samples, vectors = self.own(scope, SAMPLES), self.depth // self.width
        with T.serial(int64(0), int64(points.pixels)) as pixel:
            with T.serial(int64(0), some) as tap:
                places = unravel(scope, self.samples.taps, first + tap)
                here = scope.inside((self.samples.pixel, *self.samples.taps), (points.start + pixel, *places))
                row = T.bind((pixel * int64(self.together) + tap) * int64(self.depth))
                for start in range(0, vectors, VECTORS):
                    count = min(VECTORS, vectors - start)
                    nothing = [None] * count
                    values = self._sampled(here, points, pixel, int64(start * self.width), nothing)
                    for k, value in enumerate(values, start):
                        place = T.ramp(row + int64(k * self.width), 1, self.width)
                        T.buffer_store(samples, value, [place])

    def _sampled(
        self, scope: Scope, points: Points, pixel: TirExpr, first: TirExpr, totals: Sequence[TirExpr | None]
    ) -> list[TirExpr]:
        """The sum over the terms at one tap of a pixel on top of `totals`, for consecutive vectors of channels."""
        found = self.samples
        by_vectors: dict[tuple[Expr, ...], list[int]] = {}
        for k, term in enumerate(found.terms):
            by_vectors.setdefault(term.vectors, []).append(k)
        scope = scope.inside([found.channel], [first])
        begins = [
            T.bind(points.place(scope, k, pixel) + scope.integer(points.uniform[k])) for k in range(len(found.terms))
        ]
        weights = [vm.let(points.weight(scope, k, pixel)) for k in range(len(found.terms))]
        sums: list[TirExpr] = []
        for v, total in enumerate(totals):
            for factors, numbers in by_vectors.items():
                part: TirExpr = None if factors else total
                for k in numbers:
                    data = scope.tensors[found.terms[k].sample.tensor].buffer
                    value = data[T.ramp(begins[k] + int64(v * self.width), 1, self.width)]
                    value = value * vm.broadcast(weights[k], self.width)
                    part = value if part is None else part + value
                if factors:
                    limits = ZERO, found.channel.extent - 1
                    at = replace(scope, done={}, outer=scope.outer)
                    at = at.vector(found.channel.name, first + int64(v * self.width), self.width, limits)
                    part = vm.let(part) * vm.broadcast(at.value(product(factors)), self.width)
                    part = part if total is None else total + part
                total = part
            sums.append(total)
        return sums

    def _product(self, scope: Scope, pixels: int, first: TirExpr, some: TirExpr) -> None:
        """Samples at some of the taps times their part of the matrix, added to the result: [pixel, column]."""
        found, width = self.samples, self.lanes
        assert found.matrix is not None
        channels, data = self.rows_of_tap, scope.tensors[found.matrix.tensor].buffer
        samples, result = self.own(scope, SAMPLES), self.own(scope, RESULT)
        vectors, stride = self.columns // width, self.together * self.depth
        whole = vm.whole(width)

        def tile(block: TirExpr, top: TirExpr, rows: int) -> None:
            totals = [[vm.registers(width, self.element) for _ in range(vectors)] for _ in range(rows)]
            corner = T.bind(top * int64(self.breadth) + block * int64(self.columns))
            places = [
                [T.ramp(corner + int64(r * self.breadth + v * width), 1, width) for v in range(vectors)]
                for r in range(rows)
            ]
            for total, place in zip(itertools.chain(*totals), itertools.chain(*places), strict=True):
                T.buffer_store(total, result[place], [whole])
            begin = T.bind((block * int64(self.taps) + first) * int64(channels * self.columns))
            left = T.bind(top * int64(stride))

            def step(k: TirExpr, column: TirExpr) -> None:
                """Row k of this part of the matrix, `column` of the samples."""
                at = begin + k * int64(self.columns)
                row = [vm.let(data[T.ramp(at + int64(v * width), 1, width)]) for v in range(vectors)]
                for r in range(rows):
                    sample = vm.broadcast(vm.let(samples[left + int64(r * stride) + column]), width)
                    for v in range(vectors):
                        T.buffer_store(totals[r][v], self.added(totals[r][v][whole], sample, row[v]), [whole])

            if channels == self.depth:
                with T.serial(int64(0), some * int64(channels)) as k:
                    step(k, k)
            else:
                with T.serial(int64(0), some) as tap:
                    with T.serial(int64(0), int64(channels)) as c:
                        step(tap * int64(channels) + c, tap * int64(self.depth) + c)
            for total, place in zip(itertools.chain(*totals), itertools.chain(*places), strict=True):
                T.buffer_store(result, total[whole], [place])

        with T.serial(int64(0), int64(self.breadth // self.columns)) as block:
            tiles, rest = divmod(pixels, self.rows)
            if tiles:
                with T.serial(int64(0), int64(tiles)) as i:
                    tile(block, T.bind(i * int64(self.rows)), self.rows)
            if rest:
                tile(block, int64(tiles * self.rows), rest)

    def added(self, total: TirExpr, sample: TirExpr, row: TirExpr) -> TirExpr:
        """A sum and a product of a sample, in all lanes, with a row of the matrix."""
        return total + sample * row

    def weight(self, scope: Scope, k: int) -> TirExpr | None:
        """What points keep for term k; None where that is kept with another term."""
        return scope.value(product(self.samples.terms[k].weights))

    def _finish(self, scope: Scope, start: TirExpr, pixels: int) -> None:
        """The rest of the body, vectors of results."""
        found, result = self.samples, self.own(scope, RESULT)
        with T.serial(int64(0), int64(pixels)) as pixel:
            here = scope.inside([found.pixel], [T.bind(start + pixel)])

            def some(at: Scope, first: TirExpr) -> None:
                place = pixel * int64(self.breadth) + first
                self._store(at, result[T.ramp(place, 1, at.width) if at.width > 1 else place])

            extent = found.result.extent.value
            _vectors(here, found.result, int64(0), extent, self.target.lanes, some)

    def _finish_turned(self, scope: Scope, start: TirExpr, pixels: int) -> None:
        """The rest of the body, vectors of pixels."""
        found, result = self.samples, self.own(scope, RESULT)
        side = min(self.target.lanes, self.breadth & -self.breadth, 1 << (pixels.bit_length() - 1))
        whole, rest = divmod(found.result.extent.value, side)

        def square(scope: Scope, first: TirExpr, channel: TirExpr, channels: int) -> None:
            def row(k: int) -> TirExpr:
                place = (first + int64(k)) * int64(self.breadth) + channel
                return result[T.ramp(place, 1, side) if side > 1 else place]

            columns = turned([row(k) for k in range(side)])
            for k, column in enumerate(columns[:channels]):
                at = scope.inside([found.result], [channel + int64(k)])
                limits = ZERO, found.pixel.extent - 1
                self._store(at.vector(found.pixel.name, start + first, side, limits), column)

        def band(first: TirExpr) -> None:
            if whole:
                with T.serial(int64(0), int64(whole)) as i:
                    square(scope, first, T.bind(i * int64(side)), side)
            if rest:
                square(scope, first, int64(whole * side), rest)

        with T.serial(int64(0), int64(-(-pixels // side))) as i:
            band(T.bind(T.min(i * int64(side), int64(pixels - side))))

    def _store(self, at: Scope, value: TirExpr) -> None:
        nest, root = self.samples.nest, self.samples.root
        at = replace(at, done={**at.done})
        at.done[at.key(root, free(root))] = vm.let(value)
        place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
        at.store(at.tensors[nest.target], place, at.value(nest.body))


class Points:
    """Positions and weights of all taps and pixels of a tile, for every term, in scratch memory.

    They are computed in vectors along `lane`, the pixels or a tap axis, whichever the data lie along.
    """

    def __init__(self, kernel: Kernel, start: TirExpr, pixels: int) -> None:
        found = kernel.samples
        self.kernel, self.start, self.pixels = kernel, start, pixels
        self.tile = Axis(found.pixel.name, IntExpr.constant(pixels))
        self.uniform: list[IntExpr] = []
        self.moving: list[IntExpr] = []
        fixed = {*(axis.name for axis in found.outer), found.channel.name}
        for term in found.terms:
            (place,) = term.sample.indices
            both: dict[bool, IntExpr] = {True: ZERO, False: ZERO}
            for monomial, coefficient in place.terms:
                part = IntExpr(((monomial, coefficient),))
                names = frozenset[str]().union(*map(free_in_atom, monomial))
                both[names <= fixed and not is_computed(part)] += part
            self.uniform.append(both[True])
            self.moving.append(both[False])
        self.lane = self._lane()
        self.order = [*(axis for axis in (*found.taps, self.tile) if axis != self.lane), self.lane]

    def _lane(self) -> Axis:
        """Where most of what is read lies in one piece."""
        found = self.kernel.samples
        used = [read for term in found.terms for weight in term.weights for read in reads(weight)]
        inside = [read for place in self.moving for e in computed(place) for read in reads(e)]
        known = [read for read in dict.fromkeys((*used, *inside)) if len(read.indices) == 1]

        def score(axis: Axis) -> float:
            if size(axis.extent) < 4:
                return -math.inf
            steps = [stride(read.indices[0], axis.name) for read in known]
            return sum(1.0 for step in steps if step == 1) - sum(1.0 for step in steps if step not in (0, 1))

        return max((self.tile, *reversed(found.taps)), key=score)

    def fill(self, scope: Scope) -> None:
        found = self.kernel.samples
        others = [axis for axis in self.order if axis != self.lane]
        places, weights = self.kernel.own(scope, PLACES), self.kernel.own(scope, WEIGHTS)

        def some(at: Scope, _: TirExpr) -> None:
            for k in range(len(found.terms)):
                place = self._at(at, k, at.indices[found.pixel.name] - self.start)
                vector = T.ramp(place, 1, at.width) if at.width > 1 else place
                moving = vm.cast(at.integer(self.moving[k]), "int32")
                T.buffer_store(places, vm.broadcast(moving, at.width), [vector])
                weight = self.kernel.weight(at, k)
                if weight is not None:
                    T.buffer_store(weights, vm.broadcast(weight, at.width), [vector])

        def walk(scope: Scope, axes: Sequence[Axis]) -> None:
            if not axes:
                first = self.start if self.lane == self.tile else int64(0)
                extent = self.lane.extent.value
                whole = found.pixel if self.lane == self.tile else self.lane
                _vectors(scope, whole, first, extent, self.kernel.target.lanes, some)
                return
            with T.serial(int64(0), int64(axes[0].extent.value)) as i:
                value = T.bind(self.start + i) if axes[0] == self.tile else i
                whole = found.pixel if axes[0] == self.tile else axes[0]
                walk(scope.inside([whole], [value]), axes[1:])

        walk(scope, others)

    def _at(self, scope: Scope, k: int, pixel: TirExpr) -> TirExpr:
        """Where the scratch has term k of a tap and a pixel of the tile."""
        inside = scope.inside([self.tile], [pixel])
        place = ravel(inside, self.order[:-1]) * int64(len(self.uniform)) + int64(k)
        return place * int64(self.lane.extent.value) + inside.indices[self.lane.name]

    def place(self, scope: Scope, k: int, pixel: TirExpr) -> TirExpr:
        return vm.cast(self.kernel.own(scope, PLACES)[self._at(scope, k, pixel)], "int64")

    def weight(self, scope: Scope, k: int, pixel: TirExpr) -> TirExpr:
        return self.kernel.own(scope, WEIGHTS)[self._at(scope, k, pixel)]


def _vectors(
    scope: Scope, axis: Axis, first: TirExpr, extent: int, lanes: int, body: Callable[[Scope, TirExpr], None]
) -> None:
    """`body` for vectors that cover `extent` values of an axis from `first` on, the last one moved back to the end."""
    width = min(lanes, 1 << (extent.bit_length() - 1))
    limits = ZERO, axis.extent - 1

    def at(offset: TirExpr) -> None:
        body(scope.vector(axis.name, T.bind(first + offset), width, limits), offset)

    with T.serial(int64(0), int64(-(-extent // width))) as i:
        at(T.bind(T.min(i * int64(width), int64(extent - width))))
