"""Stages that join streams or reduce vectors: sums, concatenation, arg-max, distances and Kolmogorov-Arnold layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import ClassVar

import numpy as np

from mercer.backends.fpga.fixed_point import Interval, memory_file
from mercer.backends.fpga.stages import Scale, Stage, Stream, divisors
from mercer.backends.fpga.timing import Events, Timing, elementwise, periodic
from mercer.ir.types import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Stage):
    """factors[0]*a + factors[1]*b + bias, perhaps at another scale (one multiplier for all channels, no phase)."""

    module: ClassVar[str] = "mercer_add"
    a: Stream
    b: Stream
    factors: tuple[int, int]
    sums: Interval
    bias: int = 0
    scale: Scale | None = None
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return replace(self.a, lanes=self.lanes), replace(self.b, lanes=self.lanes)

    @property
    def gives(self) -> Stream:
        interval = self.sums if self.scale is None else self.scale.interval
        return replace(self.a, interval=interval, lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        common = {
            "LANES": self.lanes,
            "A_BITS": self.a.bits,
            "B_BITS": self.b.bits,
            "A_FACTOR": self.factors[0],
            "B_FACTOR": self.factors[1],
            "BIAS": self.bias,
            "SUM_BITS": self.sums.bits,
            "OUT_BITS": self.gives.bits,
            "PIPELINE": int(self.pipelined),
        }
        if self.scale is None:
            return common | {"SCALE": 0}
        return common | {"MULTIPLIER": int(self.scale.multipliers.reshape(-1)[0]), **self.scale.parameters()}

    def timing(self) -> Timing:
        latency = (1 if self.scale is None else 3) + self.pipelined * (2 if self.scale is None else 3)
        return elementwise(self.gives.beats, latency, inputs=2)

    def foldings(self) -> Iterator[Add]:
        for lanes in divisors(self.a.channels):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Stage):
    """The channels of a, then those of b."""

    module: ClassVar[str] = "mercer_concat"
    a: Stream
    b: Stream
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return replace(self.a, lanes=self.lanes), replace(self.b, lanes=self.lanes)

    @property
    def gives(self) -> Stream:
        both = Interval(min(self.a.interval.low, self.b.interval.low), max(self.a.interval.high, self.b.interval.high))
        return Stream(self.a.pixels, self.a.channels + self.b.channels, both, self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "LANES": self.lanes,
            "A_BITS": self.a.bits,
            "B_BITS": self.b.bits,
            "OUT_BITS": self.gives.bits,
            "A_BEATS": self.a.channels // self.lanes,
            "B_BEATS": self.b.channels // self.lanes,
        }

    def timing(self) -> Timing:
        first, second = self.a.channels // self.lanes, self.b.channels // self.lanes
        every = np.arange(first + second, dtype=np.int64)
        whole = periodic(self.a.pixels, first + second, every, every, 1)
        pixels = np.arange(self.a.pixels, dtype=np.int64)[:, np.newaxis] * (first + second)
        takes = tuple(Events(0, (pixels + part).reshape(-1)) for part in (every[:first], every[first:]))
        return replace(whole, takes=takes)

    def foldings(self) -> Iterator[Concat]:
        for lanes in divisors(gcd(self.a.channels, self.b.channels)):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class ArgMax(Stage):
    """The position of the largest channel of each pixel, the first where several are equal."""

    module: ClassVar[str] = "mercer_argmax"
    input: Stream
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        return Stream(self.input.pixels, 1, Interval(0, self.input.channels - 1))

    def parameters(self) -> dict[str, int]:
        return {
            "CHANNELS": self.input.channels,
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            "OUT_BITS": self.gives.bits,
        }

    def timing(self) -> Timing:
        every = np.arange(self.input.channels // self.lanes, dtype=np.int64)
        return periodic(self.input.pixels, every.size, every, every[-1:], 2)

    def foldings(self) -> Iterator[ArgMax]:
        for lanes in divisors(self.input.channels):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Distance(Stage):
    """Distances of `vectors` vectors to `centers: [m, d]`: sums of squares, or of sizes if `absolute`."""

    module: ClassVar[str] = "mercer_distance"
    input: Stream
    centers: Array
    vectors: int
    absolute: bool = False
    pe: int = 1
    simd: int = 1

    @property
    def _steps(self) -> tuple[int, int]:
        return self.centers.shape[0] // self.pe, self.centers.shape[1] // self.simd

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.simd),)

    @property
    def gives(self) -> Stream:
        codes = self.input.interval
        centers = self.centers.astype(np.int64)
        furthest = np.maximum(np.abs(centers - codes.low), np.abs(centers - codes.high))
        farthest = int((furthest if self.absolute else furthest**2).sum(axis=1).max())
        return Stream(self.vectors, int(centers.shape[0]), Interval(0, farthest), self.pe)

    def parameters(self) -> dict[str, int]:
        return {
            "CENTERS": int(self.centers.shape[0]),
            "DIMENSIONS": int(self.centers.shape[1]),
            "PE": self.pe,
            "SIMD": self.simd,
            "METRIC": int(self.absolute),
            "IN_BITS": self.input.bits,
            "CENTER_BITS": Interval.of(self.centers).bits,
            "OUT_BITS": self.gives.bits,
            "PIPELINE": int(self.pipelined),
        }

    def memories(self) -> Mapping[str, bytes]:
        rows, columns = self._steps
        tiles = self.centers.reshape(rows, self.pe, columns, self.simd).transpose(0, 2, 1, 3)
        return {"TABLE": memory_file(tiles.reshape(rows * columns, -1).tolist(), Interval.of(self.centers).bits)}

    def timing(self) -> Timing:
        rows, columns = self._steps
        issues = np.arange(1, rows + 1, dtype=np.int64) * columns - 1
        latency = 3 + (rows * columns > 1) * (1 + self.pipelined) + self.pipelined * (self.simd - 1).bit_length()
        return periodic(self.vectors, rows * columns, np.arange(columns, dtype=np.int64), issues, latency)

    def foldings(self) -> Iterator[Distance]:
        channels = self.input.channels
        rows, columns = self.centers.shape
        fitting = [simd for simd in divisors(columns) if simd % channels == 0 or channels % simd == 0]
        pairs = [(pe, simd) for pe in divisors(rows) for simd in fitting]
        for pe, simd in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])):
            yield replace(self, pe=pe, simd=simd)

    @property
    def multipliers(self) -> int:
        return 0 if self.absolute else self.pe * self.simd


@dataclass(frozen=True, eq=False, kw_only=True)
class EdgeTable(Stage):
    """y[o] = sum over d of table[o, d, x[d] - low] for `vectors` vectors (a Kolmogorov-Arnold layer)."""

    module: ClassVar[str] = "mercer_edge_table"
    input: Stream
    table: Array
    low: int
    vectors: int
    pe: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=1),)

    @property
    def gives(self) -> Stream:
        wide = self.table.astype(np.int64)
        low, high = wide.min(axis=2).sum(axis=1).min(), wide.max(axis=2).sum(axis=1).max()
        return Stream(self.vectors, int(wide.shape[0]), Interval(int(low), int(high)), self.pe)

    def parameters(self) -> dict[str, int]:
        outputs, inputs, entries = self.table.shape
        return {
            "OUTPUTS": int(outputs),
            "INPUTS": int(inputs),
            "PE": self.pe,
            "ENTRIES": int(entries),
            "LOW": self.low,
            "IN_BITS": self.input.bits,
            "ENTRY_BITS": Interval.of(self.table).bits,
            "OUT_BITS": self.gives.bits,
        }

    def memories(self) -> Mapping[str, bytes]:
        outputs, inputs, entries = self.table.shape
        words = self.table.reshape(outputs // self.pe, self.pe, inputs, entries).transpose(0, 2, 3, 1)
        return {"TABLE": memory_file(words.reshape(-1, self.pe).tolist(), Interval.of(self.table).bits)}

    def timing(self) -> Timing:
        blocks, inputs = self.table.shape[0] // self.pe, int(self.table.shape[1])
        issues = np.arange(1, blocks + 1, dtype=np.int64) * inputs - 1
        return periodic(self.vectors, blocks * inputs, np.arange(inputs, dtype=np.int64), issues, 3)

    def foldings(self) -> Iterator[EdgeTable]:
        for pe in divisors(int(self.table.shape[0])):
            yield replace(self, pe=pe)
