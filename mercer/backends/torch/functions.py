"""The scalar functions of the IR as PyTorch and Python expressions."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

from mercer.backends.torch.code import Level
from mercer.ir.types import DType

OPERATORS: dict[str, tuple[str, Level]] = {
    "add": ("+", Level.ADD),
    "sub": ("-", Level.ADD),
    "mul": ("*", Level.MULTIPLY),
    "div": ("/", Level.MULTIPLY),
    "floordiv": ("//", Level.MULTIPLY),
    "mod": ("%", Level.MULTIPLY),
    "pow": ("**", Level.POWER),
    "eq": ("==", Level.COMPARE),
    "ne": ("!=", Level.COMPARE),
    "lt": ("<", Level.COMPARE),
    "le": ("<=", Level.COMPARE),
    "gt": (">", Level.COMPARE),
    "ge": (">=", Level.COMPARE),
    "and": ("&", Level.BIT_AND),
    "or": ("|", Level.BIT_OR),
    "xor": ("^", Level.BIT_XOR),
}
"""Functions that are infix operators on tensors and numbers alike (`and`, `or`: on truth values)."""

_SAME_NAME = (
    *("abs", "sign", "floor", "ceil", "round", "trunc", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "erf"),
    *(
        "complex",
        "real",
        "imag",
        "angle",
        "sigmoid",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "atan2",
    ),
)
CALLS: dict[str, str] = {
    **{name: f"torch.{name}" for name in _SAME_NAME},
    "conj": "torch.conj_physical",
    "min": "torch.minimum",
    "max": "torch.maximum",
    "where": "torch.where",
}
"""Functions of tensors that are called."""

NUMBERS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "min": min,
    "max": max,
    "complex": complex,
    "real": lambda z: z.real,
    "imag": lambda z: z.imag,
    "conj": lambda z: z.conjugate(),
    "angle": cmath.phase,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: a**-0.5,
    "erf": math.erf,
    "sigmoid": lambda a: 1 / (1 + math.e**-a),
    **{
        name: getattr(math, name)
        for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh")
    },
    **{name: getattr(math, name) for name in ("floor", "ceil", "trunc")},
    "round": round,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: not a,
    "where": lambda condition, then, otherwise: then if condition else otherwise,
}
"""The functions of real numbers, for what is known when the code is written."""

TORCH_TYPES: dict[DType, str] = {
    DType.F64: "torch.float64",
    DType.F32: "torch.float32",
    DType.F16: "torch.float16",
    DType.BF16: "torch.bfloat16",
    DType.I64: "torch.int64",
    DType.I32: "torch.int32",
    DType.I16: "torch.int16",
    DType.I8: "torch.int8",
    DType.I4: "torch.int8",
    DType.BOOL: "torch.bool",
    DType.C64: "torch.complex64",
}
"""The element type that holds each type of the IR (i4 is kept in an int8, as in the reference)."""


def fold(function: str, numbers: list[Any], dtype: DType) -> Any:
    """The value of a function of known numbers; None where it has none (as the logarithm of a negative number)."""
    try:
        if function == "cast":
            kind = int if dtype.is_integer else float if dtype.is_float else complex if dtype.is_complex else None
            return kind(numbers[0]) if kind is not None else None
        value = NUMBERS[function](*numbers)
    except (ArithmeticError, ValueError, TypeError):
        return None
    if dtype.is_float and not isinstance(value, complex):
        return float(value)
    if dtype.is_complex:
        return complex(value)
    return value if not isinstance(value, complex) else None


def literal(number: Any) -> str:
    """A number as Python writes it."""
    if isinstance(number, complex) and not (math.isfinite(number.real) and math.isfinite(number.imag)):
        return f"complex({literal(number.real)}, {literal(number.imag)})"
    if isinstance(number, float) and not math.isfinite(number):
        return f'float("{number}")'
    return repr(number)
