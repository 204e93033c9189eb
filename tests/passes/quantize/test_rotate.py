"""Rotations: orthogonal, the same function, folded where a linear layer comes before, smaller errors with outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.ir.types import DType
from mercer.passes.ledger import Exactness, Ledger
from mercer.passes.manager import Pass, PassContext, PipelineError, run_passes
from mercer.passes.pipeline import parse, quantized
from mercer.passes.quantize import learned_rotation
from mercer.passes.quantize.learned_rotation import Transform, learned, noise
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.rotate import Rotate, is_rotation, rotation
from tests.passes.quantize.test_quantize import distance

BODIES = {
    "online": ("x |> Linear(48) |> relu |> Linear(5)", 2, 2),
    "folded": ("x |> Linear(32) |> Linear(5)", 2, 1),
    "folded twice": ("x |> tanh |> Linear(32, bias = false) |> Linear(16) |> Linear(5)", 3, 1),
    "product": ("y = tanh(x)\n return matmul(y, slice_axis(w; axis = 1, start = 0, stop = 5))", 1, 1),
}
"""Programs, how many rotations there are, and how many of them are computed."""

OUTLIERS = [3, 17, 40]


def model_of(body: str) -> Program:
    text = body if "return" in body else f"return {body}"
    parameter = "param w: f32[64, 5] = normal(0, 0.2)\n" if "w;" in body else ""
    return mercer.parse_text(f"model M(x: f32[N, 64]) -> f32[N, 5] {{ {parameter}{text} }}")


def outliers(seed: int = 0, factor: float = 10.0) -> np.ndarray:
    """Three channels of 64 are larger than the others, as in language models."""
    x = np.random.default_rng(seed).standard_normal((128, 64))
    x[:, OUTLIERS] *= factor
    return x.astype(np.float32)


def run(model: Program, *passes: Pass, data: np.ndarray | None = None, verify: bool = False) -> tuple[Program, Ledger]:
    given_data = None if data is None else {"x": data}
    context = PassContext(model.library, weights=model.initial(), data=given_data, verify_each=verify)
    graph = run_passes(model.graph, (*parse("bind,fold"), *passes), context)
    assert isinstance(graph, Graph)
    return Program(graph, model.library), context.ledger


@given(st.integers(1, 8), st.sampled_from([1, 3, 5]), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_rows_are_orthogonal(exponent: int, odd: int, seed: int) -> None:
    block, channels = 2**exponent, 2**exponent * odd
    matrix = rotation(channels, 2, seed)
    assert matrix is not None and is_rotation(matrix)
    np.testing.assert_array_equal(matrix @ matrix.T, block * np.eye(channels))
    assert rotation(channels, 2 * block, seed) is None
    assert not is_rotation(np.eye(channels)) and not is_rotation(matrix[1:]) and not is_rotation(2 * matrix)


@pytest.mark.parametrize("name", BODIES)
def test_the_function_stays(name: str) -> None:
    body, count, computed = BODIES[name]
    model, x = model_of(body), outliers()
    before, _ = run(model)
    after, ledger = run(model, Rotate(), verify=True)
    assert len([e for e in ledger.fired() if e.pass_name == "rotate"]) == count
    arrays = [each.evaluate(x, weights={}, precision=DType.F64)[0] for each in (before, after)]
    assert distance(arrays[1], arrays[0]) < 1e-6
    online = [c for c in after.graph.constants if c.data.array is not None and is_rotation(c.data.array)]
    assert len(online) == computed


def test_a_second_run_finds_nothing() -> None:
    once, _ = run(model_of(BODIES["online"][0]), Rotate())
    context = PassContext(once.library)
    assert run_passes(once.graph, parse("rotate"), context) == once.graph


def test_with_data_only_outliers_are_rotated() -> None:
    model = model_of("x |> Linear(32) |> relu |> Linear(5)")
    calm = np.random.default_rng(0).uniform(-1, 1, (128, 64)).astype(np.float32)
    _, ledger = run(model, Rotate(), data=calm)
    assert [entry.fired for entry in ledger.entries if entry.pass_name == "rotate"] == [False, False]
    assert all("would become less by" in (entry.reason or "") for entry in ledger.refused())
    _, ledger = run(model, Rotate(), data=outliers())
    assert len(ledger.fired()) > 1


def test_few_channels_are_refused() -> None:
    _, ledger = run(model_of("x |> Linear(12) |> relu |> Linear(5)"), Rotate(gain=0.0))
    assert [e.reason for e in ledger.refused() if e.pass_name == "rotate"] == [
        "12 channels have no block of 16 or more"
    ]
    with pytest.raises(PipelineError, match="least"):
        Rotate(least=1)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize(
    "body", ["x |> Linear(5)", "x |> Linear(64) |> silu |> Linear(5)", "x |> Linear(64) |> Linear(5)"]
)
def test_outliers_cost_less(body: str, rounding: str) -> None:
    """W4A4, where outliers weigh no more than the other channels do."""
    model, x, errors = model_of(body), outliers(), []
    weights = {name: array.copy() for name, array in model.initial().items()}
    first = next(name for name, array in weights.items() if array.ndim == 2)
    weights[first][:, OUTLIERS] /= 10.0
    (expected,) = model.evaluate(x, weights=weights, precision=DType.F64)
    for passes in ((), (Rotate(),)):
        context = PassContext(model.library, weights=weights, data={"x": x})
        quantize = Quantize(weights=4, activations=4, rounding=rounding)
        graph = run_passes(model.graph, (*parse("bind,fold"), *passes, quantize), context)
        assert isinstance(graph, Graph)
        errors.append(distance(Program(graph, model.library).evaluate(x, weights={})[0], expected))
    assert errors[1] < 0.55 * errors[0]


def test_the_same_bits_everywhere() -> None:
    model, x = model_of("x |> Linear(32) |> silu |> Linear(5)"), outliers()
    context = PassContext(model.library, weights=model.initial(), data={"x": x})
    passes = list(quantized(Quantize(weights=4, activations=4)))
    passes.insert(next(n for n, each in enumerate(passes) if each.name == "quantize"), Rotate(gain=0.0))
    lower = next(n for n, each in enumerate(passes) if each.name == "lower")
    graph = run_passes(model.graph, passes[:lower], context)
    assert isinstance(graph, Graph)
    whole = Program(graph, model.library)
    types = graph.types()
    between = [node for node in graph.nodes if not node.operator.startswith(("quantize", "dequantize"))]
    assert not any(types[value.name].dtype.is_float for node in between for value in node.results)
    (reference,) = whole.evaluate(x, weights={})
    with torch.no_grad():
        np.testing.assert_array_equal(whole.torch()(torch.from_numpy(x)).numpy(), reference)
    np.testing.assert_array_equal(mercer.compile(model, data=x, pipeline=passes)(x), reference)


# --- learned ----------------------------------------------------------------------------------------------------------


def chain(seed: int = 0) -> tuple[Program, dict[str, np.ndarray], np.ndarray]:
    """Two linear maps with channels between them that are larger than the others, as those of language models are."""
    model, random = model_of("x |> Linear(48) |> Linear(40) |> relu |> Linear(5)"), np.random.default_rng(seed)
    weights = {name: array.copy() for name, array in model.initial().items()}
    weights["linear.0.weight"][OUTLIERS] *= 12.0
    return model, weights, random.standard_normal((512, 64)).astype(np.float32)


def quantized_error(*passes: Pass, bits: int = 4) -> tuple[float, float, Ledger]:
    """What W4A4 loses on samples that no pass has seen, and what the passes before lose in real numbers."""
    model, weights, x = chain()
    fresh = np.random.default_rng(9).standard_normal((256, 64)).astype(np.float32)
    (expected,) = model.evaluate(fresh, weights=weights, precision=DType.F64)
    losses: list[float] = []
    ledger = Ledger()
    for end in ((), (Quantize(weights=bits, activations=bits),)):
        context = PassContext(model.library, weights=weights, data={"x": x}, verify_each=True)
        graph = run_passes(model.graph, (*parse("bind,fold"), *passes, *end), context)
        assert isinstance(graph, Graph)
        precision = None if end else DType.F64
        losses.append(
            distance(Program(graph, model.library).evaluate(fresh, weights={}, precision=precision)[0], expected)
        )
        ledger = context.ledger
    return losses[0], losses[1], ledger


def test_a_learned_rotation_is_exact_and_loses_less_than_hadamard() -> None:
    (_, plain, _), (_, hadamard, _), (exact, found, ledger) = (
        quantized_error(*passes) for passes in ((), (Rotate(gain=1.2),), (Rotate(gain=1.2, steps=90),))
    )
    assert exact < 1e-6
    fired = [(e.rewrite, e.exactness) for e in ledger.fired() if e.pass_name == "rotate"]
    assert fired == [("learned", Exactness.REAL)]
    assert hadamard < 0.7 * plain
    assert found < 0.9 * hadamard


def test_slopes_are_those_of_the_loss() -> None:
    random = np.random.default_rng(0)
    x, weight, turn, stretch = (random.standard_normal(shape) for shape in ((40, 6), (7, 6), (6, 6), 6))
    turn, stretch = turn - turn.T, 0.3 * stretch
    at = Transform(np.linalg.qr(random.standard_normal((6, 6)))[0], np.exp(stretch))
    by_turn, by_stretch = learned_rotation._slopes(at, x, weight, 8.0)

    def loss(h: float) -> float:
        rotation = np.linalg.solve(np.eye(6) - h / 2 * turn, (np.eye(6) + h / 2 * turn) @ at.rotation)
        return learned_rotation._loss(Transform(rotation, at.scale * np.exp(h * stretch)), x, weight, 8.0)

    expected = (by_turn * turn).sum() / 2 + by_stretch @ stretch
    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(expected, rel=1e-5)


@given(st.integers(2, 12), st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_what_is_learned_is_orthogonal_and_no_worse(channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, weight = random.standard_normal((30, channels)) * random.exponential(1, channels), np.eye(channels)[:-1]
    start = np.linalg.qr(random.standard_normal((channels, channels)))[0]
    found = learned(x, weight, start, 30)
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(channels), atol=1e-10)
    np.testing.assert_allclose(found.forth(x) @ found.back(weight).T, x @ weight.T, atol=1e-8)
    assert (found.scale > 0).all() and noise(found, x, weight) <= noise(Transform(start, np.ones(channels)), x, weight)


def test_learning_needs_data() -> None:
    model, weights, x = chain()
    for data, same in ((None, True), ({"x": x}, False)):
        graphs: list[Graph] = []
        for steps in (0, 6):
            context = PassContext(model.library, weights=weights, data=data)
            graph = run_passes(model.graph, (*parse("bind,fold"), Rotate(steps=steps, gain=0.0)), context)
            assert isinstance(graph, Graph)
            graphs.append(graph)
        first, second = ({c.name: c.data.array for c in graph.constants} for graph in graphs)
        assert first.keys() == second.keys()
        assert same == all(np.array_equal(first[name], second[name]) for name in first)
    with pytest.raises(PipelineError, match="steps"):
        Rotate(steps=-1)
