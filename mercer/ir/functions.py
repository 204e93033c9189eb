"""The functions of index notation on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mercer.ir.types import Array, DType
from mercer.runtime.errors import MercerError


class EvaluationError(MercerError):
    """The program cannot be evaluated on these values."""


def apply(function: str, operands: Sequence[Array], dtype: DType, stored: np.dtype[Any]) -> Array:
    """A function of `FUNCTIONS`, element by element with broadcasting; the result has the NumPy type `stored`.

    `dtype` is the element type of the result; `stored` differs from it when floats are computed more precisely.
    """
    if function in _ARITHMETIC and dtype.is_float:
        working = np.float64 if stored.itemsize == 8 else np.float32
        operands = [operand.astype(working, copy=False) for operand in operands]
    elif function not in _ARITHMETIC and function not in _SELECTION:
        operands = [operand.astype(np.float64) if operand.dtype.kind in "fV" else operand for operand in operands]
    return convert(np.asarray(NUMPY_FUNCTIONS[function](*operands)), dtype, stored)


def convert(array: Array, dtype: DType, stored: np.dtype[Any]) -> Array:
    """Values as `dtype`: floats are rounded, or truncated to integers, and integers wrap."""
    if array.dtype.kind == "c" and stored.kind != "c":
        array = np.real(array)
    if dtype.is_integer and array.dtype.kind in "fV":
        array = array.astype(np.float64).astype(np.int64)
    if dtype is DType.I4:
        array = (np.bitwise_and(array.astype(np.int64), 15) ^ 8) - 8
    return array.astype(stored, copy=False)


def _erf(x: Any) -> Any:
    from scipy.special import erf  # loaded late: SciPy takes long to import

    return erf(x)


def _sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _pow(x: Any, y: Any) -> Any:
    if np.asarray(x).dtype.kind in "iu" and np.any(np.asarray(y) < 0):
        raise EvaluationError("an integer to a negative power is not an integer")
    return np.power(x, y)


NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "pow": _pow,
    "min": np.minimum,
    "max": np.maximum,
    "atan2": np.arctan2,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "erf": _erf,
    "sigmoid": _sigmoid,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "where": np.where,
    "cast": lambda x: x,
}
"""One rule for every entry of `index.FUNCTIONS`."""

_ARITHMETIC = frozenset(
    ("add", "sub", "mul", "div", "floordiv", "mod", "min", "max")
    + ("neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt")
)
"""Computed in the type of the result."""

_SELECTION = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "where", "cast"))
"""Computed in the type of the operands. All functions that are neither are computed in f64 and rounded."""
