"""Reductions along memory: vectors of partial results over the last axis of the reduction, combined at the end."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free, stride
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.scalar import combine, convert, identity, wide
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, Units, operations
from mercer.backends.tvm.schedules.normalize import position
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Call, Reduce, Reducer, reads, walk
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.types import DType

CHAINS = 4
"""Independent partial results, which hide the latency of an addition."""

NARROW = 8
"""Lanes of vectors at least, where a register has so many."""

ACROSS = 5.0
"""Nanoseconds until the partial results are one."""


def plan(problem: Problem) -> Schedule | Refusal:
    nest, target = problem.nest, problem.target
    along: dict[Reduce, Axis] = {}
    for e in walk(nest.body):
        if isinstance(e, Reduce):
            axis = _axis(e, problem)
            if isinstance(axis, Refusal):
                return axis
            along[e] = axis
    width = {axis: _width(axis, target.lanes) for axis in along.values()}
    cost = 0.25 * operations(nest.body) / min(width.values(), default=1) + ACROSS * len(along)
    units = Units.of(nest.axes, cost)
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)

    def emit(scope: Scope, at: TirExpr) -> None:
        def element(scope: Scope) -> None:
            for e, axis in along.items():
                scope.done[scope.key(e, free(e))] = vm.let(_total(scope, e, axis, width[axis]))
            scope.store(scope.tensors[nest.target], place, scope.value(nest.body))

        units.run(scope, at, lambda inside: element(replace(inside, done={}, outer=inside)))

    names = ", ".join(axis.name for axis in along.values())
    return Schedule("reduce", f"vectors along {names}", nest, units.count, units.cost, emit)


def _axis(e: Reduce, problem: Problem) -> Axis | Refusal:
    """The axis along which everything that the reduction reads is contiguous or constant."""
    if e.reducer not in (Reducer.SUM, Reducer.PROD, Reducer.MAX, Reducer.MIN):
        return Refusal("reduce", f"{e.reducer.value} has no vector form")
    if any(isinstance(x, Call) and x.dtype is DType.BOOL for x in walk(e.body)) or e.dtype is DType.BOOL:
        return Refusal("reduce", "bool elements are reduced one by one")
    inside, least = tuple(reads(e.body)), min(NARROW, problem.target.lanes)
    for axis in reversed(e.axes):
        if axis.extent.is_constant and axis.extent.value < least:
            continue
        steps = [
            None
            if r.pad is not None or r.dtype is DType.BOOL
            else stride(position(r, problem.types[r.tensor]), axis.name)
            for r in inside
        ]
        if 1 in steps and all(step in (0, 1) for step in steps):
            return axis
    return Refusal("reduce", f"no axis of {e.reducer.value} of at least {least} elements is contiguous")


def _width(axis: Axis, lanes: int) -> int:
    """A register, or half of one where that leaves fewer single elements."""
    if not axis.extent.is_constant or lanes < 2 * NARROW:
        return lanes

    def steps(width: int) -> int:
        chains = _chains(axis, width)
        whole, rest = divmod(axis.extent.value, chains * width)
        return whole * chains + rest

    return min((lanes, lanes // 2), key=steps)


def _chains(axis: Axis, width: int) -> int:
    return max(1, min(CHAINS, axis.extent.value // width)) if axis.extent.is_constant else CHAINS


def _total(scope: Scope, e: Reduce, axis: Axis, width: int) -> TirExpr:
    dtype = wide(e.dtype)
    extent = vm.let(scope.integer(axis.extent))
    chains = _chains(axis, width)
    totals = [vm.registers(width, dtype) for _ in range(chains)]
    last = vm.registers(1, dtype)
    whole, start = vm.whole(width), identity(e.reducer, e.dtype)
    for total in totals:
        T.buffer_store(total, vm.broadcast(start, width), [whole])
    T.buffer_store(last, start, [0])
    block = int64(chains * width)
    blocks = vm.let(T.truncdiv(extent, block))
    limits = ZERO, axis.extent - 1

    def row(inside: Scope) -> None:
        with T.serial(int64(0), blocks) as i:
            for k, total in enumerate(totals):
                at = inside.vector(axis.name, vm.let(i * block + int64(k * width)), width, limits)
                at.accumulate(e, total, width)
        with T.serial(int64(0), extent - blocks * block) as i:
            inside.inside([axis], [vm.let(i + blocks * block)]).accumulate(e, last, 1)

    loops(scope, [other for other in e.axes if other != axis], row)
    for total in totals[1:]:
        T.buffer_store(totals[0], combine(e.reducer, totals[0][whole], total[whole]), [whole])
    return convert(combine(e.reducer, last[0], _across(e.reducer, totals[0][whole])), e.dtype)


def _across(reducer: Reducer, vector: TirExpr) -> TirExpr:
    """The lanes of a vector together, halves first."""
    vector = vm.let(vector)
    if (width := vm.lanes(vector)) == 1:
        return vector
    places = [tirx.const(k, "int32") for k in range(width)]
    half = width // 2
    low, high = (vm.let(tirx.Shuffle([vector], part)) for part in (places[:half], places[half:]))
    return _across(reducer, combine(reducer, low, high))
