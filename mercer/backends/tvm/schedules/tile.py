"""Choice of a register tile: which output axes are computed together, and along which one vectors lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mercer.backends.tvm.schedules.common import TYPICAL, Choice
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

    def choice(self, axes: Sequence[Axis]) -> Choice:
        """As a JSON value: the factor of every axis, the place of the axis with vectors, and their width."""
        names = [axis.name for axis in axes]
        factors = [self.factors.get(name, 1) for name in names]
        return {"family": "contraction", "tile": factors, "lane": names.index(self.lane), "width": self.width}

    def is_exact(self, axes: Sequence[Axis]) -> bool:
        """Whether tiles do not overlap."""
        extents = [(axis.extent, self.factors.get(axis.name, 1)) for axis in axes]
        return all(not extent.is_constant or extent.value % factor == 0 for extent, factor in extents)

    @property
    def accumulators(self) -> int:
        return math.prod(self.factors.values()) // self.width

    def __str__(self) -> str:
        rows = [f"{k} {name}" for name, k in self.factors.items() if name != self.lane and k > 1]
        vectors = self.factors[self.lane] // self.width
        return " x ".join([*rows, f"{vectors} vectors of {self.width} {self.lane}"])


LOAD, GATHER, LATENCY, OVERHEAD = 0.5, 1.5, 4.0, 1.0
"""Cycles: of a load, of one element of a strided load, of a dependent multiply-add, of a loop step."""

HIDDEN = 0.001
"""Cycles of a load while others are waited for: of tiles that are as good the one with the fewest loads is faster."""

FACTORS = (2, 3, 4, 5, 6, 7, 8)

STREAM = 0.1
"""Cycles of a vector more than of a broadcast, which more often finds its operand in the first-level cache."""

LONG, LONGEST = 4, 8
"""Vectors of a tile at most, and of one that is a single row."""

FAR, FAR_COST = 512, 1.4
"""Elements from one step of the reduction to the next, of an operand that tiles do not cut into pieces, from which on
prefetching fails, and what that costs: its next step lies on another page."""


@dataclass(frozen=True)
class Search:
    """The tiles of a reduction of `steps` steps, `operations` vector instructions each, over output `axes`."""

    axes: Sequence[Axis]
    accesses: Sequence[Access]
    operations: float
    steps: int
    target: Target

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {a.name: a.extent.value if a.extent.is_constant else TYPICAL for a in self.axes}

    def tiles(self) -> Iterator[Tile]:
        """All tiles; none when no axis can hold vectors."""
        lanes = [axis for axis in self.axes if axis.extent.is_constant and axis.extent.value >= 2]
        return (tile for lane in lanes for tile in self._along(lane))

    def _along(self, lane: Axis) -> Iterator[Tile]:
        extent, width = lane.extent.value, self.target.lanes
        while width > extent:
            width //= 2
        rows = [axis for axis in self.axes if axis != lane and not (axis.extent.is_constant and axis.extent.value < 2)]
        pairs = [(), *((row,) for row in rows), *itertools.combinations(rows, 2)]
        for vectors in (v for v in range(1, LONGEST + 1) if v == 1 or v * width <= extent):
            for pair in pairs if vectors <= LONG else [()]:
                choices = [
                    [k for k in FACTORS if not axis.extent.is_constant or k <= axis.extent.value] for axis in pair
                ]
                for factors in itertools.product(*choices):
                    if vectors * math.prod(factors) >= self.target.registers:
                        continue
                    counts = {lane.name: vectors} | {axis.name: k for axis, k in zip(pair, factors, strict=True)}
                    if self._registers(counts) <= self.target.registers and self._symbolic(counts) <= 1:
                        yield self._tile(lane, width, counts)

    def _symbolic(self, counts: Mapping[str, int]) -> int:
        return sum(not axis.extent.is_constant for axis in self.axes if counts.get(axis.name, 1) > 1)

    def _registers(self, counts: Mapping[str, int]) -> int:
        """Vector registers in use when the axis with the highest count is walked outermost."""
        outermost = max(counts, key=lambda name: counts[name])
        operands = sum(
            math.prod(k for name, k in counts.items() if name != outermost and access.strides.get(name, 0) != 0)
            for access in self.accesses
        )
        return math.prod(counts.values()) + operands + (self.operations > 1)

    def _tile(self, lane: Axis, width: int, counts: Mapping[str, int]) -> Tile:
        """With a symbolic axis the cost is the mean of that of many elements and that of a single one."""
        single = {axis.name: 1 for axis in self.axes if axis.name in counts and not axis.extent.is_constant}
        cost = math.sqrt(self._cost(lane, width, counts) * self._cost(lane, width, {**counts, **single}))
        ordered = sorted(counts, key=lambda name: -counts[name])
        factors = {name: counts[name] * (width if name == lane.name else 1) for name in ordered}
        return Tile(lane.name, width, factors, cost)

    def _cost(self, lane: Axis, width: int, counts: Mapping[str, int]) -> float:
        total = math.prod(counts.values())
        loads = streamed = 0.0
        for access in self.accesses:
            count = math.prod(k for name, k in counts.items() if access.strides.get(name, 0) != 0)
            contiguous = access.strides.get(lane.name, 0) in (0, 1) or access.movable
            loads += count * (LOAD if contiguous else GATHER * width)
            streamed += STREAM * count if access.strides.get(lane.name, 0) != 0 else 0.0
        cycles = max(loads, total * self.operations / 2, LATENCY) + OVERHEAD + streamed + HIDDEN * loads
        cycles += total * (1.0 if self.axes[-1] == lane else GATHER * width) / self.steps
        return cycles / (total * width) * self._waste(lane, width, counts) * self._far(lane, width, counts)

    def _far(self, lane: Axis, width: int, counts: Mapping[str, int]) -> float:
        """A repacked operand is cut into tiles along its vectors where they leave no rest."""
        size, factor = self.sizes[lane.name], counts[lane.name] * width
        whole = size < FAR or size % factor == 0
        movable = any(access.movable and access.strides.get(lane.name, 0) != 0 for access in self.accesses)
        return FAR_COST if movable and not whole and lane.extent.is_constant else 1.0

    def _waste(self, lane: Axis, width: int, counts: Mapping[str, int]) -> float:
        """What tiles compute, relative to what is needed: the last one of an axis overlaps the one before."""
        waste = 1.0
        for name, count in counts.items():
            size, factor = self.sizes[name], count * (width if name == lane.name else 1)
            waste *= -(-size // factor) * factor / size if size else 1.0  # an empty axis runs nothing
        return waste
