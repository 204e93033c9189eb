"""When a circular line buffer takes the rows of an image and when a window over them may be read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mercer.backends.fpga.timing import Events, Indices, Timing, Wait


@dataclass(frozen=True)
class LineBuffer:
    """Windows of `span` pixels, the first at -`before`, `stride` apart, over an image of `size`.

    A pixel arrives in `beats` words; an output pixel is read in `reads` firings. A row is held for `held` cycles after
    the last firing that reads it. Pairs are (height, width).
    """

    size: tuple[int, int]
    beats: int
    out: tuple[int, int]
    reads: int
    span: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    held: int = 0

    @property
    def writes(self) -> int:
        """Words per row."""
        return self.size[1] * self.beats

    @cached_property
    def _first(self) -> Indices:
        """The oldest row that each output row needs."""
        tops = np.arange(self.out[0], dtype=np.int64) * self.stride[0] - self.before[0]
        return np.clip(tops, 0, self.size[0])

    def _last(self, axis: int) -> Indices:
        """The last row or column that each output row or column needs; the first one where all of it is padding."""
        starts = np.arange(self.out[axis], dtype=np.int64) * self.stride[axis] - self.before[axis]
        return np.clip(starts + self.span[axis] - 1, 0, self.size[axis] - 1)

    @cached_property
    def _needed(self) -> Indices:
        """[out]: the number of pixels of the sample that must have come before an output pixel is read."""
        return self._last(0)[:, np.newaxis] * self.size[1] + self._last(1) + 1

    def _reader(self, rows: int) -> Indices:
        """[height]: the output row that must begin before a row of the image has room; negative in samples before."""
        wanted = np.arange(self.size[0], dtype=np.int64) - rows + 1
        samples = (wanted - 1) // self.size[0]
        return samples * self.out[0] + np.searchsorted(self._first, wanted - samples * self.size[0])

    def timing(self, rows: int, latency: int) -> Timing:
        """Of a module with a writing and a reading process and a buffer of `rows` rows."""
        taken = self.size[0] * self.writes
        read = self.out[0] * self.out[1] * self.reads
        arrived = np.repeat(self._needed.reshape(-1) * self.beats - 1, self.reads)
        freed = np.repeat(self._reader(rows) * self.out[1] * self.reads - 1, self.writes)
        waits = (Wait(0, 1, arrived, 1), Wait(1, 0, freed, 1 + self.held))
        every = (np.arange(taken, dtype=np.int64), np.arange(read, dtype=np.int64))
        return Timing((taken, read), (Events(0, every[0]),), Events(1, every[1]), latency, waits)

    def period(self, rows: int) -> int:
        """Cycles per sample in steady state with a buffer of `rows` rows, if nothing outside makes it wait."""
        height, out_rows = self.size[0], self.out[0]
        samples = 6
        reader = self._reader(rows)
        columns = np.arange(self.out[1], dtype=np.int64) * self.reads
        written = np.zeros(samples * height, np.int64)  # the cycle of the first word of each row
        ended = np.zeros(samples * out_rows, np.int64)  # the cycle of the last firing of each output row
        come = 0
        for out_row in range(samples * out_rows):
            sample, local = divmod(out_row, out_rows)
            pixels = self._needed[local] + sample * height * self.size[1] - 1
            while come * self.size[1] <= min(pixels[-1], written.size * self.size[1] - 1):
                frees = come // height * out_rows + reader[come % height]
                follows = written[come - 1] + self.writes if come else 0
                written[come] = max(follows, ended[frees - 1] + 1 + self.held if frees > 0 else 0)
                come += 1
            row, column = np.divmod(np.maximum(pixels, 0), self.size[1])
            ready = np.where(pixels >= 0, written[row] + (column + 1) * self.beats, 0)
            ready[0] = max(ready[0], ended[out_row - 1] + 1 if out_row else 0)
            ended[out_row] = np.max(ready - columns) + columns[-1] + self.reads - 1
        ends = ended.reshape(samples, out_rows)[:, -1]
        return int(ends[-1] - ends[-2])

    @cached_property
    def rows(self) -> int:
        """The least number of rows with which a sample takes no longer than its input or its output."""
        best = max(self.size[0] * self.writes, self.out[0] * self.out[1] * self.reads)
        rows = self.span[0]
        while self.period(rows) > best and rows < 2 * (self.span[0] + self.stride[0]) + self.size[0]:
            rows += 1
        return rows
