"""Convolutions with few pixels, with vectors along the output channels.

Vectors along the pixels of a small image, such as one of 7 x 7, would compute many pixels twice, and all weights would
be read again for every tile of pixels. Here a unit of work is 16 output channels: their weights, packed at compile
time, pass all pixels, a block of terms at a time. The image is read where it lies, or padded; tiles of pixels are whole
rows where windows are not 1 x 1, so that they lie alike. Of bytes, four channels are one: a plane of words, made
before. Sums wait as [pixel, channel] and are turned in registers before the rest of the nest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import tir_type
from mercer.backends.tvm.schedules import blocks, operands
from mercer.backends.tvm.schedules.blocks import Matrix, Tile
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, at_outer
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.backends.tvm.schedules.weight_tiles import depth, renamed, tiles_of, weights_in_words
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.convolution import FEW_PIXELS, Convolution, Window
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Const, Expr, Read, Reduce, call, reads, transform, walk
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.packed import COUNTS, SIGN
from mercer.ir.types import Array, Data, DType, TensorType

SUMS = "(pixel sums)"

ROW = 14
"""Pixels of a tile at most where there are 32 registers; a row of windows is not longer."""

TAPS = 16
"""Pixels of a window at most: its terms are written out."""

FEWEST = 64
"""Terms of words at least: fewer take less time than it takes to make the words and to turn the sums."""

STEPS = 96
"""Terms of a block at most: their weights and pixels stay in the first-level cache."""

EVERY = 4
"""Steps between two lines of weights that a tile asks for: all of them at once would wait for each other."""

CYCLE = 0.3
"""Nanoseconds."""

CHANNELS = 16
"""Output channels of a unit: its weights are read again for every tile of pixels."""


@dataclass(frozen=True)
class FewPixels:
    """Units of `vectors` vectors of output channels, which may overlap; tiles of `height` pixels. Padding is a part of
    the data; of bytes, `depth` and `channels` count words."""

    convolution: Convolution
    lanes: int
    vectors: int
    height: int

    @property
    def pixels(self) -> int:
        return self.convolution.pixels

    @property
    def taps(self) -> int:
        return self.convolution.taps

    @property
    def width(self) -> int:
        """Output channels of a unit."""
        return self.vectors * self.lanes

    @property
    def units(self) -> int:
        return -(-self.convolution.outputs // self.width)

    @property
    def channels(self) -> int:
        """Input channels of a block; all blocks but the last one have so many."""
        unroll = EVERY if self.unrolls else 1
        count = -(-self.depth // (STEPS // self.taps))
        return -(-self.depth // (count * unroll)) * unroll

    @property
    def depth(self) -> int:
        return depth(self.convolution)

    @property
    def unrolls(self) -> bool:
        """Whether steps of a product are written out, else the terms of a window are."""
        return self.taps == 1 and not self.convolution.is_integer

    @property
    def cycles(self) -> float:
        """Of a unit."""
        tiles = sum(count * (max(rows * self.vectors / 2, 4.0) + 0.5) for _, count, rows in self.tiles())
        return self.depth * self.taps * tiles + self.pixels * self.width / 2

    @property
    def workspace(self) -> Operand:
        return blocks.workspace(SUMS, self.pixels * self.width, self.convolution.reduce.dtype)

    def tile(self, rows: int) -> Tile:
        def add_quad(total: TirExpr, weights: TirExpr, data: TirExpr) -> TirExpr:
            return words.add_quad(total, data, weights)

        return Tile(rows, self.vectors, self.lanes, tir_type(self.convolution.reduce.dtype), add_quad)

    def tiles(self) -> list[tuple[int, int, int]]:
        """(first pixel, tiles, pixels of a tile)"""
        if self.convolution.is_point:
            return tiles_of(self.pixels, self.height)
        length = self.length
        rows = tiles_of(self.pixels // length, self.height // length)
        return [(first * length, count, height * length) for first, count, height in rows]

    # --- places in a channel of the data ------------------------------------------------------------------------------

    @property
    def plane(self) -> int:
        """Elements of a channel."""
        return math.prod(window.inputs for window in self.convolution.windows)

    @property
    def length(self) -> int:
        """Pixels of a row of the result."""
        return self.convolution.windows[-1].outputs

    @property
    def steps(self) -> list[int]:
        """From a pixel to the next one, along every spatial axis."""
        windows = self.convolution.windows
        return [math.prod(w.inputs for w in windows[at + 1 :]) for at in range(len(windows))]

    @property
    def origin(self) -> int:
        """Of the first window."""
        return sum(-window.pad * step for window, step in zip(self.convolution.windows, self.steps, strict=True))

    @property
    def offsets(self) -> list[int]:
        """Of the terms of a window."""
        ranges = [range(0, w.size * w.dilation * s, w.dilation * s) for w, s in self._windows()]
        return [sum(place) for place in itertools.product(*ranges)]

    def rows(self, count: int) -> int | tuple[int, ...]:
        """Of the windows of a tile."""
        if self.convolution.is_point:
            return 1
        (down, line), (along, step) = self._windows()
        places = (divmod(pixel, self.length) for pixel in range(count))
        return tuple(row * down.stride * line + column * along.stride * step for row, column in places)

    def start(self, pixel: int) -> int:
        """Of the windows of a tile that begins there."""
        if self.convolution.is_point:
            return pixel
        down, line = self._windows()[0]
        return pixel // self.length * down.stride * line

    def _windows(self) -> list[tuple[Window, int]]:
        return list(zip(self.convolution.windows, self.steps, strict=True))

    def __str__(self) -> str:
        terms = self.channels * self.taps
        return f"vectors along channels, {self.height} pixels x {self.width} channels, {terms} terms"


def plan(convolution: Convolution, epilogue: Epilogue, problem: Problem) -> Schedule | Refusal:
    target = problem.target
    if convolution.dtype not in (DType.F32, DType.I8):
        return Refusal("convolution", "no sum of f32 or of bytes")
    if convolution.groups > 1:
        return Refusal("convolution", "groups")
    if not target.lanes <= convolution.pixels <= FEW_PIXELS or convolution.pixels % (2 * target.lanes) == 0:
        return Refusal("convolution", f"vectors along {convolution.pixels} pixels leave little rest")
    if target.lanes < 8 or convolution.outputs < CHANNELS:
        return Refusal("convolution", f"{convolution.outputs} channels are too few for vectors")
    if convolution.is_integer and depth(convolution) * convolution.taps < FEWEST:
        return Refusal("convolution", "few terms of words")
    height = 6 if target.registers < 32 else ROW
    if not convolution.is_point:
        length = convolution.windows[-1].outputs
        if target.registers < 32 or len(convolution.windows) != 2 or convolution.taps > TAPS or length > ROW:
            return Refusal("convolution", "windows whose rows fill no tile")
        height = ROW // length * length
    laid_out = (_words if convolution.is_integer else _padded)(convolution, problem)
    if isinstance(laid_out, Refusal):
        return laid_out
    convolution, copies = laid_out
    best = FewPixels(convolution, target.lanes, CHANNELS // target.lanes, height)
    packed = _packed(best, problem)
    axes = (Axis("conv.outputs", IntExpr.constant(best.units)), convolution.batch)  # images share a piece of weights
    count = math.prod((axis.extent for axis in axes), start=IntExpr.constant(1))

    def emit(scope: Scope, at: TirExpr) -> None:
        _Unit(best, epilogue, packed.name, at_outer(scope, axes, at)).emit()

    nest = renamed(convolution, packed.name)
    cost = CYCLE * best.cycles
    return Schedule("convolution", str(best), nest, count, cost, emit, copies, (packed,), (best.workspace,))


def _padded(convolution: Convolution, problem: Problem) -> tuple[Convolution, tuple[Nest, ...]] | Refusal:
    """The same of data that has its padding, and the copy to make before."""
    if all(window.is_inside for window in convolution.windows):
        return convolution, ()
    problem, copies = operands.padded(problem)  # none where another convolution has made it
    (total,) = {e for e in walk(problem.nest.body) if isinstance(e, Reduce)}
    (data,) = {read.tensor for read in reads(total) if read.tensor != convolution.weight}
    if data == convolution.data:
        return Refusal("convolution", "much more padding than data")
    sizes = [extent.value for extent in problem.types[data].shape[2:]]
    before = [max(window.pad, 0) for window in convolution.windows]
    places = zip(convolution.windows, sizes, before, strict=True)
    windows = tuple(replace(window, inputs=size, pad=window.pad - most) for window, size, most in places)
    return replace(convolution, nest=problem.nest, data=data, windows=windows), copies


def _words(convolution: Convolution, problem: Problem) -> tuple[Convolution, tuple[Nest, ...]]:
    """The same of data in words: bytes without sign of four channels, with their padding."""
    (data,) = {read for read in reads(convolution.reduce) if read.tensor == convolution.data}
    before = [max(window.pad, 0) for window in convolution.windows]
    sizes = [b + max(w.inputs, w.last + 1) for b, w in zip(before, convolution.windows, strict=True)]
    extents = (problem.types[data.tensor].shape[0], *map(IntExpr.constant, (depth(convolution), *sizes)))
    axes = tuple(Axis(f"d{i}", extent) for i, extent in enumerate(extents))
    image, word, *places = (IntExpr.var(axis.name) for axis in axes)
    places = [place - b for place, b in zip(places, before, strict=True)]
    total: Expr = Const(0, DType.I32)
    for k in range(COUNTS[DType.I8]):
        channel = word * COUNTS[DType.I8] + k
        if convolution.channels % COUNTS[DType.I8]:  # those that a last word lacks have weights of 0
            channel = channel.minimum(convolution.channels - 1)
        channel = channel + convolution.first
        byte = Read(data.tensor, (image, channel, *places), DType.I8, data.pad)
        number = call("add", call("cast", byte, dtype=DType.I32), Const(SIGN if k < 3 else 0, DType.I32))
        total = call("add", total, call("mul", number, Const(1 << 8 * k, DType.I32)))
    name = f"{data.tensor}.words[{convolution.first}+{convolution.channels}; {before}, {sizes}]={data.pad}"
    body = call("xor", total, Const(-1 << 31, DType.I32))
    copy = Nest(name, TensorType(DType.I32, extents), axes, body, problem.nest.origins)

    def change(expr: Expr) -> Expr:
        return replace(expr, tensor=name, dtype=DType.I32, pad=None) if expr == data else expr

    places = zip(convolution.windows, sizes, strict=True)
    windows = tuple(replace(window, inputs=size, pad=min(window.pad, 0)) for window, size in places)
    nest = replace(convolution.nest, body=transform(convolution.nest.body, change))
    return replace(convolution, nest=nest, data=name, first=0, windows=windows), (copy,)


def _packed(best: FewPixels, problem: Problem) -> Constant:
    """Unit by unit, [term, output channel of the unit]."""
    convolution = best.convolution
    flat = weights_in_words(convolution, problem).reshape(convolution.outputs, -1)
    starts = [min(k * best.width, convolution.outputs - best.width) for k in range(best.units)]
    parts: list[Array] = [flat[start : start + best.width].T.reshape(-1) for start in starts]
    packed = np.ascontiguousarray(np.concatenate(parts))
    name = f"{convolution.weight}.channels[{convolution.order}, {best.width}]"
    return Constant(name, TensorType.of(packed), Data(packed))


class _Unit:
    """The code of one unit of work."""

    def __init__(self, best: FewPixels, epilogue: Epilogue, weights: str, scope: Scope) -> None:
        self.best, self.epilogue, self.scope = best, epilogue, scope
        convolution = best.convolution
        self.weights, self.sums = scope.tensors[weights].buffer, scope.tensors[SUMS].buffer
        self.data = scope.tensors[convolution.data]
        self.batch = scope.indices[convolution.batch.name]
        unit = scope.indices["conv.outputs"]
        self.channel = vm.let(T.min(unit * int64(best.width), int64(convolution.outputs - best.width)))
        self.first_weight = vm.let(unit * int64(best.width * best.depth * best.taps))
        total = self.data.type.shape[1].value
        image = (self.batch * int64(total) + int64(convolution.first)) * int64(best.plane)
        self.image = vm.let(image + int64(best.origin))

    def emit(self) -> None:
        best = self.best
        whole, rest = divmod(best.depth, best.channels)
        with T.serial(int64(0), int64(whole)) as block:
            self._block(vm.let(block * int64(best.channels)), best.channels)
        if rest:
            self._block(int64(whole * best.channels), rest)
        self._finish()

    def _block(self, first: TirExpr, channels: int) -> None:
        """The first tiles ask for the weights of the next block, a share of them each."""
        steps = channels * self.best.taps
        written = channels if self.best.unrolls else self.best.taps
        every = max(n for n in range(1, EVERY + 1) if written % n == 0)
        (_, whole, height), *rest = self.best.tiles()
        asking, done = min(whole, every), 0
        for start, count, rows in [(0, asking, height), (asking * height, whole - asking, height), *rest]:
            with T.serial(int64(0), int64(count)) as number:
                line = first * int64(self.best.taps) + int64(steps) + (int64(done) + number) * int64(steps // every)
                soon = self._asking(line, every) if done < every else None
                self._tile(start, number, rows, first, channels, soon, every)
            done += count

    def _asking(self, line: TirExpr, every: int) -> Callable[[TirExpr], None]:
        start = vm.let(self.first_weight + line * int64(self.best.width))

        def ask(k: TirExpr) -> None:
            blocks.prefetch(self.weights, start + tirx.floordiv(k, int64(every)) * int64(self.best.width))

        return ask

    def _tile(
        self,
        begin: int,
        number: TirExpr,
        rows: int,
        first: TirExpr,
        channels: int,
        soon: Callable[[TirExpr], None] | None,
        every: int,
    ) -> None:
        """A block of channels for the tile of so many, of those that begin at a pixel."""
        best = self.best
        tile = best.tile(rows)
        start = vm.let((int64(begin) + number * int64(rows)) * int64(best.width))
        waiting = [[start + int64(i * best.width + v * best.lanes) for v in range(best.vectors)] for i in range(rows)]
        sums: list[list[Any]] = tile.start()
        with T.If(first > int64(0)):
            with T.Then():
                for line, places in zip(sums, waiting, strict=True):
                    for register, place in zip(line, places, strict=True):
                        T.buffer_store(register, self.sums[blocks.at(place, best.lanes)], [vm.whole(best.lanes)])
        pixel = int64(best.start(begin)) + number * int64(best.start(rows))
        left = Matrix(
            self.data.buffer, vm.let(self.image + first * int64(best.plane) + pixel), best.rows(rows), best.plane
        )
        weights = vm.let(self.first_weight + first * int64(best.taps * best.width))
        right = Matrix(self.weights, weights, best.lanes, best.width)
        if best.unrolls:
            tile.multiply(sums, left, right, channels, soon, every)
        else:
            self._windows(tile, sums, left, right, channels, soon, every)
        for values, places in zip(tile.values(sums), waiting, strict=True):
            for value, place in zip(values, places, strict=True):
                blocks.store(self.sums, place, value)

    def _windows(
        self,
        tile: Tile,
        sums: list[list[Any]],
        left: Matrix,
        right: Matrix,
        channels: int,
        soon: Callable[[TirExpr], None] | None,
        every: int,
    ) -> None:
        """All terms of a window of one channel, then those of the next."""
        taps, width = self.best.taps, self.best.width
        with T.serial(int64(0), int64(channels)) as channel:
            for tap, offset in enumerate(self.best.offsets):
                data = replace(left, start=left.start + int64(offset))
                weights = replace(right, start=right.start + int64(tap * width), column=taps * width)
                tile.step(sums, data, weights, channel)
                if soon is not None and tap % every == 0:
                    soon(channel * int64(taps) + int64(tap))

    def _finish(self) -> None:
        """Squares of pixels x channels, turned; the last one along the pixels may overlap the one before."""
        best, lanes = self.best, self.best.lanes
        with T.serial(int64(0), int64(-(-best.pixels // lanes))) as number:
            pixel = vm.let(T.min(number * int64(lanes), int64(best.pixels - lanes)))
            for v in range(best.vectors):
                places = [(pixel + int64(i)) * int64(best.width) + int64(v * lanes) for i in range(lanes)]
                columns = blocks.transpose([blocks.load(self.sums, place, lanes) for place in places])
                channel = vm.let(self.channel + int64(v * lanes))
                self.epilogue.store(self.scope, self.batch, channel, pixel, {(i, 0): c for i, c in enumerate(columns)})
