"""Any nest: one element at a time, reductions serial. Correct for everything, fast for nothing."""

from __future__ import annotations

from mercer.backends.tvm.analysis import flatten
from mercer.backends.tvm.lower import Scope
from mercer.backends.tvm.schedules.common import Problem, Schedule, Units, operations
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import IntExpr


def plan(problem: Problem, reason: str) -> Schedule:
    nest = problem.nest
    units = Units.of(nest.axes, operations(nest.body))
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)

    def emit(scope: Scope, position: TirExpr) -> None:
        def element(scope: Scope) -> None:
            scope.store(scope.tensors[nest.target], place, scope.value(nest.body))

        units.run(scope, position, element)

    return Schedule("generic", reason, nest, units.count, units.cost, emit, once=True)
