"""Scales that move across layers: the same function, the same ranges on both sides, smaller errors of codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.ir.types import DType
from mercer.passes.ledger import LedgerEntry
from mercer.passes.manager import Pass, PassContext, run_passes
from mercer.passes.pipeline import parse
from mercer.passes.quantize.quantize import Quantize
from tests.passes.quantize.test_quantize import batch, distance, program

BODIES = {
    "conv": "x |> Conv2d(6, 3) |> relu |> Conv2d(5, 3, pad = 1) |> flatten",
    "depthwise": "x |> Conv2d(6, 1) |> leaky_relu |> Conv2d(6, 3, groups = 6) |> relu |> Conv2d(5, 1) |> flatten",
    "grouped": "x |> Conv2d(8, 3, groups = 2) |> relu |> max_pool2d(k = 2) |> Conv2d(6, 2, groups = 2) |> flatten",
    "flat": "x |> Conv2d(3, 3, bias = false) |> relu |> avg_pool2d(k = 2, pad = 1) |> flatten |> Linear(5)",
    "mean": "x |> Conv2d(7, 3) |> BatchNorm |> relu |> mean(axis = 3) |> mean(axis = 2) |> Linear(5)",
    "linear": "x |> flatten |> Linear(16) |> relu |> Linear(12) |> relu |> Linear(5)",
    "rows": "x |> Linear(9) |> relu |> Linear(5) |> flatten",
    "nothing": "x |> Conv2d(6, 3) |> Conv2d(5, 3) |> flatten",
}


def unequal(model: Program, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights whose output channels differ by factors up to 100."""
    random = np.random.default_rng(seed)
    weights = {name: array.copy() for name, array in model.initial().items()}
    for name, array in weights.items():
        if array.ndim >= 2:
            array *= 10 ** random.uniform(-1, 1, (len(array), *[1] * (array.ndim - 1))).astype(np.float32)
        elif not name.endswith("var"):
            array += random.standard_normal(array.shape).astype(np.float32)
    return weights


def run(body: str, *passes: Pass, verify: bool = False) -> tuple[Program, Program, list[LedgerEntry]]:
    """The program with weights of unequal channels, and that after the passes."""
    model = program(body) if "flatten |>" in body or "mean" in body else program(f"{body} |> Linear(5)")
    context = PassContext(model.library, weights=unequal(model), data={"x": batch()}, verify_each=verify)
    before = run_passes(model.graph, parse("bind,batch_norm,fold"), context)
    context.ledger.entries.clear()
    after = run_passes(before, passes, context)
    assert isinstance(before, Graph) and isinstance(after, Graph)
    return Program(before, model.library), Program(after, model.library), context.ledger.entries


@pytest.mark.parametrize("name", BODIES)
def test_the_function_stays(name: str) -> None:
    before, after, entries = run(BODIES[name], *parse("equalize"), verify=True)
    assert any(entry.fired for entry in entries)
    x = batch(8, seed=3)
    arrays = [each.evaluate(x, weights={}, precision=DType.F64)[0] for each in (before, after)]
    assert distance(arrays[1], arrays[0]) < 1e-6
    assert [n.operator for n in after.graph.nodes] == [n.operator for n in before.graph.nodes]


def test_channels_are_as_large_on_both_sides() -> None:
    _, after, _ = run(BODIES["linear"], *parse("equalize"))
    constants = {c.name: c.data.array for c in after.graph.constants}
    weights = [constants[node.operands[1]] for node in after.graph.nodes if node.operator == "linear"]
    assert len(weights) == 3
    for first, second in itertools.pairwise(weights):
        assert first is not None and second is not None
        ratio = np.abs(first).max(axis=1) / np.abs(second).max(axis=0)
        assert ratio.min() > 1 / 1.11 and ratio.max() < 1.11


def test_a_second_run_finds_nothing() -> None:
    assert not [entry for entry in run(BODIES["depthwise"], *parse("equalize,equalize"))[2] if entry.fired][12:]
    _, once, _ = run(BODIES["conv"], *parse("equalize"))
    context = PassContext(once.library)
    assert run_passes(once.graph, parse("equalize"), context) == once.graph and not context.ledger.fired()


@pytest.mark.parametrize("between", ["tanh", "relu6", "softplus", "unsqueeze(axis = 1) |> squeeze(axis = 1) |> relu"])
def test_what_is_not_homogeneous_stays(between: str) -> None:
    before, after, entries = run(f"x |> flatten |> Linear(6) |> {between} |> Linear(5)", *parse("equalize"))
    assert before.graph == after.graph and not entries


def test_values_with_other_readers_are_refused() -> None:
    text = """h = x |> flatten |> Linear(6) |> relu
    return (h |> Linear(5)) + (h |> Linear(5))"""
    model = mercer.parse_text(f"model M(x: f32[N, 4, 8, 8]) -> f32[N, 5] {{ {text} }}")
    context = PassContext(model.library, weights=unequal(model))
    run_passes(model.graph, parse("bind,fold,equalize"), context)
    assert {e.reason for e in context.ledger.refused() if e.pass_name == "equalize"} == {"%relu has other readers"}


def hidden(model: Program) -> dict[str, np.ndarray]:
    """The initial weights, with factors of 0.02 to 50 from each layer to the next that cancel (Nagel et al., 4.1)."""
    weights = {name: array.copy() for name, array in model.initial().items()}
    random, previous = np.random.default_rng(2), np.ones(4)
    for name in (name for name, array in weights.items() if array.ndim == 4):
        scale = 50 ** random.uniform(-1, 1, len(weights[name]))
        weights[name] *= (scale[:, None] / previous).astype(np.float32)[:, :, None, None]
        weights[name.replace("weight", "bias")] *= scale.astype(np.float32)
        previous = scale
    last = max(name for name, array in weights.items() if array.ndim == 2)
    weights[last] /= np.repeat(previous, weights[last].shape[1] // len(previous)).astype(np.float32)
    return weights


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_codes_lose_less(rounding: str, per_channel: bool) -> None:
    model = program("x |> Conv2d(6, 3) |> relu |> Conv2d(8, 3) |> relu |> flatten |> Linear(5)")
    quantize = Quantize(per_channel=per_channel, rounding=rounding)
    x, errors, weights = batch(), [], hidden(model)
    (expected,) = model.evaluate(x, weights=model.initial())
    assert distance(model.evaluate(x, weights=weights)[0], expected) < 1e-5
    for passes in ((quantize,), (*parse("equalize"), quantize)):
        context = PassContext(model.library, weights=weights, data={"x": x})
        after = run_passes(model.graph, (*parse("bind,fold"), *passes), context)
        assert isinstance(after, Graph)
        errors.append(distance(Program(after, model.library).evaluate(x, weights={})[0], expected))
    assert errors[1] < 0.05 * errors[0]
