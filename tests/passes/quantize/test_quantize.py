"""The pass `quantize`: close to the program in real numbers, the same bits on every backend, and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.ir.types import DType
from mercer.passes.ledger import Ledger
from mercer.passes.manager import PassContext, PipelineError, run_passes
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.quantize import Quantize
from mercer.runtime.errors import MercerError

BODIES = {
    "conv": "x |> Conv2d(6, 3, pad = 1) |> relu |> Conv2d(4, 3, stride = 2, groups = 2) |> flatten |> Linear(5)",
    "norm": "x |> Conv2d(6, 3, bias = false) |> BatchNorm |> relu |> max_pool2d(k = 2) |> flatten |> Linear(5)",
    "residual": "x + (x |> Conv2d(4, 3, pad = 1) |> silu) |> avg_pool2d(k = 2) |> flatten |> Linear(5)",
    "product": "(x |> Conv2d(4, 1)) * (x |> Conv2d(4, 1) |> sigmoid) |> mean(axis = 3) |> mean(axis = 2) |> Linear(5)",
    "concat": "concat(x, x |> Conv2d(3, 3, pad = 1) |> gelu; axis = 1) |> Conv2d(3, 3) |> flatten |> Linear(5)",
    "dilated": "x |> Conv2d(8, 3, dilation = 2) |> leaky_relu |> upsample_nearest2d(scale = 2) |> flatten |> Linear(5)",
    "transposed": "x |> ConvTranspose2d(3, 2, stride = 2) |> tanh |> flatten |> Linear(5)",
    "siren": "x |> flatten |> SIREN(5, hidden = 16, depth = 2, omega = 5.0)",
    "kernels": "x |> flatten |> Linear(6) |> KernelMachine(5, centers = 12, kernel = gaussian(gamma = 0.05))",
    "laplace": "x |> flatten |> Linear(6) |> KernelMachine(5, centers = 12, kernel = laplace(gamma = 0.05))",
    "bumps": "x |> flatten |> Linear(3) |> tanh |> RBFField(5, count = 9)",
    "features": "x |> flatten |> Linear(6) |> RandomFourierFeatures(32, gamma = 0.05) |> Linear(5)",
    "splines": "x |> flatten |> Linear(6) |> tanh |> KANLinear(7) |> KANLinear(5)",
    "layer norm": "x |> flatten |> Linear(16) |> LayerNorm |> Linear(5)",
    "rms norm": "x |> flatten |> Linear(16) |> RMSNorm |> gelu |> Linear(5)",
    "group norm": "x |> Conv2d(6, 3) |> GroupNorm(2) |> relu |> InstanceNorm |> flatten |> Linear(5)",
    "softmax": "x |> flatten |> Linear(16) |> softmax(axis = 1) |> Linear(5)",
    "deformable": "x |> Deform |> relu |> flatten |> Linear(5)",
    "attention": "x |> reshape(shape = [-1, 8, 32]) |> scores |> mean(axis = 1)",
}
OPS = """layer Deform(x) {
  branch = Conv2d(x; 27, 3, pad = 1)
  return DeformConv2d(x, branch[:, :18], sigmoid(branch[:, 18:]); 6, 3, pad = 1)
}
op scores(x: T[n, l, d]) -> T[n, l, l] { return y[n, i < l, j < l] = sum[d] x[n, i, d] * x[n, j, d] }
"""
KEPT = {"attention": ["scores"]}


def program(body: str) -> Program:
    outputs = 8 if "scores" in body else 5
    return mercer.parse_text(f"{OPS}model M(x: f32[N, 4, 8, 8]) -> f32[N, {outputs}] {{ return {body} }}")


def batch(count: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).astype(np.float32)


def integer(model: Program, data: Any, quantize: Quantize) -> tuple[Program, Ledger]:
    """The graph of integers, and the ledger."""
    context = PassContext(model.library, weights=model.initial(), data={"x": data})
    passes = quantized(quantize)
    lower = next(n for n, each in enumerate(passes) if each.name == "lower")
    graph = run_passes(model.graph, passes[:lower], context)
    assert isinstance(graph, Graph)
    return Program(graph, model.library), context.ledger


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", BODIES)
def test_integers_are_close_and_the_same_everywhere(name: str) -> None:
    model, x = program(BODIES[name]), batch()
    (expected,) = model.evaluate(x, weights=model.initial(), precision=DType.F64)
    whole, ledger = integer(model, x, Quantize())
    (reference,) = whole.evaluate(x, weights={})
    assert distance(reference, expected) <= 0.04
    assert [entry.operator for entry in ledger.refused() if entry.pass_name == "quantize"] == KEPT.get(name, [])
    if name not in KEPT:
        types = whole.graph.types()
        between = [node for node in whole.graph.nodes if not node.operator.startswith(("quantize", "dequantize"))]
        assert not any(types[value.name].dtype.is_float for node in between for value in node.results)
    with torch.no_grad():
        np.testing.assert_array_equal(whole.torch()(torch.from_numpy(x)).numpy(), reference)
    binary = mercer.compile(model, data=x, quantize="w8a8")
    np.testing.assert_array_equal(binary(x), reference)


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "mse", "entropy"])
def test_calibrations(calibration: str) -> None:
    model, x = program(BODIES["conv"]), batch()
    (expected,) = model.evaluate(x, weights=model.initial())
    bound = 0.2 if calibration == "entropy" else 0.03
    whole, _ = integer(model, x, Quantize(calibration=calibration))
    assert distance(whole.evaluate(x, weights={})[0], expected) <= bound


@pytest.mark.parametrize(("weights", "bound"), [(8, 0.02), (6, 0.05), (4, 0.15), (3, 0.35), (2, 0.8), (1, 1.0)])
def test_fewer_bits_cost_more(weights: int, bound: float) -> None:
    model, x = program(BODIES["conv"]), batch()
    (expected,) = model.evaluate(x, weights=model.initial())
    whole, ledger = integer(model, x, Quantize(weights=weights))
    codes = [c.data.array for c in whole.graph.constants if c.name.endswith(".codes")]
    last = max((1 << weights - 1) - 1, 1)
    assert len(codes) == 3 and all(array is not None and np.abs(array).max() <= last for array in codes)
    found = distance(whole.evaluate(x, weights={})[0], expected)
    assert found <= bound
    assert ledger.error() == pytest.approx(found, rel=0.2)
    assert {layer.operator for layer in ledger.layers} >= {"conv2d", "linear"}


def test_bias_correction_takes_the_mean_error_back() -> None:
    model, x = program(BODIES["conv"]), np.abs(batch())
    (expected,) = model.evaluate(x, weights=model.initial())
    errors = []
    for correction in (False, True):
        whole, _ = integer(model, x, Quantize(weights=3, bias_correction=correction, rounding="nearest"))
        errors.append(np.abs((whole.evaluate(x, weights={})[0] - expected).mean(axis=0)).max())
    assert errors[1] < 0.5 * errors[0]


def test_weights_are_stored_as_bytes() -> None:
    """Beside them, an output has a bias, a factor, and with products of bytes what those lack."""
    small = mercer.parse_text("model M(x: f32[N, 256]) -> f32[N, 400] { return x |> Linear(400) }")
    executable = mercer.compile(small, data=batch().reshape(64, 256), quantize="w8a8")
    assert executable.artifact.manifest.members["weights.safetensors"].bytes < 256 * 400 + 400 * 12 + 1000


def test_sums_that_do_not_fit_are_refused() -> None:
    model = mercer.parse_text("model M(x: f32[N, 70000]) -> f32[N, 1] { return x |> Linear(1) }", "net.mer")
    data = np.ones((2, 70000), np.float32)
    weights = {name: np.ones_like(array) for name, array in model.initial().items()}
    with pytest.raises(MercerError, match=r"net.mer:1:\d+.*: error\[overflow\].*70000 products of 8-bit") as caught:
        mercer.compile(model, weights=weights, data=data, quantize="w8a8")
    assert "w7a8" in str(caught.value.hint)
    mercer.compile(model, weights=weights, data=data, quantize="w7a8")


def test_what_is_always_the_same_has_codes() -> None:
    model, x = program(BODIES["conv"]), np.zeros((4, 4, 8, 8), np.float32)
    (expected,) = model.evaluate(x, weights=model.initial())
    whole, _ = integer(model, x, Quantize())
    np.testing.assert_allclose(whole.evaluate(x, weights={})[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "needs data"),
        (np.full((2, 4, 8, 8), np.nan, np.float32), r"not finite, first at \[0, 0, 0, 0\]"),
        (np.zeros((0, 4, 8, 8), np.float32), "are empty"),
        (np.zeros((2, 4, 8), np.float32), "expected 4 dims"),
        ({"y": np.zeros((2, 4, 8, 8), np.float32)}, "given for y, not for x"),
    ],
)
def test_bad_data(data: Any, message: str) -> None:
    with pytest.raises(MercerError, match=message):
        mercer.compile(program(BODIES["conv"]), data=data, quantize="w8a8")


@pytest.mark.parametrize("scheme", ["w8", "8a8", "w9a8", "w0a8", "w8a1", "int8"])
def test_bad_schemes(scheme: str) -> None:
    with pytest.raises(PipelineError):
        mercer.compile(program(BODIES["conv"]), data=batch(2), quantize=scheme)


def test_bad_options() -> None:
    for option in ({"calibration": "best"}, {"percentile": 20.0}, {"table_bits": 20}):
        with pytest.raises(PipelineError):
            replace(Quantize(), **option)
    with pytest.raises(MercerError, match="both given"):
        mercer.compile(program(BODIES["conv"]), data=batch(2), quantize="w8a8", pipeline="bind,lower")
