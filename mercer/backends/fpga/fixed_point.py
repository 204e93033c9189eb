"""Widths of two's complement numbers, and memory files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mercer.ir.types import Array


@dataclass(frozen=True)
class Interval:
    """All integers from `low` to `high`."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the two's complement number that holds every one of them."""
        return max(signed_bits(self.low), signed_bits(self.high))

    def plus(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, factor: int) -> Interval:
        ends = (self.low * factor, self.high * factor)
        return Interval(min(ends), max(ends))

    @staticmethod
    def of(array: Array) -> Interval:
        return Interval(int(array.min()), int(array.max())) if array.size else Interval(0, 0)


def signed_bits(value: int) -> int:
    """Width of the shortest two's complement number that holds `value`."""
    return (value if value >= 0 else ~value).bit_length() + 1


def memory_file(words: Sequence[Iterable[int]], bits: int) -> bytes:
    """A file for `$readmemh`: a word per line, of elements of `bits` bits, the first in the low bits."""
    mask = (1 << bits) - 1
    digits = 0
    lines: list[int] = []
    for word in words:
        value = 0
        count = 0
        for element in word:
            value |= (int(element) & mask) << count * bits
            count += 1
        digits = max(digits, -(-count * bits // 4))
        lines.append(value)
    return "".join(f"{line:0{digits}x}\n" for line in lines).encode()
