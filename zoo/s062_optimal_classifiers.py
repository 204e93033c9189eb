"""S062 Optimal classifiers (Radhakrishnan et al. 2023): reference. Hermite series; dual activations by quadrature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import hermite_e
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

SAMPLES = [{"N": 2}, {"N": 6}]
D, DEPTH = 4, 5
PHI = np.array([0, 2 ** (-D / 4), np.sqrt((1 - 2 ** (1 - D / 2)) / 2), 2 ** (-D / 4) / np.sqrt(6)])
"""The activation as a series of (unnormalized) Hermite polynomials."""

Params = dict[str, np.ndarray]
Gram = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sphere(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def network(p: Params, x: np.ndarray) -> np.ndarray:
    h = sphere(x)
    for i in range(2):
        weight = p[f"hermite_layer.{i}.weight"]
        h = hermite_e.hermeval(h @ weight.T, PHI) / np.sqrt(len(weight))
    return h @ p["linear.weight"].T


def dual(series: np.ndarray, s: np.ndarray) -> np.ndarray:
    """E[f(u) f(v)] for standard normal u, v with covariance s."""
    nodes, weights = hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    first = hermite_e.hermeval(nodes, series)
    v = s[..., None, None] * nodes[:, None] + np.sqrt(1 - s**2)[..., None, None] * nodes
    return np.einsum("i,j,i,...ij->...", weights, weights, first, hermite_e.hermeval(v, series))


def tangent(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    s = np.clip(x @ z.T, -1, 1)
    t, slope = s, hermite_e.hermeder(PHI)
    for _ in range(DEPTH):
        s, t = dual(PHI, s), dual(PHI, s) + t * dual(slope, s)
    return t


def singular(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return cdist(x, z) ** -D


def vote(gram: Gram) -> Callable[[Params, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def run(p: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = gram(sphere(x), sphere(p["vote.points"]))
        score = k @ np.sign(p["vote.label"]) / abs(k).sum(1)
        return score, np.sign(score)

    return run


def limits(p: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, position = KDTree(sphere(p["points"])).query(sphere(x))
    label = np.sign(p["label"])
    return label[position], np.full(len(x), np.sign(label.sum()))


REFERENCES = {
    "Network": network,
    "TangentKernel": vote(tangent),
    "SingularKernel": vote(singular),
    "Limits": limits,
}
