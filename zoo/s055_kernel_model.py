"""S055 General kernel models (Abedsoltan, Belkin and Pandit 2023): reference. f(x) = sum_i alpha_i K(x, z_i).

Gaussian, Laplace and Matern kernels from distances by scipy; the tangent kernel as the derivative of a recursion of
arc-cosine kernels: Theta_L = sum over l of Sigma_l times the product of the later derivatives kappa_0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gamma, kv

SAMPLES = [{"N": 2}, {"N": 9}]

Params = dict[str, np.ndarray]
Gram = Callable[[np.ndarray, np.ndarray], np.ndarray]


def machine(gram: Gram) -> Callable[[Params, np.ndarray], np.ndarray]:
    return lambda p, x: gram(x, p["f.centers"]) @ p["f.weight"].T


def gaussian(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.exp(-cdist(x, z, "sqeuclidean") / (2 * 2.0**2))


def laplacian(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.exp(-cdist(x, z) / 3.0)


def matern(x: np.ndarray, z: np.ndarray, nu: float = 2.5) -> np.ndarray:
    r = np.sqrt(2 * nu) * cdist(x, z) / 2.0
    return 2 ** (1 - nu) / gamma(nu) * r**nu * kv(nu, r)


def neural_tangent(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    sigma = [x @ z.T]
    scale = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(z, axis=1)
    slopes = []
    for _ in range(3):
        t = np.arccos(np.clip(sigma[-1] / scale, -1, 1))
        slopes.append(1 - t / np.pi)
        sigma.append(scale * (np.sin(t) + (np.pi - t) * np.cos(t)) / np.pi)
    return sum((s * np.prod(slopes[i:], axis=0) for i, s in enumerate(sigma)), np.zeros_like(scale))


REFERENCES = {
    "Gaussian": machine(gaussian),
    "Laplacian": machine(laplacian),
    "Matern": machine(matern),
    "NeuralTangent": machine(neural_tangent),
}
