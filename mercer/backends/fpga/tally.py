"""What the estimates of hardware are made of: memories, multipliers, and the sizes of the parts that LUTs are made of.

Memories are those of Yosys for the ECP5: its memory_libmap takes what costs least, where a block RAM counts 128, 16 x 4
bits of LUT RAM 4, a bit of a read-only memory in logic 1/16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

Sizes = Mapping[str, int]
"""Parameters of a module."""

_BLOCKS = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024))
_BLOCK_COST = 128
_LEAST_MEMORY = 18
"""Bits of a memory that is written; fewer are flip-flops."""


def clog2(number: int) -> int:
    return (number - 1).bit_length()


@dataclass(frozen=True)
class Part:
    """What some hardware takes; `saved` are flip-flops behind a memory that are not needed, `selected` the bits that
    are chosen between parts of a memory in logic."""

    lut: float = 0.0
    ff: int = 0
    dsp: int = 0
    bram: int = 0
    saved: int = 0
    selected: int = 0


def blocks(width: int, depth: int, ports: int = 1) -> int:
    """Block RAMs of a memory with `ports` read ports; of one written and read, the second port writes."""
    narrow = min(ceil(width / w) * ceil(depth / d) for w, d in _BLOCKS) * ceil(ports / 2)
    return min(narrow, ceil(width / 36) * ceil(depth / 512) * ports)


def read_only(width: int, depth: int, ports: int = 1, registered: bool = True) -> Part:
    """A memory that is filled once; only one that is read into a register can be a block RAM."""
    if depth <= 1:
        return Part(saved=width * ports)
    number = blocks(width, depth, ports)
    if registered and width * depth / 16 > number * _BLOCK_COST:
        return Part(bram=number, saved=width * ports)
    # A short memory has few different columns; equal ones are one.
    distinct = min(width * ports, (1 << min(depth, 20)) - 2)
    pieces = ceil(depth / 16)
    return Part(lut=distinct * pieces, saved=width * ports - distinct, selected=distinct * (pieces - 1))


def written(width: int, depth: int, registered: bool = True) -> Part:
    """A memory with a write port and a read port; one that is not read into a register has one for its address."""
    if depth <= 1:
        return Part(ff=width)
    address = 0 if registered else clog2(depth)
    if width * depth <= _LEAST_MEMORY:
        return Part(ff=width * depth + address, lut=width)
    cells = ceil(depth / 16) * ceil(width / 4)
    columns = ceil(depth / 16) - 1
    number = blocks(width, depth)
    if registered and 4 * cells + 0.75 * columns * width > number * _BLOCK_COST:
        return Part(bram=number, saved=width)
    return Part(lut=4 * cells + 0.6 * columns * width + 2 * columns, ff=address)


def product(a: int, b: int) -> Part:
    """A multiplication of two's complement numbers: 18 x 18 bits per block, a part of one bit in LUTs."""
    a, b = max(a, b), min(a, b)
    if b < 2:
        return Part()
    wide, high = (1 if a <= 19 else ceil(a / 18)), (1 if b <= 19 else ceil(b / 18))
    extra = 0.0 if a <= 18 else float(a + b - 17 + (b if a == 19 else 0)) * high
    return Part(lut=extra, dsp=wide * high)


@dataclass
class Tally:
    """What a module takes: flip-flops, blocks, and the sizes of the parts that LUTs are made of."""

    ff: int = 0
    dsp: int = 0
    bram: int = 0
    memory_lut: float = 0.0
    sizes: dict[str, float] = field(default_factory=lambda: {"module": 1.0})

    def size(self, **sizes: float) -> None:
        self.sizes |= sizes

    def memory(self, part: Part, register: int = 0, held: int = 0) -> None:
        """A memory with a register of so many bits behind it, and `held` more of them behind that."""
        kept = max(register - part.saved, 0)
        self.ff += part.ff + kept + held * (register if part.bram else kept)
        self.bram += part.bram
        self.memory_lut += part.lut
        self.size(selected=self.sizes.get("selected", 0.0) + part.selected)

    def requantize(self, p: Sizes, lanes: int, bits: int) -> None:
        """Numbers of `bits` bits times a multiplier, in parts where there are registers between them; their sum without
        what is shifted out, rounded and held to a code."""
        multiplier, shift = p["MULTIPLIER_BITS"], p["SHIFT"]
        kept = max(bits + multiplier - shift + 1, 1)
        factor = product(bits, multiplier)
        if p["PIPELINE"]:
            parts = [(a, b) for a in _parts(bits) for b in _parts(multiplier)]
            shifted = shift - 1 if len(parts) == 1 else min(shift - 1, _PART)
            self.ff += lanes * (sum(a + b for a, b in parts) - shifted)
            self.size(joined=lanes * (bits + multiplier - _PART) * (len(parts) - 1))
        self.ff += lanes * (kept + min(p["OUT_BITS"], kept + 1))
        self.dsp += lanes * factor.dsp
        self.size(wide=lanes * factor.lut, kept=lanes * kept, code=lanes * p["OUT_BITS"], requantizers=lanes)
        self.size(held=lanes * max(kept - p["OUT_BITS"] - 1, 0))


_PART = 17
"""Bits of an operand of a hardware multiplier that are not its sign."""


def _parts(bits: int) -> list[int]:
    """Widths of the parts that mercer_product makes of an operand."""
    return [bits] if bits <= _PART + 2 else [_PART + 1, bits - _PART]


def power_of_two(number: int) -> bool:
    return number & (number - 1) == 0
