"""Direct convolution with vectors along the pixels of a channel, as the tensors lie in memory.

A unit of work is a range of output rows of one image. For a block of the terms (input channel, window position), the
inputs that the outputs of these rows multiply are laid out as one row of pixels for each term; strides, dilations and
padding are dealt with in this copy, which costs 1 / (output channels) of the products. The product with the weights,
packed at compile time, is that of Goto and van de Geijn (2008): tiles of output channels x pixels stay in registers,
terms run innermost. Of numbers of 16 or 8 bits, the terms of two or four channels are one: a row of `words`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import tir_type
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.blocks import Matrix, Tile
from mercer.backends.tvm.schedules.common import Choice, Problem, Refusal, Schedule, at_outer, pick, volume
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.backends.tvm.schedules.weight_tiles import Rows, depth, packed, renamed, tiles_of, together
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.convolution import Convolution, Window
from mercer.ir.index import Axis
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType

SHORT = 64
"""Terms of a tile that is computed while a line comes from memory."""

TERMS = 384
"""Terms whose inputs are copied at once: a tile of them stays in the first cache."""

LARGEST = 48 * 1024
"""Elements that a unit may have in its copy."""

NEAR = 7 * 1024
"""Elements that the first cache holds."""

EVERY = 4
"""Steps of a product in which a tile asks for one line of the next inputs."""

PANEL, SUMS = "(panel)", "(sums)"

THREADS, WAITING = (1, 2, 4, 8), 0.2
"""Numbers of threads among which an image is shared, and how much counts that some of them wait while others work."""


Columns: TypeAlias = tuple[int, int, int]
"""(first pixel, tiles, vectors of a tile)"""


@dataclass(frozen=True)
class Direct:
    """How a convolution is cut: units of `rows` output rows and `outputs` channels of a group, `channels` at a time.

    Of packed numbers, `channels` counts words of channels.
    """

    convolution: Convolution
    window: tuple[Window, Window]
    rows: int
    outputs: int
    channels: int
    lanes: int
    height: int

    @property
    def choice(self) -> Choice:
        return {"family": "direct", "rows": self.rows, "outputs": self.outputs}

    @property
    def pixels(self) -> int:
        return self.rows * self.window[1].outputs

    @property
    def pitch(self) -> int:
        """Elements from one term to the next: an odd number of cache lines, so that rows fall on different sets."""
        return (-(-self.pixels // 16) | 1) * 16

    @property
    def terms(self) -> int:
        return self.channels * self.convolution.taps

    @property
    def blocks(self) -> int:
        return -(-depth(self.convolution) // self.channels)

    @property
    def in_place(self) -> bool:
        """Whether inputs are read where they lie, since a term is a row of pixels there."""
        return self.convolution.is_point and self.convolution.dtype is DType.F32

    @property
    def waits(self) -> bool:
        """Whether a tile takes less time than its results do to come into the second-level cache."""
        nest = self.convolution.nest
        return self.terms <= SHORT and nest.type.dtype.numpy.itemsize * volume(nest.axes) >= blocks.FAR

    @property
    def streams(self) -> bool:
        """Whether its inputs come from memory, and each piece of them is for one unit."""
        convolution = self.convolution
        is_whole = self.outputs * convolution.groups == convolution.outputs
        return self.waits and self.in_place and is_whole and self.blocks == 1

    def tile(self, height: int, vectors: int) -> Tile:
        combine = words.add_quad if self.convolution.dtype is DType.I8 else words.add_dot
        return Tile(height, vectors, self.lanes, tir_type(self.convolution.reduce.dtype), combine)

    def column_tiles(self) -> list[Columns]:
        """The last tile may overlap the one before."""
        double = 2 * self.lanes
        whole, rest = divmod(self.pixels, double)
        found = [(0, whole, 2)] if whole else []
        if rest:
            vectors = 1 if rest <= self.lanes else 2
            if not whole:
                vectors = 1 if self.pixels < double else 2
                if self.pixels > self.lanes:
                    found.append((0, 1, 1))
            found.append((self.pixels - vectors * self.lanes, 1, vectors))
        return found

    def row_tiles(self) -> list[Rows]:
        return tiles_of(self.outputs, self.height)

    def sums(self, count: int) -> int:
        """Elements of the sums of the first `count` groups of columns; each tile has its own."""
        return sum(across * vectors * self.lanes * self.outputs for _, across, vectors in self.column_tiles()[:count])

    @property
    def workspace(self) -> tuple[Operand, ...]:
        panel = blocks.workspace(PANEL, self.terms * self.pitch, self.convolution.reduce.dtype)
        sums = blocks.workspace(SUMS, self.sums(len(self.column_tiles())), self.convolution.reduce.dtype)
        return (*(() if self.in_place else (panel,)), *((sums,) if self.blocks > 1 else ()))


def plan(convolution: Convolution, epilogue: Epilogue, problem: Problem) -> Schedule | Refusal:
    target = problem.target
    if convolution.pixels < target.lanes:
        return Refusal("convolution", f"{convolution.pixels} pixels, less than a vector")
    found = pick(_candidates(convolution, target), _cost, lambda each: each.choice, problem.choice)
    if found is None:
        return Refusal("convolution", "the rows are too long")
    best, options = found
    weights = packed(convolution, best.outputs, best.height, problem)
    nest = renamed(convolution, weights.name)
    window = best.window
    units = (
        Axis("conv.rows", IntExpr.constant(-(-window[0].outputs // best.rows))),
        Axis("conv.group", IntExpr.constant(convolution.groups)),
        Axis("conv.outputs", IntExpr.constant(convolution.outputs // convolution.groups // best.outputs)),
    )
    each = convolution.outputs // convolution.groups
    axes = (convolution.batch, *units)
    count = math.prod((axis.extent for axis in axes), start=IntExpr.constant(1))
    per_image = math.prod(axis.extent.value for axis in units)
    cost = convolution.products / per_image / target.lanes / 6.0

    def emit(scope: Scope, at: TirExpr) -> None:
        _Unit(best, epilogue, weights.name, at_outer(scope, axes, at)).emit()

    parts = each // best.outputs
    terms = f"{best.terms} {('', 'pairs of ', 'fours of ')[together(convolution) // 2]}terms"
    detail = f"direct, {best.height} channels x {2 * best.lanes} pixels, {terms}, {best.rows} rows, {parts} parts"
    return Schedule("convolution", detail, nest, count, cost, emit, (), (weights,), best.workspace, options)


# --- the choice of blocks ---------------------------------------------------------------------------------------------


def _flat(convolution: Convolution) -> tuple[Window, Window]:
    """Two spatial axes; pixels that are computed alike are one long row."""
    windows = convolution.windows
    if convolution.is_point:
        size = math.prod(window.inputs for window in windows)
        return Window(1, 1, 1, 0, 1, 1), Window(1, 1, 1, 0, size, size)
    return (Window(1, 1, 1, 0, 1, 1), windows[0]) if len(windows) == 1 else (windows[0], windows[1])


def _candidates(convolution: Convolution, target: Target) -> Iterator[Direct]:
    window = _flat(convolution)
    if window[1].is_point and window[0].outputs == 1:
        window = _folded(window[1], target)
    each = convolution.outputs // convolution.groups
    height = 6 if target.registers < 32 else 8
    splits = [s for s in range(1, 9) if each % s == 0 and (s == 1 or each // s >= 32)]
    blocks = -(-depth(convolution) * convolution.taps // TERMS)
    channels = -(-depth(convolution) // blocks)
    for split in splits:
        for rows in range(1, window[0].outputs + 1):
            found = Direct(convolution, window, rows, each // split, channels, target.lanes, height)
            if found.pixels < target.lanes:
                continue
            if found.pitch * found.terms > LARGEST and rows > 1:
                break
            if found.pitch * found.terms <= 4 * LARGEST:
                yield found


def _folded(window: Window, target: Target) -> tuple[Window, Window]:
    """A long row as several: rows of a length that suits tiles, without a rest."""
    size = window.inputs
    for length in range(min(size, 16 * target.lanes), target.lanes - 1, -1):
        if size % length == 0 and length % (2 * target.lanes) == 0:
            rows = size // length
            return Window(1, 1, 1, 0, rows, rows), Window(1, 1, 1, 0, length, length)
    return Window(1, 1, 1, 0, 1, 1), window


def _cost(found: Direct) -> float:
    """Cycles for an image."""
    convolution, (vertical, horizontal) = found.convolution, found.window
    terms = depth(convolution) * convolution.taps
    row_units = -(-vertical.outputs // found.rows)
    splits = convolution.outputs // convolution.groups // found.outputs
    tile_cycles = 0.0
    for _, rows_count, rows in found.row_tiles():
        for _, count, vectors in found.column_tiles():
            work = max(rows * vectors / 2, 4.0, (rows + vectors) / 2)
            ends = 30 * found.blocks * rows * vectors / 6
            if found.blocks == 1 and found.terms * found.pitch > NEAR:
                ends += 6 * rows  # every row is stored into another page
            tile_cycles += rows_count * count * (terms * (work + 0.5) + ends)
    # of inputs that are read in place, as much for their arrival
    copies = terms * found.rows * (len(blocks.pieces(horizontal.outputs, found.lanes)) * 1.5 + 2)
    if horizontal.stride > 1:
        copies *= 2
    streamed = found.outputs * terms * 4 / 12 / max(1, found.pixels / 16)
    unit = tile_cycles + copies + streamed
    units = row_units * convolution.groups * splits
    waiting = sum(math.ceil(units / threads) * threads / units - 1 for threads in THREADS) / len(THREADS)
    return unit * units * (1 + WAITING * waiting)


# --- code -------------------------------------------------------------------------------------------------------------


class _Unit:
    """The code of one unit of work."""

    def __init__(self, best: Direct, epilogue: Epilogue, weights: str, scope: Scope) -> None:
        self.best, self.epilogue, self.scope = best, epilogue, scope
        self.convolution = best.convolution
        self.weights = scope.tensors[weights].buffer
        self.data = scope.tensors[self.convolution.data].buffer
        self.batch = scope.indices[self.convolution.batch.name]
        self.partners: list[TirExpr] = []
        vertical = best.window[0]
        first = scope.indices["conv.rows"] * int64(best.rows)
        if vertical.outputs % best.rows:
            first = T.min(first, int64(vertical.outputs - best.rows))
        self.row = vm.let(first)
        self.group = scope.indices["conv.group"]
        each = self.convolution.outputs // self.convolution.groups
        self.output = vm.let(self.group * int64(each) + scope.indices["conv.outputs"] * int64(best.outputs))
        total = scope.tensors[self.convolution.data].type.shape[1].value
        self.plane = vertical.inputs * best.window[1].inputs
        channel = self.group * int64(self.convolution.channels) + int64(self.convolution.first)
        self.image = vm.let((self.batch * int64(total) + channel) * int64(self.plane))
        self.next_image = int64(total * self.plane)

    def emit(self) -> None:
        best = self.best
        if best.blocks == 1:
            self.copy(int64(0), int64(best.channels))
            self.tiles()
            return
        sums = self.scope.tensors[SUMS].buffer
        with T.serial(int64(0), int64(best.blocks)) as block:
            first = vm.let(block * int64(best.channels))
            channels = vm.let(T.min(int64(best.channels), int64(depth(self.convolution)) - first))
            self.copy(first, channels)
            self.partial(sums, block, first, channels)
        self.finish(sums)

    # --- the copy

    def copy(self, first: TirExpr, channels: TirExpr) -> None:
        """Inputs of `channels` channels of the group, from `first` on, as rows of pixels."""
        best, convolution = self.best, self.convolution
        if best.in_place:
            return
        panel = self.scope.tensors[PANEL].buffer
        (vertical, horizontal), plane = best.window, self.plane
        each = together(convolution)
        base = vm.let(self.image + first * int64(each * plane))
        taps = vertical.size * horizontal.size
        with T.serial(int64(0), channels) as c:
            source = vm.let(base + c * int64(each * plane))
            # those that a last word lacks are the last channel again: the weights of that are 0
            last = vm.let(int64(convolution.channels - 1) - int64(each) * (first + c))
            self.partners = [vm.let(T.min(int64(k), last) * int64(plane)) for k in range(1, each)]
            target = vm.let(c * int64(taps * best.pitch))
            with T.serial(int64(0), int64(best.rows)) as r:
                for i in range(vertical.size):
                    y = vm.let((self.row + r) * int64(vertical.stride) + int64(i * vertical.dilation - vertical.pad))
                    place = vm.let(target + int64(i * horizontal.size * best.pitch) + r * int64(horizontal.outputs))
                    low, high = _range(vertical, i)
                    if low == 0 and high == vertical.outputs:
                        self._rows(panel, place, source + y * int64(horizontal.inputs))
                        continue
                    with T.If(tirx.And(y >= int64(0), y < int64(vertical.inputs))):
                        with T.Then():
                            self._rows(panel, place, source + y * int64(horizontal.inputs))
                        with T.Else():
                            for j in range(horizontal.size):
                                self._clear(panel, place + int64(j * best.pitch), horizontal.outputs)

    def _rows(self, panel: Any, place: TirExpr, source: TirExpr) -> None:
        """One output row for every horizontal position of the window."""
        best, window = self.best, self.best.window[1]
        source = vm.let(source)
        for j in range(window.size):
            low, high = _range(window, j)
            target = place + int64(j * best.pitch)
            self._clear(panel, target, low)
            self._clear(panel, target + int64(high), window.outputs - high)
            offset = j * window.dilation - window.pad
            for at, size in blocks.pieces(high - low, best.lanes):
                start = source + int64((low + at) * window.stride + offset)
                value = blocks.strided(self.data, start, window.stride, size)
                if self.partners:
                    others = [blocks.strided(self.data, start + each, window.stride, size) for each in self.partners]
                    value = words.interleaved(value, *others)
                if self.convolution.dtype is DType.I8:
                    value = value ^ vm.broadcast(tirx.const(words.SIGNS, "int32"), size)
                blocks.store(panel, target + int64(low + at), value)

    def _clear(self, panel: Any, start: TirExpr, count: int) -> None:
        """A run of padding."""
        number = int.from_bytes(bytes([self.convolution.pad] * 4), "little", signed=True)
        for place, size in blocks.pieces(count, self.best.lanes):
            blocks.store(panel, start + int64(place), vm.broadcast(tirx.const(number, str(panel.dtype)), size))

    # --- the product

    def _left(self, rows: Rows, tile: TirExpr) -> Matrix:
        """Weights of a tile, one after the other."""
        start, _, height = rows
        terms = depth(self.convolution) * self.convolution.taps
        first = (self.output + int64(start)) * int64(terms) + tile * int64(terms * height)
        return Matrix(self.weights, vm.let(first), 1, height)

    def _right(self, pixel: TirExpr, first: TirExpr) -> Matrix:
        """Inputs from a pixel of the unit and a channel of the group on."""
        best = self.best
        if not best.in_place:
            return Matrix(self.scope.tensors[PANEL].buffer, pixel, best.lanes, best.pitch)
        row = self.row * int64(best.window[1].inputs)
        return Matrix(self.data, vm.let(self.image + first * int64(self.plane) + row + pixel), best.lanes, self.plane)

    def tiles(self) -> None:
        """The innermost loop runs along pixels when all copies stay in the first cache, else along channels."""
        best = self.best

        def tile(columns: Columns, rows: Rows, column: TirExpr, number: TirExpr) -> None:
            (begin, _, vectors), (start, _, height) = columns, rows
            kernel = best.tile(height, vectors)
            pixel = vm.let(int64(begin) + column * int64(vectors * best.lanes))
            channel = int64(start) + number * int64(height)
            if best.waits:
                self._ask(pixel, channel + int64(height), height, vectors * best.lanes)
            starts = self.epilogue.starts(self.scope, self.batch, vm.let(self.output + channel), height)
            first = None if starts is None else (lambda i, v: vm.broadcast(starts[i], best.lanes))
            sums = kernel.start(first)
            soon = self._next_inputs(columns, rows, column, number) if best.streams else None
            kernel.multiply(sums, self._left(rows, number), self._right(pixel, int64(0)), best.terms, soon, EVERY)
            self._store(kernel.values(sums), pixel, channel, started=True)

        self._over(best.terms * best.pitch <= NEAR, tile)

    def _ask(self, pixel: TirExpr, channel: TirExpr, height: int, width: int) -> None:
        """For the lines of what comes next at these pixels: the next channels, or the first ones of the next rows."""
        row, below = self.row * int64(self.best.window[1].outputs), channel >= int64(self.best.outputs)
        row = row + T.if_then_else(below, int64(self.best.pixels), int64(0))
        channel = self.output + T.if_then_else(below, int64(0), channel)
        self.epilogue.ask(self.scope, self.batch, vm.let(channel), vm.let(row + pixel), height, width)

    def _next_inputs(self, columns: Columns, rows: Rows, column: TirExpr, number: TirExpr) -> Callable[[TirExpr], None]:
        """Asks at a step of a tile for a line of the inputs of the next unit, which lie behind those of this one or in
        the next image; all tiles together ask for every line."""
        best, (vertical, horizontal) = self.best, self.best.window
        across, down = best.column_tiles(), best.row_tiles()
        before = sum(count for _, count, _ in across[: across.index(columns)])
        above = sum(count for _, count, _ in down[: down.index(rows)])
        tile = (int64(before) + column) * int64(sum(count for _, count, _ in down)) + int64(above) + number
        row, plane = self.row + int64(best.rows), int64(self.plane)
        image = T.if_then_else(row >= int64(vertical.outputs), self.next_image - plane, int64(0))
        start = vm.let(self.image + image + row * int64(horizontal.inputs))
        numbers = blocks.LINE // self.convolution.dtype.numpy.itemsize
        each = -(-best.pixels // numbers)
        first = vm.let(tile * int64(-(-best.terms // EVERY)))

        def soon(k: TirExpr) -> None:
            line = vm.let(T.min(first + tirx.floordiv(k, int64(EVERY)), int64(best.terms * each - 1)))
            channel = vm.let(tirx.floordiv(line, int64(each)))
            place = start + channel * plane + (line - channel * int64(each)) * int64(numbers)
            blocks.prefetch(self.data, place, near=False)

        return soon

    def _over(self, along_pixels: bool, code: Callable[[Columns, Rows, TirExpr, TirExpr], None]) -> None:
        """Code for every tile."""
        columns, rows = self.best.column_tiles(), self.best.row_tiles()
        if along_pixels:
            for each in rows:
                with T.serial(int64(0), int64(each[1])) as number:
                    for across in columns:
                        with T.serial(int64(0), int64(across[1])) as column:
                            code(across, each, column, number)
            return
        for across in columns:
            with T.serial(int64(0), int64(across[1])) as column:
                for each in rows:
                    with T.serial(int64(0), int64(each[1])) as number:
                        code(across, each, column, number)

    def _store(self, values: list[list[TirExpr]], pixel: TirExpr, channel: TirExpr, started: bool = False) -> None:
        width = self.best.lanes
        row = self.row * int64(self.best.window[1].outputs)
        found = {(i, v * width): value for i, line in enumerate(values) for v, value in enumerate(line)}
        channel = vm.let(self.output + channel)
        self.epilogue.store(self.scope, self.batch, channel, vm.let(row + pixel), found, started)

    # --- several blocks of terms: sums wait in memory

    def _waiting(self, columns: Columns, rows: Rows, column: TirExpr, number: TirExpr) -> list[list[TirExpr]]:
        """Where the sums of a tile are."""
        best, (_, _, vectors), (start, _, height) = self.best, columns, rows
        width = vectors * best.lanes
        first = int64(best.sums(best.column_tiles().index(columns)) + start * width)
        first = vm.let(first + column * int64(width * best.outputs) + number * int64(height * width))
        return [[first + int64(i * width + v * best.lanes) for v in range(vectors)] for i in range(height)]

    def partial(self, sums: Any, block: TirExpr, first: TirExpr, channels: TirExpr) -> None:
        best = self.best

        def tile(columns: Columns, rows: Rows, column: TirExpr, number: TirExpr) -> None:
            (begin, _, vectors), (_, _, height) = columns, rows
            kernel = best.tile(height, vectors)
            pixel = vm.let(int64(begin) + column * int64(vectors * best.lanes))
            waiting = self._waiting(columns, rows, column, number)
            left = self._left(rows, number)
            left = replace(left, start=vm.let(left.start + block * int64(best.terms * height)))
            registers = kernel.start()
            with T.If(block > int64(0)):
                with T.Then():
                    for line, places in zip(registers, waiting, strict=True):
                        for register, place in zip(line, places, strict=True):
                            value = sums[blocks.at(place, best.lanes)]
                            T.buffer_store(register, value, [vm.whole(best.lanes)])
            kernel.multiply(registers, left, self._right(pixel, first), channels * int64(self.convolution.taps))
            for line, places in zip(kernel.values(registers), waiting, strict=True):
                for value, place in zip(line, places, strict=True):
                    blocks.store(sums, place, value)

        self._over(False, tile)

    def finish(self, sums: Any) -> None:
        best = self.best

        def tile(columns: Columns, rows: Rows, column: TirExpr, number: TirExpr) -> None:
            (first, _, vectors), (start, _, height) = columns, rows
            pixel = vm.let(int64(first) + column * int64(vectors * best.lanes))
            waiting = self._waiting(columns, rows, column, number)
            values = [[blocks.load(sums, place, best.lanes) for place in places] for places in waiting]
            self._store(values, pixel, int64(start) + number * int64(height))

        self._over(True, tile)


def _range(window: Window, tap: int) -> tuple[int, int]:
    """The outputs, from the first to before the second, for which the tap lies within the input."""
    offset = tap * window.dilation - window.pad
    low = min(window.outputs, max(0, -(offset // window.stride)))
    high = max(low, min(window.outputs, (window.inputs - 1 - offset) // window.stride + 1))
    return low, high
