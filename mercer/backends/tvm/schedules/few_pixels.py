"""Convolutions by windows of 1 x 1 on few pixels, with vectors along the output channels.

Vectors along the pixels of a small image, such as one of 7 x 7, would compute many pixels twice, and all weights would
be read again for every tile of pixels. Here a unit of work is two vectors of output channels: their weights, packed at
compile time, pass all pixels, a block of input channels at a time. The image is read where it lies. Sums wait as
[pixel, channel] and are turned in registers before the rest of the nest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.blocks import Matrix, Tile
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, at_outer
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.backends.tvm.schedules.weight_tiles import ordered_weights, renamed, tiles_of
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.convolution import Convolution
from mercer.ir.graph import Constant
from mercer.ir.index import Axis
from mercer.ir.integers import IntExpr
from mercer.ir.types import Array, Data, DType, TensorType

SUMS = "(pixel sums)"

MOST = 128
"""Pixels above which vectors along them compute few of them twice."""

STEPS = 96
"""Input channels of a block at most: their weights and pixels stay in the first-level cache."""

EVERY = 4
"""Steps between two lines of weights that a tile asks for: all of them at once would wait for each other."""

CYCLE = 0.3
"""Nanoseconds."""


CHANNELS = 16
"""Output channels of a unit: its weights are read again for every tile of pixels."""


@dataclass(frozen=True)
class FewPixels:
    """Units of `vectors` vectors of output channels, which may overlap; tiles of `height` pixels."""

    convolution: Convolution
    lanes: int
    vectors: int
    height: int

    @property
    def pixels(self) -> int:
        return self.convolution.pixels

    @property
    def width(self) -> int:
        """Output channels of a unit."""
        return self.vectors * self.lanes

    @property
    def units(self) -> int:
        return -(-self.convolution.outputs // self.width)

    @property
    def steps(self) -> int:
        """Input channels of a block; all blocks but the last one have so many."""
        count = -(-self.convolution.channels // STEPS)
        return -(-self.convolution.channels // (count * EVERY)) * EVERY

    @property
    def cycles(self) -> float:
        """Of a unit."""
        tiles = sum(count * (max(rows * self.vectors / 2, 4.0) + 0.5) for _, count, rows in self.tiles())
        return self.convolution.channels * tiles + self.pixels * self.width / 2

    @property
    def workspace(self) -> Operand:
        return blocks.workspace(SUMS, self.pixels * self.width)

    def tiles(self) -> list[tuple[int, int, int]]:
        return tiles_of(self.pixels, self.height)

    def __str__(self) -> str:
        return f"vectors along channels, {self.height} pixels x {self.width} channels, {self.steps} terms"


def plan(convolution: Convolution, epilogue: Epilogue, problem: Problem) -> Schedule | Refusal:
    target = problem.target
    if convolution.reduce.dtype is not DType.F32:
        return Refusal("convolution", "no sum of f32")
    if not all(window.is_point for window in convolution.windows) or convolution.groups > 1:
        return Refusal("convolution", "windows or groups")
    if not target.lanes <= convolution.pixels <= MOST or convolution.pixels % (2 * target.lanes) == 0:
        return Refusal("convolution", f"vectors along {convolution.pixels} pixels leave little rest")
    if target.lanes < 8 or convolution.outputs < CHANNELS:
        return Refusal("convolution", f"{convolution.outputs} channels are too few for vectors")
    best = FewPixels(convolution, target.lanes, CHANNELS // target.lanes, 6 if target.registers < 32 else 12)
    packed = _packed(best, problem)
    axes = (Axis("conv.outputs", IntExpr.constant(best.units)), convolution.batch)  # images share a piece of weights
    count = math.prod((axis.extent for axis in axes), start=IntExpr.constant(1))

    def emit(scope: Scope, at: TirExpr) -> None:
        _Unit(best, epilogue, packed.name, at_outer(scope, axes, at)).emit()

    nest = renamed(convolution, packed.name)
    cost = CYCLE * best.cycles
    return Schedule("convolution", str(best), nest, count, cost, emit, (), (packed,), (best.workspace,))


def _packed(best: FewPixels, problem: Problem) -> Constant:
    """Unit by unit, [input channel, output channel of the unit]."""
    convolution = best.convolution
    flat = ordered_weights(convolution, problem).reshape(convolution.outputs, convolution.channels)
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
        self.first_weight = vm.let(unit * int64(best.width * convolution.channels))
        total = self.data.type.shape[1].value
        self.image = vm.let((self.batch * int64(total) + int64(convolution.first)) * int64(best.pixels))

    def emit(self) -> None:
        best = self.best
        whole, rest = divmod(best.convolution.channels, best.steps)
        with T.serial(int64(0), int64(whole)) as block:
            self._block(vm.let(block * int64(best.steps)), best.steps)
        if rest:
            self._block(int64(whole * best.steps), rest)
        self._finish()

    def _block(self, first: TirExpr, steps: int) -> None:
        """The first tiles ask for the weights of the next block, a share of them each."""
        every = math.gcd(steps, EVERY)
        (_, whole, height), *rest = self.best.tiles()
        asking, done = min(whole, every), 0
        for start, count, rows in [(0, asking, height), (asking * height, whole - asking, height), *rest]:
            with T.serial(int64(0), int64(count)) as number:
                line = first + int64(steps) + (int64(done) + number) * int64(steps // every)
                soon = self._asking(line, every) if done < every else None
                self._tile(vm.let(int64(start) + number * int64(rows)), rows, first, steps, soon, every)
            done += count

    def _asking(self, line: TirExpr, every: int) -> Callable[[TirExpr], None]:
        start = vm.let(self.first_weight + line * int64(self.best.width))

        def ask(k: TirExpr) -> None:
            blocks.prefetch(self.weights, start + tirx.floordiv(k, int64(every)) * int64(self.best.width))

        return ask

    def _tile(
        self,
        pixel: TirExpr,
        rows: int,
        first: TirExpr,
        steps: int,
        soon: Callable[[TirExpr], None] | None,
        every: int,
    ) -> None:
        best = self.best
        tile = Tile(rows, best.vectors, best.lanes)
        start = vm.let(pixel * int64(best.width))
        waiting = [[start + int64(i * best.width + v * best.lanes) for v in range(best.vectors)] for i in range(rows)]
        sums: list[list[Any]] = tile.start()
        with T.If(first > int64(0)):
            with T.Then():
                for line, places in zip(sums, waiting, strict=True):
                    for register, place in zip(line, places, strict=True):
                        T.buffer_store(register, self.sums[blocks.at(place, best.lanes)], [vm.whole(best.lanes)])
        left = Matrix(self.data.buffer, vm.let(self.image + first * int64(best.pixels) + pixel), 1, best.pixels)
        right = Matrix(self.weights, vm.let(self.first_weight + first * int64(best.width)), best.lanes, best.width)
        tile.multiply(sums, left, right, steps, soon, every)
        for values, places in zip(tile.values(sums), waiting, strict=True):
            for value, place in zip(values, places, strict=True):
                blocks.store(self.sums, place, value)

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
