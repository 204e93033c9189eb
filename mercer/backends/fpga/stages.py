"""The stages of a streaming design: what each computes, its module, memories, words and firings.

Samples are streams of elements with the channels last: `pixels` times `channels` numbers, a beat of them per word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from mercer.backends.fpga.fixed_point import Interval, memory_file
from mercer.backends.fpga.timing import Timing, elementwise, forked, periodic
from mercer.ir.types import Array


@dataclass(frozen=True)
class Stream:
    """`pixels * channels` two's complement numbers per sample, within `interval`, `lanes` of them per word."""

    pixels: int
    channels: int
    interval: Interval
    lanes: int = 1

    @property
    def bits(self) -> int:
        return self.interval.bits

    @property
    def width(self) -> int:
        return self.lanes * self.bits

    @property
    def elements(self) -> int:
        return self.pixels * self.channels

    @property
    def beats(self) -> int:
        return self.elements // self.lanes


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage(ABC):
    """A module between streams. `sources` are names of stages or inputs; `origins` the nodes that it computes.

    `pipelined` puts more registers into arithmetic: more cycles of latency, a higher clock.
    """

    module: ClassVar[str]

    name: str
    sources: tuple[str, ...]
    origins: tuple[str, ...] = ()
    pipelined: bool = False

    @property
    @abstractmethod
    def takes(self) -> tuple[Stream, ...]:
        """What every input must be, in the order of `sources`."""

    @property
    @abstractmethod
    def gives(self) -> Stream: ...

    @abstractmethod
    def parameters(self) -> dict[str, int]:
        """Parameters of the module, without memory files."""

    def memories(self) -> Mapping[str, bytes]:
        """Contents of the memory files by the parameter that names them."""
        return {}

    @abstractmethod
    def timing(self) -> Timing: ...

    @property
    def cycles(self) -> int:
        """Cycles per sample when nothing makes the stage wait."""
        return self.timing().cycles

    def foldings(self) -> Iterator[Self]:
        """The same stage with every degree of parallelism, the least first."""
        yield self

    @property
    def multipliers(self) -> int:
        """Multiplications per cycle."""
        return 0


# --- scales of results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of a result: requantized to `low..high`, or wrapped to a phase of `wrap_bits` bits.

    `multipliers` is one number per channel, or one for all.
    """

    multipliers: Array
    shift: int
    zero: int = 0
    low: int = -128
    high: int = 127
    wrap_bits: int | None = None

    @property
    def interval(self) -> Interval:
        return Interval(self.low, self.high) if self.wrap_bits is None else Interval(0, (1 << self.wrap_bits) - 1)

    @property
    def bits(self) -> int:
        return Interval.of(self.multipliers).bits

    def parameters(self) -> dict[str, int]:
        common = {"SCALE": 1 if self.wrap_bits is None else 2, "MULTIPLIER_BITS": self.bits, "SHIFT": self.shift}
        if self.wrap_bits is not None:
            return common
        return common | {"ZERO": self.zero, "LOW": self.low, "HIGH": self.high}

    def memory(self, channels: int, lanes: int) -> bytes:
        each = np.broadcast_to(self.multipliers.reshape(-1), (channels,))
        return memory_file(each.reshape(-1, lanes).tolist(), self.bits)

    def apply(self, values: Array) -> Array:
        """What the hardware gives for `values`, which broadcast with the multipliers."""
        rounded = (values.astype(np.int64) * self.multipliers.astype(np.int64) + (1 << (self.shift - 1))) >> self.shift
        if self.wrap_bits is not None:
            return rounded % (1 << self.wrap_bits)
        return np.clip(rounded + self.zero, self.low, self.high)

    def within(self, values: Interval) -> Scale:
        """The same scale with limits that results for `values` do not pass anyway."""
        ends = self.apply(np.asarray([[values.low], [values.high]]))
        return replace(self, low=int(ends.min()), high=int(ends.max()))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Product(Stage):
    """A sum of products with a bias and, perhaps, a scale."""

    weight: Array
    bias: Array
    input: Stream
    sums: Interval
    scale: Scale | None = None

    @property
    def interval(self) -> Interval:
        return self.sums if self.scale is None else self.scale.interval

    def _scale_parameters(self) -> dict[str, int]:
        return {"SCALE": 0} if self.scale is None else self.scale.parameters()

    def _latency(self, steps: int, terms: int = 1) -> int:
        fetched = (steps > 1) * (1 + self.pipelined)
        added = self.pipelined * (terms - 1).bit_length()
        return 2 + fetched + added + (0 if self.scale is None else 2 + self.pipelined)

    @property
    def weight_bits(self) -> int:
        return Interval.of(self.weight).bits


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixVector(_Product):
    """`weight: [rows, columns]` times vectors; the input streams `vectors` of `columns` numbers."""

    module: ClassVar[str] = "mercer_mvu"
    vectors: int
    pe: int = 1
    simd: int = 1

    @property
    def rows(self) -> int:
        return int(self.weight.shape[0])

    @property
    def columns(self) -> int:
        return int(self.weight.shape[1])

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.simd),)

    @property
    def gives(self) -> Stream:
        return Stream(self.vectors, self.rows, self.interval, self.pe)

    def parameters(self) -> dict[str, int]:
        return {
            "ROWS": self.rows,
            "COLS": self.columns,
            "PE": self.pe,
            "SIMD": self.simd,
            "IN_BITS": self.input.bits,
            "WEIGHT_BITS": self.weight_bits,
            "ACC_BITS": self.sums.bits,
            **self._scale_parameters(),
            "OUT_BITS": self.interval.bits,
            "PIPELINE": int(self.pipelined),
        }

    def memories(self) -> Mapping[str, bytes]:
        rows, columns = self.rows // self.pe, self.columns // self.simd
        tiles = self.weight.reshape(rows, self.pe, columns, self.simd).transpose(0, 2, 1, 3)
        files = {
            "WEIGHTS": memory_file(tiles.reshape(rows * columns, -1).tolist(), self.weight_bits),
            "BIASES": memory_file(self.bias.reshape(rows, self.pe).tolist(), self.sums.bits),
        }
        return files if self.scale is None else files | {"MULTIPLIERS": self.scale.memory(self.rows, self.pe)}

    def timing(self) -> Timing:
        rows, columns = self.rows // self.pe, self.columns // self.simd
        steps = rows * columns
        issues = np.arange(1, rows + 1, dtype=np.int64) * columns - 1
        latency = self._latency(steps, self.simd)
        return periodic(self.vectors, steps, np.arange(columns, dtype=np.int64), issues, latency)

    @property
    def cycles(self) -> int:
        return self.vectors * (self.rows // self.pe) * (self.columns // self.simd)

    def foldings(self) -> Iterator[MatrixVector]:
        channels = self.input.channels
        fitting = [simd for simd in divisors(self.columns) if simd % channels == 0 or channels % simd == 0]
        pairs = [(pe, simd) for pe in divisors(self.rows) for simd in fitting]
        for pe, simd in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])):
            yield replace(self, pe=pe, simd=simd)

    @property
    def multipliers(self) -> int:
        return self.pe * self.simd


@dataclass(frozen=True, eq=False, kw_only=True)
class Depthwise(_Product):
    """`weight: [channels, taps]`: every channel of `windows` windows of [taps, channels] by its own weights."""

    module: ClassVar[str] = "mercer_vvu"
    windows: int
    lanes: int = 1

    @property
    def channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def taps(self) -> int:
        return int(self.weight.shape[1])

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        return Stream(self.windows, self.channels, self.interval, self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "CHANNELS": self.channels,
            "TAPS": self.taps,
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            "WEIGHT_BITS": self.weight_bits,
            "ACC_BITS": self.sums.bits,
            **self._scale_parameters(),
            "OUT_BITS": self.interval.bits,
            "PIPELINE": int(self.pipelined),
        }

    def memories(self) -> Mapping[str, bytes]:
        files = {
            "WEIGHTS": memory_file(self.weight.T.reshape(-1, self.lanes).tolist(), self.weight_bits),
            "BIASES": memory_file(self.bias.reshape(-1, self.lanes).tolist(), self.sums.bits),
        }
        return files if self.scale is None else files | {"MULTIPLIERS": self.scale.memory(self.channels, self.lanes)}

    def timing(self) -> Timing:
        blocks = self.channels // self.lanes
        steps = self.taps * blocks
        every = np.arange(steps, dtype=np.int64)
        return periodic(self.windows, steps, every, every[steps - blocks :], self._latency(steps))

    @property
    def cycles(self) -> int:
        return self.windows * self.taps * (self.channels // self.lanes)

    def foldings(self) -> Iterator[Depthwise]:
        for lanes in divisors(self.channels):
            yield replace(self, lanes=lanes)

    @property
    def multipliers(self) -> int:
        return self.lanes


# --- one number to one number -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Rescale(Stage):
    """Numbers at another scale."""

    module: ClassVar[str] = "mercer_scale"
    input: Stream
    scale: Scale
    lanes: int = 1

    @property
    def _channels(self) -> int:
        return self.lanes if self.scale.multipliers.size == 1 else self.input.channels

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        return replace(self.input, interval=self.scale.interval, lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "CHANNELS": self._channels,
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            **self.scale.parameters(),
            "OUT_BITS": self.scale.interval.bits,
            "PIPELINE": int(self.pipelined),
        }

    def memories(self) -> Mapping[str, bytes]:
        return {"MULTIPLIERS": self.scale.memory(self._channels, self.lanes)}

    def timing(self) -> Timing:
        waits = self._channels > self.lanes
        return elementwise(self.gives.beats, 2 + waits + self.pipelined * (1 + waits))

    def foldings(self) -> Iterator[Rescale]:
        for lanes in divisors(self.input.channels):
            yield replace(self, lanes=lanes)

    @property
    def multipliers(self) -> int:
        return self.lanes


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Stage):
    """y = table[x - low]; `table` is [entries], or [channels, entries] for a table per channel."""

    module: ClassVar[str] = "mercer_table"
    input: Stream
    table: Array
    low: int
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        return replace(self.input, interval=Interval.of(self.table), lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "CHANNELS": 1 if self.table.ndim == 1 else int(self.table.shape[0]),
            "ENTRIES": int(self.table.shape[-1]),
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            "OUT_BITS": self.gives.bits,
            "LOW": self.low,
        }

    def memories(self) -> Mapping[str, bytes]:
        return {"TABLE": memory_file(self.table.reshape(-1, 1).tolist(), self.gives.bits)}

    def timing(self) -> Timing:
        return elementwise(self.gives.beats, 1)

    def foldings(self) -> Iterator[Table]:
        for lanes in divisors(self.input.channels):
            yield replace(self, lanes=lanes)


# --- plumbing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Width(Stage):
    """The same numbers, another number of them per word."""

    module: ClassVar[str] = "mercer_width"
    input: Stream
    lanes: int

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (self.input,)

    @property
    def gives(self) -> Stream:
        return replace(self.input, lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {"BITS": self.input.bits, "IN_LANES": self.input.lanes, "OUT_LANES": self.lanes}

    def timing(self) -> Timing:
        wide, narrow = max(self.input.lanes, self.lanes), min(self.input.lanes, self.lanes)
        ratio = wide // narrow
        every = np.arange(ratio, dtype=np.int64)
        takes, issues = (every, every[-1:]) if self.lanes == wide else (every[:1], every)
        return periodic(self.input.elements // wide, ratio, takes, issues, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fork(Stage):
    """The same words for several stages: each takes them when it will."""

    module: ClassVar[str] = "mercer_fork"
    input: Stream
    copies: int

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (self.input,)

    @property
    def gives(self) -> Stream:
        return self.input

    def parameters(self) -> dict[str, int]:
        return {"WIDTH": self.input.width, "COPIES": self.copies}

    def timing(self) -> Timing:
        return forked(self.input.beats, self.copies)
