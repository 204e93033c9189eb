"""Identities of scalar functions inside of loop nests."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np

from mercer.ir.functions import EvaluationError, apply
from mercer.ir.index import Call, Const, Expr, call, transform
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import Array, DType
from mercer.passes.cost import statement_cost
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext

Rule: TypeAlias = "Callable[[Call], Expr | None]"
"""A simpler expression of the same value; None where the rule does not apply."""


@dataclass(frozen=True)
class ScalarRewrite:
    """A rule for calls of one function (`*`: of any)."""

    name: str
    function: str
    rule: Rule
    exactness: Exactness


@dataclass(frozen=True)
class Simplify(Pass):
    """Scalar calls become cheaper ones: neutral elements go, small powers become products, calls of literals numbers.

    Needs Nests, gives Nests. Class: bit, except small powers (a product under a sum is not rounded), square roots
    (which differ at -0.0 and -inf) and x + 0.0: real.
    """

    name: ClassVar[str] = "simplify"
    level: ClassVar[Level] = Level.NESTS

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        statements: list[Statement] = []
        for statement in nests.statements:
            if not isinstance(statement, Nest):
                statements.append(statement)
                continue
            start = time.perf_counter()
            hits: Counter[ScalarRewrite] = Counter()
            new = replace(statement, body=transform(statement.body, lambda expr, hits=hits: _simplified(expr, hits)))
            seconds = time.perf_counter() - start
            costs = statement_cost(statement, types), statement_cost(new, types)
            for rewrite, count in hits.items():
                for _ in range(count):
                    context.record_statement(
                        self.name, rewrite.name, new, rewrite.exactness, None, costs, seconds / hits.total()
                    )
            statements.append(new if hits else statement)
        return replace(nests, statements=tuple(statements))


def _simplified(expr: Expr, hits: Counter[ScalarRewrite]) -> Expr:
    """Apply rules to the root until none applies; what is below is simple already."""
    while isinstance(expr, Call):
        for rewrite in REWRITES:
            if rewrite.function in (expr.function, "*") and (new := rewrite.rule(expr)) is not None:
                hits[rewrite] += 1
                expr = new
                break
        else:
            return expr
    return expr


# --- rules ------------------------------------------------------------------------------------------------------------


def _is(expr: Expr, number: float) -> bool:
    """Whether it is this literal, with this sign of zero."""
    if not isinstance(expr, Const) or isinstance(expr.number, bool | complex) or expr.number != number:
        return False
    return math.copysign(1.0, expr.number) == math.copysign(1.0, number)


def _without(neutral: float, position: int) -> Rule:
    """f(x, neutral) -> x, with the neutral element at `position`."""
    return lambda e: e.arguments[1 - position] if _is(e.arguments[position], neutral) else None


def _power(e: Call) -> Expr | None:
    base, exponent = e.arguments
    if not isinstance(exponent, Const) or isinstance(exponent.number, complex):
        return None
    square = call("mul", base, base)
    match exponent.number:
        case 1:
            return base
        case 2:
            return square
        case 3:
            return call("mul", square, base)
        case 4:
            return call("mul", square, square)
        case _:
            return None


def _root(e: Call) -> Expr | None:
    return call("sqrt", e.arguments[0]) if _is(e.arguments[1], 0.5) else None


def _division_by_power_of_two(e: Call) -> Expr | None:
    numerator, divisor = e.arguments
    if not isinstance(divisor, Const) or not isinstance(divisor.number, int | float) or not divisor.dtype.is_float:
        return None
    exact = divisor.number != 0 and abs(math.frexp(divisor.number)[0]) == 0.5 and abs(divisor.number) < 2**14
    return call("mul", numerator, Const(1.0 / divisor.number, divisor.dtype)) if exact else None


def _double_negation(e: Call) -> Expr | None:
    (inner,) = e.arguments
    return inner.arguments[0] if isinstance(inner, Call) and inner.function == "neg" else None


def _chosen(e: Call) -> Expr | None:
    condition, then, otherwise = e.arguments
    if then == otherwise and str(then) == str(otherwise):
        return then
    return (then if condition.number else otherwise) if isinstance(condition, Const) else None


def _own_type(e: Call) -> Expr | None:
    return e.arguments[0] if e.arguments[0].dtype is e.dtype else None


def _clamp_in_i32(e: Call) -> Expr | None:
    """The integer between two bounds of i32, once it has been divided by so much that 32 bits hold it."""
    match e.arguments[0]:
        case Call("min", (Call("max", (inner, Const(int() as low))), Const(int() as high))):
            short = _in_i32(inner) if e.dtype.is_integer and -(2**31) <= low <= high < 2**31 else None
        case _:
            return None
    if short is None:
        return None
    least, most = (Const(number, DType.I32) for number in (low, high))
    return call("cast", call("min", call("max", short, least), most), dtype=e.dtype)


def _in_i32(e: Expr) -> Expr | None:
    match e:
        case Call("floordiv", (_, Const(int() as divisor))) if e.dtype is DType.I64 and divisor >= 2**33:
            return call("cast", e, dtype=DType.I32)
        case Call("add", (inner, Const(int() as number))) if abs(number) < 2**30:
            short = _in_i32(inner)
            is_quotient = isinstance(inner, Call) and inner.function == "floordiv"
            return call("add", short, Const(number, DType.I32)) if short is not None and is_quotient else None
        case _:
            return None


def _computed(e: Call) -> Expr | None:
    """A call of literals, through the reference."""
    if not all(isinstance(argument, Const) for argument in e.arguments):
        return None
    arrays: list[Array] = []
    for argument in e.arguments:
        assert isinstance(argument, Const)
        arrays.append(np.asarray(argument.number).astype(cast(Any, argument.dtype.numpy)))
    try:
        with np.errstate(all="ignore"):
            result = apply(e.function, arrays, e.dtype, e.dtype.numpy)
    except EvaluationError:
        return None
    return Const(result.item(), e.dtype)


REWRITES = (
    ScalarRewrite("literal", "*", _computed, Exactness.BIT),
    ScalarRewrite("mul_one", "mul", _without(1.0, 1), Exactness.BIT),
    ScalarRewrite("one_mul", "mul", _without(1.0, 0), Exactness.BIT),
    ScalarRewrite("div_one", "div", _without(1.0, 1), Exactness.BIT),
    ScalarRewrite("sub_zero", "sub", _without(0.0, 1), Exactness.BIT),
    ScalarRewrite("add_negative_zero", "add", _without(-0.0, 1), Exactness.BIT),
    ScalarRewrite("add_zero", "add", _without(0.0, 1), Exactness.REAL),
    ScalarRewrite("zero_add", "add", _without(0.0, 0), Exactness.REAL),
    ScalarRewrite("small_power", "pow", _power, Exactness.REAL),
    ScalarRewrite("root", "pow", _root, Exactness.REAL),
    ScalarRewrite("div_power_of_two", "div", _division_by_power_of_two, Exactness.BIT),
    ScalarRewrite("double_neg", "neg", _double_negation, Exactness.BIT),
    ScalarRewrite("chosen", "where", _chosen, Exactness.BIT),
    ScalarRewrite("own_type", "cast", _own_type, Exactness.BIT),
    ScalarRewrite("clamp_in_i32", "cast", _clamp_in_i32, Exactness.BIT),
)
"""In the order in which they are tried."""
