"""Complex numbers between the layout of NumPy, part beside part, and two tensors."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import elements
from mercer.backends.tvm.kernel import Kernel
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.stockham import Pairs, Parts
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.nests import Primitive
from mercer.ir.types import TensorType

SPLIT, JOIN = "split_pairs", "join_pairs"
SHARE = 1024
"""Numbers that one unit of work moves."""


def kernel(statement: Primitive, types: Mapping[str, TensorType]) -> Kernel:
    """Of one tensor to two (`split_pairs`) or of two to one (`join_pairs`); the one has a last axis of 2."""
    lanes = dict(statement.attributes)["lanes"]
    assert isinstance(lanes, int)
    names = statement.operands, tuple(value.name for value in statement.targets)
    (pairs,), parts = names if statement.name == SPLIT else names[::-1]
    total = elements((statement.targets[0].type if statement.name == SPLIT else types[statement.operands[0]]).shape)

    def emit(scope: Scope, i: TirExpr) -> None:
        source, target = Pairs(scope.tensors[pairs].buffer, int64(0)), Parts.of(scope, parts)
        if statement.name == JOIN:
            source, target = target, source
        first = T.bind(i * int64(SHARE))
        count = T.bind(tirx.min(scope.integer(total) - first, int64(SHARE)))
        vectors = T.bind(T.truncdiv(count, int64(lanes)))
        with T.serial(int64(0), vectors) as block:
            k = T.bind(first + block * int64(lanes))
            target.shifted(k, 1, lanes).store(int64(0), source.shifted(k, 1, lanes).load(int64(0)))
        with T.serial(vectors * int64(lanes), count) as rest:
            k = T.bind(first + rest)
            target.shifted(k).store(int64(0), source.shifted(k).load(int64(0)))

    return Kernel("pairs", (total + (SHARE - 1)) // SHARE, 0.3 * SHARE, emit)
