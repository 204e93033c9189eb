"""Ways to transform complex rows, made of passes on `width` columns at once, so that each step works on whole vectors.

A row of length n1*n2 is a matrix of n1 rows: its columns are transformed, multiplied by roots of unity, transposed and
transformed again (Bailey 1990, the four step method). Where n does not divide so, several rows are transformed side by
side, or a single one number after number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.butterflies import Number, transposed, turned
from mercer.backends.tvm.lower import int64
from mercer.backends.tvm.stockham import Columns, Numbers, Parts, radices, root
from mercer.backends.tvm.vector_math import TirExpr


def halves(n: int, width: int) -> tuple[int, int] | None:
    """n as a product of two multiples of `width` that are as close as possible."""
    if width == 1 or n < width * width:
        return None
    found = [(d, n // d) for d in range(width, n // width + 1, width) if n % d == 0 and n // d % width == 0]
    return min(found, key=lambda pair: abs(pair[0] - pair[1])) if found else None


def exchanged(square: Sequence[Number]) -> list[Number]:
    """Rows of a square as its columns."""
    re, im = (transposed([value[part] for value in square]) for part in range(2))
    return list(zip(re, im, strict=True))


class Transform(Protocol):
    """A transform of complex rows of length n, `rows` of them at once; `left` are left."""

    @property
    def n(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def lanes(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def detail(self) -> str: ...

    def roots(self) -> list[Any]: ...

    @property
    def memory(self) -> int: ...

    def emit(self, x: Numbers, y: Numbers, table: Parts, work: Parts, left: TirExpr) -> None: ...


@dataclass(frozen=True)
class FourSteps:
    """Rows of n1*n2 elements."""

    n: int
    scale: float
    width: int
    halves: tuple[int, int]
    rows: int = 1

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def detail(self) -> str:
        n1, n2 = self.halves
        return f"{n1} x {n2} by radices {radices(n1)} and {radices(n2)}"

    @property
    def _first(self) -> Columns:
        return Columns(self.halves[0], self.width)

    @property
    def _second(self) -> Columns:
        return Columns(self.halves[1], self.width, self._first.size)

    @property
    def memory(self) -> int:
        return 2 * self._between + max(self._first.memory, self._second.memory)

    @property
    def _pitch(self) -> int:
        """Of the transposed matrix: not a power of two, which would keep its rows out of most of the cache."""
        return self.halves[0] + self.width

    @property
    def _between(self) -> int:
        return self._pitch * self.halves[1]

    def roots(self) -> list[Any]:
        """Those of both transforms, then those between them in the order in which they are read."""
        (n1, n2), width = self.halves, self.width
        columns = np.arange(n2).reshape(-1, 1, width)
        between = root(np.arange(n1)[:, None] * columns, self.n).ravel()
        return [*self._first.roots(), *self._second.roots(), between]

    def emit(self, x: Numbers, y: Numbers, table: Parts, work: Parts, left: TirExpr) -> None:
        (n1, n2), width = self.halves, self.width
        turning = table.shifted(int64(self._first.size + self._second.size))
        pitch = self._pitch
        middle = work.part(0, self._between)
        spare, again = (columns.spare(work, 2 * self._between) for columns in (self._first, self._second))
        columns = spare[(len(self._first.passes) - 1) % 2]
        with T.serial(int64(0), int64(n2 // width)) as block:
            j2 = T.bind(block * int64(width))
            between = turning.shifted(block * int64(n1 * width), width, width)

            def turn(k: TirExpr, value: Number) -> None:
                columns.store(k, turned(value, between.load(k)))

            self._first.emit(table, spare, x.shifted(j2, n2, width).load, turn, 1.0)
            with T.serial(int64(0), int64(n1 // width)) as group:
                k1 = T.bind(group * int64(width))
                square = exchanged([columns.load(k1 + int64(k)) for k in range(width)])
                target = middle.shifted(j2 * int64(pitch) + k1, pitch, width)
                for k, value in enumerate(square):
                    target.store(int64(k), value)
        with T.serial(int64(0), int64(n1 // width)) as block:
            k1 = T.bind(block * int64(width))
            load, store = middle.shifted(k1, pitch, width).load, y.shifted(k1, n1, width).store
            self._second.emit(table, again, load, store, self.scale)


@dataclass(frozen=True)
class OneRow:
    """One row, number after number."""

    n: int
    scale: float
    lanes: int = 1
    width: int = 1
    rows: int = 1

    @property
    def detail(self) -> str:
        return f"{self.n} by radices {radices(self.n)}"

    @property
    def memory(self) -> int:
        return Columns(self.n, 1).memory

    def roots(self) -> list[Any]:
        return Columns(self.n, 1).roots()

    def emit(self, x: Numbers, y: Numbers, table: Parts, work: Parts, left: TirExpr) -> None:
        columns = Columns(self.n, 1)
        columns.emit(table, columns.spare(work), x.load, y.store, self.scale)


@dataclass(frozen=True)
class SideBySide:
    """`width` rows; where fewer are left, the last one is computed more than once."""

    n: int
    scale: float
    width: int

    @property
    def rows(self) -> int:
        return self.width

    @property
    def lanes(self) -> int:
        return self.width

    @property
    def detail(self) -> str:
        return f"{self.n} by radices {radices(self.n)}, {self.width} rows at once"

    @property
    def memory(self) -> int:
        return Columns(self.n, self.width).memory

    def roots(self) -> list[Any]:
        return Columns(self.n, self.width).roots()

    def emit(self, x: Numbers, y: Numbers, table: Parts, work: Parts, left: TirExpr) -> None:
        width = self.width
        starts = [T.bind(tirx.min(int64(k), left - int64(1)) * int64(self.n)) for k in range(width)]
        columns = Columns(self.n, width)
        spare = columns.spare(work)
        before = spare[1]
        after = spare[(len(columns.passes) - 1) % 2]
        blocks = self.n // width
        with T.serial(int64(0), int64(blocks)) as block:
            j = T.bind(block * int64(width))
            square = exchanged([x.shifted(start + j, width, width).load(int64(0)) for start in starts])
            for k, value in enumerate(square):
                before.store(j + int64(k), value)
        for j in range(blocks * width, self.n):
            for k, start in enumerate(starts):
                before.shifted(int64(j * width + k)).store(int64(0), x.shifted(start + int64(j)).load(int64(0)))
        columns.emit(table, spare, before.load, after.store, self.scale)
        with T.serial(int64(0), int64(blocks)) as block:
            j = T.bind(block * int64(width))
            square = exchanged([after.load(j + int64(k)) for k in range(width)])
            for k, start in enumerate(starts):
                with T.If(int64(k) < left), T.Then():
                    y.shifted(start + j, width, width).store(int64(0), square[k])
        for j in range(blocks * width, self.n):
            for k, start in enumerate(starts):
                with T.If(int64(k) < left), T.Then():
                    y.shifted(start + int64(j)).store(int64(0), after.shifted(int64(j * width + k)).load(int64(0)))
