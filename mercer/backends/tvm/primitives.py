"""What index notation does not cover, as TIR: a primitive's code, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import fft, scan, vector_math as vm
from mercer.backends.tvm.kernel import Kernel, Operand, rows
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.nests import Primitive
from mercer.ir.types import TensorType

Rule: TypeAlias = Callable[[Primitive, Mapping[str, TensorType]], Kernel]


def kernel(statement: Primitive, types: Mapping[str, TensorType], target: Target) -> Kernel:
    """The kernel of any primitive except `reshape`. Raises UnsupportedError."""
    if statement.scan is not None:
        return scan.kernel(statement, statement.scan, target, partial(kernel, target=target))
    rule = PRIMITIVES.get(statement.name)
    if rule is None:
        place = f" at {statement.origins[0].span}" if statement.origins else ""
        raise UnsupportedError(f"the tvm backend has no primitive {statement.name}{place}")
    return rule(statement, types)


def _argsort(statement: Primitive, types: Mapping[str, TensorType]) -> Kernel:
    """A stable merge sort of every row, bottom up: positions move between the result and a scratch of its size."""
    (x,), (target,) = statement.operands, statement.targets
    descending = bool(dict(statement.attributes)["descending"])
    length = types[x].shape[-1]
    spare = Operand(f"{target.name}.spare", target.type)

    def emit(scope: Scope, row: TirExpr) -> None:
        keys, out, other = (scope.tensors[name].buffer for name in (x, target.name, spare.name))
        n = T.bind(scope.integer(length))
        start = T.bind(row * n)

        def before(right: TirExpr, left: TirExpr) -> TirExpr:
            """Whether the key at `right` goes first although it stands later; a NaN is larger than any number."""
            a, b = keys[start + tirx.Cast("int64", right)], keys[start + tirx.Cast("int64", left)]
            if not types[x].dtype.is_float:
                return a > b if descending else a < b
            if descending:
                return tirx.Or(a > b, tirx.And(tirx.isnan(a), tirx.Not(tirx.isnan(b))))
            return tirx.Or(a < b, tirx.And(tirx.isnan(b), tirx.Not(tirx.isnan(a))))

        with T.serial(int64(0), n) as i:
            T.buffer_store(out, tirx.Cast("int32", i), [start + i])
        width, left, right = (vm.registers(1, "int64") for _ in range(3))
        T.buffer_store(width, int64(1), [0])
        with T.While(width[0] < n):
            with T.serial(int64(0), T.truncdiv(n + int64(2) * width[0] - int64(1), int64(2) * width[0])) as block:
                low = T.bind(block * int64(2) * width[0])
                middle = T.bind(tirx.min(low + width[0], n))
                high = T.bind(tirx.min(low + int64(2) * width[0], n))
                T.buffer_store(left, low, [0])
                T.buffer_store(right, middle, [0])
                with T.serial(low, high) as k:
                    ends = tirx.Or(left[0] >= middle, right[0] >= high)
                    i = T.bind(start + tirx.min(left[0], n - int64(1)))
                    j = T.bind(start + tirx.min(right[0], n - int64(1)))
                    later = tirx.And(tirx.Not(ends), before(out[j], out[i]))
                    take = T.bind(tirx.Or(left[0] >= middle, tirx.And(right[0] < high, later)))
                    T.buffer_store(other, tirx.Select(take, out[j], out[i]), [start + k])
                    T.buffer_store(right, right[0] + tirx.Cast("int64", take), [0])
                    T.buffer_store(left, left[0] + tirx.Cast("int64", tirx.Not(take)), [0])
            with T.serial(int64(0), n) as k:
                T.buffer_store(out, other[start + k], [start + k])
            T.buffer_store(width, int64(2) * width[0], [0])

    typical = length.value if length.is_constant else 64
    return Kernel("merge sort", rows(types[x]), 3.0 * typical * max(1.0, math.log2(max(typical, 2))), emit, (spare,))


PRIMITIVES: dict[str, Rule] = {"argsort": _argsort, "fft_last": fft.kernel, "ifft_last": fft.kernel}
"""Rules by name. `reshape` is no code at all: build.py knows it as a view."""
