"""S020 Gaussian mixture convolution networks (Celarek et al. 2022): reference.

N(m, S) * N(v, T) = N(m + v, S + T), densities by scipy.stats, one example and one channel at a time.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import softmax
from scipy.stats import multivariate_normal

SAMPLES = [{"N": 2}, {"N": 3}]
Params = dict[str, Array]
Mixture = tuple[list[float], list[Array], list[Array]]
"""Amplitudes, means and covariances of the components."""


def convolve(channels: list[Mixture], b: Array, shift: Array, spread: list[list[Array]]) -> Mixture:
    """One output channel; kernels of its input channels: b[c, j], shift[c, j, 2], spread[c][j]."""
    amplitudes, means, covariances = [], [], []
    for c, (a, m, s) in enumerate(channels):
        for i in range(len(a)):
            for j in range(len(b[c])):
                amplitudes.append(a[i] * b[c, j])
                means.append(m[i] + shift[c, j])
                covariances.append(s[i] + spread[c][j])
    return amplitudes, means, covariances


def evaluate(amplitudes: Array, means: list[Array], covariances: list[Array], points: list[Array]) -> Array:
    parts = [multivariate_normal.pdf(np.stack(points), m, s) for m, s in zip(means, covariances, strict=True)]
    return np.asarray(amplitudes) @ np.stack(parts)


def relu_fit(mixture: Mixture, bias: float) -> Mixture:
    a, m, s = np.asarray(mixture[0]), mixture[1], mixture[2]
    value = np.maximum(evaluate(a, m, s, m) + bias, 0)
    return list(np.abs(a) * value / (evaluate(np.abs(a), m, s, m) + 1e-6)), m, s


def reduce(mixture: Mixture, keep: int) -> Mixture:
    a, m, s = np.asarray(mixture[0]), np.stack(mixture[1]), np.stack(mixture[2])
    first = np.argsort(-a, kind="stable")[:keep]
    scores = [
        [np.log(a[j] + 1e-3) + multivariate_normal.logpdf(m[i], m[j], s[j] + s[i]) for j in first]
        for i in range(len(a))
    ]
    share = softmax(np.array(scores), axis=1)
    amplitudes, means, covariances = [], [], []
    for j in range(keep):
        part = (a + 1e-6) * share[:, j]
        amplitudes.append(part.sum())
        means.append(np.average(m, axis=0, weights=part))
        second = s + np.einsum("id,ie->ide", m, m)
        covariances.append(np.average(second, axis=0, weights=part) - np.outer(means[-1], means[-1]))
    return amplitudes, means, covariances


def layer(p: Params, name: str, channels: list[Mixture], keep: int) -> list[Mixture]:
    amplitude, shift, lower, bias = (p[f"{name}.{part}"] for part in ("amplitude", "shift", "lower", "bias"))
    outputs = []
    for o in range(len(bias)):
        spread = [[np.tril(f) @ np.tril(f).T + np.eye(2) / 20 for f in row] for row in lower[o]]
        mixture = convolve(channels, amplitude[o], shift[o], spread)
        outputs.append(reduce(relu_fit(mixture, bias[o]), keep))
    return outputs


def reference(p: Params, a: Array, mu: Array, lower: Array) -> tuple[Array, ...]:
    mixtures = []
    for n in range(len(a)):
        covariances = [np.tril(f) @ np.tril(f).T for f in lower[n, 0]]
        channels = layer(p, "gm_conv.0", [(list(a[n, 0]), list(mu[n, 0]), covariances)], 6)
        mixtures.append(layer(p, "gm_conv.1", channels, 4))
    b, m, s = (np.array([[channel[part] for channel in mixture] for mixture in mixtures]) for part in range(3))
    return b.sum(axis=2) @ p["head.weight"].T + p["head.bias"], b, m, s


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    values = {"a": rng.uniform(0.2, 1, shapes["a"]), "mu": rng.uniform(-2, 2, shapes["mu"])}
    values["lower"] = rng.uniform(0.3, 0.9, shapes["lower"])
    return values
