"""What the next step of a scan reads and writes in pieces that hardware does not foresee, fetched during this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import flatten, free, is_computed, stride
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.common import count, size, unravel
from mercer.ir.index import Axis, Read, reads
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import TensorType

FORESEEN = 1024
"""Bytes of one step below which they are not fetched ahead."""


@dataclass(frozen=True)
class Ahead:
    """What a step touches of `tensor`: lines from `place` on, over `axes`, the last one along a piece."""

    tensor: str
    axes: tuple[Axis, ...]
    place: IntExpr
    writes: bool = False

    @property
    def lines(self) -> int:
        return size(count(self.axes))

    def fetch(self, scope: Scope, first: int, end: int) -> None:
        """The lines `first` <= i < `end`."""
        with T.serial(int64(first), int64(end)) as i:
            here = scope.inside(self.axes, unravel(scope, self.axes, i))
            tensor = here.tensors[self.tensor]
            place = tensor.place(here.integer(self.place))
            blocks.prefetch(tensor.buffer, place, self.writes, near=False)  # what a step works on fills the first cache


def of_reads(nest: Nest, tensors: Mapping[str, TensorType], step: str) -> tuple[Ahead, ...]:
    """What a nest reads of those tensors at a step."""
    found: list[Ahead] = []
    for read in dict.fromkeys(reads(nest.body)):
        if read.tensor in tensors and read.pad is None and not any(map(is_computed, read.indices)):
            ahead = _ahead(read, tensors[read.tensor], nest.axes, step)
            found += [] if ahead is None else [ahead]
    return tuple(found)


def of_slice(tensor: str, type: TensorType, axes: Sequence[Axis], indices: Sequence[IntExpr], step: str) -> list[Ahead]:
    """What a step writes of a tensor over `axes`."""
    ahead = _ahead(Read(tensor, tuple(indices), type.dtype), type, axes, step, writes=True)
    return [] if ahead is None else [ahead]


def _ahead(read: Read, type: TensorType, axes: Sequence[Axis], step: str, writes: bool = False) -> Ahead | None:
    place = flatten(read.indices, type)
    steps = {axis: stride(place, axis.name) for axis in axes if axis.name in free(read)}
    known = all(axis.extent.is_constant and each for axis, each in steps.items())
    lane = next((axis for axis, each in steps.items() if each == 1), None)
    if not known or lane is None or step not in place.dims():
        return None
    pieces = tuple(axis for axis in steps if axis != lane)
    length, many, bytes = lane.extent.value, size(count(pieces)), type.dtype.numpy.itemsize
    apart = min((abs(steps[axis] or 0) for axis in pieces), default=0)
    if many * length * bytes < FORESEEN or not blocks.LINE <= length * bytes < apart * bytes:
        return None
    each = blocks.LINE // bytes
    line = Axis(f"{lane.name}.line", IntExpr.constant(-(-length // each)))
    start = place - IntExpr.var(lane.name) + IntExpr.var(line.name) * each
    return Ahead(read.tensor, (*pieces, line), start, writes)


def shares(aheads: Sequence[Ahead], costs: Sequence[float]) -> list[Callable[[Scope], None]]:
    """Fetches to go before statements of these costs: all lines, spread so that few of them are under way at once."""
    total, lines = sum(costs), sum(each.lines for each in aheads)
    bounds = [0, *(round(lines * sum(costs[: k + 1]) / total) if total else lines for k in range(len(costs)))]

    def share(first: int, end: int) -> Callable[[Scope], None]:
        def fetch(scope: Scope) -> None:
            before = 0
            for each in aheads:
                low, high = max(first - before, 0), min(end - before, each.lines)
                if low < high:
                    each.fetch(scope, low, high)
                before += each.lines

        return fetch

    return [share(first, end) for first, end in pairwise(bounds)]
