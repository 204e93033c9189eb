"""The scalar functions and the reductions of index notation on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np

from mercer.ir.index import Reducer
from mercer.ir.types import Array, DType
from mercer.runtime.errors import MercerError


class EvaluationError(MercerError):
    """The program cannot be evaluated on these values."""


def apply(function: str, operands: Sequence[Array], dtype: DType, stored: np.dtype[Any]) -> Array:
    """A function of `FUNCTIONS`, element by element with broadcasting; the result has the NumPy type `stored`.

    `dtype` is the element type of the result; `stored` differs from it when floats are computed more precisely.
    """
    if function in _ARITHMETIC and dtype.is_float and operands[0].dtype.kind != "c":
        working = np.float64 if stored.itemsize == 8 else np.float32
        operands = [operand.astype(working, copy=False) for operand in operands]
    elif function not in _ARITHMETIC and function not in _SELECTION:
        wide = {"f": np.float64, "V": np.float64, "c": np.complex128}
        operands = [o.astype(wide[o.dtype.kind]) if o.dtype.kind in wide else o for o in operands]
    return convert(np.asarray(NUMPY_FUNCTIONS[function](*operands)), dtype, stored)


def convert(array: Array, dtype: DType, stored: np.dtype[Any]) -> Array:
    """Values as `dtype`: floats are rounded; integers wrap.

    A float becomes an integer towards zero, as far as i32 (i64) goes; what is not a number becomes the lowest integer.
    So a position far outside of a tensor stays outside.
    """
    if array.dtype.kind == "c" and stored.kind != "c":
        array = np.real(array)
    if dtype.is_integer and array.dtype.kind in "fV":
        array = _truncated(array, np.iinfo(np.int64 if dtype is DType.I64 else np.int32))
    if dtype is DType.I4:
        array = (np.bitwise_and(array.astype(np.int64), 15) ^ 8) - 8
    return array.astype(stored, copy=False)


def _truncated(array: Array, limits: np.iinfo[Any]) -> Array:
    wide = cast(Any, array.astype(np.float64))
    inside = (wide > limits.min - 1.0) & (wide < limits.max + 1.0)
    whole = np.where(inside, wide, 0.0).astype(np.int64)
    return np.where(inside, whole, np.where(wide > 0, limits.max, limits.min))


def _erf(x: Any) -> Any:
    special: Any = import_module("scipy.special")  # loaded late: SciPy takes long to import
    return special.erf(x)


def _rsqrt(x: Any) -> Any:
    return 1.0 / np.sqrt(x)


def _sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _complex(re: Any, im: Any) -> Any:
    wide = np.result_type(re, im)
    z = np.empty(np.broadcast_shapes(re.shape, im.shape), np.complex128 if wide.itemsize == 8 else np.complex64)
    z.real, z.imag = re, im
    return z


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
    "xor": np.bitwise_xor,
    "neg": np.negative,
    "abs": np.abs,
    "complex": _complex,
    "real": np.real,
    "imag": np.imag,
    "angle": np.angle,
    "conj": np.conj,
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
    "rsqrt": _rsqrt,
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
    "cast": np.asarray,
}
"""One rule for every entry of `index.FUNCTIONS`."""

_ARITHMETIC = frozenset(
    ("add", "sub", "mul", "div", "floordiv", "mod", "min", "max", "xor")
    + ("neg", "abs", "sign", "floor", "ceil", "round", "trunc", "sqrt")
)
"""Computed in the type of the result."""

_SELECTION = frozenset(
    ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "where", "cast", "complex", "real", "imag", "conj")
)
"""Computed in the type of the operands. All functions that are neither are computed in f64 and rounded."""


# --- reductions -------------------------------------------------------------------------------------------------------


def _lowest(array: Array) -> Any:
    if array.dtype.kind in "iu":
        return np.iinfo(cast(Any, array.dtype)).min
    return False if array.dtype.kind == "b" else -np.inf


def _highest(array: Array) -> Any:
    if array.dtype.kind in "iu":
        return np.iinfo(cast(Any, array.dtype)).max
    return True if array.dtype.kind == "b" else np.inf


def _product(array: Any, axes: tuple[int, ...]) -> Array:
    wide = {"f": np.float64, "V": np.float64, "c": np.complex128}.get(array.dtype.kind, np.int64)
    return np.asarray(np.prod(array, axis=axes, dtype=wide))


def _position(choose: Callable[..., Any]) -> Callable[[Any, tuple[int, ...]], Array]:
    def rule(array: Any, axes: tuple[int, ...]) -> Array:
        if array.shape[axes[0]] == 0:
            raise EvaluationError("argmax and argmin of nothing have no value")
        return np.asarray(choose(array, axis=axes[0]))

    return rule


NUMPY_REDUCERS: dict[Reducer, Callable[[Any, tuple[int, ...]], Array]] = {
    Reducer.SUM: lambda array, axes: np.asarray(np.any(array, axis=axes)),  # of truth values
    Reducer.PROD: _product,
    Reducer.MAX: lambda array, axes: np.asarray(np.max(array, axis=axes, initial=_lowest(array))),
    Reducer.MIN: lambda array, axes: np.asarray(np.min(array, axis=axes, initial=_highest(array))),
    Reducer.ANY: lambda array, axes: np.asarray(np.any(array, axis=axes)),
    Reducer.ALL: lambda array, axes: np.asarray(np.all(array, axis=axes)),
    Reducer.ARGMAX: _position(np.argmax),
    Reducer.ARGMIN: _position(np.argmin),
}
"""Rules: (array, axes) -> the array without these axes."""
