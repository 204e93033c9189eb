"""Weights that the next tiles will use, asked for while others compute.

Where a cache does not keep the weights of a program from one call to the next, they come from memory, line after line.
All tiles that use the same piece of them ask for the next piece, each for its share, between the steps of its sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import free, stride
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.common import Problem, bytes_of, ravel, volume
from mercer.backends.tvm.schedules.normalize import position
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Reduce, reads
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.lower import read_names
from mercer.ir.types import TensorType

LOST = 1 << 20
"""Bytes of weights that no second-level cache keeps from one call of a program to the next."""

SHARED = 4
"""Tiles that use a piece, at least: fewer would ask for more than they compute."""


def are_far(weights: Iterable[TensorType]) -> bool:
    """Whether weights of these types come from behind the second-level cache in every call."""
    return sum(map(bytes_of, weights)) >= blocks.FAR


def without_rest(problem: Problem) -> Problem:
    """With vectors of half a register, where whole ones leave a rest of weights that come from memory.

    Those without a rest are stored in the order in which they are read, and arrive no faster in wider vectors.
    """
    lanes, (*rows, last) = problem.target.lanes, problem.nest.axes
    weights = (problem.types[name] for name in read_names(problem.nest) if name in problem.constants)
    far = sum(map(bytes_of, weights)) >= LOST
    if lanes < 16 or not far or volume(rows) >= SHARED or not last.extent.is_constant:
        return problem
    rest, half = last.extent.value % lanes, lanes // 2
    return replace(problem, target=replace(problem.target, lanes=half)) if rest == half else problem


@dataclass(frozen=True)
class Ahead:
    """The tiles of the loops `around` read the `piece` elements of `tensor` from `index` on. Each asks for one line, of
    `line` elements, of the next piece before every so many (`every`) steps of the innermost axis of its sum."""

    tensor: str
    index: IntExpr
    piece: int
    line: int
    around: tuple[Axis, ...]
    every: int

    @staticmethod
    def of(
        e: Reduce,
        weights: Mapping[str, TensorType],
        extents: Mapping[str, int],
        tiles: Mapping[Axis, str],
        inner: str,
    ) -> Ahead | None:
        """For the sum `e` in tiles with so many elements (`extents`) of every axis, in loops over `tiles`, the last one
        innermost, of so named axes. None where the most of the weights that a tile reads does not lie in a row, or few
        tiles share it."""
        found = [read for read in dict.fromkeys(reads(e.body)) if read.tensor in weights and read.pad is None]
        sizes = {read: math.prod(n for name, n in extents.items() if name in free(read)) for read in found}
        if not found or inner not in extents:
            return None
        read = max(found, key=lambda read: sizes[read])
        around = [axis for axis in tiles if axis.extent != ONE]
        while around and tiles[around[0]] in free(read):
            del around[0]
        if any(tiles[axis] in free(read) or not axis.extent.is_constant for axis in around):
            return None
        index, piece = position(read, weights[read.tensor]), 1
        steps = sorted((stride(index, name) or 0, n) for name, n in extents.items() if name in free(read) and n > 1)
        for step, n in steps:
            if step != piece:
                return None
            piece *= n
        line = blocks.LINE // read.dtype.numpy.itemsize
        most = volume(around) * math.prod(extents[axis.name] for axis in e.axes) * line // max(1, piece)
        every = max((n for n in range(1, most + 1) if extents[inner] % n == 0), default=0)
        if volume(around) < SHARED or not every:
            return None
        return Ahead(read.tensor, index, piece, line, tuple(around), every)

    def loops(self, scope: Scope, axes: Sequence[Axis], step: Callable[[Scope], None]) -> None:
        """`step` in loops over `axes`, the steps of a tile that begins at `scope`."""
        *outer, axis = axes
        first = replace(scope, lane="", width=1, done={}).inside(axes, [int64(0)] * len(axes))
        tensor = scope.tensors[self.tensor]
        start = T.bind(tensor.place(first.integer(self.index)) + int64(self.piece))
        groups = axis.extent.value // self.every

        def run(inside: Scope) -> None:
            def ask(group: TirExpr) -> None:
                number = ravel(inside, (*self.around, *outer)) * int64(groups) + group
                blocks.prefetch(tensor.buffer, start + number * int64(self.line), near=False)

            asking(inside, axis, self.every, ask, step)

        loops(scope, outer, run)


def asking(scope: Scope, axis: Axis, every: int, ask: Callable[[TirExpr], None], step: Callable[[Scope], None]) -> None:
    """`step` in a loop over `axis`; before every so many of them `ask`, with the number of times it was done before."""
    with T.serial(int64(0), int64(axis.extent.value // every)) as group:
        ask(group)
        with T.serial(int64(0), int64(every)) as k:
            step(scope.inside([axis], [T.bind(group * int64(every) + k)]))
