"""The exactness verifier catches rewrites that break their own claim, and lets honest ones pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from mercer.ir.index import Read as Element, transform
from mercer.ir.nests import Nest, Nests
from mercer.passes.exactness import ExactnessError
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext, RewritePass, run_passes
from mercer.passes.patterns import Match, any_node, constant, node, value
from mercer.passes.pipeline import parse
from mercer.passes.rewrite import Builder, Outcome, Rewrite

Read = Callable[[str], Any]


@dataclass(frozen=True)
class One(RewritePass):
    """A pass of one rewrite, for planting faults."""

    name: ClassVar[str] = "one"
    rewrite: Rewrite | None = None

    def rewrites(self) -> Sequence[Rewrite]:
        assert self.rewrite is not None
        return (self.rewrite,)


def attempt(model: Read, text: str, rewrite: Rewrite, verify_each: bool = True) -> PassContext:
    program = model(text)
    context = program.context(program.weights(), verify_each)
    run_passes(program.graph, (*parse("bind"), One(rewrite)), context)
    assert context.reports[-1].hits
    return context


def keep(match: Match, _: Builder) -> Outcome:
    return match["x"]


def without_eps(match: Match, build: Builder) -> Outcome:
    return build.node("batch_norm", match.root.operands, dict(match.root.attributes) | {"eps": 0.0})


def scaled_without_eps(match: Match, build: Builder) -> Outcome:
    mean, variance, weight, bias = (match.array(name).astype(np.float64) for name in "mvwb")
    scale = weight / np.sqrt(variance)
    factor = build.constant(scale.astype(np.float32)[:, None])
    shift = build.constant((bias - mean * scale).astype(np.float32))
    return build.node("bias_add", (build.node("mul", (match["x"], factor)), shift))


def add_right_first(match: Match, build: Builder) -> Outcome:
    return build.node("add", (match["x"], build.node("add", (match["y"], match["z"]))))


def times_zero(match: Match, build: Builder) -> Outcome:
    return build.node("mul", (match["x"], build.constant(np.zeros(4, np.float32))))


def on(expression: str) -> str:
    return f"model M(x: f32[N, 4], y: f32[N, 4], z: f32[N, 4]) -> f32[N, 4] {{ return {expression} }}"


BATCH_NORM = "model M(x: f32[N, 3, 4]) -> f32[N, 3, 4] { return BatchNorm(x) }"
KNOWN_BATCH_NORM = node("batch_norm", value("x"), *map(constant, "mvwb"))
LEFT_FIRST = node("add", node("add", value("x"), value("y")), value("z"))
PLUS_CONSTANT = node("add", value("x"), constant("c"))
DIFFERENCE = node("sub", value("x"), value("x"))
SINE, CLAMP = node("sin", value("x")), node("clamp", value("x"))

FAULTS = {
    "drops eps": (BATCH_NORM, Rewrite("fault", any_node("batch_norm"), without_eps, Exactness.REAL)),
    "folds without eps": (BATCH_NORM, Rewrite("fault", KNOWN_BATCH_NORM, scaled_without_eps, Exactness.REAL)),
    "adds in another order": (on("x + y + z"), Rewrite("fault", LEFT_FIRST, add_right_first, Exactness.BIT)),
    "loses the sign of zero": (on("x + 0.0"), Rewrite("fault", PLUS_CONSTANT, keep, Exactness.BIT)),
    "gains a sign of zero": (on("x - x"), Rewrite("fault", DIFFERENCE, times_zero, Exactness.BIT)),
    "forgets negative numbers": (on("abs(x)"), Rewrite("fault", node("abs", value("x")), keep, Exactness.REAL)),
    "holds for small numbers": (
        on("clamp(x; low = -50.0, high = 50.0)"),
        Rewrite("fault", CLAMP, keep, Exactness.REAL),
    ),
    "exceeds its bound": (on("sin(x)"), Rewrite("fault", SINE, keep, Exactness.APPROX, bound=1e-3)),
    "declares no bound": (on("sin(x)"), Rewrite("fault", SINE, keep, Exactness.APPROX)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults(model: Read, name: str) -> None:
    text, rewrite = FAULTS[name]
    with pytest.raises(ExactnessError) as error:
        attempt(model, text, rewrite)
    assert "the rewrite fault is not" in error.value.message
    assert "(model.mer:1:" in error.value.message
    attempt(model, text, rewrite, verify_each=False)


@pytest.mark.parametrize(
    ("text", "rewrite"),
    [
        (on("x + y + z"), Rewrite("honest", LEFT_FIRST, add_right_first, Exactness.REAL)),
        (on("x + 1e-3"), Rewrite("honest", PLUS_CONSTANT, keep, Exactness.APPROX, bound=1.0)),
        (on("x + (-0.0)"), Rewrite("honest", PLUS_CONSTANT, keep, Exactness.BIT)),
    ],
)
def test_honest_rewrites(model: Read, text: str, rewrite: Rewrite) -> None:
    context = attempt(model, text, rewrite)
    assert context.ledger.exactness() is rewrite.exactness


@dataclass(frozen=True)
class LosePadding(Pass):
    """A fault on nests: padding becomes one where it was zero, and no rewrite says so."""

    name: ClassVar[str] = "lose_padding"
    level: ClassVar[Level] = Level.NESTS

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        def change(expr: Any) -> Any:
            padded = isinstance(expr, Element) and expr.pad is not None
            return replace(expr, pad=replace(expr.pad, number=1.0)) if padded else expr

        bodies = [(s, transform(s.body, change)) for s in nests.statements if isinstance(s, Nest)]
        return replace(nests, statements=tuple(replace(s, body=body) for s, body in bodies))


def test_a_pass_on_nests_is_checked_as_a_whole(model: Read) -> None:
    program = model("model M(x: f32[N, 1, 4, 4]) -> f32[N, 2, 4, 4] { return Conv2d(x; 2, 3, pad = 1) }")
    passes = (*parse("bind,lower"), LosePadding())
    with pytest.raises(ExactnessError, match="the pass lose_padding is not bit"):
        run_passes(program.graph, passes, program.context(program.weights()))


def test_a_program_that_cannot_be_evaluated_is_a_warning(model: Read) -> None:
    program = model("model M(i: i32[N], table: f32[4, 2]) -> f32[N, 2] { return -(-embedding(i + 10, table)) }")
    context = program.context()
    run_passes(program.graph, parse("lower,fuse"), context)
    assert [w.message for w in context.ledger.warnings] == ["exactness not verified: no sample could be evaluated"]
