"""Kernel methods and splines, against scikit-learn, SciPy and plain formulas in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.interpolate import BSpline
from scipy.special import xlogy
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, Matern, RationalQuadratic
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import pairwise

from mercer.ir.graph import KernelValue
from tests.operators.records.record import Array, Record, Sample, bad, given, normal, sample, uniform


def kernel(name: str, **attributes: Any) -> KernelValue:
    return KernelValue(name, tuple(attributes.items()))


def arc_cosine(x: Array, y: Array, order: int = 1) -> Array:
    """Cho and Saul 2009, equation 1, by quadrature: the mean of step(w.x) (w.x)**n step(w.y) (w.y)**n over normal w in
    the plane of x and y, times 2."""
    result = np.empty((len(x), len(y)))
    angles, weights = np.polynomial.legendre.leggauss(200)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            la, lb = np.linalg.norm(a), np.linalg.norm(b)
            theta = np.arccos(np.clip(a @ b / (la * lb), -1, 1))
            low, high = theta - np.pi / 2, np.pi / 2  # the directions in which both dot products are positive
            phi = (high - low) / 2 * angles + (high + low) / 2
            inner = (np.cos(phi) * np.cos(phi - theta)) ** order
            radial = 2**order * math.factorial(order)  # mean of r**(2 n) for a normal vector of the plane
            result[i, j] = 2 * (la * lb) ** order * radial * (high - low) / 2 * (weights @ inner) / (2 * np.pi)
    return result


def gaussian_process(x: Any, inputs: Any, targets: Any, kernel: Any, noise: float = 1e-6) -> Any:
    length = (2 * dict(kernel.attributes)["gamma"]) ** -0.5
    fitted = GaussianProcessRegressor(RBF(length), alpha=noise, optimizer=None).fit(inputs.numpy(), targets.numpy())
    return fitted.predict(x.numpy()).reshape(len(x), -1)


def process_variance(x: Any, inputs: Any, factor: Any, kernel: Any) -> Any:
    """With the inverse in the place of the factor: k(x, x) - k(x, inputs) (l l^T)^-1 k(inputs, x)."""
    lower = np.tril(factor.numpy())
    cross = gram(x, inputs, kernel)
    prior = np.array([gram(row[None], row[None], kernel)[0, 0] for row in x])
    return prior - np.einsum("qn,nm,qm->q", cross, np.linalg.inv(lower @ lower.T), cross)


def ridge(inputs: Any, targets: Any, kernel: Any, ridge: float = 1e-6) -> Any:
    return KernelRidge(alpha=ridge, kernel="rbf", gamma=dict(kernel.attributes)["gamma"]).fit(
        inputs.numpy(), targets.numpy()
    )


def wendland(x: Array, y: Array, length: float = 1.0) -> Array:
    r = pairwise.euclidean_distances(x, y) / length
    return np.maximum(1 - r, 0) ** 4 * (4 * r + 1)


def thin_plate(x: Array, y: Array) -> Array:
    """SciPy's thin plate spline."""
    return xlogy(r := pairwise.euclidean_distances(x, y), r) * r


KERNELS: dict[str, Callable[..., Array]] = {
    "gaussian": lambda x, y, gamma=1.0: pairwise.rbf_kernel(x, y, gamma),
    "laplace": lambda x, y, gamma=1.0: pairwise.laplacian_kernel(x, y, gamma),
    "matern12": lambda x, y, length=1.0: Matern(length, nu=0.5)(x, y),
    "matern32": lambda x, y, length=1.0: Matern(length, nu=1.5)(x, y),
    "matern52": lambda x, y, length=1.0: Matern(length, nu=2.5)(x, y),
    "polynomial": lambda x, y, degree=3, gamma=1.0, offset=1.0: pairwise.polynomial_kernel(x, y, degree, gamma, offset),
    "arc_cosine": arc_cosine,
    "inverse_multiquadric": lambda x, y, epsilon=1.0: (
        1 / np.sqrt(1 + epsilon**2 * pairwise.euclidean_distances(x, y) ** 2)
    ),
    "wendland": wendland,
    "thin_plate": thin_plate,
    "rational_quadratic": lambda x, y, alpha=1.0, length=1.0: RationalQuadratic(length, alpha)(x, y),
}


def gram(x: torch.Tensor, centers: torch.Tensor, kernel: KernelValue) -> Array:
    return KERNELS[kernel.name](x.numpy(), centers.numpy(), **dict(kernel.attributes))


def expansion(x: torch.Tensor, centers: torch.Tensor, weight: torch.Tensor, kernel: KernelValue) -> Array:
    return gram(x, centers, kernel) @ weight.numpy().T


def random_features(x: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    return math.sqrt(2 / len(phase)) * torch.cos(torch.einsum("...d,md->...m", x, frequency) + phase)


def rbf_field(x: torch.Tensor, centers: torch.Tensor, precision: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    scaled = (x[:, None] - centers[None]) * precision[None]
    return torch.exp(-(scaled.norm(dim=-1) ** 2) / 2) @ weight.T


def basis(x: torch.Tensor, grid: int = 5, order: int = 3, low: float = -1.0, high: float = 1.0) -> Array:
    """SciPy's B-splines on the prolonged uniform knots."""
    step = (high - low) / grid
    knots = low + step * np.arange(-order, grid + order + 1)
    count = grid + order
    splines = [BSpline.basis_element(knots[m : m + order + 2], extrapolate=False) for m in range(count)]
    return np.stack([np.nan_to_num(s(x.numpy())) for s in splines], axis=-1)


def kan(
    x: torch.Tensor, base: torch.Tensor, spline: torch.Tensor, order: int = 3, low: float = -1.0, high: float = 1.0
) -> Array:
    values = basis(x, spline.shape[-1] - order, order, low, high)
    return np.einsum("od,...d->...o", base, torch.nn.functional.silu(x)) + np.einsum("odm,...dm->...o", spline, values)


POINTS = normal(4, 3), normal(5, 3)
GAUSSIAN = kernel("gaussian", gamma=0.4)


def grams() -> tuple[Sample, ...]:
    options = {
        "gaussian": {"gamma": 0.3},
        "laplace": {"gamma": 0.3},
        "matern12": {"length": 2.0},
        "matern32": {"length": 2.0},
        "matern52": {"length": 0.7},
        "polynomial": {"degree": 2, "gamma": 0.5, "offset": 0.0},
        "inverse_multiquadric": {"epsilon": 0.6},
        "wendland": {"length": 2.5},
        "rational_quadratic": {"alpha": 0.8, "length": 1.5},
    }
    return (
        *(sample(*POINTS, kernel=kernel(name)) for name in KERNELS),
        *(sample(*POINTS, kernel=kernel(name, **attributes)) for name, attributes in options.items()),
        *(sample(*POINTS, kernel=kernel("arc_cosine", order=order)) for order in (0, 2)),
    )


RECORDS: tuple[Record, ...] = (
    Record(
        "kernel_matrix",
        grams(),
        gram,
        (
            bad("`centers` has size 2 along axis 1; `d` = 3", (4, 3), (5, 2), kernel=kernel("gaussian")),
            bad("orders 0, 1 and 2, not 3", (4, 3), (5, 3), kernel=kernel("arc_cosine", order=3)),
            bad("gamma > 0; gamma is -0.5", (4, 3), (5, 3), kernel=kernel("gaussian", gamma=-0.5)),
            bad("gamma > 0; gamma is 0", (4, 3), (5, 3), kernel=kernel("laplace", gamma=0)),
            bad("matern12 needs length > 0; length is 0", (4, 3), (5, 3), kernel=kernel("matern12", length=0)),
            bad("matern32 needs length > 0; length is 0", (4, 3), (5, 3), kernel=kernel("matern32", length=0)),
            bad("matern52 needs length > 0; length is -1", (4, 3), (5, 3), kernel=kernel("matern52", length=-1)),
            bad("wendland needs length > 0; length is 0", (4, 3), (5, 3), kernel=kernel("wendland", length=0)),
            bad("whole degree >= 0; degree is 2.5", (4, 3), (5, 3), kernel=kernel("polynomial", degree=2.5)),
            bad("they are 0 and 1.0", (4, 3), (5, 3), kernel=kernel("rational_quadratic", alpha=0)),
        ),
    ),
    Record(
        "kernel_machine",
        (
            sample(*POINTS, normal(2, 5), kernel=kernel("gaussian", gamma=0.05)),
            sample(*POINTS, normal(2, 5), kernel=kernel("matern52")),
        ),
        expansion,
        (bad("`weight` has size 6 along axis 1; `m` = 5", (4, 3), (5, 3), (2, 6), kernel=kernel("gaussian")),),
    ),
    Record(
        "add_diagonal",
        (sample(normal(4, 4), value=0.5), sample(normal(2, 3, 3), value=2)),
        lambda k, value: k + value * torch.eye(k.shape[-1], dtype=k.dtype),
    ),
    Record(
        "krr_weight",
        (sample(normal(6, 3), normal(6, 2), kernel=GAUSSIAN, ridge=0.1),),
        lambda inputs, targets, **given: ridge(inputs, targets, **given).dual_coef_.T,
        (bad("needs a positive kernel; thin_plate() is not", (6, 3), (6, 2), kernel=kernel("thin_plate")),),
    ),
    Record(
        "krr_predict",
        (sample(normal(4, 3), normal(6, 3), normal(6, 2), kernel=GAUSSIAN, ridge=0.1),),
        lambda x, inputs, targets, **given: ridge(inputs, targets, **given).predict(x.numpy()),
        (bad("the ridge is not negative; it is -1", (4, 3), (6, 3), (6, 2), kernel=GAUSSIAN, ridge=-1),),
    ),
    Record(
        "gp_variance",
        (
            sample(
                normal(4, 3), normal(5, 3), given(np.tril(np.ones((5, 5))) + 2 * np.eye(5)), kernel=kernel("gaussian")
            ),
        ),
        process_variance,
    ),
    Record(
        "gp_predict",
        (sample(normal(4, 3), normal(6, 3), normal(6, 2), kernel=GAUSSIAN, noise=0.1),),
        gaussian_process,
        (
            bad("needs a positive kernel", (4, 3), (6, 3), (6, 2), kernel=kernel("thin_plate")),
            bad("noise is not negative; it is -1", (4, 3), (6, 3), (6, 2), kernel=GAUSSIAN, noise=-1),
        ),
    ),
    Record(
        "random_fourier_features",
        (sample(normal(4, 3), normal(8, 3), uniform(8, low=0, high=6.28)),),
        random_features,
        (bad("`phase` has size 7 along axis 0; `m` = 8", (4, 3), (8, 3), (7,)),),
    ),
    Record(
        "rbf_field",
        (sample(normal(6, 2), normal(5, 2), uniform(5, 2, low=0.5, high=3.0), normal(3, 5)),),
        rbf_field,
        (bad("`precision` has size 4 along axis 0; `m` = 5", (6, 2), (5, 2), (4, 2), (3, 5)),),
    ),
    Record(
        "bspline_basis",
        (
            sample(uniform(3, 4, low=-1.0, high=1.0)),
            sample(given([-3.0, -1.3, -1.0, 0.0, 0.2, 1.0, 1.7, 3.0])),
            *(sample(uniform(9, low=-2.5, high=2.5), grid=4, order=order, low=-2, high=2.5) for order in range(1, 6)),
        ),
        basis,
        (
            bad("orders 1 to 5, not 6", (3,), order=6),
            bad("grid is 0", (3,), grid=0),
            bad("low is 1, high is 1", (3,), low=1, high=1),
            bad("finite knots low < high; low is 0, high is inf", (3,), low=0, high=float("inf")),
            bad("orders 1 to 5, not -1", (3,), order=-1),
        ),
    ),
    Record(
        "kan_linear",
        (
            sample(uniform(4, 3, low=-1.5, high=1.5), normal(2, 3), normal(2, 3, 8)),
            sample(uniform(2, 4, 3, low=-2, high=2), normal(2, 3), normal(2, 3, 6), order=2, low=-2.0, high=2.0),
        ),
        kan,
        (bad("need more than 3 coefficients; spline_weight has 3", (4, 3), (2, 3), (2, 3, 3)),),
    ),
)
