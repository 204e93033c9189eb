"""Pieces of matrix code on f32 in TIR: workspace, a product in registers, also of words, transposes, strided copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import int64
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType, TensorType


def workspace(name: str, size: int, dtype: DType = DType.F32) -> Operand:
    """Memory of `size` numbers for a thread."""
    return Operand(name, TensorType(dtype, (IntExpr.constant(size),)))


def at(start: TirExpr, width: int) -> TirExpr:
    """The index of `width` neighbours."""
    return T.ramp(start, int64(1), width) if width > 1 else start


def load(buffer: Any, start: TirExpr, width: int) -> TirExpr:
    """A vector as a named value."""
    return vm.kept(buffer[at(start, width)])


def store(buffer: Any, start: TirExpr, value: TirExpr) -> None:
    T.buffer_store(buffer, value, [at(start, vm.lanes(value))])


def zeros(width: int, dtype: str = "float32") -> TirExpr:
    return vm.broadcast(tirx.const(0, dtype), width)


def clear(buffer: Any, start: TirExpr, count: int, width: int) -> None:
    """Zeros into a run of known length."""
    for place, size in pieces(count, width):
        store(buffer, start + int64(place), zeros(size, str(buffer.dtype)))


LINE = 64
"""Bytes that a cache gets at once."""

FAR = 3 << 20
"""Bytes of data from which on they come from behind the second-level cache."""


def prefetch(buffer: Any, place: TirExpr, write: bool = False, near: bool = True) -> None:
    """Ask for a cache line that will be read or written; a `near` one comes into the first-level cache.

    Only a near one is asked for as one to write: PREFETCHW knows no other level, and waits for a line that is far.
    """
    T.evaluate(
        tirx.call_intrin("void", "tirx.prefetch", T.address_of(buffer[place]), int(write and near), 3 if near else 2, 1)
    )


def pieces(count: int, width: int) -> list[tuple[int, int]]:
    """(start, size) of vectors that cover a run; the last two may overlap."""
    while width > count:
        width //= 2
    if count == 0:
        return []
    whole = [(start, width) for start in range(0, count - width + 1, width)]
    rest = count % width
    return [*whole, (count - width, width)] if rest else whole


def strided(buffer: Any, start: TirExpr, stride: int, width: int) -> TirExpr:
    """`width` elements `stride` apart, without touching what lies after the last one."""
    if stride == 1 or width == 1:
        return buffer[at(start, width)]
    if stride == 2 and width >= 4:
        return vm.every_second(buffer, start, width)
    return buffer[T.ramp(start, int64(stride), width)]


def transpose(rows: Sequence[TirExpr]) -> list[TirExpr]:
    """The columns of a square matrix of as many named vectors as they have lanes, a power of two."""
    size, step = len(rows), 1
    rows = list(rows)
    while step < size:
        new = list(rows)
        for i in range(size):
            if i & step:
                continue
            j = i | step
            low = [k + size * ((k & step) // step) - (k & step) for k in range(size)]
            high = [index + step for index in low]
            new[i] = vm.kept(tirx.Shuffle([rows[i], rows[j]], low))
            new[j] = vm.kept(tirx.Shuffle([rows[i], rows[j]], high))
        rows = new
        step *= 2
    return rows


@dataclass(frozen=True)
class Matrix:
    """Elements of a buffer: (i, k) lies at `start + i*row + k*column`, or row[i] from `start`. In a buffer of i16 they
    are words."""

    buffer: Any
    start: TirExpr
    row: int | tuple[int, ...]
    column: int

    def place(self, i: int, k: TirExpr) -> TirExpr:
        row = i * self.row if isinstance(self.row, int) else self.row[i]
        return self.start + k * int64(self.column) + int64(row)

    def element(self, i: int, k: TirExpr) -> TirExpr:
        place = self.place(i, k)
        return words.load(self.buffer, place) if str(self.buffer.dtype) == "int16" else self.buffer[place]


UNROLL = 4
"""Steps of a product whose number is known that are written out: the loop itself takes a tenth of the instructions."""


@dataclass(frozen=True)
class Tile:
    """`rows` x (`vectors` of `width`) sums in registers: of products of f32, or in i32 of words by `combine`."""

    rows: int
    vectors: int
    width: int
    dtype: str = "float32"
    combine: Callable[[TirExpr, TirExpr, TirExpr], TirExpr] = words.add_dot

    def start(self, initial: Any = None) -> list[list[Any]]:
        """The sums; `initial(i, v)` gives their first values."""
        sums = [[vm.registers(self.width, self.dtype) for _ in range(self.vectors)] for _ in range(self.rows)]
        for i, row in enumerate(sums):
            for v, total in enumerate(row):
                value = zeros(self.width, self.dtype) if initial is None else initial(i, v)
                T.buffer_store(total, value, [vm.whole(self.width)])
        return sums

    def multiply(
        self,
        sums: list[list[Any]],
        left: Matrix,
        right: Matrix | Callable[[TirExpr], list[TirExpr]],
        steps: int | TirExpr,
        soon: Callable[[TirExpr], None] | None = None,
        every: int = 1,
    ) -> None:
        """sums[i][v] += left[i, k] * right[v, k] for all k; elements of the left are broadcast.

        `right.row` is the width of a vector; a function gives the vectors of step k. One step of so many (`every`, 1, 2
        or 4) runs `soon(k)` as well, which asks for what comes later.
        """
        if isinstance(steps, int):
            # LLVM would sum products of integers in another order, for which registers do not suffice
            unrolled = math.gcd(steps, UNROLL) if self.dtype == "float32" else 1
            with T.serial(int64(0), int64(steps // unrolled)) as group:
                for number in range(unrolled):
                    now = soon if number % every == 0 else None
                    self.step(sums, left, right, vm.let(group * int64(unrolled) + int64(number)), now)
            return
        with T.serial(int64(0), steps) as k:
            self.step(sums, left, right, k, soon)

    def step(
        self,
        sums: list[list[Any]],
        left: Matrix,
        right: Matrix | Callable[[TirExpr], list[TirExpr]],
        k: TirExpr,
        soon: Callable[[TirExpr], None] | None = None,
    ) -> None:
        """The products of one k."""
        whole = vm.whole(self.width)
        if isinstance(right, Matrix):
            vectors = [load(right.buffer, right.place(v, k), self.width) for v in range(self.vectors)]
        else:
            vectors = right(k)
        if soon is not None:
            soon(k)
        for i, row in enumerate(sums):
            factor = vm.kept(vm.broadcast(left.element(i, k), self.width))
            for vector, total in zip(vectors, row, strict=True):
                if self.dtype == "int32":
                    T.buffer_store(total, self.combine(total[whole], vector, factor), [whole])
                else:
                    T.buffer_store(total, total[whole] + factor * vector, [whole])

    def values(self, sums: list[list[Any]]) -> list[list[TirExpr]]:
        return [[vm.let(total[vm.whole(self.width)]) for total in row] for row in sums]
