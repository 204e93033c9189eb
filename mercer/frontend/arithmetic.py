"""Arithmetic of the language on everything but whole tensors: static values, integer expressions and scalars."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from mercer.frontend.values import SCALARS, AnyValue, Scalar, constant_of, describe, is_integer, simplified
from mercer.ir.index import FUNCTIONS, OF_COMPLEX, ONLY_COMPLEX, Call, Const, Expr, Index, call
from mercer.ir.integers import ONE, Computed, IntExpr, Var
from mercer.ir.types import DType


class OperandError(Exception):
    """Operands that an operation does not take; the caller knows the place in the text, `name` is the diagnostic's."""

    def __init__(self, message: str, hint: str | None = None, name: str = "type-mismatch") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.name = name


LARGEST = 2**63 - 1

SCALAR_OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "%": "mod",
    "**": "pow",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "and": "and",
    "or": "or",
}

_STATIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
    "**": operator.pow,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def binary(symbol: str, left: AnyValue, right: AnyValue, default: DType) -> AnyValue:
    """`left symbol right` for values none of which is a whole tensor.

    Integers divide with floor. Raises OperandError.
    """
    if isinstance(left, SCALARS) or isinstance(right, SCALARS):
        return scalar_call(SCALAR_OPERATORS[symbol], (left, right), default)
    if is_integer(left) and is_integer(right):
        return _integers(symbol, left, right, default)
    if isinstance(left, IntExpr) or isinstance(right, IntExpr):
        return scalar_call(SCALAR_OPERATORS[symbol], (left, right), default)
    if symbol in ("and", "or"):
        if not (isinstance(left, bool) and isinstance(right, bool)):
            raise OperandError(f"`{symbol}` takes truth values; found {describe(left)} and {describe(right)}")
        return (left and right) if symbol == "and" else (left or right)
    if symbol in ("==", "!="):
        return _STATIC[symbol](left, right)
    if symbol == "+" and isinstance(left, tuple) and isinstance(right, tuple):
        return left + right
    if isinstance(left, int | float) and isinstance(right, int | float):
        if not (isinstance(left, bool) or isinstance(right, bool)):
            return _reals(symbol, left, right)
    raise OperandError(f"`{symbol}` does not take {describe(left)} and {describe(right)}")


def _reals(symbol: str, left: float, right: float) -> float | bool:
    shown = f"{left} {symbol} {right}"
    if symbol in ("/", "%") and right == 0:
        raise division_by_zero(shown)
    try:
        result = _STATIC[symbol](left, right)
    except OverflowError as error:
        raise OperandError(f"{shown} is too large", name="out-of-range") from error
    except ZeroDivisionError as error:
        raise division_by_zero(shown) from error
    if isinstance(result, complex):
        hint = "a negative base takes whole exponents only"
        raise OperandError(f"{shown} is not a real number", hint, "domain-error")
    if math.isnan(result) and not (math.isnan(left) or math.isnan(right)):
        raise OperandError(f"{shown} is not a number", name="domain-error")
    if math.isinf(result) and math.isfinite(left) and math.isfinite(right):
        raise OperandError(f"{shown} is too large", name="out-of-range")
    return result


def division_by_zero(shown: str = "") -> OperandError:
    return OperandError("division by zero" + (f": {shown}" if shown else ""), name="domain-error")


def _integers(symbol: str, left: AnyValue, right: AnyValue, default: DType) -> AnyValue:
    result = _exact(symbol, left, right, default)
    if isinstance(result, int) and abs(result) > LARGEST:
        hint = "write one of them as a float"
        raise OperandError(f"{left} {symbol} {right} does not fit in 64 bits", hint, "out-of-range")
    return result


def _exact(symbol: str, left: AnyValue, right: AnyValue, default: DType) -> AnyValue:
    a, b = IntExpr.of(left), IntExpr.of(right)  # type: ignore[arg-type]
    try:
        match symbol:
            case "+":
                return simplified(a + b)
            case "-":
                return simplified(a - b)
            case "*":
                return simplified(a * b)
            case "/":
                if a == IntExpr.constant(1) and not b.is_constant:
                    raise OperandError(f"1/({b}) divides integers and is 0", hint="write 1.0/… for a real quotient")
                return simplified(a // b)
            case "%":
                return simplified(a % b)
            case "**":
                return _integer_power(a, b)
            case "and" | "or":
                raise OperandError(f"`{symbol}` takes truth values; found {describe(left)} and {describe(right)}")
            case _:
                return compare(symbol, a, b, default)
    except ZeroDivisionError:
        raise division_by_zero(f"{left} {symbol} {right}") from None


def _integer_power(a: IntExpr, b: IntExpr) -> int | float | IntExpr:
    if not b.is_constant:
        raise OperandError(f"the exponent {b} is not a number")
    if b.value < 0:
        if a == IntExpr.constant(0):
            raise division_by_zero(f"{a} ** {b}")
        if not a.is_constant:
            raise OperandError(f"{a} ** {b} is not an integer", hint="write the base as a float")
        return float(a.value) ** b.value
    if a.is_constant and abs(a.value) > 1 and b.value > 64:
        hint = "write the base as a float"
        raise OperandError(f"{a} ** {b} does not fit in 64 bits", hint, "out-of-range")
    if a.is_constant:
        return a.value**b.value
    result = IntExpr.constant(1)
    for _ in range(b.value):
        result = result * a
    return simplified(result)


def has_index(value: IntExpr) -> bool:
    """Whether the value changes inside a loop nest."""
    return any(isinstance(atom, Var | Computed) for atom in value.atoms())


def compare(symbol: str, a: IntExpr, b: IntExpr, default: DType) -> AnyValue:
    """Decided when the difference is a number; a scalar inside a loop nest; OperandError when N decides it."""
    difference = a - b
    if difference.is_constant:
        return _STATIC[symbol](difference.value, 0)
    if has_index(difference):
        return scalar_call(SCALAR_OPERATORS[symbol], (a, b), default)
    raise Undecided(f"{a} {symbol} {b} depends on a symbolic dimension", hint="give the dimension a number")


class Undecided(OperandError):
    """A comparison that only the size of a symbolic dimension decides."""


# --- scalars ----------------------------------------------------------------------------------------------------------


def to_scalar(value: AnyValue, dtype: DType) -> Scalar:
    """A scalar expression; numbers without a type of their own take `dtype`."""
    match value:
        case Const() | Call() | Index():
            return value
        case _ if isinstance(value, SCALARS):
            return value
        case bool():
            return Const(value, DType.BOOL)
        case int() | float():
            require_fit(value, dtype)
            return constant_of(value, dtype)
        case IntExpr():
            if value.is_constant:
                return constant_of(value.value, dtype)
            return Index(value) if dtype is DType.I32 else call("cast", Index(value), dtype=dtype)
        case _:
            raise OperandError(f"a number is needed here; found {describe(value)}")


def require_fit(value: int | float, dtype: DType) -> None:
    """Raises OperandError for a number that the element type does not have."""
    extreme = dtype.is_integer and math.isinf(value)
    if not dtype.rounds and isinstance(value, float) and not (value.is_integer() or extreme):
        raise OperandError(f"{value} is not a number of type {dtype}")
    if math.isfinite(value) and dtype is not DType.BOOL and not _fits(value, dtype):
        raise OperandError(f"{value} is too large for {dtype}", name="out-of-range")


def _fits(value: int | float, dtype: DType) -> bool:
    if dtype.is_integer:
        bits = 4 if dtype is DType.I4 else 8 * dtype.numpy.itemsize
        return -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(value, np.float64).astype(dtype.numpy)))


def common_dtype(values: tuple[AnyValue, ...], default: DType) -> DType:
    """The element type in which typed scalars meet: integers adapt to reals, f32 to c64, all else must agree."""
    typed = {v.dtype for v in values if isinstance(v, SCALARS) and not isinstance(v, Index)}
    if DType.C64 in typed and all(t.is_complex or t is DType.F32 or t.is_integer for t in typed):
        return DType.C64
    reals = {t for t in typed if t.is_float}
    if len(typed) > 1 and not (len(reals) == 1 and all(t.is_float or t.is_integer for t in typed)):
        names = " and ".join(sorted(str(t) for t in typed))
        raise OperandError(f"element types {names} do not mix", hint="convert one, for example f32(value)")
    if reals:
        return reals.pop()
    extreme = any(t.is_integer for t in typed)
    if any(isinstance(v, float) and not (extreme and math.isinf(v)) for v in values) and DType.BOOL not in typed:
        return default
    if typed:
        return typed.pop()
    integers = all(isinstance(v, Index) or is_integer(v) for v in values)
    return DType.I32 if integers else default


def scalar_call(name: str, arguments: tuple[AnyValue, ...], default: DType) -> Scalar:
    """A scalar function on arguments brought to one element type."""
    function = FUNCTIONS[name]
    if len(arguments) != function.arity:
        raise OperandError(f"`{name}` takes {function.arity} arguments; found {len(arguments)}")
    if name == "where":
        condition, *rest = arguments
        if isinstance(condition, bool):
            return to_scalar(rest[0 if condition else 1], common_dtype(tuple(rest), default))
        test = to_scalar(condition, DType.BOOL)
        if test.dtype is not DType.BOOL:
            raise OperandError(f"`where` takes a condition first; found {describe(condition)}")
        dtype = common_dtype(tuple(rest), default)
        return call("where", test, *(_adapted(v, dtype) for v in rest))
    dtype = common_dtype(arguments, DType.F32 if name == "complex" else default)
    if name == "complex":
        return _complex(arguments, dtype)
    if name in ONLY_COMPLEX and not dtype.is_complex:
        raise OperandError(f"`{name}` takes complex numbers; found {dtype}", hint="convert with c64(value)")
    if name == "pow" and dtype.is_complex:
        return _whole_power(*arguments)
    if dtype.is_complex:
        require_complex(name)
    if name in ("div", "floordiv", "mod") and is_zero(arguments[1]):
        raise division_by_zero()
    if name in ("div", "mod") and dtype.is_integer:
        name = "floordiv" if name == "div" else "mod"
    if name in REAL and not dtype.rounds:
        if any(isinstance(v, SCALARS) and not isinstance(v, Index) for v in arguments):
            raise OperandError(f"`{name}` takes real numbers; found {dtype}", hint="convert with f32(value)")
        dtype = default
    if name == "xor" and not dtype.is_integer:
        raise OperandError(f"`xor` takes integers; found {dtype}", hint="convert with i32(value)")
    if name in ("and", "or", "not") and dtype is not DType.BOOL:
        raise OperandError(f"`{name}` takes truth values; found {dtype}")
    if name not in ("and", "or", "not", "eq", "ne") and dtype is DType.BOOL:
        raise OperandError(f"`{name}` takes numbers; found truth values", hint="convert with f32(value)")
    scalars = tuple(_adapted(v, dtype) for v in arguments)
    if name == "pow":
        scalars = (scalars[0], scalars[1])
    return call(name, *scalars, dtype=function.result.of(dtype))


def is_zero(value: AnyValue) -> bool:
    number = value.number if isinstance(value, Const) else value
    return isinstance(number, int | float | complex) and not isinstance(number, bool) and number == 0


def require_complex(name: str) -> None:
    """Raises OperandError for a function or reduction that complex numbers do not have."""
    if name not in OF_COMPLEX and name not in ("sum", "prod", "mean"):
        ordered = name in ("max", "min", "lt", "le", "gt", "ge", "argmax", "argmin", "sign")
        hint = "compare abs(z) or real(z)" if ordered else "take real(z), imag(z), abs(z) or angle(z)"
        reason = "complex numbers have no order" if ordered else "it takes real numbers"
        raise OperandError(f"no `{name}` of c64: {reason}", hint=hint, name="complex-number")


def convert(value: AnyValue, dtype: DType, default: DType) -> Scalar:
    """`dtype(value)`. Raises OperandError for the real number of a complex one."""
    if isinstance(value, int | float) and dtype is not DType.BOOL:
        require_fit(math.trunc(value) if dtype.is_integer and math.isfinite(value) else value, dtype)
    scalar = as_expr(value, default)
    if scalar.dtype.is_complex and not dtype.is_complex:
        raise OperandError(f"a c64 is no {dtype}", hint="take real(z), imag(z) or abs(z)", name="complex-number")
    return _lifted(scalar) if dtype.is_complex else call("cast", scalar, dtype=dtype)


def _complex(parts: tuple[AnyValue, ...], dtype: DType) -> Scalar:
    if dtype is not DType.F32 and not dtype.is_integer:
        raise OperandError(f"`complex` takes two parts of type f32; found {dtype}", hint="convert with f32(value)")
    re, im = (_adapted(part, DType.F32) for part in parts)
    if isinstance(re, Const) and isinstance(im, Const):
        return Const(complex(cast(float, re.number), cast(float, im.number)), DType.C64)
    return call("complex", re, im)


def _whole_power(base: AnyValue, exponent: AnyValue) -> Scalar:
    """z**n as products by repeated squaring."""
    power = exponent.number if isinstance(exponent, Const) else exponent
    if not isinstance(power, int | float) or not abs(power) <= 64 or power != int(power):
        message = "a c64 has powers with whole numbers up to 64 only"
        raise OperandError(message, hint="write exp(w*complex(log(abs(z)), angle(z)))", name="complex-number")
    square, result = to_scalar(base, DType.C64), cast("Scalar", Const(1 + 0j, DType.C64))
    for digit in reversed(f"{abs(int(power)):b}"):
        if digit == "1":
            result = square if isinstance(result, Const) else call("mul", result, square)
        square = call("mul", square, square)
    return call("div", Const(1 + 0j, DType.C64), result) if power < 0 else result


def _lifted(scalar: Scalar) -> Scalar:
    """A real number as a complex one."""
    if scalar.dtype.is_complex:
        return scalar
    if isinstance(scalar, Const):
        return Const(complex(scalar.number), DType.C64)
    return call("cast", scalar, dtype=DType.C64)


REAL = frozenset("exp expm1 log log1p sqrt rsqrt erf sigmoid sin cos tan asin acos atan sinh cosh tanh atan2".split())


def _adapted(value: AnyValue, dtype: DType) -> Scalar:
    """The value in element type `dtype`, which it must equal or be an integer for."""
    scalar = to_scalar(value, dtype)
    if dtype.is_complex and (scalar.dtype.is_integer or scalar.dtype is DType.F32):
        return _lifted(scalar)
    converts = scalar.dtype.is_integer and dtype is not DType.BOOL and scalar.dtype is not dtype
    return call("cast", scalar, dtype=dtype) if converts else scalar


def to_integer(value: AnyValue) -> IntExpr:
    """An index position. Raises OperandError for a value that is not an integer."""
    match value:
        case bool():
            raise OperandError("an index is an integer; found a truth value")
        case int() | IntExpr():
            return IntExpr.of(value)
        case Index(inner):
            return inner
        case Const(number, dtype) if dtype.is_integer:
            return IntExpr.constant(int(number))  # type: ignore[arg-type]
        case Call(name, arguments, dtype) if dtype.is_integer and name in _INTEGER:
            return _INTEGER[name](*(to_integer(a) for a in arguments))
        case Call() | Const() if not value.dtype.is_integer:
            raise OperandError(f"an index is an integer; found {describe(value)}", hint="write i32(floor(value))")
        case _ if isinstance(value, SCALARS):
            if not value.dtype.is_integer:
                raise OperandError(f"an index is an integer; found {describe(value)}", hint="write i32(floor(value))")
            return IntExpr.atom(Computed(value))
        case _:
            raise OperandError(f"an index is an integer; found {describe(value)}")


_INTEGER: dict[str, Callable[..., IntExpr]] = {
    "add": IntExpr.__add__,
    "sub": IntExpr.__sub__,
    "mul": IntExpr.__mul__,
    "floordiv": IntExpr.__floordiv__,
    "mod": IntExpr.__mod__,
    "min": IntExpr.minimum,
    "max": IntExpr.maximum,
    "neg": IntExpr.__neg__,
}


# --- signs and bodies -------------------------------------------------------------------------------------------------


def negate(value: AnyValue) -> AnyValue:
    match value:
        case bool():
            raise OperandError("`-` takes a number; found a truth value")
        case int() | float():
            return -value
        case IntExpr():
            return simplified(-value)
        case Const(number, dtype) if dtype is not DType.BOOL:
            return Const(-number, dtype)
        case _ if isinstance(value, SCALARS):
            return call("neg", value)
        case _:
            raise OperandError(f"`-` takes a number; found {describe(value)}")


def as_expr(value: AnyValue, dtype: DType) -> Expr:
    """The body of a nest: of element type `dtype` unless it has one of its own."""
    return _adapted(value, dtype) if isinstance(value, Index) else to_scalar(value, dtype)


# --- shapes -----------------------------------------------------------------------------------------------------------


def broadcast(left: tuple[IntExpr, ...], right: tuple[IntExpr, ...]) -> tuple[IntExpr, ...]:
    """NumPy's broadcasting of two shapes; OperandError names the dimensions that disagree."""
    rank = max(len(left), len(right))
    a = (ONE,) * (rank - len(left)) + left
    b = (ONE,) * (rank - len(right)) + right
    result: list[IntExpr] = []
    for x, y in zip(a, b, strict=True):
        if x != y and ONE not in (x, y):
            raise OperandError(f"{show_shape(left)} and {show_shape(right)} disagree in {x} and {y}")
        result.append(y if x == ONE else x)
    return tuple(result)


def show_shape(shape: tuple[IntExpr, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
