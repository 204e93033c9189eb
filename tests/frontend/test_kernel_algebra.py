"""Kernels made of kernels, and what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.metrics import pairwise

import mercer

TEXT = """
fn squash(v) = v / (1 + v*v)
op gram(x: T[n, d]; kernel, asked = "") -> T[n, n] {{
  if asked != "" {{ require has(kernel, asked), "not {{asked}}: {{kernel}}" }}
  let m = n
  return y[i < m, j < m] = kernel(x[i], x[j])
}}
model M(x: f32[N, 3]) -> f32[N, N] {{ return gram(x; kernel = {}{}) }}
"""

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def rbf(gamma: float, x: np.ndarray = X) -> np.ndarray:
    return pairwise.rbf_kernel(x.astype(np.float64), gamma=gamma)


FORMULAS = {
    "gaussian(gamma = 0.5) + laplace(gamma = 0.2)": rbf(0.5) + pairwise.laplacian_kernel(X, gamma=0.2),
    "gaussian + gaussian + gaussian": 3 * rbf(1.0),
    "0.5 * gaussian(gamma = 2.0) * polynomial(degree = 2) / 4.0": rbf(2.0) * (1 + X.astype(np.float64) @ X.T) ** 2 / 8,
    "warped(kernel = gaussian(gamma = 0.5), map = tanh)": rbf(0.5, np.tanh(X)),
    "warped(kernel = gaussian(gamma = 0.5), map = squash)": rbf(0.5, X / (1 + X * X)),
    "warped(kernel = warped(kernel = gaussian, map = squash), map = sin)": rbf(1.0, np.sin(X) / (1 + np.sin(X) ** 2)),
}


@pytest.mark.parametrize("kernel", FORMULAS)
def test_values(kernel: str) -> None:
    program = mercer.parse_text(TEXT.format(kernel, ""))
    np.testing.assert_allclose(program.evaluate(X)[0], FORMULAS[kernel], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mercer.compile(program)(X), FORMULAS[kernel], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "name", "known"),
    [
        ("gaussian + laplace", "stationary", True),
        ("gaussian + laplace", "isotropic", False),
        ("gaussian * polynomial", "positive", True),
        ("gaussian * polynomial", "stationary", False),
        ("gaussian * wendland", "compact", True),
        ("gaussian + wendland", "compact", False),
        ("3.0 * wendland", "compact", True),
        ("gaussian + thin_plate", "positive", False),
        ("thin_plate", "conditionally_positive", True),
        ("warped(kernel = gaussian, map = tanh)", "positive", True),
        ("warped(kernel = gaussian, map = tanh)", "stationary", False),
    ],
)
def test_properties(kernel: str, name: str, known: bool) -> None:
    text = TEXT.format(kernel, f', asked = "{name}"')
    if known:
        mercer.parse_text(text)
        return
    with pytest.raises(mercer.CompileError, match=f"not {name}"):
        mercer.parse_text(text)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("gaussian - laplace", "`-` of the kernel `gaussian` and the kernel `laplace`"),
        ("gaussian + 1.0", "kernels are added and multiplied, also by numbers"),
        ("-2.0 * gaussian", "a kernel is scaled by a positive factor; this one is -2.0"),
        ("1.0 / gaussian", "kernels are added and multiplied"),
    ],
)
def test_what_is_no_kernel(kernel: str, message: str) -> None:
    with pytest.raises(mercer.CompileError, match=message.replace("(", "\\(")):
        mercer.parse_text(TEXT.format(kernel, ""))


def test_an_unknown_property_is_named() -> None:
    with pytest.raises(mercer.CompileError, match="no property of kernels"):
        mercer.parse_text(TEXT.format("gaussian", ', asked = "round"'))


def test_a_gaussian_process_is_solved_at_compile_time() -> None:
    program = mercer.parse_text("""model M(x: f32[N, 3]) -> (f32[N, 2], f32[N]) {
  mean, variance = GaussianProcess(x; 2, count = 20, kernel = gaussian(gamma = 0.5), noise = 0.1) as gp
  return mean, variance
}""")
    weights = program.initial()
    fitted = GaussianProcessRegressor(RBF(1.0), alpha=0.1, optimizer=None)
    fitted.fit(weights["gp.inputs"], weights["gp.targets"])
    mean, deviation = fitted.predict(X, return_std=True)
    executable = mercer.compile(program, weights=weights)
    for found in (program.evaluate(X, weights=weights), executable(X)):
        np.testing.assert_allclose(found[0], mean, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(found[1], np.reshape(deviation, (5, -1))[:, 0] ** 2, rtol=2e-5, atol=2e-5)
    assert not any("scan" in step.name or "cholesky" in step.name for step in executable.profile(X))


def test_a_matrix_that_has_no_factor_is_told() -> None:
    program = mercer.parse_text("""model M(x: f32[N, 3]) -> f32[N, 3] {
  param a: f32[3, 3] = ones
  return x |> matmul(cholesky(a - 2.0))
}""")
    with pytest.raises(mercer.MercerError, match=r"<text>:3:22: error\[domain-error\]: `cholesky` of these constants"):
        mercer.compile(program)
