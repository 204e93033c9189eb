"""Stages over the channels of a pixel: normalization, masks, and some channels of all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Stage, Stream, divisors
from mercer.backends.fpga.timing import Events, Timing, elementwise, periodic

_GUARD = 6
"""Bits that a root has beyond those of the standard deviation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalize(Stage):
    """Vectors over their standard deviation in units of 2**-`fraction`; `centered` takes the mean away first.

    `eps` counts as in the operator `integer_normalize`. Not centered, `size` is a power of two.
    """

    module: ClassVar[str] = "mercer_normalize"
    input: Stream
    size: int
    vectors: int
    fraction: int
    eps: int
    centered: bool

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=1),)

    @property
    def gives(self) -> Stream:
        """With sigma**2 the mean of v**2, |v| is at most sqrt(size) * sigma and a root, rounded down, more than
        2**6 * sigma - 1: their ratio is largest for the least v, 1."""
        least = max((1 << _GUARD) / math.sqrt(self.size) - 1, 1.0)
        most = math.ceil((1 << self.fraction + _GUARD) / least) + 1
        return Stream(self.vectors, self.size, Interval(-most, most))

    @property
    def _power_bits(self) -> int:
        largest = max(-self.input.interval.low, self.input.interval.high) ** 2
        mean = largest * self.size**2 if self.centered else largest
        bits = ((mean << 2 * _GUARD) + self.eps).bit_length()
        widest = max(bits, (largest * self.size**2).bit_length())
        return max(2 * -(-widest // 2), 4)

    def parameters(self) -> dict[str, int]:
        return {
            "SIZE": self.size,
            "IN_BITS": self.input.bits,
            "FRACTION": self.fraction,
            "CENTERED": int(self.centered),
            "EPS": self.eps,
            "POWER_BITS": self._power_bits,
            "QUOTIENT_BITS": self.gives.bits - 1,
            "OUT_BITS": self.gives.bits,
        }

    def timing(self) -> Timing:
        each = self.gives.bits - 1 + 3
        begin = self.size + 4 + self._power_bits // 2
        takes = np.arange(self.size, dtype=np.int64)
        issues = begin + np.arange(1, self.size + 1, dtype=np.int64) * each - 1
        return periodic(self.vectors, begin + self.size * each, takes, issues, 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Stage):
    """Channels from `start` to below `stop` of every pixel."""

    module: ClassVar[str] = "mercer_slice"
    input: Stream
    start: int
    stop: int
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        return replace(self.input, channels=self.stop - self.start, lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "WIDTH": self.lanes * self.input.bits,
            "WORDS": self.input.channels // self.lanes,
            "FIRST": self.start // self.lanes,
            "LAST": self.stop // self.lanes - 1,
        }

    def timing(self) -> Timing:
        every = np.arange(self.input.channels // self.lanes, dtype=np.int64)
        kept = every[self.start // self.lanes : self.stop // self.lanes]
        return periodic(self.input.pixels, every.size, every, kept, 1)

    def foldings(self) -> Iterator[Slice]:
        for lanes in divisors(math.gcd(self.input.channels, self.start, self.stop)):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Modulate(Stage):
    """Samples [pixels, channels] relative to `zero` times masks in units of 2**-`fraction`: one per pixel for each of
    `groups` groups of channels."""

    module: ClassVar[str] = "mercer_modulate"
    input: Stream
    masks: Stream
    fraction: int
    zero: int
    groups: int = 1
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return replace(self.input, lanes=self.lanes), replace(self.masks, lanes=1)

    @property
    def gives(self) -> Stream:
        codes, masks = self.input.interval, self.masks.interval
        ends = [(a - self.zero) * b for a in (codes.low, codes.high) for b in (masks.low, masks.high)]
        rounded = [(2 * end + (1 << self.fraction)) >> (self.fraction + 1) for end in ends]
        return replace(self.input, interval=Interval(min(rounded), max(rounded)), lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "LANES": self.lanes,
            "BLOCKS": self.input.channels // self.groups // self.lanes,
            "A_BITS": self.input.bits,
            "B_BITS": self.masks.bits,
            "ZERO": self.zero,
            "FRACTION": self.fraction,
            "OUT_BITS": self.gives.bits,
        }

    def timing(self) -> Timing:
        words = self.gives.beats
        every = elementwise(words, 2)
        masks = Events(0, np.arange(0, words, self.input.channels // self.groups // self.lanes, dtype=np.int64))
        return replace(every, takes=(*every.takes, masks))

    def foldings(self) -> Iterator[Modulate]:
        for lanes in divisors(self.input.channels // self.groups):
            yield replace(self, lanes=lanes)

    @property
    def multipliers(self) -> int:
        return self.lanes
