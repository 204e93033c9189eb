"""Convolutions by windows of 1 x 1 where they lie, a column of pixels at a time.

A unit of work takes a column, two vectors of neighbouring pixels, through all output channels, or through half of them
where columns are so few that threads would not have equally many. Its first tile of output channels reads the inputs
from the image and leaves them in a panel of the first-level cache as it computes, so that no pass only copies; all
further tiles read the panel. Channels that the panel cannot hold come in blocks, whose sums wait in memory. While the
last tile of a block runs, it asks for the inputs of the next one, which lie on many pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import free
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.blocks import Matrix, Tile
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, at_outer
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.backends.tvm.schedules.weight_tiles import packed, renamed, tiles_of
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.convolution import Convolution
from mercer.ir.index import Axis, Expr, reads
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType

TERMS = 256
"""Input channels of a panel at most: 16 KiB of vectors of 8, half of a first-level cache."""

WEIGHTS = 96 * 1024
"""Weights that every column reads again at most: they stay in the second-level cache."""

WIDER = 4
"""Output channels for an input channel from which on columns do not pay: they are stored piece by piece."""

FEW = 64
"""Input channels of which the first-level cache holds a whole row of pixels, from which more is stored in one piece."""

MANY = 16
"""Columns from which on they are shared out among threads as they are."""

PANEL, SUMS = "(column)", "(column sums)"

CYCLE = 0.3
"""Nanoseconds."""

Rows: TypeAlias = tuple[int, int, int]
"""(first channel, tiles, channels of a tile)"""


@dataclass(frozen=True)
class Columns:
    """Columns of two vectors of pixels; the last pixels, if they fill none, are a column of `rest` vectors."""

    convolution: Convolution
    lanes: int
    height: int

    @property
    def pixels(self) -> int:
        return self.convolution.pixels

    @property
    def whole(self) -> int:
        return self.pixels // (2 * self.lanes)

    @property
    def rest(self) -> int:
        return -(-(self.pixels % (2 * self.lanes)) // self.lanes)

    @property
    def count(self) -> int:
        return self.whole + (self.rest > 0)

    @property
    def blocks(self) -> int:
        return -(-self.convolution.channels // TERMS)

    @property
    def steps(self) -> int:
        """Input channels of a block; the last one may have fewer."""
        return -(-self.convolution.channels // self.blocks)

    @property
    def pitch(self) -> int:
        return 2 * self.lanes

    @property
    def parts(self) -> int:
        """Units of a column."""
        _, whole, _ = self.tiles()[0]
        return 2 if self.count < MANY and whole > self.share else 1

    @property
    def share(self) -> int:
        """Tiles of output channels in the first of two parts."""
        return -(-sum(count for _, count, _ in self.tiles()) // 2)

    @property
    def cycles(self) -> float:
        """Of a unit."""
        return self.convolution.channels * self.convolution.outputs * 1.1 / self.parts

    @property
    def workspace(self) -> tuple[Operand, ...]:
        panel = blocks.workspace(PANEL, self.steps * self.pitch)
        sums = blocks.workspace(SUMS, self.convolution.outputs * self.pitch)
        return (panel,) if self.blocks == 1 else (panel, sums)

    def tiles(self) -> list[Rows]:
        return tiles_of(self.convolution.outputs, self.height)

    def __str__(self) -> str:
        parts = f", {self.parts} parts" if self.parts > 1 else ""
        return f"columns, {self.height} channels x {2 * self.lanes} pixels, {self.steps} terms{parts}"


def plan(
    convolution: Convolution, epilogue: Epilogue, problem: Problem, factor: Expr | None = None
) -> Schedule | Refusal:
    """With a `factor`, of the one read in it: the inputs are computed as they enter the panel."""
    target = problem.target
    if convolution.reduce.dtype is not DType.F32:
        return Refusal("convolution", "no sum of f32")
    if not convolution.is_point or convolution.groups > 1:
        return Refusal("convolution", "windows or groups")
    if convolution.pixels < 2 * target.lanes:
        return Refusal("convolution", f"{convolution.pixels} pixels, less than two vectors")
    if convolution.outputs * convolution.channels > WEIGHTS:
        return Refusal("convolution", "weights that would not stay in cache")
    widest = convolution.channels * (WIDER if convolution.channels > FEW or factor is not None else 1)
    if convolution.outputs >= widest:
        return Refusal("convolution", f"{convolution.outputs} channels from {convolution.channels}")
    best = Columns(convolution, target.lanes, 6 if target.registers < 32 else 12)
    weights = packed(convolution, convolution.outputs, best.height, problem)
    sizes = {"conv.columns": best.count, "conv.parts": best.parts}
    axes = (convolution.batch, *(Axis(name, IntExpr.constant(size)) for name, size in sizes.items()))
    count = math.prod((axis.extent for axis in axes), start=IntExpr.constant(1))

    def emit(scope: Scope, at: TirExpr) -> None:
        _Unit(best, epilogue, weights.name, factor, at_outer(scope, axes, at)).emit()

    nest = renamed(replace(convolution, nest=problem.nest), weights.name)
    detail = f"{best}, inputs computed" if factor is not None else str(best)
    cost = CYCLE * best.cycles
    return Schedule("convolution", detail, nest, count, cost, emit, (), (weights,), best.workspace)


@dataclass(frozen=True)
class _Block:
    """The input channels `first` to `first + steps - 1` of the column of so many vectors from `pixel` on."""

    pixel: TirExpr
    vectors: int
    first: TirExpr
    steps: int
    last: bool


class _Unit:
    """The code of one unit of work."""

    def __init__(self, best: Columns, epilogue: Epilogue, weights: str, factor: Expr | None, scope: Scope) -> None:
        self.best, self.epilogue, self.factor, self.scope = best, epilogue, factor, scope
        convolution = best.convolution
        self.weights, self.panel = scope.tensors[weights].buffer, scope.tensors[PANEL].buffer
        self.sums: Any = scope.tensors[SUMS].buffer if best.blocks > 1 else None
        data = scope.tensors[convolution.data]
        self.data = data.buffer
        names = convolution.batch.name, "conv.columns", "conv.parts"
        self.batch, self.column, self.part = (scope.indices[name] for name in names)
        start = self.batch * int64(data.type.shape[1].value) + int64(convolution.first)
        self.image = vm.let(start * int64(best.pixels))

    def emit(self) -> None:
        best = self.best
        if not best.rest:
            self._column(vm.let(self.column * int64(best.pitch)), 2)
            return
        with T.If(self.column < int64(best.whole)):
            with T.Then():
                self._column(vm.let(self.column * int64(best.pitch)), 2)
            with T.Else():
                self._column(int64(best.pixels - best.rest * best.lanes), best.rest)

    def _column(self, pixel: TirExpr, vectors: int) -> None:
        best, channels = self.best, self.best.convolution.channels
        last = (best.blocks - 1) * best.steps
        if best.blocks > 1:
            with T.serial(int64(0), int64(best.blocks - 1)) as block:
                first = vm.let(block * int64(best.steps))
                self._block(_Block(pixel, vectors, first, best.steps, False))
        self._block(_Block(pixel, vectors, int64(last), channels - last, True))

    def _block(self, block: _Block) -> None:
        best, vectors = self.best, block.vectors
        source = vm.let(self.image + block.pixel + block.first * int64(best.pixels))
        following = source + int64(best.pitch if block.last else best.steps * best.pixels)

        def load(k: TirExpr) -> list[TirExpr]:
            """From the image into the panel."""
            here, there = vm.let(source + k * int64(best.pixels)), vm.let(k * int64(best.pitch))
            places = [here + int64(v * best.lanes) for v in range(vectors)]
            values = [self._computed(blocks.load(self.data, place, best.lanes)) for place in places]
            for v, value in enumerate(values):
                blocks.store(self.panel, there + int64(v * best.lanes), value)
            return values

        def ask(k: TirExpr) -> None:
            blocks.prefetch(self.data, following + k * int64(best.pixels))

        (_, whole, height), *others = best.tiles()
        panel = Matrix(self.panel, int64(0), best.lanes, best.pitch)
        before = vm.let(self.part * int64(best.share))
        count = int64(whole) if best.parts == 1 else vm.let(T.min(int64(best.share), int64(whole) - before))
        soon = None if others else ask
        self._tile(block, vm.let(before * int64(height)), height, load, soon)
        with T.serial(int64(1), count) as number:
            self._tile(block, vm.let((before + number) * int64(height)), height, panel, soon)
        with T.If(self.part == int64(best.parts - 1)), T.Then():
            for start, count, height in others:
                with T.serial(int64(0), int64(count)) as number:
                    soon = ask if start == others[-1][0] else None
                    self._tile(block, vm.let(int64(start) + number * int64(height)), height, panel, soon)

    def _tile(
        self,
        block: _Block,
        channel: TirExpr,
        height: int,
        right: Matrix | Callable[[TirExpr], list[TirExpr]],
        soon: Callable[[TirExpr], None] | None,
    ) -> None:
        best, vectors = self.best, block.vectors
        if block.last:
            self.epilogue.ask(self.scope, self.batch, channel, block.pixel, height, vectors * best.lanes)
        sums = self._start(block, channel, height)
        place = vm.let(channel * int64(best.convolution.channels) + block.first * int64(height))
        kernel = Tile(height, vectors, best.lanes)
        kernel.multiply(sums, Matrix(self.weights, place, 1, height), right, block.steps, soon)
        self._end(block, channel, kernel.values(sums))

    def _computed(self, value: TirExpr) -> TirExpr:
        if self.factor is None:
            return value
        (read,) = set(reads(self.factor))
        here = replace(self.scope, lane="", width=self.best.lanes, offsets={}, done={}, outer=None)
        here.done[here.key(read, free(read))] = value
        return here.value(self.factor)

    def _waiting(self, channel: TirExpr, i: int, v: int) -> TirExpr:
        """Where sums are between blocks."""
        return channel * int64(self.best.pitch) + int64((i * 2 + v) * self.best.lanes)

    def _start(self, block: _Block, channel: TirExpr, height: int) -> list[list[Any]]:
        lanes = self.best.lanes
        sums = Tile(height, block.vectors, lanes).start()
        if self.best.blocks > 1:
            with T.If(block.first > int64(0)), T.Then():
                for i, line in enumerate(sums):
                    for v, register in enumerate(line):
                        value = self.sums[blocks.at(self._waiting(channel, i, v), lanes)]
                        T.buffer_store(register, value, [vm.whole(lanes)])
        return sums

    def _end(self, block: _Block, channel: TirExpr, values: list[list[TirExpr]]) -> None:
        found = {(i, v): value for i, line in enumerate(values) for v, value in enumerate(line)}
        if block.last:
            found = {(i, v * self.best.lanes): value for (i, v), value in found.items()}
            self.epilogue.store(self.scope, self.batch, channel, block.pixel, found)
            return
        for (i, v), value in found.items():
            blocks.store(self.sums, self._waiting(channel, i, v), value)
