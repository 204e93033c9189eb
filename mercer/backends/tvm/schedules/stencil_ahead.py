"""What a stencil asks of the caches ahead.

The copy of a band waits for memory, its tiles for arithmetic. From far away, a band asks for what lies behind its
source and its result: the next one begins with it, in the same plane or the next one. Near by, the result is in the
cache already, yet shared with the cores that read what was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import flatten
from mercer.backends.tvm.lower import Scope, Tensor, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.common import volume
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis
from mercer.ir.integers import ONE, IntExpr

if TYPE_CHECKING:
    from mercer.backends.tvm.schedules.stencil_tile import Plane

ROW, COLUMN = "row behind", "column behind"

CLAIMED = 16
"""Lines that are claimed at most: a core keeps some sixty stores that wait."""


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

    @property
    def line(self) -> int:
        """Elements of a line."""
        return blocks.LINE // self.size

    def ask(self, number: TirExpr, parts: int) -> None:
        """For part `number`, into the second-level cache: the first one is in use."""
        share = -(-self.count // (self.line * parts))
        for k in range(share):
            place = self.start + number * int64(share * self.line) + int64(k * self.line)
            blocks.prefetch(self.buffer, place, self.write, near=False)


def behind(plane: Plane, scope: Scope, first: TirExpr) -> tuple[Run, ...]:
    """Behind the source and the result of the band that begins at row `first` of the result; none where a cache holds
    them, or where there is one dimension."""
    windows, rows = plane.windows, plane.windows.rows
    if rows is None or not _is_far(windows, rows):
        return ()
    read = windows.at(IntExpr.var(ROW), IntExpr.var(COLUMN))
    row = T.bind(first * int64(rows.stride) + int64(plane.band_rows - rows.before))
    before = scope.inside([Axis(ROW, ONE), Axis(COLUMN, ONE)], [row, int64(0)])
    return (
        Run.of(scope.tensors[read.tensor], read.indices, before, plane.band * rows.stride * plane.columns.size),
        _results(plane, rows, scope, first + int64(plane.band)),
    )


def claim(plane: Plane, scope: Scope, first: TirExpr) -> None:
    """Store a zero into every line of the result of that band, where they are few and near.

    A store into a line that another core has read waits until that core gives it up, and whatever is stored after it
    waits too: the results, then the copy of the next band. Stored this early, the zeros wait while the tiles compute.
    A prefetch does not do: the line is in the cache already.
    """
    rows = plane.windows.rows
    if rows is None or _is_far(plane.windows, rows):
        return
    results = _results(plane, rows, scope, first)
    if results.count > CLAIMED * results.line:
        return
    zero = tirx.const(0, str(results.buffer.dtype))
    with T.serial(int64(0), int64(-(-results.count // results.line))) as k:
        T.buffer_store(results.buffer, zero, [results.start + k * int64(results.line)])


def _results(plane: Plane, rows: Along, scope: Scope, row: TirExpr) -> Run:
    """Of a band from that row on."""
    columns, nest = plane.columns, plane.windows.nest
    inside = scope.inside([rows.output, columns.output], [row, int64(0)])
    indices = [IntExpr.var(axis.name) for axis in nest.axes]
    return Run.of(scope.tensors[nest.target], indices, inside, plane.band * columns.outputs, write=True)


def _is_far(windows: Windows, rows: Along) -> bool:
    """Whether the source and the result of all planes come from behind the second-level cache."""
    sizes = windows.read.dtype.numpy.itemsize, windows.nest.type.dtype.numpy.itemsize
    each = sizes[0] * rows.size * windows.columns.size + sizes[1] * windows.outputs
    return volume(windows.outer) * each >= blocks.FAR
