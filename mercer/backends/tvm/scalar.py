"""The scalar functions, literals and reducers of the IR in TIR, on scalars and vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.analysis import is_sign
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Const, Expr, Reducer
from mercer.ir.types import DType
from mercer.runtime.errors import MercerError

TIR_TYPE = {
    DType.F64: "float64",
    DType.F32: "float32",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.I64: "int64",
    DType.I32: "int32",
    DType.I16: "int16",
    DType.I8: "int8",
    DType.I4: "int8",
    DType.BOOL: "bool",
}
"""How elements are held in memory."""


class UnsupportedError(MercerError):
    """Something that this backend cannot compile."""


def tir_type(dtype: DType) -> str:
    """Raises UnsupportedError for complex numbers."""
    if dtype not in TIR_TYPE:
        raise UnsupportedError(f"the tvm backend has no {dtype} tensors", hint="the torch backend computes with them")
    return TIR_TYPE[dtype]


def memory_type(dtype: DType) -> str:
    """The type of elements in memory as generated code sees them: bf16 is half of a float32, unpacked by hand."""
    return "uint16" if dtype is DType.BF16 else tir_type(dtype)


def value_type(dtype: DType) -> str:
    """The type of values: bf16 is a rounded float32."""
    return "float32" if dtype is DType.BF16 else tir_type(dtype)


def wide(dtype: DType) -> str:
    """The type in which a value of `dtype` is computed: f16 and bf16 by way of float32, as in the reference."""
    return "float32" if dtype in (DType.F16, DType.BF16) else tir_type(dtype)


def unpack(x: TirExpr, dtype: DType) -> TirExpr:
    """From memory to a value."""
    return vm.from_bits(vm.cast(x, "int32") << tirx.const(16, "int32")) if dtype is DType.BF16 else x


def pack(x: TirExpr, dtype: DType) -> TirExpr:
    """From a value to memory."""
    return vm.cast(vm.bits(x) >> tirx.const(16, "int32"), "uint16") if dtype is DType.BF16 else x


def _round_to_bf16(x: TirExpr) -> TirExpr:
    """To nearest, ties to even; NaN stays NaN."""
    b = T.bind(vm.bits(x))
    rounded = (b + (((b >> tirx.const(16, "int32")) & 1) + 0x7FFF)) & tirx.const(-0x10000, "int32")
    return vm.select(tirx.isnan(x), x, vm.from_bits(rounded))


def literal(number: float | int | bool | complex, dtype: DType) -> TirExpr:
    if isinstance(number, complex):
        raise UnsupportedError("the tvm backend has no complex numbers")
    kind = float if dtype.is_float else bool if dtype is DType.BOOL else int
    return tirx.const(kind(number), value_type(dtype))


def convert(x: TirExpr, dtype: DType) -> TirExpr:
    """To the stored type, as the `cast` of the IR does it."""
    if dtype is DType.I4:
        return vm.cast((((vm.cast(x, "int32") & 15) ^ 8) - 8), "int8")
    if dtype is DType.BOOL and vm.element(x) != "bool":
        return tirx.NE(x, vm.const(x, 0))
    if dtype in (DType.I16, DType.I8) and vm.element(x).startswith(("float", "bfloat")):
        x = vm.cast(x, "int32")
    return _round_to_bf16(vm.cast(x, "float32")) if dtype is DType.BF16 else vm.cast(x, tir_type(dtype))


# --- functions --------------------------------------------------------------------------------------------------------


def function(name: str, values: Sequence[TirExpr], arguments: Sequence[Expr], dtype: DType) -> TirExpr:
    """A function of `index.FUNCTIONS` applied to `values`; `arguments` are what they came from."""
    width = max(map(vm.lanes, values))
    if name == "cast":
        return convert(values[0], dtype)
    if name == "where":
        return vm.select(truth(values[0]), values[1], values[2])
    if name in _LOGICAL:
        return _LOGICAL[name](*(vm.broadcast(truth(v), width) for v in values))
    exact = [vm.broadcast(vm.cast(v, wide(a.dtype)), width) for v, a in zip(values, arguments, strict=True)]
    if arguments[0].dtype is DType.BOOL:
        exact = [vm.cast(v, "int32") for v in exact]
    if name == "pow" and isinstance(arguments[1], Const):
        power = _constant_power(exact[0], arguments[1].number)
        if power is not None:
            return convert(power, dtype)
    if name == "dot":
        return words.dot(*exact)
    if name in _COMPARE:
        return _COMPARE[name](*exact)
    table = _FLOAT if dtype.is_float else _INTEGER
    if vm.element(exact[0]) == "float32" and name == "exp" and is_sign(arguments[0], -1):
        result = vm.exp_of_negative(*exact)
    elif vm.element(exact[0]) == "float32" and name in vm.FAST:
        result = vm.FAST[name](*exact)
    elif name in table:
        result = table[name](*exact)
    else:
        raise UnsupportedError(f"the tvm backend has no {name} of {dtype}")
    return convert(result, dtype)


def truth(x: TirExpr) -> TirExpr:
    return x if vm.element(x) == "bool" else tirx.NE(x, vm.const(x, 0))


def _constant_power(x: TirExpr, power: Any) -> TirExpr | None:
    if power in (2, 3, 4):
        square = vm.let(x * x)
        return {2: square, 3: square * x, 4: square * square}[int(power)]
    if power == 1:
        return x
    return tirx.sqrt(x) if power == 0.5 else None


def _float_division(a: TirExpr, b: TirExpr) -> TirExpr:
    """Rounded to nearest; TVM compiles CUDA with flags that make `/` approximate."""
    on_cuda = vm.REGISTERS.get() == "local" and vm.element(a) == "float32"
    return T.call_pure_extern("float32", "__fdiv_rn", a, b) if on_cuda else a / b


def _float_mod(a: TirExpr, b: TirExpr) -> TirExpr:
    """The sign of the result is that of the divisor, as in NumPy."""
    r = vm.let(_per_lane(_fmod, a, b))
    zero = vm.const(a, 0.0)
    wrong = tirx.Or(tirx.And(r < zero, b > zero), tirx.And(r > zero, b < zero))
    return vm.select(wrong, r + b, vm.with_sign(r, b) if vm.element(a) == "float32" else r)


def _fmod(a: TirExpr, b: TirExpr) -> TirExpr:
    kind = vm.element(a)
    return T.call_pure_extern(kind, "fmodf" if kind == "float32" else "fmod", a, b)


def _per_lane(f: Callable[..., TirExpr], *values: TirExpr) -> TirExpr:
    """A function that LLVM has no vector form of."""
    width = max(map(vm.lanes, values))
    if width == 1:
        return f(*values)
    parts = [[tirx.Shuffle([v], [tirx.const(i, "int32")]) for v in values] for i in range(width)]
    return tirx.Shuffle([f(*p) for p in parts], [tirx.const(i, "int32") for i in range(width)])


def _float_floordiv(a: TirExpr, b: TirExpr) -> TirExpr:
    return tirx.nearbyint((a - _float_mod(a, b)) / b)


def _sign(x: TirExpr) -> TirExpr:
    return vm.select(x > vm.const(x, 0), vm.const(x, 1), vm.select(x < vm.const(x, 0), vm.const(x, -1), x))


def _wrapping(operate: Callable[..., TirExpr]) -> Callable[..., TirExpr]:
    def wrapped(*values: TirExpr) -> TirExpr:
        return words.modulo(operate, *values) if vm.element(values[0]) == "int32" else operate(*values)

    return wrapped


def _integer_division(divide: Callable[..., TirExpr]) -> Callable[..., TirExpr]:
    """Division by zero gives 0, as in NumPy, and the lowest number divided by -1 is itself."""

    def guarded(a: TirExpr, b: TirExpr) -> TirExpr:
        if vm.is_literal(b):
            return divide(a, b)
        zero, minus = tirx.EQ(b, vm.const(b, 0)), tirx.EQ(b, vm.const(b, -1))
        safe = vm.select(tirx.Or(zero, minus), vm.const(b, 1), b)
        opposite = _INTEGER["neg"](a) if divide is tirx.floordiv else vm.const(a, 0)
        return vm.select(zero, vm.const(a, 0), vm.select(minus, opposite, divide(a, safe)))

    return guarded


def _integer_pow(a: TirExpr, b: TirExpr) -> TirExpr:
    return vm.cast(tirx.nearbyint(tirx.pow(vm.cast(a, "float64"), vm.cast(b, "float64"))), vm.element(a))


_LOGICAL: dict[str, Callable[..., TirExpr]] = {"and": tirx.And, "or": tirx.Or, "not": tirx.Not}

_COMPARE: dict[str, Callable[..., TirExpr]] = {
    "eq": tirx.EQ,
    "ne": tirx.NE,
    "lt": tirx.LT,
    "le": tirx.LE,
    "gt": tirx.GT,
    "ge": tirx.GE,
}

_ARITHMETIC: dict[str, Callable[..., TirExpr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
}

_FLOAT: dict[str, Callable[..., TirExpr]] = {
    **_ARITHMETIC,
    "abs": tirx.abs,
    "sign": _sign,
    "neg": lambda a: a * vm.const(a, -1.0),
    "div": _float_division,
    "floordiv": _float_floordiv,
    "mod": _float_mod,
    "pow": tirx.pow,
    "min": vm.minimum,
    "max": vm.maximum,
    "floor": tirx.floor,
    "ceil": tirx.ceil,
    "round": tirx.nearbyint,
    "trunc": tirx.trunc,
    "sqrt": tirx.sqrt,
    "rsqrt": lambda a: vm.const(a, 1.0) / tirx.sqrt(a),
    "exp": tirx.exp,
    "log": tirx.log,
    "sin": tirx.sin,
    "cos": tirx.cos,
    **{
        name: partial(_per_lane, getattr(tirx, name))
        for name in ("tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "erf", "log1p")
    },
    "expm1": lambda a: _per_lane(lambda x: T.call_pure_extern("float64", "expm1", x), a),
    "sigmoid": lambda a: vm.const(a, 1.0) / (vm.const(a, 1.0) + tirx.exp(vm.const(a, 0.0) - a)),
}
"""Of float64, and of float32 where there is no entry in `vector_math.FAST`."""

_WRAPPING = {name: _wrapping(operate) for name, operate in _ARITHMETIC.items()}

_INTEGER: dict[str, Callable[..., TirExpr]] = {
    **_WRAPPING,
    "neg": lambda a: _WRAPPING["sub"](vm.const(a, 0), a),
    "abs": lambda a: vm.select(a < vm.const(a, 0), _INTEGER["neg"](a), a),
    "sign": _sign,
    "floordiv": _integer_division(tirx.floordiv),
    "mod": _integer_division(tirx.floormod),
    "pow": _integer_pow,
    "xor": tirx.bitwise_xor,
    "min": tirx.min,
    "max": tirx.max,
    **{name: (lambda a: a) for name in ("floor", "ceil", "round", "trunc")},
}


# --- reducers ---------------------------------------------------------------------------------------------------------


def identity(reducer: Reducer, dtype: DType) -> TirExpr:
    """The value of a reduction over nothing."""
    kind = wide(dtype)
    match reducer:
        case Reducer.SUM | Reducer.PROD:
            return tirx.const(0 if reducer is Reducer.SUM else 1, kind)
        case Reducer.ANY | Reducer.ALL:
            return tirx.const(reducer is Reducer.ALL, "bool")
        case _:
            lowest = reducer in (Reducer.MAX, Reducer.ARGMAX)
            if dtype.is_float:
                return tirx.const(-math.inf if lowest else math.inf, kind)
            if dtype is DType.BOOL:
                return tirx.const(not lowest, "bool")
            return tirx.min_value(kind) if lowest else tirx.max_value(kind)


def combine(reducer: Reducer, total: TirExpr, term: TirExpr) -> TirExpr:
    is_float = vm.element(total).startswith("float")
    match reducer:
        case Reducer.SUM:
            return _WRAPPING["add"](total, term)
        case Reducer.PROD:
            return _WRAPPING["mul"](total, term)
        case Reducer.ANY:
            return tirx.Or(total, truth(term))
        case Reducer.ALL:
            return tirx.And(total, truth(term))
        case Reducer.MAX | Reducer.MIN if vm.element(total) == "bool":
            return (tirx.Or if reducer is Reducer.MAX else tirx.And)(total, term)
        case Reducer.MAX:
            return vm.maximum(total, term) if is_float else tirx.max(total, term)
        case Reducer.MIN:
            return vm.minimum(total, term) if is_float else tirx.min(total, term)
        case Reducer.ARGMAX | Reducer.ARGMIN:
            raise AssertionError("positions are reduced by Scope")
