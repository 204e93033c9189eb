"""Depthwise convolutions of i16 or bytes with constants: neighbours in a row of the source are words, see `words.dot`
and `words.add_quad`.

A word times a word of weights is the sum of two or four neighbouring taps. In a window of stride 1, one load from a row
serves the results whose window begins with its first number, and with other words of weights, in which the taps lie
further on, those whose window begins one number later: results at even and at odd places, or of four kinds. Where they
have the same epilogue, they meet in the parts of words when they are stored. In a window of stride 2 there are half as
many kinds. Nothing is shuffled for the sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.analysis import flatten, free
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import tir_type
from mercer.backends.tvm.schedules import blocks, operands, windows
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, at_outer, count
from mercer.backends.tvm.schedules.epilogue import Start
from mercer.backends.tvm.schedules.pairs import are_words
from mercer.backends.tvm.schedules.stencil_copy import COLUMN, ROW, over_rows, vectors
from mercer.backends.tvm.schedules.stencil_planes import PIECE, Line, Plane, geometry
from mercer.backends.tvm.schedules.stencil_tile import BUFFER
from mercer.backends.tvm.schedules.windows import BAND, Windows
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Expr, Read, call, reads, transform
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.packed import COUNTS, SIGN, packed_factors
from mercer.ir.types import Array, Data, DType, TensorType

FAMILY = "stencil"

RESULTS = "results#"

MOST = 64
"""Taps of a window at most, all of which are written out."""

CYCLE = 0.3
"""Nanoseconds."""


def plan(problem: Problem) -> Schedule | Refusal:
    found = windows.find(problem)
    if isinstance(found, str):
        return Refusal(FAMILY, found)
    weight = _weight(found, problem)
    if isinstance(weight, str):
        return Refusal(FAMILY, weight)
    if found.rows is None or found.columns.dilation > 1 or found.columns.stride > 2 or found.columns.flipped:
        return Refusal(FAMILY, "its windows have no words")
    if found.rows.flipped or not 1 < found.columns.taps <= found.taps <= MOST or problem.target.lanes == 1:
        return Refusal(FAMILY, f"a window of {found.taps}")
    grid = operands.grid(weight, replace(problem, nest=found.nest))
    if grid is None:
        return Refusal(FAMILY, "weights that are not read in order")
    plane = geometry(found, problem.target)
    constant, read = _packed(plane, weight, grid, problem)
    total = replace(found.reduction, body=call("mul", found.source, read))
    body = transform(found.nest.body, lambda e: total if e == found.reduction else e)
    kernel = _Kernel(plane, replace(found.nest, body=body), total, read)
    outer = found.units(plane.bands)

    def emit(scope: Scope, unit: TirExpr) -> None:
        inside = at_outer(scope, outer, unit)
        kernel.emit(inside, inside.indices[BAND])

    workspace = [Operand(BUFFER, TensorType(plane.dtype, (IntExpr.constant(plane.size),)))]
    if isinstance(plane, Line):
        workspace.append(Operand(RESULTS, TensorType(found.nest.type.dtype, (IntExpr.constant(plane.results),))))
    cost = CYCLE * plane.cycles
    return Schedule(
        FAMILY,
        str(plane),
        kernel.nest,
        count(outer),
        cost,
        emit,
        constants=(constant,),
        workspace=tuple(workspace),
    )


def _weight(found: Windows, problem: Problem) -> Read | str:
    """The constant that the source is multiplied by, both of i16 or of bytes."""
    factors = packed_factors(call("mul", found.source, *found.weights)) if len(found.weights) == 1 else None
    if found.reduction.dtype is not DType.I32 or factors is None or factors[0] != found.read:
        return "no sum of products of i16 or bytes"
    weight = factors[1]
    if not are_words(weight.dtype, problem.target):
        return "no products of bytes on this CPU"
    return weight if weight.tensor in problem.constants and weight.pad is None else "no constant weights"


def _packed(plane: Plane, weight: Read, grid: list[Axis], problem: Problem) -> tuple[Constant, Read]:
    """The words of weights [..., kind, row, step], and how the first of them is read."""
    array = problem.constants[weight.tensor].data.array
    assert array is not None
    taps = [along.tap.name if along.tap else "" for along in (plane.along, plane.columns)]
    shaped = array.reshape([axis.extent.value for axis in grid])
    others = [axis for axis in grid if axis.name not in taps and axis.extent != ONE]
    order = [next((k for k, axis in enumerate(grid) if axis.name == name), None) for name in taps]
    kept = [k for k, axis in enumerate(grid) if axis in others]
    rest = [k for k in range(len(grid)) if k not in kept and k not in order]
    moved = shaped.transpose([*kept, *rest, *(k for k in order if k is not None)])
    window = [along.taps for along in (plane.along, plane.columns)]
    moved = moved.reshape([*(axis.extent.value for axis in others), *window])
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(plane.count, plane.count)])

    def taken(kind: int, step: int) -> Array:
        first = plane.count + plane.first_tap(kind, step)
        return words.packed(padded[..., first : first + plane.count], plane.dtype)[..., 0]

    kinds = ([taken(kind, step) for step in range(plane.steps)] for kind in range(plane.kinds))
    packed = np.stack([np.stack(steps, axis=-1) for steps in kinds], axis=len(others))
    name = f"{weight.tensor}.taps[{plane.kinds} x {plane.steps}]"
    constant = Constant(name, TensorType.of(packed), Data(packed))
    place = ZERO
    for axis in others:
        place = place * axis.extent + IntExpr.var(axis.name)
    place = place * (plane.kinds * plane.along.taps * plane.steps)
    return constant, Read(name, (place,), DType.I32)


@dataclass(frozen=True)
class _Weights:
    """Vectors of the words of weights by (kind, row of the window, step), and what sums begin with."""

    factors: Mapping[tuple[int, int, int], TirExpr]
    start: TirExpr


@dataclass(frozen=True)
class _Kernel:
    """`total` stands for the sum in `nest`, `weight` reads its first word of weights."""

    plane: Plane
    nest: Nest
    total: Expr
    weight: Read

    def emit(self, scope: Scope, number: TirExpr) -> None:
        plane = self.plane
        buffer = scope.tensors[BUFFER].buffer
        first = T.bind(T.min(number * int64(plane.band), int64(plane.along.outputs - plane.band)))
        weights = self._weights(scope)
        for read in reads(plane.windows.rest):
            scope.hoist(read)
        if isinstance(plane, Line):
            self._line(scope, buffer, plane, weights)
            return
        self._fill(scope, buffer, first)
        columns = plane.columns.outputs
        tiles = -(-columns // plane.width)
        with T.serial(int64(0), int64(-(-plane.band // plane.rows))) as i:
            row = T.bind(T.min(i * int64(plane.rows), int64(plane.band - plane.rows)))
            with T.serial(int64(0), int64(tiles)) as j:
                column = T.bind(T.min(j * int64(plane.width), int64(max(columns - plane.width, 0))))
                self._tile(scope, buffer, first, row, column, weights)

    @cached_property
    def start(self) -> Start | None:
        places = {along.output.name for along in (self.plane.along, self.plane.columns)}
        return Start.of(self.nest.body, self.total, places)

    @property
    def whole(self) -> Expr:
        """What the sums are with what they begin with."""
        return self.start.whole if self.start is not None else self.total

    def _weights(self, scope: Scope) -> _Weights:
        plane, found = self.plane, dict[tuple[int, int, int], TirExpr]()
        shape = plane.kinds, plane.along.taps, plane.steps
        for place, key in enumerate(itertools.product(*map(range, shape))):
            word = scope.value(replace(self.weight, indices=(self.weight.indices[0] + place,)))
            found[key] = vm.kept(vm.broadcast(word, plane.lanes))
        start = tirx.const(0, "int32") if self.start is None else scope.value(self.start.value)
        return _Weights(found, vm.kept(vm.broadcast(start, plane.lanes)))

    # --- the copy -----------------------------------------------------------------------------------------------------

    def _fill(self, scope: Scope, buffer: Any, first: TirExpr) -> None:
        """The band that begins at row `first` of the result, with its border."""
        plane, rows = self.plane, self.plane.along
        outside = vm.broadcast(_without_sign(scope.value(plane.windows.outside)), PIECE)

        def inside(at: Scope, start: TirExpr) -> None:
            self._fill_row(at, buffer, start, outside)

        def border(start: TirExpr) -> None:
            for place in range(0, plane.pitch, PIECE):
                T.buffer_store(buffer, outside, [blocks.at(start + int64(place), PIECE)])

        over_rows(scope, rows, first, (plane.band_rows, plane.pitch), inside, border)

    def _fill_row(self, scope: Scope, buffer: Any, start: TirExpr, outside: TirExpr) -> None:
        plane, along = self.plane, self.plane.columns
        low, high = max(0, -along.before), min(along.size, plane.pitch - along.before)
        begin, end = low + along.before, max(high, low) + along.before
        needed = (along.outputs - 1) * along.stride + along.reach  # what lies further on is for no result
        for place in range(0, needed, PIECE):
            if place < begin or min(place + PIECE, needed) > end:
                T.buffer_store(buffer, outside, [blocks.at(start + int64(place), PIECE)])
        self._copy_row(scope, buffer, start)

    def _copy_row(self, scope: Scope, buffer: Any, start: TirExpr) -> None:
        """A row of the source, into a row of the buffer that begins at `start`."""
        plane, along = self.plane, self.plane.columns
        source = plane.windows.element(IntExpr.var(ROW), IntExpr.var(COLUMN))

        def copy(inside: Scope) -> None:
            place = T.bind(start + inside.indices[COLUMN] + int64(along.before))
            value = vm.broadcast(_without_sign(inside.value(source)), inside.width)
            T.buffer_store(buffer, value, [blocks.at(place, inside.width)])

        limits = max(0, -along.before), min(along.size, plane.pitch - along.before)
        vectors(scope, along.size, limits, plane.count * plane.lanes, copy)

    # --- a tile -------------------------------------------------------------------------------------------------------

    def _tile(
        self,
        scope: Scope,
        buffer: Any,
        first: TirExpr,
        row: TirExpr,
        column: TirExpr,
        weights: _Weights,
    ) -> None:
        plane = self.plane
        base = T.bind(row * int64(plane.along.stride * plane.pitch) + column * int64(plane.columns.stride))
        for r, sums in enumerate(self._sums(buffer, base, weights)):
            self._store(scope, T.bind(first + row + int64(r)), column, sums)

    def _sums(self, buffer: Any, base: TirExpr, weights: _Weights) -> list[list[TirExpr]]:
        """Of a tile whose first window begins at `base`: for every row those of every kind."""
        plane, every = self.plane, vm.whole(self.plane.lanes)
        totals = [[vm.registers(plane.lanes, "int32") for _ in range(plane.kinds)] for _ in range(plane.rows)]
        for total in itertools.chain(*totals):
            T.buffer_store(total, weights.start, [every])
        add = words.add_quad if plane.dtype is DType.I8 else words.add_dot
        reached: dict[int, list[tuple[int, int]]] = {}
        for r, k in itertools.product(range(plane.rows), range(plane.along.taps)):
            reached.setdefault(r * plane.along.stride + k * plane.along.dilation, []).append((r, k))
        for t in sorted(reached):
            for word, uses in plane.words.items():
                source = buffer[blocks.at(base + int64(t * plane.pitch + word), plane.count * plane.lanes)]
                value = vm.kept(tirx.reinterpret(f"int32x{plane.lanes}", source))
                for (r, k), (kind, step) in itertools.product(reached[t], uses):
                    total = totals[r][kind]
                    T.buffer_store(total, add(total[every], value, weights.factors[kind, k, step]), [every])
        return [[total[every] for total in row] for row in totals]

    def _line(self, scope: Scope, buffer: Any, line: Line, weights: _Weights) -> None:
        """All results of a plane, and then those of its rows."""
        rows, columns, results = line.along, line.columns, scope.tensors[RESULTS].buffer
        outside = vm.broadcast(_without_sign(scope.value(line.windows.outside)), PIECE)
        for place in range(0, line.size, PIECE):
            T.buffer_store(buffer, outside, [blocks.at(int64(place), PIECE)])
        low, high = max(0, -rows.before), min(rows.size, line.band_rows - rows.before)
        with T.serial(int64(low), int64(max(low, high))) as row:
            inside = scope.inside([Axis(ROW, IntExpr.constant(rows.size))], [row])
            self._copy_row(inside, buffer, T.bind((row + int64(rows.before)) * int64(line.pitch)))
        anywhere = scope.inside([rows.output], [int64(0)])
        with T.serial(int64(0), int64(line.tiles)) as tile:
            start = T.bind(tile * int64(line.width))
            (sums,) = self._sums(buffer, start, weights)
            values = self._codes(anywhere, int64(0), sums)
            for value in values or [self._value(anywhere, int64(0), each) for each in _in_order(sums)]:
                T.buffer_store(results, value, [blocks.at(start, vm.lanes(value))])
                start = start + int64(vm.lanes(value))
        with T.serial(int64(0), int64(line.band)) as row:
            here = scope.inside([rows.output], [row])
            for place, size in blocks.pieces(columns.outputs, 2 * PIECE):
                value = vm.kept(results[blocks.at(row * int64(line.pitch) + int64(place), size)])
                self._put(here, int64(place), value)

    def _store(self, scope: Scope, row: TirExpr, column: TirExpr, sums: Sequence[TirExpr]) -> None:
        """A row of a tile. Where a row of the result is shorter, pieces that may overlap."""
        plane = self.plane
        here = scope.inside([plane.along.output], [row])
        codes = self._codes(here, column, sums)
        start = 0
        for value in codes or _in_order(sums):
            lanes = piece = vm.lanes(value)
            left = plane.columns.outputs - start
            while piece > left > 0:
                piece //= 2
            for k in dict.fromkeys((0, min(left, lanes) - piece)) if left > 0 else ():
                part, place = _part(value, k, piece), column + int64(start + k)
                self._put(here, place, part if codes else self._value(here, place, part))
            start += lanes

    def _put(self, scope: Scope, column: TirExpr, value: TirExpr) -> None:
        """Neighbours of a row."""
        nest, inside = self.nest, self._at(scope, column, vm.lanes(value))
        place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
        inside.store(inside.tensors[nest.target], place, value)

    def _known(self, scope: Scope, column: TirExpr, total: TirExpr) -> Scope:
        """Where sums are known."""
        inside = self._at(scope, column, vm.lanes(total))
        inside.done[inside.key(self.whole, free(self.whole))] = total
        return inside

    def _value(self, scope: Scope, column: TirExpr, total: TirExpr) -> TirExpr:
        """The results of sums."""
        return self._known(scope, column, total).value(self.nest.body)

    def _codes(self, scope: Scope, column: TirExpr, sums: Sequence[TirExpr]) -> list[TirExpr]:
        """Results of up to 16 bits, which the same is done with in all places, as parts of words; none for others."""
        match self.nest.body:
            case Call("cast", (inner,)) as body if body.dtype in (DType.I16, DType.I8) and inner.dtype is DType.I32:
                pass
            case _:
                return []
        if len(sums) == 1 or self.plane.columns.output.name in free(self.plane.windows.rest):
            return []
        places = [self._known(scope, column, total) for total in sums]
        saturating = words.Saturating.of(body)
        if saturating is not None:
            parts = [saturating.word(inside.value(saturating.x), inside.value(saturating.y)) for inside in places]
            return [words.saturated(parts, interleaved=True)]
        parts = [vm.kept(vm.broadcast(inside.value(inner), self.plane.lanes)) for inside in places]
        count = min(COUNTS[body.dtype], len(parts))
        joined = [words.joined(parts[k : k + count]) for k in range(0, len(parts), count)]
        found: list[TirExpr] = []
        for word in _in_order(joined):
            numbers = tirx.reinterpret(f"int{32 // count}x{count * vm.lanes(word)}", word)
            found.append(vm.kept(vm.cast(vm.kept(numbers), tir_type(body.dtype))))
        return found

    def _at(self, scope: Scope, column: TirExpr, width: int) -> Scope:
        lane = self.plane.columns.output
        return replace(scope.vector(lane.name, T.bind(column), width, (ZERO, lane.extent - 1)), offsets={})


def _without_sign(numbers: TirExpr) -> TirExpr:
    """Bytes as those that are multiplied by others with a sign; numbers of i16 as they are."""
    return numbers ^ vm.const(numbers, -SIGN) if vm.element(numbers) == "int8" else numbers


def _in_order(kinds: Sequence[TirExpr]) -> list[TirExpr]:
    """Vectors of neighbours, of one vector for every kind of place."""
    if len(kinds) == 1:
        return list(kinds)
    found: list[TirExpr] = []
    for even, odd in zip(_in_order(kinds[::2]), _in_order(kinds[1::2]), strict=True):
        lanes = vm.lanes(even)
        order = [k + half * lanes for k in range(lanes) for half in (0, 1)]
        found += [vm.kept(tirx.Shuffle([even, odd], order[k : k + lanes])) for k in (0, lanes)]
    return found


def _part(value: TirExpr, start: int, width: int) -> TirExpr:
    if width == vm.lanes(value):
        return value
    return tirx.Shuffle([value], [tirx.const(start + k, "int32") for k in range(width)])
