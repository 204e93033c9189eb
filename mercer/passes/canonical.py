"""Algebraic identities: programs that mean the same come to look the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.integers import IntExpr
from mercer.ir.types import Array
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, Scope, any_node, constant, node, value
from mercer.passes.rewrite import Builder, Outcome, Rewrite


@dataclass(frozen=True)
class Canonical(RewritePass):
    """Identities of arithmetic, of movement and of repeated functions.

    Needs a Graph. Class: bit, except where the list says real: `x + 0` turns -0.0 into 0.0, and merged constants are
    rounded once instead of twice. `x - x`, `0 * x` and `x / x` stay, since NaN and infinities make them another value.
    """

    name: ClassVar[str] = "canonical"

    def rewrites(self) -> Sequence[Rewrite]:
        return (*NEUTRAL, *REPEATED, *MOVEMENT, *MERGED)


# --- tests ------------------------------------------------------------------------------------------------------------


def is_zero(array: Array) -> bool:
    return array.size > 0 and not np.any(array)


def is_positive_zero(array: Array) -> bool:
    return is_zero(array) and not np.any(np.signbit(array.astype(np.float64)))


def is_negative_zero(array: Array) -> bool:
    return is_zero(array) and bool(np.all(np.signbit(array.astype(np.float64))))


def is_one(array: Array) -> bool:
    return array.size > 0 and bool(np.all(array == 1))


# --- functions --------------------------------------------------------------------------------------------------------


def _keep(match: Match, build: Builder) -> Outcome:
    """The captured x itself, unless broadcasting had made it larger."""
    return match["x"] if match.type("x") == build.type(match.root.name) else None


def _once(match: Match, _: Builder) -> Outcome:
    """f(f(x)) is f(x) for the same f."""
    inner = match.node("inner")
    same = (inner.operator, inner.attributes) == (match.root.operator, match.root.attributes)
    return inner.name if same else None


def _operand(match: Match, _: Builder) -> Outcome:
    """What the root reads."""
    return match.root.operands[0]


def _merge(combine: str) -> Callable[[Match, Builder], Outcome]:
    """f(f(x, a), b) -> f(x, combine(a, b)); the constants meet in a node that folding removes."""

    def function(match: Match, build: Builder) -> Outcome:
        merged = build.node(combine, (match["a"], match["b"]))
        return build.node(match.root.operator, (match["x"], merged))

    return function


def _reshape_once(match: Match, build: Builder) -> Outcome:
    return build.node("reshape", (match["x"],), dict(match.root.attributes))


def _dims(node: Node, rank: int) -> tuple[int, ...]:
    return tuple(d % rank for d in cast(tuple[int, ...], node.attribute("dims")))


def _permute_once(match: Match, build: Builder) -> Outcome:
    rank = match.type("x").rank
    inner, outer = _dims(match.node("inner"), rank), _dims(match.root, rank)
    return build.node("permute", (match["x"],), {"dims": tuple(inner[d] for d in outer)})


def _is_identity_permute(node: Node, scope: Scope) -> bool:
    rank = scope.type(node.name).rank
    return _dims(node, rank) == tuple(range(rank))


def _keeps_type(node: Node, scope: Scope) -> bool:
    return scope.type(node.name) == scope.type(node.operands[0])


def _is_whole_slice(node: Node, scope: Scope) -> bool:
    return _keeps_type(node, scope) and _number(node.attribute("start")) == 0 and _number(node.attribute("step")) == 1


def _number(value: AttributeValue) -> AttributeValue:
    return value.value if isinstance(value, IntExpr) and value.is_constant else value


# --- the lists --------------------------------------------------------------------------------------------------------

_X = value("x")

IDEMPOTENT = ("relu", "relu6", "abs", "sign", "floor", "ceil", "round", "trunc", "clamp")

NEUTRAL = (
    Rewrite(
        "add_negative_zero", node("add", _X, constant("c", is_negative_zero), commutative=True), _keep, Exactness.BIT
    ),
    Rewrite("add_zero", node("add", _X, constant("c", is_zero), commutative=True), _keep, Exactness.REAL),
    Rewrite("sub_zero", node("sub", _X, constant("c", is_positive_zero)), _keep, Exactness.BIT),
    Rewrite("mul_one", node("mul", _X, constant("c", is_one), commutative=True), _keep, Exactness.BIT),
    Rewrite("div_one", node("div", _X, constant("c", is_one)), _keep, Exactness.BIT),
    Rewrite("pow_one", node("pow", _X, constant("c", is_one)), _keep, Exactness.BIT),
    Rewrite("bias_add_zero", node("bias_add", _X, constant("c", is_zero)), _keep, Exactness.REAL),
)
"""Neutral elements. x + 0.0 is 0.0 for x = -0.0, hence real; x + -0.0 and x - 0.0 keep every bit."""

REPEATED = (
    Rewrite("double_neg", node("neg", node("neg", _X)), _keep, Exactness.BIT),
    Rewrite("abs_of_neg", node("abs", node("neg", _X)), lambda m, b: b.node("abs", (m["x"],)), Exactness.BIT),
    Rewrite(
        "idempotent",
        node(IDEMPOTENT, node(IDEMPOTENT, _X, capture="inner")),
        _once,
        Exactness.BIT,
    ),
)
"""Functions of themselves."""

MOVEMENT = (
    Rewrite("reshape_of_reshape", node("reshape", node("reshape", _X)), _reshape_once, Exactness.BIT),
    Rewrite("same_shape", any_node("reshape", test=_keeps_type), _operand, Exactness.BIT),
    Rewrite("permute_of_permute", node("permute", node("permute", _X, capture="inner")), _permute_once, Exactness.BIT),
    Rewrite("identity_permute", any_node("permute", test=_is_identity_permute), _operand, Exactness.BIT),
    Rewrite("same_dtype", any_node("cast", test=_keeps_type), _operand, Exactness.BIT),
    Rewrite("no_dropout", any_node("dropout"), _operand, Exactness.BIT),
    Rewrite("whole_slice", any_node("slice_axis", test=_is_whole_slice), _operand, Exactness.BIT),
)
"""Movement that moves nothing, or twice."""

MERGED = (
    Rewrite(
        "merge_biases",
        node("bias_add", node("bias_add", _X, constant("a"), single=True), constant("b")),
        _merge("add"),
        Exactness.REAL,
    ),
    Rewrite(
        "merge_terms",
        node("add", node("add", _X, constant("a"), single=True), constant("b")),
        _merge("add"),
        Exactness.REAL,
    ),
    Rewrite(
        "merge_factors",
        node("mul", node("mul", _X, constant("a"), single=True), constant("b")),
        _merge("mul"),
        Exactness.REAL,
    ),
)
"""Constants that meet: one rounding in place of two."""
