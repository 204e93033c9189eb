"""The order of the loops over the tiles of a contraction, by what the caches keep between tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mercer.backends.tvm.schedules.common import volume
from mercer.ir.index import Axis

LEVELS = ((24 << 10, 1 / 32), (320 << 10, 1 / 8))
"""Bytes that the first and the second cache keep of the operands, and cycles for a byte that comes from behind it."""

GAIN = 0.9
"""Another order than that of the result takes at most this part of its cycles."""

LOOPS = 4
"""Loops of more than one step up to which all orders are compared."""


@dataclass(frozen=True)
class Stream:
    """Bytes that one tile reads, and the loops over tiles on which they depend."""

    bytes: int
    loops: frozenset[str]


def ordered(loops: Sequence[Axis], operands: Sequence[Stream], compute: float) -> tuple[Axis, ...]:
    """The loops, those of one step last; `compute` are the cycles of one tile whose operands are in the first cache."""
    several = [loop for loop in loops if not loop.extent.is_constant or loop.extent.value > 1]
    single = [loop for loop in loops if loop not in several]
    if len(several) > LOOPS or any(not loop.extent.is_constant for loop in several):
        return tuple(loops)
    trips = {loop.name: volume([loop]) for loop in loops}
    least = compute * math.prod(trips.values())

    def cycles(order: Sequence[Axis]) -> float:
        names = [loop.name for loop in order]
        return least + sum(per_byte * traffic(names, trips, operands, size) for size, per_byte in LEVELS)

    best = min(itertools.permutations(several), key=cycles)  # the first of equal ones is that of the result
    return (*best, *single) if cycles(best) < GAIN * cycles(several) else tuple(loops)


def traffic(order: Sequence[str], trips: Mapping[str, int], operands: Sequence[Stream], size: int) -> float:
    """Bytes that come into a cache of `size` bytes while the loops run.

    The innermost loops whose operands it holds together read them once. An operand that does not change in the next
    loop outside stays for it where it takes at most half of the cache.
    """

    def touched(operand: Stream, inner: Sequence[str]) -> int:
        return operand.bytes * math.prod(trips[name] for name in inner if name in operand.loops)

    start = len(order)
    while start > 0 and sum(touched(operand, order[start - 1 :]) for operand in operands) <= size:
        start -= 1
    total = 0.0
    for operand in operands:
        bytes, around = touched(operand, order[start:]), list(order[:start])
        while around and around[-1] not in operand.loops and bytes <= size // 2:
            around.pop()
        total += bytes * math.prod(trips[name] for name in around)
    return total
