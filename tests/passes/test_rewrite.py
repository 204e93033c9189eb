"""The driver: fixpoint, budget, names, refusals and patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mercer.ir.graph import Graph
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match, any_node, constant, node, value
from mercer.passes.rewrite import Builder, Outcome, Outcomes, Refusal, Rewrite, apply_rewrites

Read = Callable[[str], Any]


def to(operator: str, capture: str = "x") -> Callable[[Match, Builder], Outcome]:
    return lambda match, build: build.node(operator, (match[capture],))


def keep(match: Match, _: Builder) -> Outcome:
    return match["x"]


def rewrite(name: str, pattern: Any, function: Callable[[Match, Builder], Outcome]) -> Rewrite:
    return Rewrite(name, pattern, function, Exactness.REAL)


def run(model: Read, body: str, *rewrites: Rewrite, max_hits: int | None = None) -> Outcomes:
    program = model(f"model M(x: f32[N, 4], z: f32[N, 4]) -> f32[N, 4] {{ return {body} }}")
    return apply_rewrites(program.graph, rewrites, program.library, "test", max_hits=max_hits)


def shown(graph: Graph) -> list[str]:
    return [f"{n.name} = {n.operator}({', '.join(n.operands)})" for n in graph.nodes]


def test_runs_to_a_fixpoint_and_keeps_names(model: Read) -> None:
    exp_to_sin = rewrite("exp_to_sin", node("exp", value("x")), to("sin"))
    sin_to_cos = rewrite("sin_to_cos", node("sin", value("x")), to("cos"))
    outcome = run(model, "relu(exp(x))", sin_to_cos, exp_to_sin)
    assert shown(outcome.graph) == ["exp = cos(x)", "relu = relu(exp)"]
    assert [(e.rewrite, e.node) for e in outcome.entries] == [("exp_to_sin", "exp"), ("sin_to_cos", "exp")]
    assert outcome.statistics["sin_to_cos"].hits == 1
    assert not outcome.exhausted


def test_the_budget_ends_rewrites_that_undo_each_other(model: Read) -> None:
    there = rewrite("there", node("exp", value("x")), to("sin"))
    back = rewrite("back", node("sin", value("x")), to("exp"))
    outcome = run(model, "exp(x)", there, back, max_hits=7)
    assert outcome.exhausted
    assert len(outcome.entries) == 7


def test_what_loses_its_last_use_goes(model: Read) -> None:
    skip = rewrite("skip", node("exp", node("sin", node("cos", value("x")))), keep)
    assert shown(run(model, "relu(exp(sin(cos(x))))", skip).graph) == ["relu = relu(x)"]
    shared = run(model, "exp(sin(cos(x))) + cos(x)", skip).graph
    assert shown(shared) == ["cos.1 = cos(x)", "add = add(x, cos.1)"]


def test_a_refusal_is_recorded_once_with_its_reason(model: Read) -> None:
    never = rewrite("never", any_node("exp"), lambda _, __: Refusal("out of budget"))
    again = rewrite("again", node("sin", value("x")), to("cos"))
    outcome = run(model, "sin(exp(x))", never, again)
    refused = [e for e in outcome.entries if not e.fired]
    assert [(e.rewrite, e.node, e.reason) for e in refused] == [("never", "exp", "out of budget")]
    assert outcome.statistics["never"].refused == 1


def test_a_refusal_is_forgotten_when_the_rewrite_fires_later(model: Read) -> None:
    def after_sin_is_gone(match: Match, build: Builder) -> Outcome:
        feeder = match.scope.producer(match["x"])
        return (
            Refusal("reads sin")
            if feeder is not None and feeder.operator == "sin"
            else build.node("neg", (match["x"],))
        )

    late = rewrite("late", node("exp", value("x")), after_sin_is_gone)
    outcome = run(model, "exp(sin(x))", late, rewrite("sin_to_cos", node("sin", value("x")), to("cos")))
    assert all(e.fired for e in outcome.entries)


def test_an_output_may_become_an_input(model: Read) -> None:
    assert run(model, "exp(x)", rewrite("drop", node("exp", value("x")), keep)).graph.outputs == ("x",)


def test_a_change_of_type_is_a_bug_of_the_rewrite(model: Read) -> None:
    wrong = rewrite("wrong", node("exp", value("x")), lambda m, b: b.node("sum", (m["x"],)))
    with pytest.raises(AssertionError, match="wrong changes %exp"):
        run(model, "exp(x)", wrong)


@pytest.mark.parametrize(
    ("body", "pattern", "fits"),
    [
        ("x - x", node("sub", value("x"), value("x")), True),
        ("x - z", node("sub", value("x"), value("x")), False),
        ("relu(z) * exp(x)", node("mul", node("exp", value("x")), node("relu", value("y")), commutative=True), True),
        ("relu(z) * exp(x)", node("mul", node("exp", value("x")), node("relu", value("y"))), False),
        ("x + 1.0", node("add", value("x"), constant("c", lambda a: bool((a == 1).all()))), True),
        ("x + 2.0", node("add", value("x"), constant("c", lambda a: bool((a == 1).all()))), False),
        ("x + z", node("add", value("x"), constant("c")), False),
        ("sin(exp(x)) + z", node("sin", node("exp", value("x"), single=True)), True),
        ("sin(exp(x)) + exp(x)", node("sin", any_node("exp", capture="x")), True),
        ("exp(x)", any_node(test=lambda n, _: n.operator == "sin"), False),
    ],
)
def test_patterns(model: Read, body: str, pattern: Any, fits: bool) -> None:
    outcome = run(model, body, rewrite("probe", pattern, lambda _, __: Refusal("fits")))
    assert bool(outcome.entries) is fits


def test_single_wants_one_use(model: Read) -> None:
    program = model("model M(x: f32[N]) -> f32[N] { y = exp(x)\n return sin(y) + y }")
    pattern = node("sin", node("exp", value("x"), single=True))
    rewrites = (rewrite("probe", pattern, lambda _, __: Refusal("fits")),)
    assert not apply_rewrites(program.graph, rewrites, program.library, "test").entries
