"""Elementwise nests: vectors along the last axis of two elements or more, borders of padded reads one by one.

Where positions are computed from data (gathers), axes on which those positions do not depend become the innermost
loops, so that positions and weights are computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import bound, flatten, free, free_in_integer, is_computed, stride
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, Units, most_pieces, operations
from mercer.backends.tvm.schedules.normalize import all_axes, in_pieces, ranges_of
from mercer.backends.tvm.vector_math import OF_REGISTERS, TirExpr
from mercer.ir.index import Axis, Call, Read, Reduce, Reducer, computed, reads, walk
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import DType


def plan(problem: Problem) -> Schedule | Refusal:
    nest, target = problem.nest, problem.target
    lane = next((axis for axis in reversed(nest.axes) if axis.extent != IntExpr.constant(1)), None)
    if lane is None:
        return _number(problem)
    if refusal := _refuse(nest, lane):
        return refusal
    if (pieces := _pieces(problem, lane)) > 1:
        return plan(replace(problem, nest=in_pieces(nest, lane, pieces)))
    free_axes = _independent_of_positions(nest, lane)
    looped = [axis for axis in nest.axes if axis not in (lane, *free_axes)]
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
    low, high = interior(nest, problem, lane)
    width = _width(nest, lane, (low, high), target.lanes)
    body_cost = operations(nest.body) / target.lanes * 0.5
    units = Units.of(looped, body_cost * max(1, _extent(lane)) * max(1, _product(free_axes)))

    def emit(scope: Scope, position: TirExpr) -> None:
        def element(scope: Scope) -> None:
            scope.store(scope.tensors[nest.target], place, scope.value(nest.body))

        def piece(scope: Scope) -> None:
            if free_axes:
                scope.hoist(nest.body)
            loops(scope, free_axes, element)

        def row(scope: Scope) -> None:
            along(scope, lane, width, (low, high), piece)

        units.run(scope, position, row)

    once = is_exact(lane, width, (low, high))
    gathers = f", positions shared over {', '.join(a.name for a in free_axes)}" if free_axes else ""
    return Schedule("pointwise", f"vectors along {lane.name}{gathers}", nest, units.count, units.cost, emit, once=once)


def _width(nest: Nest, lane: Axis, inside: tuple[int, int | None], lanes: int) -> int:
    """Elements computed together: two vectors where they fit without a rest, so that one does not wait for itself."""
    low, high = inside
    if not lane.extent.is_constant or high is None or (high - low) % (2 * lanes):
        return lanes
    if any(isinstance(e, Reduce) or (isinstance(e, Call) and e.function in OF_REGISTERS) for e in walk(nest.body)):
        return lanes
    found = list(reads(nest.body))
    indices = [index for read in found for index in read.indices]
    plain = not any(is_computed(index) or stride(index, lane.name) not in (0, 1) for index in indices)
    return 2 * lanes if plain and {nest.type.dtype, *(read.dtype for read in found)} == {DType.F32} else lanes


def _pieces(problem: Problem, lane: Axis) -> int:
    """Into how many the axis of the vectors is cut: of a nest that is one long row, for all threads."""
    nest, width = problem.nest, 2 * problem.target.lanes
    padded = any(isinstance(e, Reduce) or (isinstance(e, Read) and e.pad is not None) for e in walk(nest.body))
    alone = all(axis is lane or axis.extent == ONE for axis in nest.axes)
    if not alone or padded or not lane.extent.is_constant or lane.extent.value % width:
        return 1
    return most_pieces(lane.extent.value // width, operations(nest.body))


def _number(problem: Problem) -> Schedule | Refusal:
    """A nest with one element, which has nothing to be made vectors of."""
    nest = problem.nest
    if any(isinstance(e, Reduce) for e in walk(nest.body)):
        return Refusal("pointwise", "a single number that is summed up")
    place = flatten([ZERO] * len(nest.axes), nest.type)

    def emit(scope: Scope, _position: TirExpr) -> None:
        loops(scope, nest.axes, lambda inner: inner.store(inner.tensors[nest.target], place, inner.value(nest.body)))

    return Schedule("pointwise", "a single number", nest, ONE, operations(nest.body), emit)


def along(
    scope: Scope, axis: Axis, lanes: int, interior: tuple[int, int | None], body: Callable[[Scope], None]
) -> None:
    """`body` for the whole axis: vectors within `interior` (first, end; None: to the end), single elements outside.

    The last vector of a constant extent is moved back to end at the border: it computes some elements twice.
    """
    if not axis.extent.is_constant:
        return _along_symbolic(scope, axis, lanes, body)
    extent = axis.extent.value
    low, high = interior[0], extent if interior[1] is None else interior[1]
    width = lanes
    while width > high - low:
        width //= 2
    if width < 2:
        return loops(scope, [axis], body)
    limits = IntExpr.constant(low), IntExpr.constant(high - 1)

    def vector(start: TirExpr) -> None:
        body(scope.vector(axis.name, start, width, limits))

    _each(scope, axis, 0, low, body)
    whole = (high - low) // width
    if whole == 1:
        vector(int64(low))
    else:
        with T.serial(int64(0), int64(whole)) as i:
            vector(T.bind(i * int64(width) + int64(low)))
    if (high - low) % width:
        vector(int64(high - width))
    _each(scope, axis, high, extent, body)


def is_exact(axis: Axis, lanes: int, interior: tuple[int, int | None]) -> bool:
    """Whether `along` computes no element twice."""
    if not axis.extent.is_constant:
        return True
    length = (axis.extent.value if interior[1] is None else interior[1]) - interior[0]
    while lanes > length:
        lanes //= 2
    return lanes < 2 or length % lanes == 0


def _along_symbolic(scope: Scope, axis: Axis, lanes: int, body: Callable[[Scope], None]) -> None:
    extent = T.bind(scope.integer(axis.extent))
    whole = T.bind(T.truncdiv(extent, int64(lanes)))
    with T.serial(int64(0), whole) as i:
        body(scope.vector(axis.name, T.bind(i * int64(lanes)), lanes, (ZERO, axis.extent - 1)))
    with T.serial(int64(0), extent - whole * int64(lanes)) as i:
        body(scope.inside([axis], [T.bind(i + whole * int64(lanes))]))


def _each(scope: Scope, axis: Axis, first: int, end: int, body: Callable[[Scope], None]) -> None:
    """Single elements first <= index < end."""
    if first >= end:
        return
    with T.serial(int64(first), int64(end)) as i:
        body(scope.inside([axis], [i]))


def _refuse(nest: Nest, lane: Axis) -> Refusal | None:
    if nest.type.dtype is DType.BOOL:
        return Refusal("pointwise", "bool elements are stored one by one")
    for e in walk(nest.body):
        if isinstance(e, Read) and e.dtype is DType.BOOL and lane.name in free(e):
            return Refusal("pointwise", "bool elements are read one by one")
        if isinstance(e, Reduce):
            if e.reducer in (Reducer.ANY, Reducer.ALL) or e.dtype is DType.BOOL or e.body.dtype is DType.BOOL:
                return Refusal("pointwise", f"{e.reducer.value} of bool elements")
    return None


def _independent_of_positions(nest: Nest, lane: Axis) -> list[Axis]:
    """Axes beside that of the vectors which no data-dependent position uses; none when there are no such positions."""
    used: set[str] = set()
    for e in walk(nest.body):
        if isinstance(e, Read):
            for index in e.indices:
                used = used.union(*(free(inner) for inner in computed(index)), {""} if is_computed(index) else ())
    return [axis for axis in nest.axes if axis != lane and axis.name not in used] if used else []


def interior(nest: Nest, problem: Problem, lane: Axis) -> tuple[int, int | None]:
    """The part of an axis where padded reads surely stay inside along it."""
    low, high = 0, lane.extent.value if lane.extent.is_constant else None
    ranges = {**ranges_of(all_axes(nest)), lane.name: (ZERO, ZERO)}
    for e in walk(nest.body):
        if not isinstance(e, Read) or e.pad is None:
            continue
        for index, size in zip(e.indices, problem.types[e.tensor].shape, strict=True):
            step = stride(index, lane.name) if lane.name in free_in_integer(index) else None
            first, last = bound(index, ranges, False), bound(index, ranges, True)
            if not step or step < 0 or first is None or last is None or high is None:
                continue
            if first.is_constant and last.is_constant and size.is_constant:
                low = max(low, -(first.value // step))
                high = min(high, (size.value - 1 - last.value) // step + 1)
    return (low, max(low, high)) if high is not None else (0, None)


def _extent(axis: Axis) -> int:
    return axis.extent.value if axis.extent.is_constant else 64


def _product(axes: list[Axis]) -> int:
    total = 1
    for axis in axes:
        total *= _extent(axis)
    return total
