"""Random features of one bit: as the formula has them, errors that fall, and a program of integers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.passes.factorize.random_features import SPECTRA
from mercer.passes.factorize.sigma_delta import SigmaDelta
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import parse, quantized
from mercer.passes.quantize.quantize import Quantize
from tests.passes.factorize.approximations import Result, apply
from tests.passes.factorize.test_random_features import DIM, KERNELS, X, model

POINTS = np.random.default_rng(3).normal(size=(40, DIM))
GRAM = np.exp(-0.1 * ((POINTS[:, None] - POINTS) ** 2).sum(-1))


def replaced(each: SigmaDelta, kernel: str = KERNELS["gaussian"], centers: int = 8192) -> Result:
    return apply(model(kernel, centers), each, X, verify_each=False)


def one_bit(z: np.ndarray, block: int) -> np.ndarray:
    """q[i] = sign(z[i] + u[i - 1]), u[i] = u[i - 1] + z[i] - q[i] in each block, of z in units of 1/127."""
    parts = np.rint(127 * z).reshape(len(z), -1, block)
    u, q = np.zeros(parts.shape[:2]), np.empty_like(parts)
    for i in range(block):
        q[:, :, i] = np.where(u + parts[:, :, i] >= 0, 1.0, -1.0)
        u += parts[:, :, i] - 127 * q[:, :, i]
        assert np.abs(u).max() <= 127
    return q


def condensed(q: np.ndarray) -> np.ndarray:
    """sqrt(2/p) V q / |v| of q[n, p, block]."""
    return np.sqrt(2 / (q.shape[1] * q.shape[2])) * q.sum(axis=2)


def gram_error(count: int, block: int, shape: bool = True) -> float:
    """The root mean square over 8 draws of what the dot products miss of the kernel."""
    errors = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        frequency = random.normal(size=(count, DIM)) * np.sqrt(0.2)
        z = np.cos(POINTS @ frequency.T + random.uniform(0, 2 * np.pi, count))
        features = condensed(one_bit(z, block) if shape else np.where(z >= 0, 1.0, -1.0).reshape(len(z), -1, block))
        errors.append(np.mean((features @ features.T - GRAM) ** 2))
    return float(np.sqrt(np.mean(errors)))


def test_what_is_computed_is_the_formula() -> None:
    """f(x) = (sum over c of weight[c] V q(c)) . V q(x), with the frequencies and phases that the pass has drawn."""
    result = replaced(SigmaDelta(256, block=8))
    (node,) = result.nodes("sigma_delta_features")
    data = {c.name: c.data.array for c in (*result.before.constants, *result.after.constants)}
    frequency, phase = (np.asarray(data[name], np.float64) for name in node.operands[1:])
    (machine,) = [n for n in result.before.nodes if n.operator == "kernel_machine"]
    centers, weight = (np.asarray(data[name], np.float64) for name in machine.operands[1:])
    at_x, at_centers = (condensed(one_bit(np.cos(a @ frequency.T + phase), 8)) for a in (X[1::2].astype("f8"), centers))
    assert np.abs(result.outputs[1] - at_x @ (weight @ at_centers).T).max() < 1e-5 * np.abs(result.outputs[1]).max()


def test_the_error_falls_with_the_number_of_features() -> None:
    """16 times as many features: a quarter of the error, on dot products and on a kernel machine."""
    assert 3 < gram_error(128, 8) / gram_error(2048, 8) < 5
    errors = [[replaced(SigmaDelta(count, seed=seed)).error for seed in range(6)] for count in (64, 1024)]
    coarse, fine = (float(np.sqrt(np.mean(np.square(each)))) for each in errors)
    assert 2.5 < coarse / fine < 6.5


def test_errors_of_signs_do_not_fall_but_those_of_sigma_delta_do() -> None:
    """For the same number of sums, longer blocks; signs alone are those of another kernel."""
    assert gram_error(2048, 16) < 1.1 * gram_error(1024, 8) < 1.2 * gram_error(512, 4)
    assert gram_error(8192, 32) < 0.25 * gram_error(8192, 32, shape=False)


def test_more_bits_lose_less() -> None:
    """The codes of 1, 2 and 4 bits against the cosines that they come from."""
    found = []
    for bits in (1, 2, 4):
        result = replaced(SigmaDelta(512, bits, 8))
        (node,) = result.nodes("sigma_delta_features")
        data = {c.name: np.asarray(c.data.array, np.float64) for c in result.after.constants}
        frequency, phase = (data[name] for name in node.operands[1:])
        text = "model M(x: f32[N, 6], w: f32[512, 6], b: f32[512]) -> f32[N, 64] {"
        program = mercer.parse_text(f"{text} return sigma_delta_features(x, w, b; block = 8, bits = {bits}) }}")
        (codes,) = program.evaluate(X, frequency.astype("f4"), phase.astype("f4"))
        found.append(np.abs(codes - condensed(np.cos(X @ frequency.T + phase).reshape(len(X), -1, 8))).max())
    assert found[2] < 0.3 * found[1] < 0.2 * found[0]


@pytest.mark.parametrize("name", KERNELS)
def test_every_stationary_kernel(name: str) -> None:
    assert replaced(SigmaDelta(2048), KERNELS[name]).error < 0.4


def test_every_spectrum_is_tested() -> None:
    assert set(SPECTRA) == set(KERNELS)


@pytest.mark.parametrize(
    ("each", "kernel", "reason"),
    [
        (SigmaDelta(bits=0), "gaussian()", "codes have 1 to 7 bits, not 0"),
        (SigmaDelta(bits=8), "gaussian()", "codes have 1 to 7 bits, not 8"),
        (SigmaDelta(100, block=8), "gaussian()", "100 features do not divide into blocks of 8"),
        (SigmaDelta(block=0), "gaussian()", "512 features do not divide into blocks of 0"),
        (SigmaDelta(), "polynomial()", "the random features of the kernel polynomial are not known"),
        (SigmaDelta(8192), "gaussian()", "operations would take the place of"),
        (SigmaDelta(8, max_error=0.01), "gaussian()", "exceeds max_error"),
    ],
)
def test_refusals(each: SigmaDelta, kernel: str, reason: str) -> None:
    assert reason in replaced(each, kernel, 1024).reason


def test_quantized_it_is_integers_alone_with_the_same_bits_everywhere() -> None:
    before = mercer.parse_text(model(centers=8192))
    context = PassContext(before.library, weights=before.initial(), data={"x": X})
    real = run_passes(before.graph, parse("bind,fold,sigma_delta{count=1024,block=8}"), context)
    passes = quantized(Quantize())
    lower = next(n for n, each in enumerate(passes) if each.name == "lower")
    whole = run_passes(real, passes[1:lower], context)
    assert isinstance(real, Graph) and isinstance(whole, Graph)
    types = whole.types()
    between = [node for node in whole.nodes if not node.operator.startswith(("quantize", "dequantize"))]
    assert {"wrap", "lookup", "sigma_delta", "condense"} <= {node.operator for node in between}
    assert not any(types[value.name].dtype.is_float for node in between for value in node.results)
    program = Program(whole, before.library)
    (expected,) = Program(real, before.library).evaluate(X, weights={})
    (reference,) = program.evaluate(X, weights={})
    assert np.linalg.norm(reference - expected) < 0.03 * np.linalg.norm(expected)
    with torch.no_grad():
        np.testing.assert_array_equal(program.torch()(torch.from_numpy(X)).numpy(), reference)
    np.testing.assert_array_equal(mercer.compile(program)(X), reference)
    (features,) = [node for node in whole.nodes if node.operator == "sigma_delta"]
    (codes,) = Program(replace(whole, outputs=(features.name,)), before.library).evaluate(X, weights={})
    assert set(np.unique(codes)) == {-1, 1}
