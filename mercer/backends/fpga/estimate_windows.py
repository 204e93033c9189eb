"""Line buffers and deformable sampling: what they take on the ECP5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mercer.backends.fpga.stages_spatial import HELD
from mercer.backends.fpga.tally import Sizes, Tally, clog2, power_of_two, written


def _bits(count: int) -> int:
    """Of a counter to `count`; never none."""
    return max(clog2(count), 1)


def _ends_in(number: int) -> int:
    """Zero bits at the end of a number."""
    return (number & -number).bit_length() - 1


def _patterns(values: Sequence[int], bits: int) -> set[tuple[int, ...]]:
    """The columns of a table that are not constant: registers that load one of `values`; equal ones are one."""
    columns = {tuple((value >> bit) & 1 for value in values) for bit in range(bits)}
    return {column for column in columns if len(set(column)) > 1}


@dataclass(frozen=True)
class _Axis:
    """The walk of windows along one axis, as mercer_walk does it."""

    size: int
    out: int
    span: int
    stride: int
    before: int

    def _held(self, place: int, largest: int) -> int:
        return min(max(place, 0), largest)

    def _window_at(self, place: int) -> int:
        place += self.before
        return (place // self.stride if place >= 0 else -1) * self.stride - self.before

    @property
    def back(self) -> int:
        """The newest pixel that the first window needs less that of the last one."""
        last = (self.out - 1) * self.stride
        return self._newest(-self.before) - self._newest(last - self.before)

    def _newest(self, place: int) -> int:
        return self._held(place + self.span - 1, self.size - 1)

    def frees(self) -> tuple[int, ...]:
        """Values of `frees` after the last window, at both ends of the image, between them, and elsewhere."""
        last = (self.out - 1) * self.stride - self.before
        ends = [self._window_at(-1), self._window_at(self.size)]
        at = [self._held(end + self.stride, self.size) - self._held(end, self.size) for end in ends]
        return (self.size - self._held(last, self.size), *at, self.stride, 0)

    def grows(self, unit: int, extra: int, turn: int) -> tuple[int, ...]:
        """The same of `grows`."""
        ends = [self._window_at(-self.span), self._window_at(self.size - self.span)]
        at = [self._newest(end + self.stride) - self._newest(end) for end in ends]
        return (turn, *(unit * step + extra for step in (*at, self.stride, 0)))


@dataclass(frozen=True)
class _Windows:
    """Widths that mercer_window and mercer_deform share; `freed` are the registers of a number of rows."""

    beats: int
    beat: int
    word: int
    row: int
    column: int
    pixel: int
    taps: int
    freed: int
    steps: int

    @staticmethod
    def of(p: Sizes) -> _Windows:
        beats, bound = p["CHANNELS"] // p["LANES"], p.get("BOUND", 0)
        high = p["DILATION_HEIGHT"] * (p["KERNEL_HEIGHT"] - 1) + 1 + 2 * bound
        wide = p["DILATION_WIDTH"] * (p["KERNEL_WIDTH"] - 1) + 1 + 2 * bound
        top, left = p["PAD_TOP"] + bound, p["PAD_LEFT"] + bound
        row = clog2(p["HEIGHT"] + top + p["ROWS"] + high + p["STRIDE_HEIGHT"]) + 2
        column = clog2(p["WIDTH"] + left + wide + p["STRIDE_WIDTH"]) + 2
        pixel = max(clog2((2 * p["HEIGHT"] + p["ROWS"]) * p["WIDTH"]) + 1, column)
        down = _Axis(p["HEIGHT"], p["OUT_HEIGHT"], high, p["STRIDE_HEIGHT"], top)
        across = _Axis(p["WIDTH"], p["OUT_WIDTH"], wide, p["STRIDE_WIDTH"], left)
        turn = (p["HEIGHT"] + down.back) * p["WIDTH"] + across.back
        freed = _patterns(down.frees(), row)
        grows = _patterns(down.grows(p["WIDTH"], across.back, turn), pixel)
        sideways = _patterns(across.grows(1, 0, 0), column)
        taps = _bits(p["KERNEL_HEIGHT"]) + _bits(p["KERNEL_WIDTH"])
        steps = len(freed) + len(grows) + len(sideways) + 1
        return _Windows(
            beats, _bits(beats), p["LANES"] * p["BITS"], row, column, pixel, taps, len(freed), steps
        )  # fmt: skip

    @property
    def book(self) -> int:
        """Flip-flops of mercer_rows."""
        return self.beat + 3 * self.row + 3 * self.column + self.pixel + self.steps


def window(t: Tally, p: Sizes) -> None:
    """mercer_window."""
    w = _Windows.of(p)
    row = p["WIDTH"] * w.beats
    depth = p["ROWS"] * row
    address, offset = clog2(depth), w.column + clog2(w.beats)
    t.memory(written(w.word, depth), w.word)
    t.ff += w.book + w.beat + w.taps + w.row + w.column + 2 * offset + 3 + w.word
    t.ff += address + 2 * max(address - _ends_in(row), 0) + 1
    t.size(address=address, offset=offset, word=w.word, taps=w.taps + w.beat, row=w.row, column=w.column, pixel=w.pixel)


def deform(t: Tally, p: Sizes) -> None:
    """mercer_deform with mercer_bilinear."""
    w = _Windows.of(p)
    slot, square, rounded = clog2(p["ROWS"]), p["SQUARE"], p["ROUNDED"]
    move = p["OFFSET_BITS"] + 3 * square
    t.ff += w.book + HELD * w.freed + w.taps + 5 * w.row + 5 * w.column
    t.ff += 4 * (w.row + slot + w.beat) + slot + 2 * w.beat + (0 if square else _bits(w.beats // p["GROUPS"]))
    t.ff += (1 if square else 2) * p["OFFSET_BITS"] + 4 * move + 1
    if square:
        t.ff += 2 * min(clog2(p["KERNEL_HEIGHT"]) + 1, 3)
        t.dsp += 2
    t.size(row=w.row, column=w.column, pixel=w.pixel, taps=w.taps + w.beat, slot=slot, move=2 * move, word=w.word)
    if rounded:
        row = p["WIDTH"] * w.beats
        depth = p["ROWS"] * row
        t.memory(written(w.word, depth), w.word)
        t.ff += 2 * clog2(depth) + 10 + w.word + slot + clog2(p["WIDTH"]) - 2 * max(p["FRACTION"] - 1, 0)
        t.ff += clog2(depth) - _ends_in(row) + clog2(p["WIDTH"] * w.beats) - _ends_in(w.beats)
        t.size(address=clog2(depth), places=p["ROWS"] + (0 if power_of_two(w.beats) else p["WIDTH"]))
        return
    pairs = (p["WIDTH"] + 1) // 2
    depth, fraction, near = p["ROWS"] // 2 * pairs * w.beats, p["FRACTION"], p["BITS"] + p["FRACTION"]
    address = clog2(depth)
    for _ in range(4):
        t.memory(written(w.word, depth), w.word)
    t.ff += 14 + 17 * fraction + 22 + w.beat + 3 * slot - 1 + 2 * clog2(pairs) + 1 + 8 * w.word
    t.ff += 2 * address + 4 if power_of_two(pairs * w.beats) else 4 * address
    t.ff += p["LANES"] * (8 * near + 7 * p["BITS"] + 8)
    t.dsp += 3 * p["LANES"]
    t.size(address=4 * address, linear=p["LANES"] * near, corners=4 * w.word)
    t.size(places=2 * (p["ROWS"] + (0 if power_of_two(w.beats) else pairs)))
