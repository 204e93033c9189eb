"""What the next band of a stencil will use, asked for while this one computes.

The copy of a band waits for memory, its tiles for arithmetic; what lies behind the source and the result of a band is
what the next band begins with, in the same plane or the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import flatten, free
from mercer.backends.tvm.lower import Scope, Tensor, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.common import volume
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, reads
from mercer.ir.integers import ONE, IntExpr

if TYPE_CHECKING:
    from mercer.backends.tvm.schedules.stencil_tile import Plane

ROW, COLUMN = "row behind", "column behind"


@dataclass(frozen=True)
class Run:
    """`count` elements of a buffer from the place `start` on, of `size` bytes each."""

    buffer: Any
    start: TirExpr
    count: int
    size: int
    write: bool = False

    @staticmethod
    def of(tensor: Tensor, indices: Sequence[IntExpr], inside: Scope, count: int, write: bool = False) -> Run:
        start = tensor.place(inside.integer(flatten(indices, tensor.type)))
        return Run(tensor.buffer, T.bind(start), count, tensor.type.dtype.numpy.itemsize, write)

    def ask(self, number: TirExpr, parts: int) -> None:
        """For part `number`, into the second-level cache: the first one is in use."""
        line = blocks.LINE // self.size
        share = -(-self.count // (line * parts))
        for k in range(share):
            place = self.start + number * int64(share * line) + int64(k * line)
            blocks.prefetch(self.buffer, place, self.write, near=False)


def behind(plane: Plane, scope: Scope, first: TirExpr) -> tuple[Run, ...]:
    """Behind the source and the result of the band that begins at row `first` of the result; none where a cache holds
    them, or where there is one dimension."""
    windows, columns = plane.windows, plane.columns
    rows, nest = windows.rows, windows.nest
    if rows is None:
        return ()
    element = windows.element(IntExpr.var(ROW), IntExpr.var(COLUMN))
    read = next(read for read in reads(element) if COLUMN in free(read))
    source, result = scope.tensors[read.tensor], scope.tensors[nest.target]
    sizes = source.type.dtype.numpy.itemsize, nest.type.dtype.numpy.itemsize
    each = sizes[0] * rows.size * columns.size + sizes[1] * rows.outputs * columns.outputs
    if volume(windows.outer) * each < blocks.FAR:
        return ()
    row = T.bind(first * int64(rows.stride) + int64(plane.band_rows - rows.before))
    before = scope.inside([Axis(ROW, ONE), Axis(COLUMN, ONE)], [row, int64(0)])
    after = scope.inside([rows.output, columns.output], [first + int64(plane.band), int64(0)])
    indices = [IntExpr.var(axis.name) for axis in nest.axes]
    return (
        Run.of(source, read.indices, before, plane.band * rows.stride * columns.size),
        Run.of(result, indices, after, plane.band * columns.outputs, write=True),
    )
