"""Elementwise nests some of whose operands lie across the result: squares are read along them, turned in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free, is_computed, stride
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, Units, most_pieces, operations
from mercer.backends.tvm.schedules.normalize import in_pieces, position
from mercer.backends.tvm.schedules.pointwise import along, interior, is_exact
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Expr, Read, Reduce, children, reads, walk
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import DType


def plan(problem: Problem) -> Schedule | Refusal:
    nest, lanes = problem.nest, problem.target.lanes
    if len(nest.axes) < 2 or nest.type.dtype is not DType.F32:
        return Refusal("transpose", "not a real tensor of two axes")
    across = _across(problem)
    parts = _parts(problem, across) if across is not None else []
    if across is None or not parts:
        return Refusal("transpose", "operands lie along the last axis")
    last, others = nest.axes[-1], tuple(axis for axis in nest.axes[:-1] if axis != across)
    block = lanes
    while block > min(last.extent.value, across.extent.value):
        block //= 2
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
    area = last.extent.value * across.extent.value
    units = Units.of(others, 0.5 * area * (1.0 + operations(nest.body) / lanes))
    if units.count == ONE:
        axis, pieces = _pieces(nest, (last, across), block, units.cost)
        if pieces > 1:
            return plan(replace(problem, nest=in_pieces(nest, axis, pieces)))
    edges = interior(nest, problem, across)

    def piece(scope: Scope) -> None:
        if scope.width != block:
            loops(scope, [last], lambda at: at.store(at.tensors[nest.target], place, at.value(nest.body)))
            return
        whole, rest = divmod(last.extent.value, block)
        with T.serial(int64(0), int64(whole)) as i:
            square(scope, T.bind(i * int64(block)))
        if rest:
            square(scope, int64(last.extent.value - block))

    def square(scope: Scope, start: TirExpr) -> None:
        at = replace(scope.inside([last], [start]), offsets={})
        lines = [at.at({last.name: k}) for k in range(block)]
        columns = [turned([vm.broadcast(line.value(part), block) for line in lines]) for part in parts]
        first = scope.indices[across.name]
        for k in range(block):
            line = replace(at, lane="", width=1).inside([across], [first + int64(k)])
            line = line.vector(last.name, start, block, (IntExpr.constant(0), last.extent - 1))
            line.done.update({line.key(p, free(p)): column[k] for p, column in zip(parts, columns, strict=True)})
            line.store(line.tensors[nest.target], place, line.value(nest.body))

    def emit(scope: Scope, at: TirExpr) -> None:
        units.run(scope, at, lambda inside: along(inside, across, block, edges, piece))

    detail = f"blocks of {block} {across.name} x {block} {last.name}"
    once = is_exact(across, block, edges) and last.extent.value % block == 0
    return Schedule("transpose", detail, nest, units.count, units.cost, emit, once=once)


def _pieces(nest: Nest, axes: Sequence[Axis], block: int, cost: float) -> tuple[Axis, int]:
    """The one of the axes that makes most pieces of whole blocks; one piece where a read has a border."""
    if any(isinstance(e, Read) and e.pad is not None for e in walk(nest.body)):
        return axes[0], 1

    def pieces(axis: Axis) -> int:
        number, rest = divmod(axis.extent.value, block)
        return 1 if rest else most_pieces(number, cost / number)

    best = max(axes, key=pieces)
    return best, pieces(best)


def turned(rows: Sequence[TirExpr]) -> list[TirExpr]:
    """The transposed square of as many vectors as each has lanes, a power of two: columns become vectors."""
    size, vectors = len(rows), [vm.let(row) for row in rows]
    half = size // 2
    while half:
        upper = [k - half + size if k & half else k for k in range(size)]
        lower = [k + size if k & half else k + half for k in range(size)]
        for i in (i for i in range(size) if not i & half):
            pair = vectors[i], vectors[i + half]
            vectors[i], vectors[i + half] = (vm.let(_shuffled(pair, order)) for order in (upper, lower))
        half //= 2
    return vectors


def _shuffled(vectors: Sequence[TirExpr], order: Sequence[int]) -> TirExpr:
    return tirx.Shuffle(list(vectors), [tirx.const(k, "int32") for k in order])


def _across(problem: Problem) -> Axis | None:
    """The axis along which most of the operands lie that do not lie along the last one."""
    nest = problem.nest
    if any(isinstance(e, Reduce) or (isinstance(e, Read) and _is_awkward(e)) for e in walk(nest.body)):
        return None
    found = list(dict.fromkeys(reads(nest.body)))

    def lying(axis: Axis) -> int:
        return sum(_is_across(read, axis, problem) for read in found)

    candidates = [axis for axis in nest.axes if axis.extent.is_constant and axis.extent.value >= 4]
    if nest.axes[-1] not in candidates:
        return None
    best = max(reversed(candidates), key=lying)
    return best if lying(best) else None


def _parts(problem: Problem, across: Axis) -> list[Expr]:
    """The largest expressions that are better computed along `across`; none unless all are real."""
    parts: dict[Expr, None] = {}

    def visit(e: Expr) -> None:
        found = list(reads(e))
        if not any(_is_across(read, across, problem) for read in found):
            return
        if all(_suits(read, across, problem) for read in found):
            parts[e] = None
        for child in children(e) if e not in parts else ():
            visit(child)

    visit(problem.nest.body)
    return list(parts) if all(e.dtype is DType.F32 for e in parts) else []


def _is_across(read: Read, across: Axis, problem: Problem) -> bool:
    """Whether it lies along this axis, and not along the last one."""
    return _stride(read, across, problem) == 1 and not _suits(read, problem.nest.axes[-1], problem)


def _suits(read: Read, axis: Axis, problem: Problem) -> bool:
    """Whether neighbours along the axis are neighbours in memory, or the same element."""
    return _stride(read, axis, problem) in (0, 1)


def _stride(read: Read, axis: Axis, problem: Problem) -> int | None:
    return stride(position(read, problem.types[read.tensor]), axis.name)


def _is_awkward(read: Read) -> bool:
    return read.dtype is DType.BOOL or any(is_computed(index) for index in read.indices)
