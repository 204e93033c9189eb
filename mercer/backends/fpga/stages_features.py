"""Stages over random features: numbers of few bits whose errors cancel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Stage, Stream, divisors
from mercer.backends.fpga.timing import Timing, periodic

LARGEST_CHAIN = 8
"""Numbers per cycle: the code of each waits for those before it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SigmaDelta(Stage):
    """The operator `sigma_delta` on blocks of `block` numbers that follow each other, with `sums` also `condense`."""

    module: ClassVar[str] = "mercer_sigma_delta"
    input: Stream
    block: int
    high: int
    bits: int
    order: int
    sums: bool = False
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        largest = (1 << self.bits) - 1
        if not self.sums:
            return replace(self.input, interval=Interval(-largest, largest), lanes=self.lanes)
        reached = Interval(-self.block * largest, self.block * largest)
        return Stream(self.input.pixels, self.input.channels // self.block, reached)

    @property
    def _state_bits(self) -> int:
        """Errors stay below `high` where no number is larger; else, and in order 2, they count as i32 does."""
        held = Interval(-self.high, self.high)
        inside = held.low <= self.input.interval.low and self.input.interval.high <= held.high
        return held.times(1 << self.bits).bits if inside and self.order == 1 else 32

    def parameters(self) -> dict[str, int]:
        return {
            "BLOCK": self.block,
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            "BITS": self.bits,
            "ORDER": self.order,
            "HIGH": self.high,
            "SUMS": int(self.sums),
            "STATE_BITS": self._state_bits,
            "OUT_BITS": self.gives.bits,
        }

    def timing(self) -> Timing:
        every = np.arange(self.block // self.lanes, dtype=np.int64)
        issues = every[-1:] if self.sums else every
        return periodic(self.input.elements // self.block, every.size, every, issues, 1)

    def foldings(self) -> Iterator[SigmaDelta]:
        for lanes in divisors(self.block):
            if lanes <= LARGEST_CHAIN:
                yield replace(self, lanes=lanes)
