"""The derivative of every scalar function, and the arithmetic that writes derivatives down.

Reverse mode: for y = f(a, b) and the cotangent g = dL/dy of a real L, a rule gives dL/da and dL/db. Cotangents of
complex numbers are dL/d(re) + i dL/d(im), as in PyTorch, so that dL/dz = g * conj(f'(z)) for a holomorphic f. Where a
derivative jumps, one side is taken: 0 for `abs` at 0; `max` and `min` give everything to the second argument when both
are equal, so that max(x, 0) has the derivative 0 at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mercer.ir.index import Call, Const, Expr, call
from mercer.ir.types import DType


@dataclass(frozen=True)
class Cotangent:
    """`value` where all conditions hold, 0 elsewhere, whatever `value` is there."""

    value: Expr
    conditions: tuple[Expr, ...] = ()

    def where(self, *conditions: Expr) -> Cotangent:
        """With more conditions; those joined by `and` become several."""
        parts = list(self.conditions)
        for condition in conditions:
            parts += _conjuncts(condition)
        return Cotangent(self.value, tuple(dict.fromkeys(parts)))

    def times(self, factor: Expr) -> Cotangent:
        return Cotangent(times(self.value, factor), self.conditions)

    def map(self, function: str, dtype: DType | None = None) -> Cotangent:
        """A linear function of one argument."""
        return Cotangent(call(function, self.value, dtype=dtype), self.conditions)

    @property
    def expr(self) -> Expr:
        return chosen(self.conditions, self.value)


def _conjuncts(condition: Expr) -> tuple[Expr, ...]:
    if isinstance(condition, Call) and condition.function == "and":
        return tuple(part for argument in condition.arguments for part in _conjuncts(argument))
    return (condition,)


def total(cotangents: list[Cotangent]) -> Cotangent:
    """The sum of one or more."""
    first = cotangents[0]
    if all(c.conditions == first.conditions for c in cotangents):
        value = first.value
        for other in cotangents[1:]:
            value = call("add", value, other.value)
        return Cotangent(value, first.conditions)
    return total([Cotangent(c.expr) for c in cotangents])


def number(value: float, dtype: DType) -> Const:
    """A literal of an element type."""
    return Const(complex(value) if dtype.is_complex else float(value), dtype)


def chosen(conditions: Sequence[Expr], value: Expr, otherwise: Expr | None = None) -> Expr:
    """`value` where all conditions hold, else 0 or what is given."""
    if not conditions:
        return value
    every = conditions[0]
    for other in conditions[1:]:
        every = call("and", every, other)
    return call("where", every, value, otherwise or number(0, value.dtype))


def is_number(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and expr.number == value


def times(left: Expr, right: Expr) -> Expr:
    """The product, without factors of 1."""
    if is_number(left, 1):
        return right
    return left if is_number(right, 1) else call("mul", left, right)


def conjugate(expr: Expr) -> Expr:
    """The conjugate of a complex number; a real one stays."""
    return call("conj", expr) if expr.dtype.is_complex else expr


# --- rules ------------------------------------------------------------------------------------------------------------

Parts: TypeAlias = tuple[Cotangent | None, ...]
Rule: TypeAlias = Callable[[Cotangent, Call], Parts]
"""(the cotangent of a call, the call) -> those of its arguments, None for 0."""


def _unary(factor: Callable[[Expr, Expr], Expr]) -> Rule:
    """From the derivative, a function of argument and value."""

    def rule(g: Cotangent, y: Call) -> Parts:
        return (g.times(conjugate(factor(y.arguments[0], y))),)

    return rule


def _flat(_: Cotangent, y: Call) -> Parts:
    """Functions whose derivative is 0 wherever it exists."""
    return (None,) * len(y.arguments)


def _plus(expr: Expr, value: float) -> Expr:
    return call("add", expr, number(value, expr.dtype))


def _minus_from(value: float, expr: Expr) -> Expr:
    return call("sub", number(value, expr.dtype), expr)


def _scaled(value: float, expr: Expr) -> Expr:
    return call("mul", number(value, expr.dtype), expr)


def _over(value: float, expr: Expr) -> Expr:
    return call("div", number(value, expr.dtype), expr)


def _square(expr: Expr) -> Expr:
    return call("mul", expr, expr)


def _mul(g: Cotangent, y: Call) -> Parts:
    a, b = y.arguments
    return g.times(conjugate(b)), g.times(conjugate(a))


def _div(g: Cotangent, y: Call) -> Parts:
    b = conjugate(y.arguments[1])
    quotient = Cotangent(call("div", g.value, b), g.conditions)
    return quotient, quotient.times(conjugate(y)).map("neg")


def _mod(g: Cotangent, y: Call) -> Parts:
    return g, g.times(call("floordiv", *y.arguments)).map("neg")


def _pow(g: Cotangent, y: Call) -> Parts:
    """d/db = a**b * log(a), 0 at a = 0."""
    a, b = y.arguments
    if not isinstance(b, Const):
        positive = call("ne", a, number(0, a.dtype))
        lower = call("pow", a, call("sub", b, number(1, b.dtype)))
        return g.times(call("mul", b, lower)), g.times(call("mul", y, call("log", a))).where(positive)
    if b.number == 0:
        return None, None
    n = float(b.number.real)
    power = number(1, a.dtype) if n == 1 else a if n == 2 else call("pow", a, number(n - 1, b.dtype))
    return g.times(times(number(n, a.dtype), power)), None


def _extremum(comparison: str) -> Rule:
    def rule(g: Cotangent, y: Call) -> Parts:
        first = call(comparison, *y.arguments)
        return g.where(first), g.where(call("not", first))

    return rule


def _atan2(g: Cotangent, y: Call) -> Parts:
    a, b = y.arguments
    length = call("add", _square(a), _square(b))
    return g.times(call("div", b, length)), g.times(call("div", a, length)).map("neg")


def _where(g: Cotangent, y: Call) -> Parts:
    condition = y.arguments[0]
    return None, g.where(condition), g.where(call("not", condition))


def _cast(g: Cotangent, y: Call) -> Parts:
    source = y.arguments[0].dtype
    if not source.rounds:
        return (None,)
    if g.value.dtype.is_complex and not source.is_complex:
        g = g.map("real")
    return (g if g.value.dtype is source else g.map("cast", source),)


def _abs(g: Cotangent, y: Call) -> Parts:
    x = y.arguments[0]
    if not x.dtype.is_complex:
        return (g.times(call("sign", x)),)
    direction = call("div", x, call("cast", y, dtype=x.dtype))
    return (g.map("cast", x.dtype).times(direction).where(call("ne", y, number(0, y.dtype))),)


def _complex(g: Cotangent, _: Call) -> Parts:
    return g.map("real"), g.map("imag")


def _real(g: Cotangent, y: Call) -> Parts:
    return (Cotangent(call("complex", g.value, number(0, y.dtype)), g.conditions),)


def _imag(g: Cotangent, y: Call) -> Parts:
    return (Cotangent(call("complex", number(0, y.dtype), g.value), g.conditions),)


def _angle(g: Cotangent, y: Call) -> Parts:
    """i z / |z|**2."""
    z = y.arguments[0]
    length = call("abs", z)
    turned = call("complex", call("neg", call("imag", z)), call("real", z))
    factor = call("div", turned, call("cast", _square(length), dtype=z.dtype))
    return (g.map("cast", z.dtype).times(factor).where(call("ne", length, number(0, length.dtype))),)


PARTIALS: dict[str, Rule] = {
    "add": lambda g, y: (g, g),
    "sub": lambda g, y: (g, g.map("neg")),
    "mul": _mul,
    "div": _div,
    "floordiv": _flat,
    "mod": _mod,
    "pow": _pow,
    "min": _extremum("lt"),
    "max": _extremum("gt"),
    "atan2": _atan2,
    "xor": _flat,
    "neg": lambda g, y: (g.map("neg"),),
    "abs": _abs,
    "complex": _complex,
    "real": _real,
    "imag": _imag,
    "angle": _angle,
    "conj": lambda g, y: (g.map("conj"),),
    "sign": _flat,
    "floor": _flat,
    "ceil": _flat,
    "round": _flat,
    "trunc": _flat,
    "exp": _unary(lambda x, y: y),
    "expm1": _unary(lambda x, y: call("exp", x)),
    "log": _unary(lambda x, y: _over(1, x)),
    "log1p": _unary(lambda x, y: _over(1, _plus(x, 1))),
    "sqrt": _unary(lambda x, y: _over(0.5, y)),
    "rsqrt": _unary(lambda x, y: _scaled(-0.5, call("mul", y, _square(y)))),
    "erf": _unary(lambda x, y: _scaled(2 / math.sqrt(math.pi), call("exp", call("neg", _square(x))))),
    "sigmoid": _unary(lambda x, y: call("mul", y, _minus_from(1, y))),
    "sin": _unary(lambda x, y: call("cos", x)),
    "cos": _unary(lambda x, y: call("neg", call("sin", x))),
    "tan": _unary(lambda x, y: _plus(_square(y), 1)),
    "asin": _unary(lambda x, y: call("rsqrt", _minus_from(1, _square(x)))),
    "acos": _unary(lambda x, y: call("neg", call("rsqrt", _minus_from(1, _square(x))))),
    "atan": _unary(lambda x, y: _over(1, _plus(_square(x), 1))),
    "sinh": _unary(lambda x, y: call("cosh", x)),
    "cosh": _unary(lambda x, y: call("sinh", x)),
    "tanh": _unary(lambda x, y: _minus_from(1, _square(y))),
    "eq": _flat,
    "ne": _flat,
    "lt": _flat,
    "le": _flat,
    "gt": _flat,
    "ge": _flat,
    "and": _flat,
    "or": _flat,
    "not": _flat,
    "where": _where,
    "cast": _cast,
}
"""One rule for every entry of `index.FUNCTIONS`."""


def cotangents(expr: Call, g: Cotangent) -> Parts:
    """The cotangents of the arguments of a call whose own is `g`; None where they are 0."""
    return PARTIALS[expr.function](g, expr)
