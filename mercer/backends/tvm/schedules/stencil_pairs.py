"""Depthwise convolutions of i16 with constants: neighbours in a row of the source are words, see `words.dot`.

A word times a word of weights is the sum of two neighbouring taps. In a window of stride 1, one load from a row serves
the results at even places, whose window begins with its first number, and with other words of weights those at odd
places, whose window begins one number later; where both have the same epilogue, they meet in the halves of words when
they are stored. In a window of stride 2 all results are of the first kind. Nothing is shuffled for the sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
from mercer.backends.tvm.schedules import blocks, operands, windows
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, at_outer, count
from mercer.backends.tvm.schedules.stencil_tile import BUFFER, COLUMN, ROW, vectors
from mercer.backends.tvm.schedules.windows import BAND, Along, Windows
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Const, Expr, Read, call, reads, transform
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import Data, DType, TensorType

FAMILY = "stencil"

LARGEST = 12288
"""Elements of a band, which should stay in the first-level cache."""

MOST = 64
"""Taps of a window at most, all of which are written out."""

SUMS = 10
"""Vectors of sums of a tile at most."""

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
        return Refusal(FAMILY, "its windows have no pairs")
    if found.rows.flipped or not 1 < found.columns.taps <= found.taps <= MOST or problem.target.lanes == 1:
        return Refusal(FAMILY, f"a window of {found.taps}")
    grid = operands.grid(weight, replace(problem, nest=found.nest))
    if grid is None:
        return Refusal(FAMILY, "weights that are not read in order")
    widths = [n for n in (4, 8, 16) if n <= problem.target.lanes]
    options = (Pairs(replace(found, source=found.read), lanes) for lanes in widths)
    pairs = min(options, key=lambda each: (each.bands * each.cycles, each.lanes))
    constant, read = _packed(pairs, weight, grid, problem)
    total = replace(found.reduction, body=call("mul", found.source, read))
    body = transform(found.nest.body, lambda e: total if e == found.reduction else e)
    kernel = _Kernel(pairs, replace(found.nest, body=body), total, read)
    outer = found.units(pairs.bands)

    def emit(scope: Scope, unit: TirExpr) -> None:
        inside = at_outer(scope, outer, unit)
        kernel.emit(inside, inside.indices[BAND])

    workspace = Operand(BUFFER, TensorType(DType.I16, (IntExpr.constant(pairs.size),)))
    cost = CYCLE * pairs.cycles
    return Schedule(
        FAMILY,
        str(pairs),
        kernel.nest,
        count(outer),
        cost,
        emit,
        constants=(constant,),
        workspace=(workspace,),
    )


def _weight(found: Windows, problem: Problem) -> Read | str:
    """The constant of i16 that a source of i16 is multiplied by."""
    if found.reduction.dtype is not DType.I32 or len(found.weights) != 1:
        return "no sum of products of i16"
    factors: list[Read] = []
    for factor in (found.source, found.weights[0]):
        match factor:
            case Call("cast", (Read(dtype=DType.I16) as read,)):
                factors.append(read)
            case _:
                return "no sum of products of i16"
    weight = factors[1]
    return weight if weight.tensor in problem.constants and weight.pad is None else "no constant weights"


@dataclass(frozen=True)
class Pairs:
    """The places of a plane. A tile has `rows` rows of one vector of results: 2*`lanes` of stride 1, `lanes` of 2."""

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
    def kinds(self) -> int:
        """Two where results at even and at odd places have sums of their own."""
        return 2 if self.columns.stride == 1 else 1

    @property
    def width(self) -> int:
        """Results in a row of a tile."""
        return self.kinds * self.lanes

    @property
    def steps(self) -> int:
        """Words of a row of the window."""
        return self.columns.taps // 2 + 1 if self.kinds == 2 else -(-self.columns.taps // 2)

    @cached_property
    def rows(self) -> int:
        """As few rows of tiles as the registers allow, with the least overlap."""
        most = min(SUMS // self.kinds, self.along.outputs)
        return min(range(1, most + 1), key=lambda rows: (-(-self.along.outputs // rows) * (rows + 0.5), -rows))

    @cached_property
    def pitch(self) -> int:
        tiles = max(1, -(-self.columns.outputs // self.width))
        last = max(self.columns.outputs - self.width, 0) if tiles > 1 else 0
        return -(-(last * self.columns.stride + 2 * (self.steps - 1) + 2 * self.lanes) // 16) * 16

    @cached_property
    def band(self) -> int:
        """Rows of the result, all bands alike."""
        most = (LARGEST // self.pitch - self.along.reach) // self.along.stride + 1
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
    def cycles(self) -> float:
        """Of a band."""
        tiles = -(-self.band // self.rows) * -(-self.columns.outputs // self.width)
        products = self.rows * self.along.taps * (self.kinds * (self.columns.taps + 1) / 2)
        return tiles * (0.5 * products + 3.0 * self.rows * self.kinds) + self.size / 16

    def __str__(self) -> str:
        bands = f", {self.bands} bands" if self.bands > 1 else ""
        return f"pairs of taps, {self.rows} x {self.width} {self.columns.output.name}{bands}"

    def weight(self, kind: int, step: int) -> tuple[int, int]:
        """The taps that a word of weights has; those outside of the window are 0."""
        first = 2 * step - kind
        return first, first + 1


def _packed(pairs: Pairs, weight: Read, grid: list[Axis], problem: Problem) -> tuple[Constant, Read]:
    """The words of weights [..., kind, row, step], and how the first of them is read."""
    array = problem.constants[weight.tensor].data.array
    assert array is not None
    taps = [along.tap.name if along.tap else "" for along in (pairs.along, pairs.columns)]
    shaped = array.reshape([axis.extent.value for axis in grid])
    others = [axis for axis in grid if axis.name not in taps and axis.extent != ONE]
    order = [next((k for k, axis in enumerate(grid) if axis.name == name), None) for name in taps]
    kept = [k for k, axis in enumerate(grid) if axis in others]
    rest = [k for k in range(len(grid)) if k not in kept and k not in order]
    moved = shaped.transpose([*kept, *rest, *(k for k in order if k is not None)])
    window = [along.taps for along in (pairs.along, pairs.columns)]
    moved = moved.reshape([*(axis.extent.value for axis in others), *window])
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(1, 3)])
    kinds = range(pairs.kinds)
    words_of = [
        np.stack([words.packed(padded[..., 1 + first : 3 + first], DType.I16)[..., 0] for first in firsts], axis=-1)
        for firsts in ([pairs.weight(kind, step)[0] for step in range(pairs.steps)] for kind in kinds)
    ]
    packed = np.ascontiguousarray(np.stack(words_of, axis=len(others)))
    name = f"{weight.tensor}.taps[{pairs.kinds} x {pairs.steps}]"
    constant = Constant(name, TensorType.of(packed), Data(packed))
    place = ZERO
    for axis in others:
        place = place * axis.extent + IntExpr.var(axis.name)
    place = place * (pairs.kinds * pairs.along.taps * pairs.steps)
    return constant, Read(name, (place,), DType.I32)


@dataclass(frozen=True)
class _Kernel:
    """`total` stands for the sum in `nest`, `weight` reads its first word of weights."""

    pairs: Pairs
    nest: Nest
    total: Expr
    weight: Read

    def emit(self, scope: Scope, number: TirExpr) -> None:
        pairs = self.pairs
        buffer = scope.tensors[BUFFER].buffer
        first = T.bind(T.min(number * int64(pairs.band), int64(pairs.along.outputs - pairs.band)))
        factors = self._factors(scope)
        for read in reads(self.rest):
            scope.hoist(read)
        self._fill(scope, buffer, first)
        columns = pairs.columns.outputs
        tiles = -(-columns // pairs.width)
        with T.serial(int64(0), int64(-(-pairs.band // pairs.rows))) as i:
            row = T.bind(T.min(i * int64(pairs.rows), int64(pairs.band - pairs.rows)))
            with T.serial(int64(0), int64(tiles)) as j:
                column = T.bind(T.min(j * int64(pairs.width), int64(max(columns - pairs.width, 0))))
                self._tile(scope, buffer, first, row, column, factors)

    def _factors(self, scope: Scope) -> dict[tuple[int, int, int], TirExpr]:
        """Vectors of the words of weights by (kind, row of the window, step), those that are zeros left out."""
        pairs, found = self.pairs, dict[tuple[int, int, int], TirExpr]()
        shape = pairs.kinds, pairs.along.taps, pairs.steps
        for place, (kind, k, step) in enumerate(itertools.product(*map(range, shape))):
            if pairs.weight(kind, step)[0] < pairs.columns.taps:
                word = scope.value(replace(self.weight, indices=(self.weight.indices[0] + place,)))
                found[kind, k, step] = vm.kept(vm.broadcast(word, pairs.lanes))
        return found

    # --- the copy -----------------------------------------------------------------------------------------------------

    def _fill(self, scope: Scope, buffer: Any, first: TirExpr) -> None:
        """The band that begins at row `first` of the result, with its border."""
        pairs, rows = self.pairs, self.pairs.along
        zeros = vm.broadcast(scope.value(pairs.windows.outside), 16)
        with T.serial(int64(0), int64(pairs.band_rows)) as t:
            row = T.bind(first * int64(rows.stride) - int64(rows.before) + t)
            start = T.bind(t * int64(pairs.pitch))
            with T.If(tirx.And(row >= int64(0), row < int64(rows.size))):
                with T.Then():
                    inside = scope.inside([Axis(ROW, IntExpr.constant(rows.size))], [row])
                    self._fill_row(inside, buffer, start, zeros)
                with T.Else():
                    for place in range(0, pairs.pitch, 16):
                        T.buffer_store(buffer, zeros, [blocks.at(start + int64(place), 16)])

    def _fill_row(self, scope: Scope, buffer: Any, start: TirExpr, zeros: TirExpr) -> None:
        pairs, along = self.pairs, self.pairs.columns
        low, high = max(0, -along.before), min(along.size, pairs.pitch - along.before)
        begin, end = low + along.before, max(high, low) + along.before
        needed = (along.outputs - 1) * along.stride + along.reach  # what lies further on is for no result
        for place in range(0, needed, 16):
            if place < begin or min(place + 16, needed) > end:
                T.buffer_store(buffer, zeros, [blocks.at(start + int64(place), 16)])
        source = pairs.windows.element(IntExpr.var(ROW), IntExpr.var(COLUMN))

        def copy(inside: Scope) -> None:
            place = T.bind(start + inside.indices[COLUMN] + int64(along.before))
            value = vm.broadcast(inside.value(source), inside.width)
            T.buffer_store(buffer, value, [blocks.at(place, inside.width)])

        vectors(scope, along.size, (low, high), 2 * pairs.lanes, copy)

    # --- a tile -------------------------------------------------------------------------------------------------------

    def _tile(
        self,
        scope: Scope,
        buffer: Any,
        first: TirExpr,
        row: TirExpr,
        column: TirExpr,
        factors: dict[tuple[int, int, int], TirExpr],
    ) -> None:
        pairs, every = self.pairs, vm.whole(self.pairs.lanes)
        totals = [[vm.registers(pairs.lanes, "int32") for _ in range(pairs.kinds)] for _ in range(pairs.rows)]
        for total in itertools.chain(*totals):
            T.buffer_store(total, vm.broadcast(tirx.const(0, "int32"), pairs.lanes), [every])
        base = T.bind(row * int64(pairs.along.stride * pairs.pitch) + column * int64(pairs.columns.stride))
        reached: dict[int, list[tuple[int, int]]] = {}
        for r, k in itertools.product(range(pairs.rows), range(pairs.along.taps)):
            reached.setdefault(r * pairs.along.stride + k * pairs.along.dilation, []).append((r, k))
        for t in sorted(reached):
            for step in range(pairs.steps):
                place = base + int64(t * pairs.pitch + 2 * step)
                value = vm.kept(
                    tirx.reinterpret(vm.like(factors[0, 0, 0], "int32"), buffer[blocks.at(place, 2 * pairs.lanes)])
                )
                for (r, k), kind in itertools.product(reached[t], range(pairs.kinds)):
                    if (kind, k, step) in factors:
                        total, product = totals[r][kind], words.dot(factors[kind, k, step], value)
                        T.buffer_store(total, words.add(total[every], product), [every])
        for r, sums in enumerate(totals):
            self._store(scope, T.bind(first + row + int64(r)), column, [total[every] for total in sums])

    @cached_property
    def rest(self) -> Expr:
        """What is done with the sum."""
        return transform(self.nest.body, lambda e: Const(0, DType.I32) if e == self.total else e)

    def _store(self, scope: Scope, row: TirExpr, column: TirExpr, sums: Sequence[TirExpr]) -> None:
        """A row of a tile. Where a row of the result is shorter, pieces that may overlap."""
        pairs = self.pairs
        here = scope.inside([pairs.along.output], [row])
        code = self._codes(here, column, sums)
        lanes = 2 * pairs.lanes if code is not None else pairs.lanes
        for k, value in enumerate([code] if code is not None else _in_order(sums)):
            left = pairs.columns.outputs - k * lanes
            piece = lanes
            while piece > left > 0:
                piece //= 2
            for start in dict.fromkeys((0, min(left, lanes) - piece)) if left > 0 else ():
                self._put(here, column + int64(k * lanes + start), _part(value, start, piece), code is None)

    def _put(self, scope: Scope, column: TirExpr, value: TirExpr, is_sum: bool) -> None:
        """Neighbours of a row: results, or sums."""
        nest = self.nest
        inside = self._at(scope, column, vm.lanes(value))
        if is_sum:
            inside.done[inside.key(self.total, free(self.total))] = value
            value = inside.value(nest.body)
        place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
        inside.store(inside.tensors[nest.target], place, value)

    def _codes(self, scope: Scope, column: TirExpr, sums: Sequence[TirExpr]) -> TirExpr | None:
        """Results of up to 16 bits at even and at odd places, which the same is done with, as the halves of words."""
        match self.nest.body:
            case Call("cast", (inner,)) as body if body.dtype in (DType.I16, DType.I8) and inner.dtype is DType.I32:
                pass
            case _:
                return None
        if len(sums) == 1 or self.pairs.columns.output.name in free(self.rest):
            return None
        halves: list[TirExpr] = []
        for total in sums:
            inside = self._at(scope, column, self.pairs.lanes)
            inside.done[inside.key(self.total, free(self.total))] = total
            halves.append(vm.kept(vm.broadcast(inside.value(inner), self.pairs.lanes)))
        even, odd = halves
        both = vm.kept(tirx.bitwise_and(even, vm.const(even, 0xFFFF)) | (odd << vm.const(odd, 16)))
        whole = vm.kept(tirx.reinterpret(f"int16x{2 * self.pairs.lanes}", both))
        return whole if body.dtype is DType.I16 else vm.kept(vm.cast(whole, "int8"))

    def _at(self, scope: Scope, column: TirExpr, width: int) -> Scope:
        lane = self.pairs.columns.output
        return replace(scope.vector(lane.name, T.bind(column), width, (ZERO, lane.extent - 1)), offsets={})


def _in_order(sums: Sequence[TirExpr]) -> list[TirExpr]:
    """Vectors of neighbours, of those at even and at odd places."""
    if len(sums) == 1:
        return list(sums)
    even, odd = sums
    lanes = vm.lanes(even)
    order = [k + half * lanes for k in range(lanes) for half in (0, 1)]
    return [vm.kept(tirx.Shuffle([even, odd], order[k : k + lanes])) for k in (0, lanes)]


def _part(value: TirExpr, start: int, width: int) -> TirExpr:
    if width == vm.lanes(value):
        return value
    return tirx.Shuffle([value], [tirx.const(start + k, "int32") for k in range(width)])
