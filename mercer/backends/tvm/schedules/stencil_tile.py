"""The code of a band of a stencil: the copy of its source, then tile after tile."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import combine, convert, function, identity, wide
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.stencil_ahead import behind, claim
from mercer.backends.tvm.schedules.stencil_copy import COLUMN, ROW, fill, fill_line, over_rows, vectors
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Expr
from mercer.ir.integers import ZERO, IntExpr

BUFFER = "band#"

UNROLLED = 240
"""Multiply-adds of a tile that are written out for one column of the window."""

WRITTEN_OUT = 128
"""Multiply-adds of a tile up to which the columns of its window are written out too."""


@dataclass(frozen=True)
class Group:
    """`count` tiles side by side from column `start` on, of `rows` rows and `vectors` vectors each."""

    start: int
    count: int
    vectors: int
    rows: int


@dataclass(frozen=True)
class Plane:
    """Row p of the result has the window of the rows stride*p + dilation*i of a band; columns likewise, but sorted by
    their remainder modulo their stride.
    """

    windows: Windows
    lanes: int
    groups: tuple[Group, ...]
    band: int

    @property
    def columns(self) -> Along:
        return self.windows.columns

    @property
    def width(self) -> int:
        return self.columns.outputs

    @property
    def height(self) -> int:
        return self.windows.rows.outputs if self.windows.rows is not None else 1

    @property
    def bands(self) -> int:
        return -(-self.height // self.band)

    @property
    def row_stride(self) -> int:
        return self.windows.rows.stride if self.windows.rows is not None else 1

    @property
    def row_dilation(self) -> int:
        return self.windows.rows.dilation if self.windows.rows is not None else 1

    @property
    def window_rows(self) -> int:
        return self.windows.rows.taps if self.windows.rows is not None else 1

    @property
    def window_columns(self) -> int:
        return self.columns.taps

    @property
    def reach(self) -> int:
        return (self.window_rows - 1) * self.row_dilation + 1

    @property
    def slides(self) -> bool:
        """Whether the next row of a tile has the same window, one row on."""
        return self.row_stride == 1 and self.row_dilation == 1

    @cached_property
    def sorted(self) -> int:
        """Columns of one remainder, in whole vectors."""
        needed = self.width + (self.columns.reach - 1) // self.columns.stride
        return -(-needed // self.lanes) * self.lanes

    @property
    def pitch(self) -> int:
        return self.sorted * self.columns.stride

    @property
    def band_rows(self) -> int:
        """Rows of the source for a band."""
        return (self.band - 1) * self.row_stride + self.reach

    @property
    def size(self) -> int:
        """Elements of the buffer."""
        return self.band_rows * self.pitch

    def steps(self, rows: int) -> Mapping[int, list[tuple[int, int]]]:
        """For every row of the source that a tile reads: the (row of the tile, row of the window) that meet there."""
        found: dict[int, list[tuple[int, int]]] = {}
        for r, k in itertools.product(range(rows), range(self.window_rows)):
            found.setdefault(r * self.row_stride + k * self.row_dilation, []).append((r, k))
        return dict(sorted(found.items()))

    def __str__(self) -> str:
        tiles = dict.fromkeys(f"{g.rows} x {g.vectors} vectors of {self.lanes}" for g in self.groups)
        bands = f", {self.bands} bands" if self.bands > 1 else ""
        return f"{' and '.join(tiles)} {self.columns.output.name}{bands}"

    # --- places -------------------------------------------------------------------------------------------------------

    def first(self, number: TirExpr) -> TirExpr:
        """The first row of a band; the last band may repeat some of the one before."""
        return T.bind(T.min(number * int64(self.band), int64(self.height - self.band)))

    def column(self, tap: TirExpr) -> TirExpr:
        """Where in a row that column of the window lies, seen from its result."""
        place, stride = tap * int64(self.columns.dilation), self.columns.stride
        if stride == 1:
            return place
        return T.truncmod(place, int64(stride)) * int64(self.sorted) + T.truncdiv(place, int64(stride))

    def parts(self) -> tuple[tuple[int, int, int], ...]:
        """(first column, end, rows) of the parts of the window."""
        return ((0, self.window_columns, self.window_rows),)

    def taps(self, row: TirExpr, column: TirExpr) -> dict[Axis, TirExpr]:
        """The axes of the sum at a place in the window."""
        return {**_tap(self.windows.rows, row), **_tap(self.columns, column)}

    def result(self, first: TirExpr, row: TirExpr, column: TirExpr) -> dict[Axis, TirExpr]:
        """The axes of the result at a row of a band."""
        rows = self.windows.rows
        place = {self.columns.output: column}
        return place if rows is None else {rows.output: first + row, **place}

    def offset(self, row: int, column: int) -> dict[str, int]:
        """How much they move with the row and the column."""
        rows = self.windows.rows
        place = {self.columns.output.name: column}
        return place if rows is None else {rows.output.name: row, **place}

    def inside(self, first: TirExpr, row: TirExpr) -> tuple[TirExpr, TirExpr] | None:
        """The rows of the source, seen from a row of the band, that are no border: from, to (exclusive)."""
        rows = self.windows.rows
        if rows is None or rows.is_inside:
            return None
        top = T.bind(int64(rows.before) - first - row)
        return top, T.bind(top + int64(rows.size))

    # --- the copy -----------------------------------------------------------------------------------------------------

    def fill(self, scope: Scope, buffer: Any, first: TirExpr) -> None:
        """The band that begins at row `first` of the result, with its border."""
        rows, outside = self.windows.rows, scope.value(self.windows.outside)
        source = self.windows.element(IntExpr.var(ROW), IntExpr.var(COLUMN))
        if rows is None:
            self._fill_row(scope, buffer, int64(0), source, outside)
            return

        def inside(at: Scope, start: TirExpr) -> None:
            self._fill_row(at, buffer, start, source, outside)

        def border(start: TirExpr) -> None:
            fill(buffer, start, 0, self.pitch, outside, self.lanes)

        over_rows(scope, rows, first, (self.band_rows, self.pitch), inside, border)

    def _fill_row(self, scope: Scope, buffer: Any, start: TirExpr, source: Expr, outside: TirExpr) -> None:
        along, lanes = self.columns, self.lanes
        low = max(0, -along.before)
        high = min(along.size, (self.width - 1) * along.stride + along.reach - along.before)
        if along.stride > 1:
            fill(buffer, start, 0, self.pitch, outside, lanes)
            self._sorted_copy(scope, buffer, start, source, (low, high))
            return
        fill(buffer, start, 0, low + along.before, outside, lanes)
        fill(buffer, start, max(0, high + along.before), self.pitch, outside, lanes)

        def store(inside: Scope) -> None:
            place = start + inside.indices[COLUMN] + int64(along.before)
            T.buffer_store(buffer, vm.broadcast(inside.value(source), inside.width), [blocks.at(place, inside.width)])

        vectors(scope, along.size, (low, high), lanes, store)

    def _sorted_copy(self, scope: Scope, buffer: Any, start: TirExpr, source: Expr, columns: tuple[int, int]) -> None:
        """Columns of even and of odd number are told apart in registers; for larger strides one by one."""
        along, stride = self.columns, self.columns.stride
        low, high = columns
        axis = Axis(COLUMN, IntExpr.constant(along.size))
        width = 2 * self.lanes
        whole = max(0, high - low) // width if stride == 2 else 0

        def place(column: TirExpr) -> TirExpr:
            number = T.bind(column + int64(along.before))
            return start + T.truncmod(number, int64(stride)) * int64(self.sorted) + T.truncdiv(number, int64(stride))

        if whole:
            with T.serial(int64(0), int64(whole)) as block:
                column = T.bind(block * int64(width) + int64(low))
                inside = scope.vector(COLUMN, column, width, (ZERO, axis.extent - 1))
                both = inside.value(source)
                for k in range(2):
                    half = tirx.Shuffle([both], [tirx.const(i, "int32") for i in range(k, width, 2)])
                    T.buffer_store(buffer, half, [blocks.at(T.bind(place(column + int64(k))), self.lanes)])
        with T.serial(int64(low + whole * width), int64(max(high, low))) as column:
            inside = scope.inside([axis], [column])
            T.buffer_store(buffer, inside.value(source), [place(column)])


@dataclass(frozen=True)
class Line(Plane):
    """A line as rows of `span` results. Tap k*m + j of the window, where m = span/dilation, is in row k, column j."""

    span: int = 0

    @property
    def width(self) -> int:
        return self.span

    @property
    def height(self) -> int:
        return self.columns.outputs // self.span

    @property
    def bands(self) -> int:
        return -(-self.columns.outputs // (self.band * self.span))

    @property
    def window_columns(self) -> int:
        return self.span // self.columns.dilation

    @property
    def window_rows(self) -> int:
        return -(-self.columns.taps // self.window_columns)

    @property
    def pitch(self) -> int:
        return self.span

    @property
    def size(self) -> int:
        return (self.band_rows + 1) * self.pitch

    def __str__(self) -> str:
        group = self.groups[0]
        return f"{group.rows} x {group.vectors} vectors of {self.lanes} {self.columns.output.name}, {self.bands} bands"

    def first(self, number: TirExpr) -> TirExpr:
        length = self.band * self.span
        return T.bind(T.min(number * int64(length), int64(self.columns.outputs - length)))

    def column(self, tap: TirExpr) -> TirExpr:
        return tap * int64(self.columns.dilation)

    def parts(self) -> tuple[tuple[int, int, int], ...]:
        columns, rows = self.window_columns, self.window_rows
        full = self.columns.taps - (rows - 1) * columns
        return ((0, full, rows),) if full == columns else ((0, full, rows), (full, columns, rows - 1))

    def taps(self, row: TirExpr, column: TirExpr) -> dict[Axis, TirExpr]:
        return _tap(self.columns, row * int64(self.window_columns) + column)

    def result(self, first: TirExpr, row: TirExpr, column: TirExpr) -> dict[Axis, TirExpr]:
        return {self.columns.output: first + row * int64(self.span) + column}

    def offset(self, row: int, column: int) -> dict[str, int]:
        return {self.columns.output.name: row * self.span + column}

    def inside(self, first: TirExpr, row: TirExpr) -> tuple[TirExpr, TirExpr] | None:
        return None

    def fill(self, scope: Scope, buffer: Any, first: TirExpr) -> None:
        fill_line(scope, self.windows, buffer, (0, self.size), first, self.lanes)


def _tap(along: Along | None, number: TirExpr) -> dict[Axis, TirExpr]:
    if along is None or along.tap is None:
        return {}
    return {along.tap: T.bind(int64(along.taps - 1) - number) if along.flipped else number}


# --- tiles ------------------------------------------------------------------------------------------------------------


def band(scope: Scope, geometry: Plane, number: TirExpr) -> None:
    """All results of a band."""
    buffer = scope.tensors[BUFFER].buffer
    first = geometry.first(number)
    geometry.fill(scope, buffer, first)
    claim(geometry, scope, first)
    runs = behind(geometry, scope, first)
    tiles_of = {group: -(-geometry.band // group.rows) for group in geometry.groups}
    parts, before = sum(tiles * group.count for group, tiles in tiles_of.items()), 0
    for group, tiles in tiles_of.items():
        width = group.vectors * geometry.lanes
        last = max(0, geometry.width - width)
        with T.serial(int64(0), int64(tiles)) as i:
            row = T.bind(T.min(i * int64(group.rows), int64(geometry.band - group.rows)))
            with T.serial(int64(0), int64(group.count)) as j:
                for run in runs:
                    run.ask(i * int64(group.count) + j + int64(before), parts)
                column = T.bind(T.min(int64(group.start) + j * int64(width), int64(last)))
                _Tile(scope, geometry, group, buffer, first, row, column).emit()
        before += tiles * group.count


@dataclass(frozen=True)
class _Tile:
    """The results at `row`, `column` of the band that begins at `first`."""

    scope: Scope
    geometry: Plane
    group: Group
    buffer: Any
    first: TirExpr
    row: TirExpr
    column: TirExpr

    @cached_property
    def starts(self) -> list[int]:
        """Of the vectors of a row; the last one ends with the row."""
        lanes, width = self.geometry.lanes, self.geometry.width
        return [min(v * lanes, max(0, width - lanes)) for v in range(self.group.vectors)]

    @cached_property
    def totals(self) -> list[list[Any]]:
        dtype = wide(self.geometry.windows.reduction.dtype)
        return [[vm.registers(self.geometry.lanes, dtype) for _ in self.starts] for _ in range(self.group.rows)]

    def emit(self) -> None:
        geometry, windows, lanes = self.geometry, self.geometry.windows, self.geometry.lanes
        e = windows.reduction
        every = vm.whole(lanes)
        for total in itertools.chain(*self.totals):
            T.buffer_store(total, vm.broadcast(identity(e.reducer, e.dtype), lanes), [every])
        base = T.bind(self.row * int64(geometry.row_stride * geometry.pitch) + self.column)
        for start, end, tall in geometry.parts():
            work = len(self.starts) * self.group.rows * tall
            serial = geometry.slides and work > UNROLLED

            def taps(column: TirExpr, tall: int = tall, serial: bool = serial) -> None:
                (self._serial if serial else self._written_out)(base, column, tall)

            if work * (end - start) <= WRITTEN_OUT:
                for column in range(start, end):
                    taps(int64(column))
            else:
                with T.serial(int64(start), int64(end)) as column:
                    taps(column)
        self._store()

    def _store(self) -> None:
        geometry, nest, e = self.geometry, self.geometry.windows.nest, self.geometry.windows.reduction
        place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
        result = geometry.result(self.first, self.row, self.column)
        scope = self.scope.inside(list(result), [T.bind(value) for value in result.values()])
        lane = geometry.columns.output
        limits = ZERO, lane.extent - 1
        scope = replace(scope.vector(lane.name, scope.indices[lane.name], geometry.lanes, limits), offsets={})
        for r, totals in enumerate(self.totals):
            for start, total in zip(self.starts, totals, strict=True):
                at = scope.at(geometry.offset(r, start))
                at.done[at.key(e, free(e))] = vm.let(convert(total[vm.whole(geometry.lanes)], e.dtype))
                at.store(at.tensors[nest.target], place, at.value(nest.body))

    def _weight(self, row: TirExpr, column: TirExpr) -> TirExpr:
        """The product of the weights of a tap, None without weights."""
        windows = self.geometry.windows
        if not windows.weights:
            return None
        taps = self.geometry.taps(row, column)
        scope = self.scope.inside(list(taps), list(taps.values()))
        value, dtype = scope.value(windows.weights[0]), windows.reduction.dtype
        for weight in windows.weights[1:]:
            value = function("mul", [value, scope.value(weight)], (windows.weights[0], weight), dtype)
        return vm.let(vm.broadcast(value, self.geometry.lanes))

    def _load(self, start: TirExpr) -> list[TirExpr]:
        lanes = self.geometry.lanes
        return [vm.let(self.buffer[blocks.at(start + int64(v), lanes)]) for v in self.starts]

    def _add(self, row: int, weight: TirExpr, values: Sequence[TirExpr]) -> None:
        e, every = self.geometry.windows.reduction, vm.whole(self.geometry.lanes)
        for total, value in zip(self.totals[row], values, strict=True):
            term = value if weight is None else function("mul", [weight, value], (e.body, e.body), e.dtype)
            T.buffer_store(total, combine(e.reducer, total[every], term), [every])

    def _written_out(self, base: TirExpr, column: TirExpr, tall: int) -> None:
        """One column of the window: every row of the source that the tile reads is loaded once."""
        geometry = self.geometry
        start = T.bind(base + geometry.column(column))
        weights: dict[int, TirExpr] = {}
        for t, pairs in geometry.steps(self.group.rows).items():
            pairs = [(r, k) for r, k in pairs if k < tall]
            if not pairs:
                continue
            values = self._load(start + int64(t * geometry.pitch))
            for r, k in pairs:
                if k not in weights:
                    weights[k] = self._weight(int64(k), column)
                self._add(r, weights[k], values)

    def _serial(self, base: TirExpr, column: TirExpr, tall: int) -> None:
        """The same in a loop over the rows of the source, for tall windows; rows of the border are left out."""
        geometry, rows = self.geometry, self.group.rows
        start = T.bind(base + geometry.column(column))
        inside = geometry.inside(self.first, self.row)

        def step(t: TirExpr, some: Sequence[int]) -> None:
            values = self._load(start + t * int64(geometry.pitch))
            for r in some:
                self._add(r, self._weight(t - int64(r), column), values)

        def guarded(t: int, some: Sequence[int]) -> None:
            if inside is None:
                step(int64(t), some)
                return
            with T.If(tirx.And(inside[0] <= int64(t), int64(t) < inside[1])):
                with T.Then():
                    step(int64(t), some)

        for t in range(min(rows, tall) - 1):
            guarded(t, range(t + 1))
        low, high = int64(rows - 1), int64(tall)
        if inside is not None:
            low = T.bind(T.max(low, inside[0]))
            high = T.bind(T.max(low, T.min(high, inside[1])))
        with T.serial(low, high) as t:
            step(t, range(rows))
        for t in range(max(tall, rows - 1), tall + rows - 1):
            guarded(t, range(t - tall + 1, rows))
