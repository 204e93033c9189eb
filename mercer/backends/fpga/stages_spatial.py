"""Stages over images: windows, pools, and bounded deformable sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.line_buffer import LineBuffer
from mercer.backends.fpga.stages import Stage, Stream, divisors
from mercer.backends.fpga.timing import Events, Timing, periodic

Pair = tuple[int, int]

HELD = 6
"""Cycles from a firing of mercer_deform to its reads of the buffer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Windows(Stage):
    """The taps [kernel, channels] around every output pixel of an image of `size`; outside it they are `zero`.

    Pairs are (height, width); `pad` is what lies before the image. `buffer_rows` rows are kept, or as many as full
    speed needs.
    """

    input: Stream
    size: Pair
    kernel: Pair
    out: Pair
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)
    zero: int = 0
    lanes: int = 1
    buffer_rows: int | None = None

    @cached_property
    def line_buffer(self) -> LineBuffer:
        """What holds the rows that the taps are read from."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        return self.line_buffer.rows if self.buffer_rows is None else self.buffer_rows

    @property
    def gives(self) -> Stream:
        """A vector of taps and channels for every output pixel; `channels` are those of the image."""
        taps = self.kernel[0] * self.kernel[1]
        return replace(self.input, pixels=self.out[0] * self.out[1] * taps, lanes=self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "BITS": self.input.bits,
            "LANES": self.lanes,
            "CHANNELS": self.input.channels,
            "HEIGHT": self.size[0],
            "WIDTH": self.size[1],
            "KERNEL_HEIGHT": self.kernel[0],
            "KERNEL_WIDTH": self.kernel[1],
            "STRIDE_HEIGHT": self.stride[0],
            "STRIDE_WIDTH": self.stride[1],
            "PAD_TOP": self.pad[0],
            "PAD_LEFT": self.pad[1],
            "DILATION_HEIGHT": self.dilation[0],
            "DILATION_WIDTH": self.dilation[1],
            "OUT_HEIGHT": self.out[0],
            "OUT_WIDTH": self.out[1],
            "ZERO": self.zero,
            "ROWS": self.rows,
        }

    @property
    def cycles(self) -> int:
        return self.line_buffer.period(self.rows)


@dataclass(frozen=True, eq=False, kw_only=True)
class Window(_Windows):
    """The taps as they are."""

    module: ClassVar[str] = "mercer_window"

    @cached_property
    def line_buffer(self) -> LineBuffer:
        beats = self.input.channels // self.lanes
        span = (self.dilation[0] * (self.kernel[0] - 1) + 1, self.dilation[1] * (self.kernel[1] - 1) + 1)
        reads = self.kernel[0] * self.kernel[1] * beats
        return LineBuffer(self.size, beats, self.out, reads, span, self.stride, self.pad)

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    def timing(self) -> Timing:
        return self.line_buffer.timing(self.rows, 2)

    def foldings(self) -> Iterator[Window]:
        for lanes in divisors(self.input.channels):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Stage):
    """Largest element, or the sum of element - `zero`, of every channel over the `taps` taps of each window."""

    module: ClassVar[str] = "mercer_pool"
    input: Stream
    windows: int
    taps: int
    maximum: bool
    zero: int = 0
    lanes: int = 1

    @property
    def takes(self) -> tuple[Stream, ...]:
        return (replace(self.input, lanes=self.lanes),)

    @property
    def gives(self) -> Stream:
        codes = self.input.interval
        sums = Interval((codes.low - self.zero) * self.taps, (codes.high - self.zero) * self.taps)
        return Stream(self.windows, self.input.channels, codes if self.maximum else sums, self.lanes)

    def parameters(self) -> dict[str, int]:
        return {
            "MODE": 0 if self.maximum else 1,
            "TAPS": self.taps,
            "CHANNELS": self.input.channels,
            "LANES": self.lanes,
            "IN_BITS": self.input.bits,
            "OUT_BITS": self.gives.bits,
            "ZERO": self.zero,
        }

    def timing(self) -> Timing:
        blocks = self.input.channels // self.lanes
        every = np.arange(self.taps * blocks, dtype=np.int64)
        return periodic(self.windows, self.taps * blocks, every, every[-blocks:], 1)

    def foldings(self) -> Iterator[Pool]:
        for lanes in divisors(self.input.channels):
            yield replace(self, lanes=lanes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Deform(_Windows):
    """The taps of a deformable convolution with bounded offsets (CoDeNet, Dong et al. 2021), as codes like the image's.

    Tap (i, j) moves by its offset in units of 2**-`fraction` pixels, held to -`bound`..`bound` pixels. Offsets are the
    second input: for every output pixel and tap a pair (row, column) for each of `groups` groups of channels; with
    `square` one number t per output pixel, and the tap moves by t times its distance from the middle of the kernel.
    Samples are interpolated between four pixels, or with `rounded` those of the nearest pixel.
    """

    module: ClassVar[str] = "mercer_deform"
    offsets: Stream
    fraction: int
    bound: int
    groups: int = 1
    square: bool = False
    rounded: bool = False

    @cached_property
    def line_buffer(self) -> LineBuffer:
        beats = self.input.channels // self.lanes
        span = [d * (k - 1) + 1 + 2 * self.bound for k, d in zip(self.kernel, self.dilation, strict=True)]
        before = [pad + self.bound for pad in self.pad]
        reads = self.kernel[0] * self.kernel[1] * beats
        pairs = (span[0], span[1]), self.stride, (before[0], before[1])
        return LineBuffer(self.size, beats, self.out, reads, *pairs, held=HELD)

    @property
    def rows(self) -> int:
        """Rows of the buffer; two of them share a bank where samples are interpolated."""
        rows = super().rows
        return rows if self.rounded else rows + rows % 2

    @property
    def takes(self) -> tuple[Stream, ...]:
        return replace(self.input, lanes=self.lanes), replace(self.offsets, lanes=1 if self.square else 2)

    def parameters(self) -> dict[str, int]:
        return super().parameters() | {
            "OFFSET_BITS": self.offsets.bits,
            "FRACTION": self.fraction,
            "BOUND": self.bound,
            "SQUARE": int(self.square),
            "ROUNDED": int(self.rounded),
            "GROUPS": self.groups,
        }

    def timing(self) -> Timing:
        timing = self.line_buffer.timing(self.rows, 8 if self.rounded else 15)
        beats = self.line_buffer.reads if self.square else self.input.channels // self.lanes // self.groups
        offsets = Events(1, np.arange(0, timing.firings[1], beats, dtype=np.int64))
        return replace(timing, takes=(*timing.takes, offsets))

    def foldings(self) -> Iterator[Deform]:
        for lanes in divisors(self.input.channels // self.groups):
            yield replace(self, lanes=lanes)

    @property
    def multipliers(self) -> int:
        return 0 if self.rounded else 3 * self.lanes
