"""S081 PIG (Kang et al. 2025): reference. sum_i f_i exp(-1/2 (x - mu)^T Sigma^-1 (x - mu)), then an MLP.

The Gaussians are scipy's densities divided by their peaks; the covariance is built and inverted by the library.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.stats import multivariate_normal

SAMPLES = [{"N": 5}, {"N": 12}]


def reference(p: dict[str, Array], x: Array) -> Array:
    q = {k.removeprefix("gaussian_embed."): v for k, v in p.items()}
    features = np.zeros((len(x), 4))
    for mean, log_scale, shear, feature in zip(q["center"], q["log_scale"], q["shear"], q["feature"], strict=True):
        factor = np.tril(shear, -1) + np.diag(np.exp(log_scale))
        density = multivariate_normal(mean, np.linalg.inv(factor @ factor.T))
        features += np.multiply.outer(density.pdf(x) / density.pdf(mean), feature)
    h = np.tanh(features @ p["linear.0.weight"].T + p["linear.0.bias"])
    return h @ p["linear.1.weight"].T + p["linear.1.bias"]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"x": rng.uniform(-1, 1, shapes["x"])}
