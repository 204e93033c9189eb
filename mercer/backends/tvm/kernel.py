"""What a primitive's code consists of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mercer.backends.tvm.lower import Scope
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.types import TensorType


@dataclass(frozen=True)
class Operand:
    """A tensor argument under the name by which the nest reads it."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Kernel:
    """How a primitive is computed: `emit(scope, i)` writes the code of unit i of `count` independent ones.

    The scope has the operands and targets under their names, and `scratch`, which lasts as long as the call,
    and `workspace`, which every thread has for itself. `cost`
    estimates one unit in nanoseconds; `detail` says how it is done; `dims` are symbolic dims that no shape tells.
    """

    detail: str
    count: IntExpr
    cost: float
    emit: Callable[[Scope, TirExpr], None]
    scratch: tuple[Operand, ...] = ()
    workspace: tuple[Operand, ...] = ()
    dims: frozenset[str] = frozenset()


def rows(type: TensorType) -> IntExpr:
    """How many vectors along the last axis a tensor has."""
    return math.prod(type.shape[:-1], start=ONE)
