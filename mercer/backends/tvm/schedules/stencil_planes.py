"""Where words of a plane lie, and which of its results a tile has: the geometry of `stencil_words`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

from mercer.backends.tvm.analysis import free
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.target import Target
from mercer.ir.packed import COUNTS
from mercer.ir.types import DType

LARGEST = 24576
"""Bytes of a band, which should stay in the first-level cache."""

UNIT = 8
"""Lanes of a unit that adds: a vector of 16 takes two of them."""

PIECE = 16
"""Numbers of the border that are stored at once."""

SUMS = 10
"""Vectors of sums of a tile at most."""


def geometry(found: Windows, target: Target) -> Plane:
    """What takes the fewest cycles: a plane or, where the same is done with all sums, a line."""
    plain = replace(found, source=found.read)
    widths = [n for n in (4, 8, 16) if n <= target.lanes]
    planes = [Plane(plain, lanes) for lanes in widths]
    places = {along.output.name for along in (found.rows, found.columns) if along is not None}
    if found.rows is not None and found.rows.stride == found.columns.stride == 1 and not places & free(found.rest):
        lines = [Line(plain, lanes) for lanes in widths]
        planes += [line for line in lines if line.size * line.itemsize <= LARGEST]
    return min(planes, key=lambda each: (each.bands * each.cycles, -each.lanes))


@dataclass(frozen=True)
class Plane:
    """The places of a plane. A tile has `rows` rows of one vector of results of every kind."""

    windows: Windows
    lanes: int

    @property
    def columns(self) -> Along:
        return self.windows.columns

    @cached_property
    def along(self) -> Along:
        assert self.windows.rows is not None
        return self.windows.rows

    @property
    def dtype(self) -> DType:
        return self.windows.read.dtype

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.dtype.numpy.itemsize

    @property
    def count(self) -> int:
        """Numbers of a word."""
        return COUNTS[self.dtype]

    @property
    def kinds(self) -> int:
        """Results whose windows begin in the same word have sums of their own."""
        return self.count // self.columns.stride

    @property
    def width(self) -> int:
        """Results in a row of a tile."""
        return self.kinds * self.lanes

    @property
    def steps(self) -> int:
        """Words of a row of the window."""
        return -(-self.columns.taps // self.count)

    def start(self, kind: int) -> int:
        """Where the words of a kind begin: with its window, or with those of the kind before if they reach as far."""
        begin, before = kind * self.columns.stride, self.start(kind - 1) if kind else 0
        return before if begin - before <= self.steps * self.count - self.columns.taps else begin

    @cached_property
    def words(self) -> dict[int, list[tuple[int, int]]]:
        """For every place in a row where words are loaded: the (kind, step) that they are for."""
        found: dict[int, list[tuple[int, int]]] = {}
        for kind, step in itertools.product(range(self.kinds), range(self.steps)):
            found.setdefault(self.start(kind) + step * self.count, []).append((kind, step))
        return dict(sorted(found.items()))

    def first_tap(self, kind: int, step: int) -> int:
        """Of a word of weights; taps outside of the window are 0."""
        return self.start(kind) + step * self.count - kind * self.columns.stride

    @cached_property
    def rows(self) -> int:
        """As few rows of tiles as the registers allow, with the least overlap."""
        most = min(SUMS // self.kinds, self.along.outputs)
        return min(range(1, most + 1), key=lambda rows: (-(-self.along.outputs // rows) * (rows + 0.5), -rows))

    @cached_property
    def pitch(self) -> int:
        tiles = max(1, -(-self.columns.outputs // self.width))
        last = max(self.columns.outputs - self.width, 0) if tiles > 1 else 0
        return -(-(last * self.columns.stride + max(self.words) + self.count * self.lanes) // PIECE) * PIECE

    @cached_property
    def band(self) -> int:
        """Rows of the result, all bands alike."""
        rows = LARGEST // (self.pitch * self.itemsize)
        most = (rows - self.along.reach) // self.along.stride + 1
        most = max(self.rows, min(most, self.along.outputs))
        alike = -(-self.along.outputs // -(-self.along.outputs // most))
        return min(-(-alike // self.rows) * self.rows, self.along.outputs)

    @property
    def bands(self) -> int:
        return -(-self.along.outputs // self.band)

    @property
    def band_rows(self) -> int:
        """Rows of the source for a band."""
        return (self.band - 1) * self.along.stride + self.along.reach

    @property
    def size(self) -> int:
        return self.band_rows * self.pitch

    @property
    def row_cycles(self) -> float:
        """Of a row of a tile."""
        return max(1.0, self.lanes / UNIT) * self.kinds * (0.5 * self.along.taps * self.steps + 3.0)

    @property
    def cycles(self) -> float:
        """Of a band."""
        tiles = -(-self.band // self.rows) * -(-self.columns.outputs // self.width)
        return tiles * self.rows * self.row_cycles + self.size / PIECE

    def __str__(self) -> str:
        bands = f", {self.bands} bands" if self.bands > 1 else ""
        names = {DType.I16: "pairs", DType.I8: "fours"}
        return f"{names[self.dtype]} of taps, {self.rows} x {self.width} {self.columns.output.name}{bands}"


@dataclass(frozen=True)
class Line(Plane):
    """A plane whose rows, with their borders, follow each other: a tile may have parts of several rows."""

    @cached_property
    def rows(self) -> int:
        return 1

    @cached_property
    def pitch(self) -> int:
        return self.columns.outputs - 1 + self.columns.reach

    @cached_property
    def band(self) -> int:
        return self.along.outputs

    @property
    def tiles(self) -> int:
        return -(-((self.band - 1) * self.pitch + self.columns.outputs) // self.width)

    @property
    def results(self) -> int:
        """Results of all tiles, those between the rows included."""
        return self.tiles * self.width

    @property
    def size(self) -> int:
        """A last tile reads beyond the band."""
        last = self.results - self.width + (self.along.reach - 1) * self.pitch + max(self.words)
        return -(-(last + self.count * self.lanes) // PIECE) * PIECE

    @property
    def cycles(self) -> float:
        copies = (self.along.size + self.band) * len(blocks.pieces(self.columns.outputs, PIECE))
        return self.tiles * self.row_cycles + 2.0 * copies + self.size / PIECE

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.tiles} tiles in a line"
