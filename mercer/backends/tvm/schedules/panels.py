"""Copies of what a block of a reduction reads, where every tile finds its part in one piece (Goto, van de Geijn 2008).

Rows of an operand that lie far apart share few sets of a first-level cache, and bring more of a line than is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import free, is_computed, stride
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, Tensor, int64, loops
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.common import ravel, volume
from mercer.backends.tvm.schedules.normalize import position
from mercer.backends.tvm.schedules.weights_ahead import asking
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Expr, Read, Reduce, reads, transform
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.types import DType, TensorType

STEP = "panel.step"
"""The step within the block (a loop index)."""

REUSE = 2
"""Tiles that read an operand, from which on it is copied."""


def first(axis: Axis) -> str:
    """The loop index for where the tile begins on an axis."""
    return f"{axis.name}.first"


def number(axis: Axis) -> str:
    """The loop index for the number of the tile on an axis."""
    return f"{axis.name}#"


@dataclass(frozen=True)
class Panels:
    """`read` at the `steps` of `axis` in a block: [tiles of all axes, step, place in the tile].

    `tiles` gives for every axis of the tiles that the read depends on their count and the elements of one; `along` is
    the axis on which neighbours are neighbours in memory.
    """

    name: str
    read: Read
    axis: Axis
    steps: int
    tiles: Mapping[Axis, tuple[int, int]]
    along: Axis

    @property
    def width(self) -> int:
        return math.prod(factor for _, factor in self.tiles.values())

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(map(number, self.tiles))

    @property
    def type(self) -> TensorType:
        count = math.prod(count for count, _ in self.tiles.values())
        return TensorType(self.read.dtype, tuple(map(IntExpr.constant, (count, self.pitch))))

    @property
    def pitch(self) -> int:
        """Elements from tile to tile: a power of two would put all tiles into the same sets of a cache."""
        return self.steps * self.width + blocks.LINE // self.read.dtype.numpy.itemsize

    @property
    def workspace(self) -> Operand:
        return Operand(self.name, self.type)

    @property
    def copied(self) -> Read:
        """The same element in the copy."""
        tile, place = ZERO, ZERO
        for axis, (count, factor) in self.tiles.items():
            tile = tile * count + IntExpr.var(number(axis))
            if axis != self.along:
                place = place * factor + (IntExpr.var(axis.name) - IntExpr.var(first(axis)))
        place = place * self.tiles[self.along][1] + IntExpr.var(self.along.name) - IntExpr.var(first(self.along))
        return Read(self.name, (tile * self.pitch + IntExpr.var(STEP) * self.width + place,), self.read.dtype)

    def emit(self, scope: Scope, block: TirExpr, lanes: int) -> None:
        """Copy what block number `block` reads."""
        target = Tensor(scope.tensors[self.name].buffer, self.type)
        counts = [Axis(number(axis), IntExpr.constant(count)) for axis, (count, _) in self.tiles.items()]
        others = [axis for axis in self.tiles if axis != self.along]
        inside = [Axis(f"{axis.name}.copied", IntExpr.constant(self.tiles[axis][1])) for axis in others]
        place = self.copied.indices[0]

        def tile(at: Scope) -> None:
            starts = [T.bind(start(axis, at.indices[number(axis)], factor)) for axis, (_, factor) in self.tiles.items()]
            at = at.inside([replace(axis, name=first(axis)) for axis in self.tiles], starts)
            begin = dict(zip(self.tiles, starts, strict=True))
            loops(at, inside, lambda each: line(each, begin))

        def line(at: Scope, begin: Mapping[Axis, TirExpr]) -> None:
            at = at.inside(others, [begin[axis] + at.indices[f"{axis.name}.copied"] for axis in others])
            for offset, width in blocks.pieces(self.tiles[self.along][1], lanes):
                limits = ZERO, self.along.extent - 1
                vector = at.vector(self.along.name, T.bind(begin[self.along] + int64(offset)), width, limits)
                vector.store(target, place, vector.value(self.read))

        with T.serial(int64(0), int64(self.steps)) as i:
            step = T.bind(block * int64(self.steps) + i)
            loops(scope.inside([self.axis, replace(self.axis, name=STEP)], [step, i]), counts, tile)

    def ask(self, scope: Scope, step: TirExpr) -> None:
        """For the lines of a step where they lie apart, which hardware does not foresee."""
        tensor = scope.tensors[self.read.tensor]
        place = position(self.read, tensor.type)
        length = math.prod(axis.extent.value for axis in self.tiles)
        span = 1 + sum((stride(place, axis.name) or 0) * (axis.extent.value - 1) for axis in self.tiles)
        if span != length or abs(stride(place, self.axis.name) or 0) <= length:
            return
        scope = replace(scope, lane="", width=1, done={})
        here = scope.inside([self.axis, *self.tiles], [step, *(int64(0) for _ in self.tiles)])
        first = T.bind(here.integer(place))
        for start in range(0, length, blocks.LINE // tensor.type.dtype.numpy.itemsize):
            blocks.prefetch(tensor.buffer, tensor.place(first + int64(start)), near=False)


@dataclass(frozen=True)
class Next:
    """What `copies` bring for the next block: each of the tiles that share a block, in loops `around` them, asks for
    some of its steps between those of its own sum."""

    copies: tuple[Panels, ...]
    around: tuple[Axis, ...]

    def loops(self, scope: Scope, axes: Sequence[Axis], step: Callable[[Scope], None]) -> None:
        """`step` in a loop over the only one of `axes`, the steps of a tile that begins at `scope`."""
        (axis,) = axes
        summed, steps, tiles = self.copies[0].axis, axis.extent.value, volume(self.around)
        share = next(n for n in range(1, steps + 1) if steps % n == 0 and n * tiles >= steps)
        first = T.bind(scope.indices[summed.name] + int64(steps) + ravel(scope, self.around) * int64(share))

        def ask(group: TirExpr) -> None:
            later = T.bind(T.min(first + group, int64(summed.extent.value - 1)))
            for each in self.copies:
                each.ask(scope, later)

        asking(scope, axis, steps // share, ask, step)


def panels(
    e: Reduce, axis: Axis, steps: int, inner: Mapping[Axis, tuple[int, int]], types: Mapping[str, TensorType]
) -> tuple[Panels, ...]:
    """Those of the operands of `e` that are worth it; `inner` gives for every axis along which tiles share a block
    their count and the elements of one."""
    if e.axes != (axis,):
        return ()
    found: list[Panels] = []
    total = math.prod(count for count, _ in inner.values())
    for read in dict.fromkeys(reads(e.body)):
        tiles = {a: tile for a, tile in inner.items() if a.name in free(read)}
        along = next((a for a in tiles if stride(position(read, types[read.tensor]), a.name) == 1), None)
        plain = read.dtype is DType.F32 and read.pad is None and not any(map(is_computed, read.indices))
        again = total // max(1, math.prod(count for count, _ in tiles.values()))
        if plain and along is not None and again >= REUSE:
            found.append(Panels(f"contraction.panels{len(found)}", read, axis, steps, tiles, along))
    return tuple(found)


def redirected(e: Reduce, copies: Sequence[Panels]) -> Reduce:
    """The reduction of a block on its copies."""
    there: dict[Expr, Expr] = {each.read: each.copied for each in copies}
    return replace(e, body=transform(e.body, lambda expr: there.get(expr, expr)))


def start(axis: Axis, tile: TirExpr, factor: int) -> TirExpr:
    """Where a tile of an axis of constant extent begins; the last one overlaps the one before."""
    begin = tile * int64(factor)
    return begin if axis.extent.value % factor == 0 else T.min(begin, int64(axis.extent.value - factor))
