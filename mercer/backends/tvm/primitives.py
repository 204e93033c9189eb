"""What index notation does not cover, as TIR: a primitive's code, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import fft, pairs, scan, vector_math as vm
from mercer.backends.tvm.kernel import Kernel, Operand, rows
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import UnsupportedError, convert, pack, unpack
from mercer.backends.tvm.schedules.common import size
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import ONE
from mercer.ir.nests import Primitive
from mercer.ir.primitives import THREEFRY_PARITY, THREEFRY_ROTATIONS
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


def _scatter_add(statement: Primitive, types: Mapping[str, TensorType]) -> Kernel:
    """Matrix after matrix: a copy of the base, then the rows in order."""
    (base, index, values), (target,) = statement.operands, statement.targets
    count, width = target.type.shape[-2:]
    length = types[index].shape[-1]

    def emit(scope: Scope, unit: TirExpr) -> None:
        start, places, added, total = (scope.tensors[name].buffer for name in (base, index, values, target.name))
        n, c, m = (T.bind(scope.integer(size)) for size in (count, width, length))
        first = T.bind(unit * n * c)
        with T.serial(int64(0), n * c) as i:
            T.buffer_store(total, start[first + i], [first + i])
        with T.serial(int64(0), m) as i:
            place = T.bind(tirx.Cast("int64", places[unit * m + i]))
            with T.If(tirx.And(place >= int64(0), place < n)):
                with T.Then():
                    with T.serial(int64(0), c) as k:
                        here = first + place * c + k
                        dtype = target.type.dtype
                        old, new = unpack(total[here], dtype), unpack(added[(unit * m + i) * c + k], dtype)
                        T.buffer_store(total, pack(convert(old + new, dtype), dtype), [here])

    cost = 1.0 * size(width) * (size(count) + size(length))
    return Kernel("rows in order", math.prod(target.type.shape[:-2], start=ONE), cost, emit)


def _threefry(statement: Primitive, _: Mapping[str, TensorType]) -> Kernel:
    (key, counter), (target,) = statement.operands, statement.targets
    count = target.type.shape[1]

    def emit(scope: Scope, i: TirExpr) -> None:
        keys, counters, out = (scope.tensors[name].buffer for name in (key, counter, target.name))
        stride = scope.integer(count)

        def unsigned(x: TirExpr) -> TirExpr:
            return tirx.reinterpret("uint32", x)

        def number(value: int) -> TirExpr:
            return tirx.const(value, "uint32")

        words, state = vm.registers(3, "uint32"), vm.registers(2, "uint32")
        a, b = state[0], state[1]
        T.buffer_store(words, unsigned(keys[0]), [0])
        T.buffer_store(words, unsigned(keys[1]), [1])
        T.buffer_store(words, words[0] ^ words[1] ^ number(THREEFRY_PARITY), [2])
        T.buffer_store(state, unsigned(counters[i]) + words[0], [0])
        T.buffer_store(state, unsigned(counters[stride + i]) + words[1], [1])
        for group in range(5):
            for rotation in THREEFRY_ROTATIONS[group % 2]:
                T.buffer_store(state, a + b, [0])
                T.buffer_store(state, ((b << number(rotation)) | (b >> number(32 - rotation))) ^ a, [1])
            T.buffer_store(state, a + words[(group + 1) % 3], [0])
            T.buffer_store(state, b + words[(group + 2) % 3] + number(group + 1), [1])
        T.buffer_store(out, tirx.reinterpret("int32", a), [i])
        T.buffer_store(out, tirx.reinterpret("int32", b), [stride + i])

    return Kernel("one pair at a time", count, 30.0, emit)


PRIMITIVES: dict[str, Rule] = {
    "argsort": _argsort,
    **dict.fromkeys(fft.FFT, fft.kernel),
    **dict.fromkeys((pairs.SPLIT, pairs.JOIN), pairs.kernel),
    "scatter_add": _scatter_add,
    "threefry": _threefry,
}
"""Rules by name. `reshape` is no code at all: build.py knows it as a view."""
