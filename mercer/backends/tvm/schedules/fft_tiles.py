"""The code of windows by the Fourier transform: two planes of an image, or two segments of a line, at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free
from mercer.backends.tvm.butterflies import Number, times, transposed
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules.stencil_copy import COLUMN, ROW, fill_line
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.stockham import Parts, place
from mercer.backends.tvm.two_steps import TwoSteps
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis
from mercer.ir.integers import ZERO, IntExpr


@dataclass(frozen=True)
class Table:
    """Where the numbers computed at compile time begin in their constant; roots by the length of a transform."""

    buffer: Any
    roots: Mapping[int, int]
    twist: int
    spectra: int

    def parts(self, start: TirExpr, length: int) -> Parts:
        """Scalars: `length` real parts, then the imaginary ones."""
        return Parts(self.buffer, self.buffer, start, apart=length)


@dataclass(frozen=True)
class Transforms:
    """Transforms over both axes of an n1 x n2 matrix whose rows stand in the workspace `matrix`, `pitch` apart."""

    table: Table
    buffer: Any
    n1: int
    n2: int
    pitch: int
    lanes: int

    @property
    def matrix(self) -> int:
        """Elements of the matrix."""
        return 2 * self.n1 * self.pitch

    @staticmethod
    def memory(n1: int, n2: int, pitch: int, lanes: int) -> int:
        return 2 * n1 * pitch + 4 * 2 * lanes * (max(n1, n2) + 2 * lanes)

    def column(self, x: TirExpr) -> Parts:
        """The vectors at column `x` of every row."""
        return Parts(self.buffer, self.buffer, x, self.pitch, self.lanes, self.n1 * self.pitch)

    def spare(self, number: int) -> Parts:
        """Room for the vectors of a row or column."""
        length = max(self.n1, self.n2) + 2 * self.lanes
        return Parts(self.buffer, self.buffer, int64(0)).part(
            self.matrix + 2 * number * length * self.lanes, length, self.lanes
        )

    def forwards(
        self,
        n: int,
        load: Callable[[TirExpr], Number],
        store: Callable[[TirExpr, Number], None],
        inputs: int,
        outputs: int,
    ) -> None:
        roots = self.table.parts(int64(self.table.roots[n]), n)
        TwoSteps(n, inputs, outputs).emit(load, store, self.spare(0), roots)

    def backwards(
        self,
        n: int,
        load: Callable[[TirExpr], Number],
        store: Callable[[TirExpr, Number], None],
        inputs: int,
        outputs: int,
    ) -> None:
        """Without the factor 1/n."""
        self.forwards(n, lambda j: load(j)[::-1], lambda k, value: store(k, value[::-1]), inputs, outputs)

    def rows(self, first: TirExpr, inputs: int, outputs: int, product: Callable[[Parts, Parts], None]) -> None:
        """Rows `first`, …: transformed, changed by `product(spectrum, result)`, transformed back."""
        lanes, line, other = self.lanes, self.spare(1), self.spare(2)
        rows = [self.column(int64(0)).shifted((first + int64(i)) * int64(self.pitch), 1, lanes) for i in range(lanes)]

        def turn(source: Sequence[Parts], target: Sequence[Parts], at: TirExpr, to: TirExpr) -> None:
            numbers = [part.load(at + int64(0)) for part in source]
            for which in range(2):
                for part, vector in zip(target, transposed([number[which] for number in numbers]), strict=True):
                    start = part.start + to * int64(part.step) + int64(part.apart if which else 0)
                    T.buffer_store(self.buffer, vector, [place(start, lanes)])

        def each(count: int) -> Any:
            return T.serial(int64(0), int64(-(-count // lanes)))

        with each(inputs) as block:
            x = T.bind(block * int64(lanes))
            turn(rows, [line.shifted(int64(i * lanes), lanes, lanes) for i in range(lanes)], x, x)
        self.forwards(self.n2, line.load, other.store, inputs, self.n2)
        product(other, line)
        self.backwards(self.n2, line.load, other.store, self.n2, outputs)
        with each(outputs) as block:
            x = T.bind(block * int64(lanes))
            turn([other.shifted(int64(i * lanes), lanes, lanes) for i in range(lanes)], rows, x, x)


def _blocks(size: int, lanes: int, body: Callable[[TirExpr], None]) -> None:
    """`body(start)` of vectors that cover `size` columns; the last one may overlap."""
    with T.serial(int64(0), int64(-(-size // lanes))) as block:
        body(T.bind(T.min(block * int64(lanes), int64(size - lanes))))


def _finish(scope: Scope, windows: Windows, where: dict[Axis, TirExpr], lane: Axis, value: TirExpr) -> None:
    """The value of the sum is known for a vector of results: the rest of the formula, and the store."""
    e, nest = windows.reduction, windows.nest
    inside = scope.inside(list(where), [T.bind(index) for index in where.values()])
    inside = inside.vector(lane.name, inside.indices[lane.name], vm.lanes(value), (ZERO, lane.extent - 1))
    inside.done[inside.key(e, free(e))] = vm.let(value)
    flat = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
    inside.store(inside.tensors[nest.target], flat, inside.value(nest.body))


@dataclass(frozen=True)
class Image:
    """Two planes. The rows of `transforms` are half a spectrum along the columns of the one plane, then of the other.

    Frequencies 0 and n1/2, which are real, share the first row of each.
    """

    windows: Windows
    transforms: Transforms

    def emit(self, planes: Sequence[Scope], weights: Sequence[TirExpr]) -> None:
        """`weights` say which set of weights each plane has."""
        t, columns = self.transforms, self.windows.columns
        _blocks(columns.size, t.lanes, lambda x: self._columns(planes, x))
        for k, number in enumerate(weights):
            self._rows(k * t.n1 // 2, number)
        _blocks(columns.outputs, t.lanes, lambda x: self._back(planes, x))

    @property
    def _along(self) -> tuple[Along, Along]:
        assert self.windows.rows is not None
        return self.windows.rows, self.windows.columns

    def _columns(self, planes: Sequence[Scope], x: TirExpr) -> None:
        t, (rows, columns) = self.transforms, self._along
        source = self.windows.element(IntExpr.var(ROW), IntExpr.var(COLUMN))
        line, matrix, half = t.spare(1), t.column(x), t.n1 // 2

        def value(scope: Scope, row: TirExpr) -> TirExpr:
            inside = scope.inside([Axis(ROW, IntExpr.constant(rows.size))], [row])
            inside = inside.vector(COLUMN, x, t.lanes, (ZERO, IntExpr.constant(columns.size - 1)))
            return vm.broadcast(inside.value(source), t.lanes)

        def load(j: TirExpr) -> Number:
            row = T.bind(j)
            return value(planes[0], row), value(planes[1], row)

        t.forwards(t.n1, load, line.store, rows.size, t.n1)
        (a, b), (c, d) = line.load(int64(0)), line.load(int64(half))
        matrix.store(int64(0), (a + a, c + c))
        matrix.store(int64(half), (b + b, d + d))
        with T.serial(int64(1), int64(half)) as k:
            (a, b), (c, d) = line.load(k), line.load(int64(t.n1) - k)
            matrix.store(k, (a + c, b - d))
            matrix.store(k + int64(half), (b + d, c - a))

    def _rows(self, first: int, weights: TirExpr) -> None:
        t, (_, columns) = self.transforms, self._along
        size = 2 * t.n2 * t.lanes
        blocks = t.n1 // 2 // t.lanes
        start = T.bind(weights * int64((blocks + 1) * size) + int64(t.table.spectra))
        with T.serial(int64(0), int64(blocks)) as block:
            known = _vectors(t, T.bind(start + (block + int64(1)) * int64(size)))
            mixed = _vectors(t, start)

            def product(spectrum: Parts, result: Parts) -> None:
                """The packed first row needs its mirror image too."""
                with T.serial(int64(0), int64(t.n2)) as k:
                    result.store(k, times(spectrum.load(k), known.load(k)))
                with T.If(block == int64(0)):
                    with T.Then():
                        with T.serial(int64(0), int64(t.n2)) as k:
                            (a, b), (c, d) = spectrum.load(T.truncmod(int64(t.n2) - k, int64(t.n2))), mixed.load(k)
                            re, im = result.load(k)
                            result.store(k, (re + a * c + b * d, im + a * d - b * c))

            t.rows(T.bind(block * int64(t.lanes) + int64(first)), columns.size, columns.outputs, product)

    def _back(self, planes: Sequence[Scope], x: TirExpr) -> None:
        t, (rows, columns) = self.transforms, self._along
        line, matrix, half = t.spare(1), t.column(x), t.n1 // 2
        (a, b), (c, d) = matrix.load(int64(0)), matrix.load(int64(half))
        line.store(int64(0), (a, c))
        line.store(int64(half), (b, d))
        with T.serial(int64(1), int64(half)) as k:
            (a, b), (c, d) = matrix.load(k), matrix.load(k + int64(half))
            line.store(k, (a - d, b + c))
            line.store(int64(t.n1) - k, (a + d, c - b))

        def store(row: TirExpr, value: Number) -> None:
            for scope, part in zip(planes, value, strict=True):
                _finish(scope, self.windows, {rows.output: row, columns.output: x}, columns.output, part)

        t.backwards(t.n1, line.load, store, t.n1, rows.outputs)


def _vectors(t: Transforms, start: TirExpr) -> Parts:
    """Vectors of the table: real part, imaginary part, real part, …"""
    return Parts(t.table.buffer, t.table.buffer, start, 2 * t.lanes, t.lanes, t.lanes)


@dataclass(frozen=True)
class Line:
    """Two segments of n1*n2 elements of a line, of which the first `results` give results.

    The segments stand in the workspace after what the transforms need.
    """

    windows: Windows
    transforms: Transforms
    results: int

    @cached_property
    def length(self) -> int:
        return self.transforms.n1 * self.transforms.n2

    def emit(self, scope: Scope, first: Sequence[TirExpr], weights: TirExpr) -> None:
        """Of the segments whose results begin at `first`."""
        t, length = self.transforms, self.length
        starts = [Transforms.memory(t.n1, t.n2, t.pitch, t.lanes) + k * length for k in range(2)]
        for start, begin in zip(starts, first, strict=True):
            fill_line(scope, self.windows, t.buffer, (start, length), begin, t.lanes)
        signals = Parts(t.buffer, t.buffer, int64(starts[0]), apart=length)
        twist = Parts(t.table.buffer, t.table.buffer, int64(t.table.twist), apart=length)
        _blocks(t.n2, t.lanes, lambda x: self._columns(signals, twist, x))
        size = 2 * t.n2 * t.lanes
        spectra = T.bind(weights * int64(t.n1 // t.lanes * size) + int64(t.table.spectra))
        with T.serial(int64(0), int64(t.n1 // t.lanes)) as block:
            known = _vectors(t, T.bind(spectra + block * int64(size)))

            def product(spectrum: Parts, result: Parts) -> None:
                with T.serial(int64(0), int64(t.n2)) as k:
                    result.store(k, times(spectrum.load(k), known.load(k)))

            t.rows(T.bind(block * int64(t.lanes)), t.n2, t.n2, product)
        _blocks(t.n2, t.lanes, lambda x: self._back(signals, twist, x))
        lane = self.windows.columns.output
        for start, begin in zip(starts, first, strict=True):

            def finish(x: TirExpr, start: int = start, begin: TirExpr = begin) -> None:
                value = vm.let(t.buffer[place(int64(start) + x, t.lanes)])
                _finish(scope, self.windows, {lane: begin + x}, lane, value)

            _blocks(self.results, t.lanes, finish)

    def _columns(self, signals: Parts, twist: Parts, x: TirExpr) -> None:
        t = self.transforms
        source, roots, matrix = (p.shifted(x, t.n2, t.lanes) for p in (signals, twist, t.column(int64(0))))
        matrix = t.column(x)

        def store(k: TirExpr, value: Number) -> None:
            matrix.store(k, times(value, roots.load(k)))

        t.forwards(t.n1, source.load, store, t.n1, t.n1)

    def _back(self, signals: Parts, twist: Parts, x: TirExpr) -> None:
        t = self.transforms
        target, roots = (p.shifted(x, t.n2, t.lanes) for p in (signals, twist))
        matrix = t.column(x)

        def load(k: TirExpr) -> Number:
            c, d = roots.load(k)
            re, im = times(matrix.load(k), (c, vm.let(d * vm.const(d, -1.0))))
            return vm.let(re), vm.let(im)

        t.backwards(t.n1, load, target.store, t.n1, -(-self.results // t.n2))
