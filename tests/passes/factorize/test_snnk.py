"""Scalable neural network kernels: closed forms, fits, and chains of layers that become one."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.factorize.snnk import Snnk, find_chains, fitted
from mercer.passes.ledger import Exactness
from mercer.passes.manager import PipelineError
from tests.passes.factorize.approximations import apply, twice

RANDOM = np.random.default_rng(11)
PLANE = RANDOM.uniform(-1, 1, size=(800, 2)).astype(np.float32)


def layer(activation: str, dim: int = 160, out: int = 1200, deviation: float = 0.1, bias: bool = True) -> str:
    """|w|**2 is 1.6 in the mean."""
    return f"""model M(x: f32[N, {dim}]) -> f32[N, {out}] {{
      param weight: f32[{out}, {dim}] = normal(0, {deviation})
      param bias: f32[{out}] = uniform(-1, 1)
      return {activation}(linear(x, weight){" + bias" if bias else ""})
    }}"""


TANH = "x |> Linear(64) |> tanh |> Linear(64) |> tanh |> Linear(3)"
FIELD = "model M(x: f32[N, 2]) -> f32[N, 3] { return MLP(x; 3, 64, 2) }"
SIREN = "model M(x: f32[N, 2]) -> f32[N, 3] { return SIREN(x; 3, hidden = 64, depth = 2, omega = 6.0) }"


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["exp", "sin", "cos"])
def test_closed_form_error_falls_as_the_root_of_the_count(activation: str) -> None:
    x = RANDOM.normal(size=(24, 160)).astype(np.float32) * 0.1

    def mean_squared(count: int) -> float:
        passes = (Snnk(count, "positive", "iid", refit=False, seed=seed) for seed in range(12))
        results = [apply(layer(activation), each, x, verify_each=False) for each in passes]
        return float(np.mean([result.error**2 for result in results]))

    assert 4 < mean_squared(16) / mean_squared(128) < 16


def test_closed_form_of_a_scaled_layer() -> None:
    text = layer("sin").replace("sin(linear(x, weight) + bias)", "sin(1.5 * (linear(x, weight) + bias))")
    x = RANDOM.normal(size=(16, 160)).astype(np.float32) * 0.005
    assert apply(text, Snnk(128, "positive", refit=False), x).error < 0.05


@pytest.mark.parametrize(
    ("text", "features", "reason"),
    [
        (layer("relu"), "positive", "positive features have no closed form for relu: use refit"),
        (layer("sin"), "fourier", "fourier features have no closed form for sin: use refit"),
        (layer("sin(relu", bias=False) + ")", "positive", "no closed form for relu"),
    ],
)
def test_activations_without_closed_form(text: str, features: str, reason: str) -> None:
    text = text.replace("sin(relu(linear(x, weight))", "sin(relu(linear(x, weight)))").replace("})", "}")
    assert reason in apply(text, Snnk(64, features, refit=False), np.ones((8, 160), np.float32)).reason


# --- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", ["fourier", "rectified", "positive"])
@pytest.mark.parametrize("text", [FIELD, FIELD.replace("MLP(x; 3, 64, 2)", TANH), SIREN])
def test_error_on_samples_that_were_not_fitted_falls_with_the_count(text: str, features: str) -> None:
    errors = [apply(text, Snnk(count, features), PLANE).error for count in (8, 128)]
    print(features, errors)
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.12


def test_exact_for_few_different_rows() -> None:
    points = RANDOM.normal(size=(12, 160))
    x = twice(points[np.arange(96) % 12])
    assert apply(layer("gelu"), Snnk(32, ridge=1e-12), x).error < 1e-4


def test_fit_is_that_of_least_squares() -> None:
    values, targets = RANDOM.normal(size=(50, 4)), RANDOM.normal(size=(50, 2))
    weights, bias = fitted(values, targets, 0.0)
    expected = np.linalg.lstsq(np.column_stack([values, np.ones(50)]), targets, rcond=None)[0]
    assert np.allclose(np.vstack([weights, bias]), expected)
    assert np.linalg.norm(fitted(values, targets, 1.0)[0]) < np.linalg.norm(weights)


# --- chains -----------------------------------------------------------------------------------------------------------


def test_a_chain_of_layers_becomes_one() -> None:
    result = apply(FIELD, Snnk(32), PLANE)
    entry = result.fired
    assert [node.operator for node in result.after.nodes] == ["random_fourier_features", "linear", "add"]
    assert entry.exactness is Exactness.APPROX and entry.cost_before and entry.cost_after
    assert entry.cost_before.flops > 2 * (2 * 64 + 64 * 64 + 64 * 3)
    assert entry.cost_after.flops == 32 * (2 * 2 + 3) + 2 * 32 * 3 + 3


def test_without_bundling_every_layer_has_its_own_features() -> None:
    result = apply(FIELD, Snnk(16, bundle=False), PLANE)
    assert [entry.operator for entry in result.ledger.fired()] == ["relu"]
    (refused,) = result.ledger.refused()
    assert "operations would take the place of" in (refused.reason or "") or refused.operator == "relu"


def test_chains_end_where_something_else_reads() -> None:
    text = """model M(x: f32[N, 4]) -> f32[N, 8] {
      h = relu(Linear(x; 8))
      return h + relu(Linear(h; 8))
    }"""
    graph = apply(text, Snnk(2), np.ones((2, 4), np.float32)).before
    chains = list(find_chains(graph, bundle=True))
    assert [[node.operator for node in chain.nodes] for chain in chains] == [["linear", "add", "relu"]] * 2
    assert all(chain.bias is not None and chain.scale == 1.0 for chain in chains)


@pytest.mark.parametrize(("rows", "shift", "result"), [("4", "4, 8", "4, 8"), ("N", "1, 1, 8", "1, N, 8")])
def test_chains_end_where_rows_differ(rows: str, shift: str, result: str) -> None:
    text = f"""model M(x: f32[{rows}, 6]) -> f32[{result}] {{
      param shift: f32[{shift}] = normal(0, 1)
      return relu(Linear(x; 8)) + shift
    }}"""
    graph = apply(text, Snnk(2), None).before
    (chain,) = find_chains(graph, bundle=True)
    assert [node.operator for node in chain.nodes] == ["linear", "add", "relu"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("each", "x", "reason"),
    [
        (Snnk(32), None, "there are no data to fit on"),
        (Snnk(7), PLANE, "7 features are not pairs"),
        (Snnk(64), PLANE[:64], "32 rows of data do not determine 64 features"),
        (Snnk(2), PLANE[:1], "the data are not a batch of samples"),
        (Snnk(2, max_error=0.01), PLANE, "exceeds max_error"),
    ],
)
def test_refusals(each: Snnk, x: np.ndarray | None, reason: str) -> None:
    assert reason in apply(FIELD, each, x).reason


def test_a_narrow_layer_is_cheaper_as_it_is() -> None:
    reason = apply(layer("tanh", dim=2, out=128), Snnk(32), PLANE).reason
    assert "operations would take the place of" in reason


def test_a_weight_that_is_not_bound_is_refused() -> None:
    assert apply(layer("tanh", dim=2), Snnk(8), PLANE, bind=False).reason == "the weight %weight is not a constant"


def test_unknown_features() -> None:
    with pytest.raises(PipelineError, match="the option `features` of the pass `snnk` cannot be `relu`"):
        Snnk(features="relu")
