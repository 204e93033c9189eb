"""Timing: the median of repeated calls, the table of a per-operator profile, and what the machine allows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class OpTime(NamedTuple):
    """Time of one operator: its median in microseconds, its share of the sum (0 to 1), the line it came from."""

    name: str
    microseconds: float
    share: float
    source: str


def median_microseconds(function: Callable[[], object], *, repeat: int = 50, warmup: int = 5) -> float:
    """Median wall time of `function()` in microseconds over `repeat` calls, after `warmup` calls that do not count."""
    for _ in range(warmup):
        function()
    samples: list[int] = []
    for _ in range(repeat):
        start = time.perf_counter_ns()
        function()
        samples.append(time.perf_counter_ns() - start)
    return statistics.median(samples) / 1e3


def summarize(runs: Sequence[Sequence[tuple[str, float]]], sources: Mapping[str, str]) -> list[OpTime]:
    """Median per position over runs of the same program, in execution order.

    Each run lists (operator, microseconds) in the order executed; `sources` maps an operator to its source line.
    """
    rows = [(calls[0][0], statistics.median(time for _, time in calls)) for calls in zip(*runs, strict=True)]
    total = sum(time for _, time in rows) or 1.0
    return [OpTime(name, time, time / total, sources.get(name, "")) for name, time in rows]


@dataclass(frozen=True)
class Roof:
    """The limits of a machine: FLOP/s (a fused multiply-add counts 2), and (bytes, bytes/s) in ascending order.

    (Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".)
    """

    threads: int
    flops: float
    bandwidth: tuple[tuple[int, float], ...]

    def bytes_per_second(self, size: float) -> float:
        """Of data of that size, read again and again: that of the next size measured."""
        return next((speed for bytes_, speed in self.bandwidth if bytes_ >= size), self.bandwidth[-1][1])

    def seconds(self, flops: float, size: float) -> float:
        """The least time for so many operations on so many bytes."""
        return max(flops / self.flops, size / self.bytes_per_second(size))

    def counts_operations(self, flops: float, size: float) -> bool:
        """Whether operations bind, else bytes do."""
        return flops / self.flops >= size / self.bytes_per_second(size)
