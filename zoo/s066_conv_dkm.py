"""S066 Convolutional deep kernel machines (Milsom et al. 2024): reference. Whole Gram matrices of one image at a time.

Inducing points and all pixels stand in one matrix; a convolution is sum_d M_d K M_d^T/D, M_d of C_d and a shift.
"""

from __future__ import annotations

import numpy as np

SAMPLES = [{"N": 2, "H": 5, "W": 6}, {"N": 3, "H": 4, "W": 4}]
JITTER = 0.01

Params = dict[str, np.ndarray]


def relu_kernel(g: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.outer(np.diag(g), np.diag(g)))
    t = np.arccos(np.clip(g / scale, -1, 1))
    k = scale * (np.sin(t) + (np.pi - t) * np.cos(t)) / np.pi
    np.fill_diagonal(k, np.diag(g))
    return k


def shift(h: int, w: int, i: int, j: int) -> np.ndarray:
    """The matrix that takes an image to itself moved by (i, j), zeros from outside."""
    return np.kron(np.eye(h, k=i), np.eye(w, k=j))


def convolve(k: np.ndarray, mix: np.ndarray, h: int, w: int) -> np.ndarray:
    inducing, old = mix.shape[:2]
    total = 0.0
    for i, j in np.ndindex(3, 3):
        m = np.zeros((inducing + h * w, len(k)))
        m[:inducing, :old] = mix[:, :, i, j]
        m[inducing:, old:] = shift(h, w, i - 1, j - 1)
        total = total + m @ k @ m.T / 9
    return np.asarray(total)


def normalize(k: np.ndarray, inducing: int) -> np.ndarray:
    d = np.diag(k)
    scale = np.concatenate([np.full(inducing, d[:inducing].mean()), np.full(len(k) - inducing, d[inducing:].mean())])
    return k / np.sqrt(np.outer(scale, scale))


def condition(k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The Gram matrix of a Gaussian process whose inducing values have another covariance than the prior."""
    size = len(v)
    prior = k[:size, :size] + JITTER * np.eye(size)
    root = np.linalg.cholesky(prior)
    g = root @ v @ v.T @ root.T
    gain = k[size:, :size] @ np.linalg.inv(prior)
    cross = gain @ g
    rest = k[size:, size:] - gain @ k[:size, size:] + cross @ gain.T
    return np.block([[g, cross.T], [cross, rest]])


def predict(p: Params, image: np.ndarray) -> np.ndarray:
    channels, h, w = image.shape
    inputs = np.concatenate([p["inducing_inputs"], image.reshape(channels, -1).T])
    g = inputs @ inputs.T / channels
    for i in range(2):
        k = relu_kernel(g) if i else g
        mix, v = (p[f"layers.{i}.dkm_layer.{name}"] for name in ("mix", "v"))
        g = condition(normalize(convolve(k, mix, h, w), len(v)), v)
    k, size = relu_kernel(g), len(p["mean_of_inducing"])
    return k[size:, :size].mean(0) @ np.linalg.inv(k[:size, :size] + JITTER * np.eye(size)) @ p["mean_of_inducing"]


def reference(p: Params, x: np.ndarray) -> np.ndarray:
    return np.stack([predict(p, image) for image in x])
