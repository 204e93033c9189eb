"""Functions of values that are known at compile time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from mercer.frontend.arithmetic import OperandError
from mercer.frontend.values import AnyValue, describe, is_integer, simplified
from mercer.ir.integers import IntExpr


def _items(value: Any) -> tuple[Any, ...] | None:
    return cast("tuple[Any, ...]", value) if isinstance(value, tuple) else None


def _numbers(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | IntExpr):
            raise OperandError(f"`{name}` takes numbers; found {describe(value)}")


def _list(value: Any, count: Any) -> tuple[Any, ...]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise OperandError(f"`list` takes a value and how often; found {describe(count)} for the latter")
    items = _items(value)
    if items is None:
        return (value,) * count
    if len(items) != count:
        raise OperandError(f"a number or a list of {count} is needed; found a list of {len(items)}")
    return items


def _len(value: Any) -> int:
    items = _items(value)
    if items is None:
        raise OperandError(f"`len` takes a list; found {describe(value)}")
    return len(items)


def _extremum(kind: str) -> Callable[..., Any]:
    def choose(*values: Any) -> Any:
        items = _items(values[0]) if len(values) == 1 else values
        items = values if items is None else items
        if not items:
            raise OperandError(f"`{kind}` of nothing", name="out-of-range")
        _numbers(kind, items)
        if any(isinstance(v, IntExpr) for v in items):
            result = IntExpr.of(items[0])
            for item in items[1:]:
                result = result.minimum(item) if kind == "min" else result.maximum(item)
            return simplified(result)
        return min(items) if kind == "min" else max(items)

    return choose


def _where(condition: Any, then: Any, otherwise: Any) -> Any:
    if not isinstance(condition, bool):
        raise OperandError(f"`where` takes a condition first; found {describe(condition)}")
    return then if condition else otherwise


def _product(values: Any) -> Any:
    items = _items(values)
    if items is None:
        raise OperandError(f"`prod` takes a list; found {describe(values)}")
    _numbers("prod", items)
    if all(is_integer(v) for v in items):
        result = IntExpr.constant(1)
        for value in items:
            result = result * value
        return simplified(result)
    return math.prod(items)


def _clamp(value: Any, low: Any, high: Any) -> Any:
    return _extremum("min")(_extremum("max")(value, low), high)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _rsqrt(x: float) -> float:
    return 1.0 / math.sqrt(x)


def _sign(x: float) -> float | int:
    return x if x != x else type(x)((x > 0) - (x < 0))


STATIC_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "list": _list,
    "len": _len,
    "prod": _product,
    "min": _extremum("min"),
    "max": _extremum("max"),
    "clamp": _clamp,
    "abs": abs,
    "int": int,
    "float": float,
    "sqrt": math.sqrt,
    "rsqrt": _rsqrt,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "atan2": math.atan2,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "pow": math.pow,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "trunc": math.trunc,
    "sign": _sign,
    "gamma": math.gamma,
    "lgamma": math.lgamma,
    "erf": math.erf,
    "where": _where,
}
STATIC_CONSTANTS: dict[str, float] = {"pi": math.pi, "inf": math.inf}

_ARITY = {"list": 2, "atan2": 2, "pow": 2, "clamp": 3, "where": 3}
_LISTS = frozenset(("list", "len", "prod", "min", "max", "clamp", "where"))
_DOMAINS = {
    "sqrt": "numbers from 0 up",
    "rsqrt": "numbers above 0",
    "log": "numbers above 0",
    "log1p": "numbers above -1",
    "asin": "numbers from -1 to 1",
    "acos": "numbers from -1 to 1",
    "pow": "a negative base with whole exponents only, and 0 with exponents from 0 up",
    "gamma": "no whole numbers below 1",
    "lgamma": "no whole numbers below 1",
}


def static_call(name: str, arguments: tuple[AnyValue, ...]) -> AnyValue:
    """A function of compile-time values. Raises OperandError: wrong arguments, or numbers outside of the domain."""
    arity = None if name in ("min", "max") else _ARITY.get(name, 1)
    if arity not in (None, len(arguments)):
        raise OperandError(f"`{name}` takes {arity} argument{'s' * (arity != 1)}; found {len(arguments)}")
    if name not in _LISTS:
        for argument in arguments:
            if isinstance(argument, IntExpr):
                hint = "give the dimension a number"
                raise OperandError(
                    f"`{name}` takes a known number here; found {describe(argument)}", hint, "not-static"
                )
            if not isinstance(argument, int | float):
                raise OperandError(f"`{name}` takes numbers; found {describe(argument)}")
    shown = ", ".join(str(a) for a in arguments)
    try:
        result = STATIC_FUNCTIONS[name](*arguments)
    except OverflowError as error:
        if all(math.isfinite(a) for a in arguments if isinstance(a, int | float)):
            raise OperandError(f"`{name}` of {shown} is too large", name="out-of-range") from error
        raise outside(name, shown) from error
    except (ValueError, ZeroDivisionError) as error:
        raise outside(name, shown) from error
    except TypeError as error:  # a dimension beside a real number
        found = " and ".join(describe(a) for a in arguments)
        raise OperandError(f"`{name}` does not take {found}") from error
    if isinstance(result, float) and math.isnan(result):
        raise outside(name, shown)
    return result


def outside(name: str, shown: str) -> OperandError:
    """The error for numbers that a function has no value at."""
    return OperandError(
        f"`{name}` has no value at {shown}", f"it takes {_DOMAINS.get(name, 'finite numbers')}", "domain-error"
    )
