"""S045 Scale mixtures of NNGPs (Lee et al. 2022): reference. The Student-t process that marginalizes the last variance.

The density is the integral of Gaussian densities over the posterior inverse-gamma distribution of the variance; mean
and scale come from the inverse of the Gram matrix, and the kernel from its integral over two correlated Gaussians.
"""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats

SAMPLES = [{"N": 2}, {"N": 5}]
DEPTH, WEIGHT, BIAS, NOISE, A, B = 3, 1.6, 0.1, 0.1, 2.0, 1.5

Params = dict[str, np.ndarray]


def relu_moment(a: float, k: float, b: float) -> float:
    """E[relu(u) relu(v)] for u, v normal with covariance [[a, k], [k, b]], in polar coordinates."""
    if k >= np.sqrt(a * b) * (1 - 1e-12):
        return np.sqrt(a * b) / 2
    rho = k / np.sqrt(a * b)
    # u = sqrt(a) r cos(s), v = sqrt(b) r cos(s - t) with cos t = rho; E[r^2] = 2, and s is uniform.
    t = np.arccos(rho)
    value, _ = integrate.quad(lambda s: np.cos(s) * np.cos(s - t), t - np.pi / 2, np.pi / 2, epsabs=1e-12)
    return np.sqrt(a * b) * value / np.pi


def kernel(x: np.ndarray, z: np.ndarray) -> float:
    a, k, b = (BIAS + WEIGHT * float(np.mean(u * v)) for u, v in ((x, x), (x, z), (z, z)))
    for _ in range(DEPTH):
        a, k, b = (BIAS + WEIGHT * m for m in (relu_moment(a, a, a), relu_moment(a, k, b), relu_moment(b, b, b)))
    return k


def gram(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.array([[kernel(u, v) for v in z] for u in x])


def density(t: float, mean: float, variance: float, shape: float, rate: float) -> float:
    """The log of the integral over s ~ inverse-gamma(shape, rate) of N(t; mean, s variance)."""
    prior = stats.invgamma(shape, scale=rate)
    value, _ = integrate.quad(
        lambda u: stats.norm.pdf(t, mean, np.sqrt(prior.ppf(u) * variance)), 0, 1, epsabs=1e-12, limit=200
    )
    return float(np.log(value))


def reference(p: Params, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y = p["inputs"], p["targets"]
    inverse = np.linalg.inv(gram(z, z) + NOISE * np.eye(len(z)))
    cross = gram(x, z)
    mean = cross @ inverse @ y
    variance = np.array([kernel(u, u) for u in x]) + NOISE - np.einsum("ni,ij,nj->n", cross, inverse, cross)
    shape, rate = A + len(z) / 2, B + y @ inverse @ y / 2
    log_density = [density(*row, shape, rate) for row in zip(t, mean, variance, strict=True)]
    return mean, rate / shape * variance, np.array(log_density)
