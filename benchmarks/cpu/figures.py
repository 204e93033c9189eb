"""What follows from the times of a row: ratios, shares of the roof, means."""

from __future__ import annotations

import math
from collections.abc import Iterable

from benchmarks.cpu.run import Measured, Row
from mercer.runtime.profile import Roof

MERCER = "mercer"


def best_peer(row: Row) -> Measured | None:
    """The fastest of the others."""
    others = [m for name, m in row.measured.items() if name != MERCER and m.seconds is not None]
    return min(others, key=lambda m: m.seconds or 0.0, default=None)


def own_seconds(row: Row) -> float | None:
    own = row.measured.get(MERCER)
    return own.seconds if own is not None else None


def ratio(row: Row) -> float | None:
    """How many times as fast as the best peer Mercer is; None when either is missing."""
    own, best = own_seconds(row), best_peer(row)
    return best.seconds / own if own is not None and best is not None and best.seconds is not None else None


def share(row: Row, roof: Roof) -> float | None:
    """The least time that the machine allows the plain algorithm over Mercer's: above 1 for a better algorithm."""
    own = own_seconds(row)
    return roof.seconds(row.flops, row.bytes) / own if own is not None else None


def rate(row: Row, roof: Roof) -> str:
    """Of what binds: operations of the plain algorithm, or bytes that any algorithm moves, per second."""
    own = own_seconds(row)
    if own is None:
        return "–"
    if roof.counts_operations(row.flops, row.bytes):
        return f"{row.flops / own / 1e9:.1f} GFLOP/s"
    return f"{row.bytes / own / 1e9:.1f} GB/s"


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.3f}"
