"""Weights of four bits in tables: their size, their error, and the same weight on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.ir.types import DType
from mercer.passes.ledger import Ledger
from mercer.passes.manager import Pass, PassContext, PipelineError, run_passes
from mercer.passes.pipeline import INFERENCE, parse
from mercer.passes.quantize.weight_only import WeightOnly
from tests.passes.quantize.test_quantize import distance, program
from tests.passes.quantize.test_rounding import smooth

BODIES = {
    "conv": "x |> Conv2d(9, 3, pad = 1) |> relu |> Conv2d(8, 3, groups = 1) |> relu |> flatten |> Linear(5)",
    "odd": "x |> Conv2d(10, 5, groups = 2) |> silu |> flatten |> Linear(7) |> Linear(5)",
    "pairs": "x |> Conv2d(8, 3, pad = 1) |> relu |> Conv2d(8, 3) |> relu |> flatten |> Linear(5)",
    "deformable": "DeformConv2d(x, 0.1*x[:, :2], sigmoid(x[:, :1]); 80, 1) |> avg_pool2d(4) |> flatten |> Linear(5)",
    "product": "x |> flatten |> product |> Linear(5)",
}
PRODUCT = """layer product(x) {
  param w: f32[256, 6] = normal(0, 0.1)
  return matmul(x, w)
}
"""


def model_of(name: str) -> Program:
    if name != "product":
        return program(BODIES[name])
    return mercer.parse_text(f"{PRODUCT}model M(x: f32[N, 4, 8, 8]) -> f32[N, 5] {{ return {BODIES[name]} }}")


def run(
    model: Program,
    weight_only: WeightOnly,
    data: np.ndarray | None = None,
    weights: dict[str, np.ndarray] | None = None,
) -> tuple[Program, Ledger]:
    given = None if data is None else {"x": data}
    context = PassContext(model.library, weights=weights or model.initial(), data=given, verify_each=True)
    graph = run_passes(model.graph, (*parse("bind,fold"), weight_only), context)
    assert isinstance(graph, Graph)
    return Program(graph, model.library), context.ledger


def before_lower(weight_only: WeightOnly) -> tuple[Pass, ...]:
    lower = next(n for n, each in enumerate(INFERENCE) if each.name == "lower")
    return (*INFERENCE[:lower], weight_only, *INFERENCE[lower:])


@pytest.mark.parametrize("name", BODIES)
def test_close_and_stored_in_half_bytes(name: str) -> None:
    model, x = model_of(name), smooth()
    (expected,) = model.evaluate(x, weights=model.initial(), precision=DType.F64)
    whole, ledger = run(model, WeightOnly(), x)
    (reference,) = whole.evaluate(x, weights={}, precision=DType.F64)
    assert distance(reference, expected) < 0.05
    assert ledger.error() == pytest.approx(distance(reference[1::2], expected[1::2]), rel=0.05)
    weights = [array for array in model.initial().values() if array.ndim >= 2 and array.size >= 256]
    codes = [c for c in whole.graph.constants if c.name.endswith(".codes")]
    assert len(codes) == len(weights) > 0 and all(c.type.dtype is DType.I8 for c in codes)
    assert sum(c.data.array.nbytes for c in codes if c.data.array is not None) <= 0.55 * sum(w.size for w in weights)
    with torch.no_grad():
        found = whole.torch()(torch.from_numpy(x)).numpy()
    assert distance(found, reference) < 1e-5
    assert distance(mercer.compile(whole, weights={})(x), reference) < 1e-5


def test_weights_are_the_same_everywhere() -> None:
    """Outputs that are columns of the weight: products with ones and zeros have no rounding."""
    model = mercer.parse_text("model M(x: f32[N, 64]) -> f32[N, 16] { return x |> Linear(16, bias = false) }")
    whole, _ = run(model, WeightOnly(rounding="nearest"))
    x = np.eye(64, dtype=np.float32)
    (reference,) = whole.evaluate(x, weights={})
    with torch.no_grad():
        np.testing.assert_array_equal(whole.torch()(torch.from_numpy(x)).numpy(), reference)
    np.testing.assert_array_equal(mercer.compile(whole, weights={})(x), reference)
    assert all(len(np.unique(row / np.abs(row).max())) <= 15 for row in reference.T)


def test_the_artifact_is_small() -> None:
    model = mercer.parse_text("model M(x: f32[N, 200]) -> f32[N, 300] { return x |> Linear(300) }")
    executable = mercer.compile(model, pipeline=before_lower(WeightOnly(rounding="nearest")))
    assert executable.artifact.manifest.members["weights.safetensors"].bytes < 200 * 300 / 2 + 300 * 8 + 1000
    x = np.random.default_rng(0).standard_normal((32, 200)).astype(np.float32)
    (expected,) = model.evaluate(x, weights=model.initial())
    assert distance(executable(x), expected) < 0.12


def test_books_and_rounding() -> None:
    model, x = program(BODIES["conv"]), smooth()
    (expected,) = model.evaluate(x, weights=model.initial(), precision=DType.F64)
    errors: dict[str, float] = {}
    for codes, rounding, bits in (
        ("power", "gptq", 4),
        ("power", "nearest", 4),
        ("power", "gptq", 3),
        ("ternary", "gptq", 2),
    ):
        whole, _ = run(model, WeightOnly(bits=bits, codes=codes, rounding=rounding), x)
        errors[f"{codes} {rounding} {bits}"] = distance(whole.evaluate(x, weights={})[0], expected)
    assert errors["power gptq 4"] < 0.7 * errors["power nearest 4"]
    assert errors["power gptq 4"] < 0.7 * errors["power gptq 3"] < 0.7 * errors["ternary gptq 2"]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pairs_are_stored_as_indices_and_the_same_everywhere(bits: int) -> None:
    model, x, random = program(BODIES["pairs"]), smooth(), np.random.default_rng(0)
    weights = {k: (random.standard_normal(w.shape) * w.std()).astype(np.float32) for k, w in model.initial().items()}
    (expected,) = model.evaluate(x, weights=weights, precision=DType.F64)
    errors: list[float] = []
    for codes in ("normal_pairs", "normal", "uniform"):
        whole, _ = run(model, WeightOnly(bits=bits, codes=codes), x, weights)
        (reference,) = whole.evaluate(x, weights={})
        errors.append(distance(reference, expected))
    assert errors[0] < 0.93 * errors[2] and errors[1] < 0.93 * errors[2], errors
    pairs = WeightOnly(bits=bits, codes="normal_pairs")
    whole, _ = run(model, pairs, x, weights)
    stored = sum(c.type.shape[1].value * c.type.shape[0].value for c in whole.graph.constants if ".codes" in c.name)
    count = sum(array.size for array in model.initial().values() if array.ndim >= 2 and array.size >= 256)
    assert stored == count // (4 if bits == 2 else 2)
    (reference,) = whole.evaluate(x, weights={})
    with torch.no_grad():
        assert distance(whole.torch()(torch.from_numpy(x)).numpy(), reference) < 1e-5
    executable = mercer.compile(model, weights=weights, data=x, pipeline=before_lower(pairs))
    assert distance(executable(x), reference) < 1e-4
    tables, scales = 3 * 8 * 4**bits, 4 * 21 + 4 * 21  # and biases
    assert executable.artifact.manifest.members["weights.safetensors"].bytes < stored + tables + scales + 2500


def test_a_rotation_keeps_its_codes() -> None:
    model = mercer.parse_text("model M(x: f32[N, 64]) -> f32[N, 16] { return x |> tanh |> Linear(16) }")
    for codes in ("normal_pairs", "power"):
        context = PassContext(model.library, weights=model.initial())
        graph = run_passes(model.graph, (*parse("bind,fold,rotate{gain=0}"), WeightOnly(bits=4, codes=codes)), context)
        assert isinstance(graph, Graph)
        x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
        (expected,) = model.evaluate(x, weights=model.initial())
        assert distance(Program(graph, model.library).evaluate(x, weights={})[0], expected) < 0.12


def test_small_weights_are_refused_and_bad_options() -> None:
    _, ledger = run(program("x |> Conv2d(4, 1) |> flatten |> Linear(5)"), WeightOnly())
    reasons = [entry.reason for entry in ledger.refused() if entry.pass_name == "weight_only"]
    assert reasons == ["its weight has 16 elements, less than 256"]
    for option in ({"bits": 5}, {"codes": "huffman"}, {"rounding": "up"}):
        with pytest.raises(PipelineError):
            replace(WeightOnly(), **option)
