"""Random features: unbiased for every kernel, errors that fall as 1/sqrt(count), couplings that help."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mercer.frontend.library import default_library
from mercer.ir.graph import KernelValue
from mercer.passes.factorize.approximation import compute
from mercer.passes.factorize.couplings import normal_rows, simplex
from mercer.passes.factorize.random_features import SPECTRA, RandomFeatures
from mercer.passes.manager import PipelineError
from tests.passes.factorize.approximations import Result, apply

RANDOM = np.random.default_rng(7)
DIM, OUT = 6, 3
X = RANDOM.normal(size=(32, DIM)).astype(np.float32)
KERNELS = {
    "gaussian": "gaussian(gamma = 0.1)",
    "laplace": "laplace(gamma = 0.1)",
    "matern12": "matern12(length = 3.0)",
    "matern32": "matern32(length = 3.0)",
    "matern52": "matern52(length = 3.0)",
    "rational_quadratic": "rational_quadratic(alpha = 1.5, length = 3.0)",
    "inverse_multiquadric": "inverse_multiquadric(epsilon = 0.3)",
}


def model(kernel: str = KERNELS["gaussian"], centers: int = 1024, dim: int = DIM) -> str:
    return f"""model M(x: f32[N, {dim}]) -> f32[N, {OUT}] {{
      param centers: f32[{centers}, {dim}] = normal(0, 1)
      param weight: f32[{OUT}, {centers}] = normal(0.2, 1)
      return kernel_machine(x, centers, weight; kernel = {kernel})
    }}"""


def replaced(each: RandomFeatures, kernel: str = KERNELS["gaussian"], dim: int = DIM) -> Result:
    return apply(model(kernel, dim=dim), each, X[:, :dim])


def mean_squared(runs: Callable[[int], RandomFeatures], kernel: str = KERNELS["gaussian"], seeds: int = 12) -> float:
    results = (apply(model(kernel), runs(seed), X[:16], verify_each=False) for seed in range(seeds))
    return float(np.mean([result.error**2 for result in results]))


def test_every_spectrum_has_a_kernel() -> None:
    assert set(SPECTRA) == set(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_frequencies_have_the_kernel_as_mean(name: str) -> None:
    """The mean of cos(w . (x - y)) over 200,000 frequencies, against the kernel of the standard library."""
    points = np.random.default_rng(0).normal(size=(5, 3))
    text, _, inner = KERNELS[name].partition("(")
    attributes = [item.split(" = ") for item in inner.rstrip(")").split(", ")]
    kernel = KernelValue(text, tuple((key, float(value)) for key, value in attributes))
    random = np.random.default_rng(1)
    frequency = SPECTRA[name](kernel, normal_rows("iid", 200_000, 3, random), random)
    expected = compute(default_library(), "kernel_matrix", (points, points), {"kernel": kernel})
    found = np.cos((points[:, None] - points[None]) @ frequency.T).mean(axis=2)
    assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize(
    ("kernel", "features"),
    [
        *((kernel, "fourier") for kernel in KERNELS.values()),
        ("gaussian(gamma = 0.02)", "positive"),
        ("arc_cosine(order = 1)", "fourier"),
        ("arc_cosine(order = 2)", "fourier"),
    ],
)
def test_error_falls_as_the_root_of_the_count(kernel: str, features: str) -> None:
    """16 times as many features: a sixteenth of the squared error, give or take the scatter of 12 draws."""
    coarse, fine = (
        mean_squared(lambda seed, count=count: RandomFeatures(count, "iid", features, seed), kernel)
        for count in (32, 512)
    )
    assert 6 < coarse / fine < 40
    assert fine < 0.1


def test_orthogonal_frequencies_have_smaller_errors() -> None:
    """Yu et al. 2016, theorem 1, for a Gaussian kernel; 32 dimensions, so that blocks are large."""
    points = np.random.default_rng(0).normal(size=(2, 400, 32)) * 0.15
    difference = points[0] - points[1]
    expected = np.exp(-0.5 * np.sum(difference**2, axis=1))
    errors: dict[str, float] = {}
    for coupling in ("iid", "orthogonal"):
        rows = [normal_rows(coupling, 32, 32, np.random.default_rng(seed)) for seed in range(50)]
        found = np.array([np.cos(difference @ frequency.T).mean(axis=1) for frequency in rows])
        errors[coupling] = float(np.mean((found - expected) ** 2))
    assert errors["orthogonal"] < 0.5 * errors["iid"]


def test_coupled_positive_features_have_smaller_errors() -> None:
    """Reid et al. 2023, theorem 3.2: simplex below orthogonal below iid."""
    total = np.array([0.7, -0.35, 0.35, 0.56])
    draws = 6_000
    errors = {}
    for coupling in ("iid", "orthogonal", "simplex"):
        random = np.random.default_rng(0)
        means = [np.exp(normal_rows(coupling, 4, 4, random) @ total).mean() for _ in range(draws)]
        errors[coupling] = np.mean((np.array(means) - np.exp(0.5 * total @ total)) ** 2)
        assert np.mean(means) == pytest.approx(np.exp(0.5 * total @ total), rel=0.03)
    assert errors["simplex"] < errors["orthogonal"] < errors["iid"]


@pytest.mark.parametrize("coupling", ["orthogonal", "simplex"])
def test_angles_of_a_block(coupling: str) -> None:
    rows = normal_rows(coupling, 7, 5, np.random.default_rng(0))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.full((5, 5), 0.0 if coupling == "orthogonal" else -1 / 4)
    np.fill_diagonal(expected, 1.0)
    assert np.allclose(rows[:5] @ rows[:5].T, expected)
    assert np.allclose(rows[5:] @ rows[5:].T, expected[:2, :2])
    assert np.allclose(simplex(5).sum(axis=0), 0.0)


@pytest.mark.parametrize("coupling", ["iid", "orthogonal", "simplex"])
def test_rows_are_standard_normal(coupling: str) -> None:
    random = np.random.default_rng(0)
    rows = np.concatenate([normal_rows(coupling, 8, 4, random) for _ in range(4000)])
    assert np.allclose(rows.T @ rows / len(rows), np.eye(4), atol=0.03)
    assert np.mean(rows**4, axis=0) == pytest.approx(np.full(4, 3.0), rel=0.06)


@pytest.mark.parametrize("coupling", ["iid", "orthogonal", "simplex"])
@pytest.mark.parametrize("features", ["fourier", "positive"])
def test_every_coupling_compiles(coupling: str, features: str) -> None:
    result = replaced(RandomFeatures(256, coupling, features), "gaussian(gamma = 0.02)")
    assert result.error < 0.3
    assert not result.nodes("kernel_machine")


def test_multiply_adds_do_not_depend_on_the_centers() -> None:
    small, large = (apply(model(centers=n), RandomFeatures(64), X).fired for n in (256, 1024))
    assert small.cost_before and large.cost_before and large.cost_before.flops == 4 * small.cost_before.flops
    assert small.cost_after == large.cost_after


@pytest.mark.parametrize(
    ("each", "kernel", "reason"),
    [
        (RandomFeatures(3), "gaussian()", "3 features are not pairs"),
        (RandomFeatures(2048), "gaussian()", "operations would take the place of"),
        (RandomFeatures(), "polynomial()", "the random features of the kernel polynomial are not known"),
        (RandomFeatures(), "laplace()", "not isotropic: its frequencies cannot be orthogonal"),
        (RandomFeatures(), "arc_cosine(order = 0)", "order 0 are not continuous"),
        (RandomFeatures(features="positive"), "matern12()", "positive features are those of the Gaussian kernel"),
        (RandomFeatures(4, max_error=0.01), "gaussian(gamma = 0.1)", "exceeds max_error"),
    ],
)
def test_refusals(each: RandomFeatures, kernel: str, reason: str) -> None:
    assert reason in replaced(each, kernel).reason


def test_a_simplex_needs_two_dimensions() -> None:
    assert replaced(RandomFeatures(coupling="simplex"), dim=1).reason == "a simplex needs at least 2 dimensions"


def test_centers_that_are_not_bound_are_refused() -> None:
    assert apply(model(), RandomFeatures(), X, bind=False).reason == "the centers %centers is not a constant"


def test_unknown_choices() -> None:
    with pytest.raises(PipelineError, match="`coupling` of the pass `random_features` cannot be `ortogonal`"):
        RandomFeatures(coupling="ortogonal")
    with pytest.raises(PipelineError, match="features"):
        RandomFeatures(features="cosine")
