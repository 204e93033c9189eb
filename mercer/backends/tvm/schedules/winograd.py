"""Winograd's convolution with windows of 3 x 3: F(2x2, 3x3) and F(4x4, 3x3) of Lavin and Gray (2016).

A unit of work is a range of rows of tiles of one image and a block of output channels. Its inputs are turned to vectors
of channels and transformed; a product of matrices follows for each of the (m + 2)^2 places of a transformed tile; the
sums are transformed back and turned to vectors of pixels, to which the rest of the nest is applied. All of it stays in
the second cache. The weights are transformed at compile time, in float64.

Of integers the result is exact. The rows of G are multiplied by what makes them whole, and those of the last transform
by what brings all terms to the same multiple, 4 or 576 = 9 * 64 times the sum. That is computed modulo 2**32, where 9
has an inverse, and divided by the power of two by a shift. The transformed numbers have 16 bits (see `words`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import tir_type
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.blocks import Matrix, Tile
from mercer.backends.tvm.schedules.common import Choice, Problem, Refusal, Schedule, at_outer, pick
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.backends.tvm.schedules.weight_tiles import depth, ordered_weights, renamed
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.backends.tvm.words import modulo, packed as packed_words
from mercer.ir.convolution import Convolution
from mercer.ir.graph import Constant
from mercer.ir.index import Axis
from mercer.ir.integers import IntExpr
from mercer.ir.types import Array, Data, DType, TensorType

Vectors: TypeAlias = list[TirExpr]

INPUT, TRANSFORMED, PRODUCTS, OUTPUT = "(input)", "(transformed)", "(products)", "(output)"

WEIGHTS = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
        *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
    ),
}
"""The matrix G of F(m, 3) by m."""

WHOLE = {
    2: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1)),
    4: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1)),
}
"""Its rows times 1, 2, 2, 1 and times 4, -6, -6, 24, 24, 1."""


def _times(factor: int, x: TirExpr) -> TirExpr:
    return vm.const(x, factor) * x


def _forward2(d: Vectors) -> Vectors:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _forward4(d: Vectors) -> Vectors:
    even, odd = vm.kept(d[4] - _times(4, d[2])), vm.kept(d[3] - _times(4, d[1]))
    far, near = vm.kept(d[4] - d[2]), vm.kept(d[3] - d[1])
    first = _times(4, d[0]) + (d[4] - _times(5, d[2]))
    last = _times(4, d[1]) + (d[5] - _times(5, d[3]))
    return [first, even + odd, even - odd, far + _times(2, near), far - _times(2, near), last]


def _back2(p: Vectors) -> Vectors:
    return [p[0] + p[1] + p[2], p[1] - p[2] - p[3]]


def _back4(p: Vectors) -> Vectors:
    a, b = vm.let(p[1] + p[2]), vm.let(p[1] - p[2])
    c, d = vm.let(p[3] + p[4]), vm.let(p[3] - p[4])
    two, four, eight = (vm.const(a, factor) for factor in (2.0, 4.0, 8.0))
    return [p[0] + a + c, b + two * d, a + four * c, b + eight * d + p[5]]


def _whole2(p: Vectors) -> Vectors:
    """Twice what F(2, 3) gives, modulo 2**32."""
    return [
        modulo(lambda p0, p1, p2: _times(2, p0) + (p1 + p2), *p[:3]),
        modulo(lambda p1, p2, p3: (p1 - p2) - _times(2, p3), *p[1:]),
    ]


def _whole4(p: Vectors) -> Vectors:
    """24 times what F(4, 3) gives, modulo 2**32."""
    a, b = vm.kept(modulo(operator.add, p[1], p[2])), vm.kept(modulo(operator.sub, p[1], p[2]))
    c, d = vm.kept(modulo(operator.add, p[3], p[4])), vm.kept(modulo(operator.sub, p[3], p[4]))
    return [
        modulo(lambda p0, a, c: _times(6, p0) + (c - _times(4, a)), p[0], a, c),
        modulo(lambda b, d: _times(2, d) - _times(4, b), b, d),
        modulo(lambda a, c: _times(4, c) - _times(4, a), a, c),
        modulo(lambda p5, b, d: _times(24, p5) + (_times(8, d) - _times(4, b)), p[5], b, d),
    ]


def _quotient(m: int, x: TirExpr) -> TirExpr:
    """x / 4 or x / 576, of a multiple that has been computed modulo 2**32."""
    if m == 2:
        return x >> vm.const(x, 2)
    ninth = 954437177  # times 9, it is 1 modulo 2**32
    return modulo(lambda each: _times(ninth, each), x) >> vm.const(x, 6)


FORWARD: dict[int, Callable[[Vectors], Vectors]] = {2: _forward2, 4: _forward4}
BACK: dict[int, Callable[[Vectors], Vectors]] = {2: _back2, 4: _back4}
BACK_WHOLE: dict[int, Callable[[Vectors], Vectors]] = {2: _whole2, 4: _whole4}


@dataclass(frozen=True)
class Winograd:
    """F(m x m, 3 x 3) by units of `tile_rows` rows of tiles and `blocks`-th parts of the outputs.

    `height` tiles x 2 vectors of outputs stay in registers; `group` outputs are transformed back together.
    """

    convolution: Convolution
    m: int
    tile_rows: int
    blocks: int
    height: int
    group: int
    lanes: int

    @property
    def choice(self) -> Choice:
        return {"family": "winograd", "rows": self.tile_rows, "parts": self.blocks, "tiles": self.height}

    @property
    def side(self) -> int:
        """Of a transformed tile."""
        return self.m + 2

    @property
    def places(self) -> int:
        return self.side**2

    @property
    def down(self) -> int:
        """Rows of tiles of an image."""
        return -(-self.convolution.windows[0].outputs // self.m)

    @property
    def across(self) -> int:
        return -(-self.convolution.windows[1].outputs // self.m)

    @property
    def tiles(self) -> int:
        """Tiles of a unit, with those that complete the last register tile."""
        return -(-self.tile_rows * self.across // self.height) * self.height

    @property
    def outputs(self) -> int:
        """Output channels of a unit, with those that complete the last vectors."""
        return -(-self.convolution.outputs // (2 * self.lanes)) * 2 * self.lanes // self.blocks

    @property
    def depth(self) -> int:
        """Steps of a product: channels, or pairs of them."""
        return depth(self.convolution)

    @property
    def transformed_pitch(self) -> int:
        """Elements from one place to the next, such that places do not meet in one set of the cache."""
        return self.tiles * self.convolution.channels + 16

    @property
    def products_pitch(self) -> int:
        return self.tiles * self.group + 16

    @property
    def workspace(self) -> tuple[Operand, ...]:
        horizontal = self.convolution.windows[1]
        rows = self.tile_rows * self.m
        factors, sums = (DType.I16, DType.I32) if self.convolution.is_integer else (DType.F32, DType.F32)
        return (
            blocks.workspace(INPUT, (rows + 2) * horizontal.inputs * self.lanes, factors),
            blocks.workspace(TRANSFORMED, self.places * self.transformed_pitch, factors),
            blocks.workspace(PRODUCTS, self.places * self.products_pitch, sums),
            blocks.workspace(OUTPUT, rows * horizontal.outputs * self.lanes, sums),
        )


def plan(convolution: Convolution, m: int, epilogue: Epilogue, problem: Problem) -> Schedule | Refusal:
    """F(m x m, 3 x 3), m in (2, 4)."""
    if reason := _obstacle(convolution, problem.target):
        return Refusal("winograd", reason)
    found = pick(_candidates(convolution, m, problem.target), _cost, lambda each: each.choice, problem.choice)
    assert found is not None
    best, options = found
    packed = _packed(best, problem)
    nest = renamed(convolution, packed.name)
    axes = (
        convolution.batch,
        Axis("conv.rows", IntExpr.constant(-(-best.down // best.tile_rows))),
        Axis("conv.outputs", IntExpr.constant(best.blocks)),
    )
    count = math.prod((axis.extent for axis in axes), start=IntExpr.constant(1))
    cost = _cost(best) / (-(-best.down // best.tile_rows) * best.blocks) / 3.0

    def emit(scope: Scope, at: TirExpr) -> None:
        _Unit(best, epilogue, packed.name, at_outer(scope, axes, at)).emit()

    detail = (
        f"Winograd F({m}x{m}, 3x3), {best.height} tiles x {2 * best.lanes} channels, "
        f"{best.tile_rows} rows of {best.across} tiles, {best.blocks} parts"
    )
    return Schedule("convolution", detail, nest, count, cost, emit, (), (packed,), best.workspace, options)


def _obstacle(convolution: Convolution, target: Target) -> str:
    if len(convolution.windows) != 2 or any(
        (w.size, w.stride, w.dilation) != (3, 1, 1) or not 0 <= w.pad <= 2 for w in convolution.windows
    ):
        return "no window of 3 x 3 with stride 1"
    if convolution.groups > 1:
        return "groups of channels"
    if min(convolution.channels, convolution.outputs) < target.lanes:
        return "fewer channels than lanes"
    if convolution.is_integer and convolution.channels % 2:
        return "channels without a partner"
    vertical, horizontal = convolution.windows
    sizes = (vertical.inputs * horizontal.inputs, vertical.outputs * horizontal.outputs)
    return "fewer pixels than lanes" if min(sizes) < target.lanes else ""


# --- the choice of blocks ---------------------------------------------------------------------------------------------

CACHE = 120_000
"""Elements of f32 that may wait between two phases."""

PASSES = 4
"""Up to this many uses of a block of weights, the next one is asked for in time."""

UNITS = 4
"""Units that one image should give at least."""


def _candidates(convolution: Convolution, m: int, target: Target) -> list[Winograd]:
    lanes = target.lanes
    heights = (4, 5, 6) if target.registers < 32 else (4, 6, 8, 10, 12)
    vertical, horizontal = convolution.windows
    down = -(-vertical.outputs // m)
    wide = min(horizontal.inputs, horizontal.outputs) >= lanes
    vectors = -(-convolution.outputs // (2 * lanes))
    even = convolution.outputs == vectors * 2 * lanes
    found: list[Winograd] = []
    for rows in range(1 if wide else down, down + 1):
        for parts in (b for b in (1, 2, 4) if vectors % b == 0 and (b == 1 or even)):
            pairs = max(g for g in (1, 2) if vectors // parts % g == 0)
            if convolution.outputs % lanes:
                pairs = vectors  # the last vector overlaps the one before
            group = pairs * 2 * lanes
            found += [Winograd(convolution, m, rows, parts, h, group, lanes) for h in heights]
    small = [w for w in found if w.places * w.tiles * w.depth <= CACHE]
    fewest = min(w.tile_rows for w in found)
    return small or [w for w in found if w.tile_rows == fewest]


def _cost(found: Winograd) -> float:
    """Cycles for an image."""
    convolution = found.convolution
    units = -(-found.down // found.tile_rows)
    tiles = found.tile_rows * found.across
    terms = found.depth * found.outputs
    work = max(found.height, 4.0, (found.height + 2) / 2) * (found.tiles // found.height)
    product = found.places * terms / (2 * found.lanes) * (work + 0.3 * found.tiles / found.height)
    stream = found.places * terms * 4 / 8
    forward = tiles * convolution.channels / found.lanes * found.places * 4
    back = tiles * found.outputs / found.lanes * found.places * 4
    part = max(product, stream) + 0.3 * min(product, stream) + forward + back
    total = part * units * found.blocks
    idle = max(1.0, UNITS / (units * found.blocks))
    return total * (1 + 0.1 * (idle - 1))


# --- weights ----------------------------------------------------------------------------------------------------------


def _packed(best: Winograd, problem: Problem) -> Constant:
    """[part, place, pair of vectors, channel, output of the pair]"""
    convolution = best.convolution
    array = ordered_weights(convolution, problem).astype(np.float64)
    g = np.array((WHOLE if convolution.is_integer else WEIGHTS)[best.m])
    square = array.reshape(convolution.outputs, convolution.channels, 3, 3)
    transformed = np.einsum("xi,ocij,yj->xyco", g, square, g)
    width = 2 * best.lanes
    padded = np.zeros((best.places, convolution.channels, best.outputs * best.blocks))
    padded[:, :, : convolution.outputs] = transformed.reshape(best.places, convolution.channels, -1)
    terms: Array = padded.astype(np.float32)
    if convolution.is_integer:
        terms = np.moveaxis(packed_words(np.moveaxis(padded, 1, -1), DType.I16), -1, 1)
    cut = terms.reshape(best.places, best.depth, best.blocks, best.outputs // width, width)
    packed: Array = np.ascontiguousarray(cut.transpose(2, 0, 3, 1, 4)).reshape(-1)
    name = f"{convolution.weight}.winograd[{convolution.order}, {best.m}, {best.blocks} by {width}]"
    return Constant(name, TensorType.of(packed), Data(packed))


# --- code -------------------------------------------------------------------------------------------------------------


class _Unit:
    """The code of one unit of work."""

    def __init__(self, best: Winograd, epilogue: Epilogue, weights: str, scope: Scope) -> None:
        self.best, self.epilogue, self.scope = best, epilogue, scope
        self.convolution = best.convolution
        self.vertical, self.horizontal = best.convolution.windows
        self.weights = scope.tensors[weights].buffer
        self.data = scope.tensors[best.convolution.data].buffer
        self.input, self.transformed, self.products, self.output = (
            scope.tensors[operand.name].buffer for operand in best.workspace
        )
        self.factors = tir_type(best.workspace[0].type.dtype)
        self.batch = scope.indices[self.convolution.batch.name]
        self.part = scope.indices["conv.outputs"]
        self.row = vm.let(scope.indices["conv.rows"] * int64(best.tile_rows))
        self.rows = vm.let(T.min(int64(best.tile_rows), int64(best.down) - self.row))
        """Rows of tiles of this unit."""

    def emit(self) -> None:
        best = self.best
        channels, lanes = self.convolution.channels, best.lanes
        with T.serial(int64(0), int64(-(-channels // lanes))) as block:
            first = vm.let(T.min(block * int64(lanes), int64(channels - lanes)))
            self.turn_in(first)
            self.over_tiles(self._inner_tiles(), lambda row, column: self.forward(row, column, first))
        with T.serial(int64(0), int64(best.outputs // best.group)) as group:
            self.multiply(group)
            each = best.group // lanes
            vectors = -(-self.convolution.outputs // best.blocks // lanes)
            with T.serial(int64(0), T.min(int64(each), int64(vectors) - group * int64(each))) as vector:
                around = vm.let(self.part * int64(best.outputs) + group * int64(best.group))
                channel = T.min(around + vector * int64(lanes), int64(self.convolution.outputs - lanes))
                channel = vm.let(channel)
                self._finish(channel, vm.let(channel - around))

    def _finish(self, channel: TirExpr, place: TirExpr) -> None:
        whole = self.horizontal.outputs // self.best.m
        self.over_tiles((0, whole), lambda row, column: self.back(row, column, place))
        self.turn_out(channel)

    # --- inputs

    def turn_in(self, first: TirExpr) -> None:
        """The rows that the tiles read, of `lanes` channels, as vectors of channels."""
        lanes, width = self.best.lanes, self.horizontal.inputs
        top = vm.let(self.row * int64(self.best.m) - int64(self.vertical.pad))
        bottom = vm.let(top + self.rows * int64(self.best.m) + int64(2))
        low = vm.let(T.max(top, int64(0)))
        high = vm.let(T.min(bottom, int64(self.vertical.inputs)))
        above = vm.let((low - top) * int64(width))
        below = vm.let((high - top) * int64(width))
        for start, end in ((int64(0), above), (below, (bottom - top) * int64(width))):
            with T.serial(start, end) as pixel:
                blocks.store(self.input, pixel * int64(lanes), blocks.zeros(lanes, self.factors))
        plane = self.vertical.inputs * width
        total = self.scope.tensors[self.convolution.data].type.shape[1].value
        channel = self.batch * int64(total) + int64(self.convolution.first) + first
        source = vm.let(channel * int64(plane) + low * int64(width))
        pixels = vm.let((high - low) * int64(width))
        with T.serial(int64(0), T.truncdiv(pixels + int64(lanes - 1), int64(lanes))) as block:
            start = vm.let(T.min(block * int64(lanes), pixels - int64(lanes)))
            rows = [blocks.load(self.data, source + start + int64(c * plane), lanes) for c in range(lanes)]
            target = vm.let((above + start) * int64(lanes))
            for j, column in enumerate(blocks.transpose(rows)):
                blocks.store(self.input, target + int64(j * lanes), column)

    def _inner_tiles(self) -> tuple[int, int]:
        """Columns of tiles that read no padding: from the first to before the second."""
        best, window = self.best, self.horizontal
        low = -(-window.pad // best.m)
        high = (window.inputs + window.pad - best.side) // best.m + 1
        return min(low, best.across), max(min(low, best.across), min(high, best.across))

    def over_tiles(self, inner: tuple[int, int], code: Callable[[TirExpr, int | TirExpr], None]) -> None:
        """Code for all tiles of the unit; it knows the column of those that are not inner."""
        low, high = inner
        with T.serial(int64(0), self.rows) as row:
            for column in range(low):
                code(row, column)
            if high > low:
                with T.serial(int64(low), int64(high)) as column:
                    code(row, column)
            for column in range(high, self.best.across):
                code(row, column)

    def forward(self, row: TirExpr, column: int | TirExpr, first: TirExpr) -> None:
        best, lanes, width = self.best, self.best.lanes, self.horizontal.inputs
        at = int64(column) if isinstance(column, int) else column
        left = at * int64(best.m) - int64(self.horizontal.pad)
        corner = vm.let((row * int64(best.m * width) + left) * int64(lanes))

        def element(i: int, j: int) -> TirExpr:
            if isinstance(column, int) and not 0 <= column * best.m - self.horizontal.pad + j < width:
                return blocks.zeros(lanes, self.factors)
            return blocks.load(self.input, corner + int64((i * width + j) * lanes), lanes)

        tile = [[element(i, j) for i in range(best.side)] for j in range(best.side)]
        place = vm.let((row * int64(best.across) + at) * int64(self.convolution.channels) + first)
        self._transform(FORWARD[best.m], tile, self.transformed, place, best.transformed_pitch)

    def _transform(
        self, rule: Callable[[Vectors], Vectors], columns: Sequence[Vectors], buffer: Any, place: TirExpr, pitch: int
    ) -> None:
        """Transform columns, then rows, and store the elements `pitch` apart."""
        half = [[vm.kept(value) for value in rule(column)] for column in columns]
        for i in range(len(half[0])):
            for j, value in enumerate(rule([column[i] for column in half])):
                blocks.store(buffer, place + int64((i * self.best.side + j) * pitch), value)

    # --- the products

    def multiply(self, group: TirExpr) -> None:
        best, channels, width = self.best, self.convolution.channels, 2 * self.best.lanes
        step = channels // best.depth
        kernel = Tile(best.height, 2, best.lanes, tir_type(best.workspace[2].type.dtype))
        tiles = self.rows * int64(best.across)
        count = vm.let(T.truncdiv(tiles + int64(best.height - 1), int64(best.height)))
        pairs = best.group // width
        passes = best.tiles // best.height

        def weights(place: TirExpr, pair: TirExpr) -> TirExpr:
            number = (self.part * int64(best.places) + place) * int64(best.outputs // width)
            return vm.let((number + group * int64(pairs) + pair) * int64(best.depth * width))

        with T.serial(int64(0), int64(best.places)) as place:
            with T.serial(int64(0), int64(pairs)) as pair:
                right = Matrix(self.weights, weights(place, pair), best.lanes, width)
                following = vm.let(place + T.truncdiv(pair + int64(1), int64(pairs)))
                next_weights = weights(following, T.truncmod(pair + int64(1), int64(pairs)))
                with T.serial(int64(0), count) as tile:
                    start = place * int64(best.transformed_pitch) + tile * int64(best.height * channels)
                    left = Matrix(self.transformed, vm.let(start), channels, step)
                    sums = kernel.start()
                    share = vm.let(next_weights + tile * int64(-(-best.depth // passes) * width))

                    def soon(k: TirExpr, share: TirExpr = share) -> None:
                        blocks.prefetch(self.weights, share + T.truncdiv(k, int64(passes)) * int64(width))

                    kernel.multiply(sums, left, right, int64(best.depth), soon if passes <= PASSES else None)
                    target = place * int64(best.products_pitch) + tile * int64(best.height * best.group)
                    target = vm.let(target + pair * int64(width))
                    for i, line in enumerate(kernel.values(sums)):
                        for v, value in enumerate(line):
                            blocks.store(self.products, target + int64(i * best.group + v * best.lanes), value)

    # --- outputs

    def back(self, row: TirExpr, column: int | TirExpr, channel: TirExpr) -> None:
        best, lanes, width = self.best, self.best.lanes, self.horizontal.outputs
        at = int64(column) if isinstance(column, int) else column
        start = vm.let((row * int64(best.across) + at) * int64(best.group) + channel)
        place = vm.let((row * int64(best.m * width) + at * int64(best.m)) * int64(lanes))
        present = min(best.m, width - column * best.m) if isinstance(column, int) else best.m

        def element(i: int, j: int) -> TirExpr:
            return blocks.load(self.products, start + int64((i * best.side + j) * best.products_pitch), lanes)

        integer = self.convolution.is_integer
        rule = (BACK_WHOLE if integer else BACK)[best.m]
        half = [[vm.kept(v) for v in rule([element(i, j) for i in range(best.side)])] for j in range(best.side)]
        for i in range(best.m):
            for j, value in enumerate(rule([values[i] for values in half])[:present]):
                value = _quotient(best.m, value) if integer else value
                blocks.store(self.output, place + int64((i * width + j) * lanes), value)

    def turn_out(self, channel: TirExpr) -> None:
        """From vectors of channels to vectors of pixels, finished and stored."""
        best, lanes, width = self.best, self.best.lanes, self.horizontal.outputs
        first = self.row * int64(best.m)
        rows = T.min(self.rows * int64(best.m), int64(self.vertical.outputs) - first)
        pixels = vm.let(rows * int64(width))
        with T.serial(int64(0), T.truncdiv(pixels + int64(lanes - 1), int64(lanes))) as block:
            start = vm.let(T.min(block * int64(lanes), pixels - int64(lanes)))
            vectors = [blocks.load(self.output, (start + int64(j)) * int64(lanes), lanes) for j in range(lanes)]
            values = {(c, 0): value for c, value in enumerate(blocks.transpose(vectors))}
            self.epilogue.store(self.scope, self.batch, channel, vm.let(first * int64(width) + start), values)
