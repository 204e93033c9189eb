"""Choice of a register tile: which output axes are computed together, and along which one vectors lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mercer.backends.tvm.schedules.common import TYPICAL
from mercer.backends.tvm.target import Target
from mercer.ir.index import Axis


@dataclass(frozen=True)
class Access:
    """A read in the reduction: the axes it depends on and its stride along each (None: not constant).

    A `movable` read can be repacked so that its stride along any axis becomes 1.
    """

    tensor: str
    strides: Mapping[str, int | None]
    movable: bool


@dataclass(frozen=True)
class Tile:
    """`factors` elements of every tiled axis are computed together; on the axis `lane` they lie in vectors of `width`.

    `cost` is in cycles per output element and step of the reduction.
    """

    lane: str
    width: int
    factors: Mapping[str, int]
    cost: float

    @property
    def accumulators(self) -> int:
        return math.prod(self.factors.values()) // self.width

    def __str__(self) -> str:
        rows = [f"{k} {name}" for name, k in self.factors.items() if name != self.lane and k > 1]
        vectors = self.factors[self.lane] // self.width
        return " x ".join([*rows, f"{vectors} vectors of {self.width} {self.lane}"])


LOAD, GATHER, LATENCY, OVERHEAD = 0.5, 1.5, 4.0, 1.0
"""Cycles: of a load, of one element of a strided load, of a dependent multiply-add, of a loop step."""

FACTORS = (1, 2, 3, 4, 5, 6, 7, 8)


def accumulators(target: Target) -> int:
    """Vector registers that may hold sums; the rest is for operands."""
    return 12 if target.registers == 16 else 24


def best(
    axes: Sequence[Axis], accesses: Sequence[Access], operations: float, steps: int, target: Target
) -> Tile | None:
    """The cheapest tile; None when no axis can hold vectors."""
    found = [
        tile
        for lane in axes
        if lane.extent.is_constant and lane.extent.value >= 2
        for tile in _candidates(lane, axes, accesses, operations, steps, target)
    ]
    return min(found, key=lambda tile: tile.cost, default=None)


def _candidates(
    lane: Axis, axes: Sequence[Axis], accesses: Sequence[Access], operations: float, steps: int, target: Target
) -> Iterator[Tile]:
    extent = lane.extent.value
    width = target.lanes
    while width > extent:
        width //= 2
    limit = accumulators(target)
    rows = [axis for axis in axes if axis != lane and not (axis.extent.is_constant and axis.extent.value == 1)]
    pairs = [(), *((row,) for row in rows), *itertools.combinations(rows, 2)]
    for vectors in (1, 2, 3, 4):
        if vectors > 1 and vectors * width > extent:
            break
        for pair in pairs:
            if sum(not axis.extent.is_constant for axis in pair) > 1:
                continue
            for factors in itertools.product(FACTORS[1:], repeat=len(pair)):
                total = vectors * math.prod(factors)
                if total > limit or any(_too_long(a, f) for a, f in zip(pair, factors, strict=True)):
                    continue
                tiled = {lane.name: vectors * width} | {a.name: f for a, f in zip(pair, factors, strict=True)}
                last = axes[-1] == lane
                yield _priced(tiled, lane, width, axes, accesses, operations, steps, last)


def _too_long(axis: Axis, factor: int) -> bool:
    return axis.extent.is_constant and factor > axis.extent.value


def _priced(
    factors: dict[str, int],
    lane: Axis,
    width: int,
    axes: Sequence[Axis],
    accesses: Sequence[Access],
    operations: float,
    steps: int,
    stored_in_order: bool,
) -> Tile:
    total = math.prod(factors.values()) // width
    loads = 0.0
    for access in accesses:
        count = math.prod(k for name, k in factors.items() if access.strides.get(name, 0) != 0)
        along = access.strides.get(lane.name, 0)
        if along == 0:
            loads += LOAD * count
        elif along == 1 or access.movable:
            loads += LOAD * count / width
        else:
            loads += GATHER * count
    cycles = max(loads, total * operations / 2, LATENCY) + OVERHEAD
    cycles += total * (1.0 if stored_in_order else GATHER * width) / steps
    waste = 1.0
    for axis in axes:
        k = factors.get(axis.name, 1)
        size = axis.extent.value if axis.extent.is_constant else TYPICAL
        waste *= math.ceil(size / k) * k / size if size else 1.0  # an empty axis runs nothing
    return Tile(lane.name, width, factors, cycles / (total * width) * waste)
