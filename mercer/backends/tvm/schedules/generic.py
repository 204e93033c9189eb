"""Any nest: one element at a time, reductions serial. Correct for everything, fast for nothing."""

from __future__ import annotations

from mercer.backends.tvm.analysis import flatten
from mercer.backends.tvm.lower import Scope, loops
from mercer.backends.tvm.schedules.common import Problem, Schedule, at_outer, count, operations, split
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import IntExpr


def plan(problem: Problem, reason: str) -> Schedule:
    nest = problem.nest
    outer, inner, cost = split(nest.axes, operations(nest.body))
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)

    def emit(scope: Scope, position: TirExpr) -> None:
        def element(scope: Scope) -> None:
            scope.store(scope.tensors[nest.target], place, scope.value(nest.body))

        loops(at_outer(scope, outer, position), inner, element)

    return Schedule("generic", reason, nest, count(outer), cost, emit, once=True)
