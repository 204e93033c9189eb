"""S047 Simplex random features (Reid et al. 2023): reference. phi(x) = exp(D S R x - |x|^2/2)/sqrt(m)."""

from __future__ import annotations

import numpy as np

SAMPLES = [
    {"model": "Attention", "N": 2, "L": 5},
    {"model": "Attention", "N": 3, "L": 7},
    {"model": "GaussianMachine", "N": 2},
    {"model": "GaussianMachine", "N": 6},
]

Params = dict[str, np.ndarray]


def corners(d: int) -> np.ndarray:
    """The rows s_i, checked to be unit vectors with inner products -1/(d - 1)."""
    s = np.zeros((d, d))
    for i in range(d - 1):
        s[i, : d - 1] = -(np.sqrt(d) + 1) / (d - 1) ** 1.5
        s[i, i] += np.sqrt(d / (d - 1))
    s[d - 1, : d - 1] = 1 / np.sqrt(d - 1)
    gram = np.full((d, d), -1 / (d - 1))
    np.fill_diagonal(gram, 1)
    assert np.allclose(s @ s.T, gram)
    return s


def projection(p: Params) -> np.ndarray:
    """W of shape [m, d]."""
    blocks = []
    for g, lengths in zip(p["features.directions"], p["features.lengths"], strict=True):
        q, r = np.linalg.qr(g.T)
        rotation = (q * np.sign(np.diag(r))).T
        blocks.append(np.diag(np.linalg.norm(lengths, axis=1)) @ corners(len(g)) @ rotation)
    return np.concatenate(blocks)


def features(w: np.ndarray, x: np.ndarray, weight: float) -> np.ndarray:
    return np.exp(x @ w.T - weight * (x**2).sum(-1, keepdims=True)) / np.sqrt(len(w))


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def attention(p: Params, x: np.ndarray) -> np.ndarray:
    w, scale = projection(p), 6.0**-0.25
    q, k = (features(w, scale * dense(p, name, x), 0.5) for name in ("query", "key"))
    scores = np.einsum("nlm,nsm->nls", q, k)
    y = scores / scores.sum(-1, keepdims=True) @ dense(p, "value", x)
    return x + dense(p, "out", y)


def machine(p: Params, x: np.ndarray) -> np.ndarray:
    w = projection(p)
    gram = features(w, x / 2, 1.0) @ features(w, p["centers"][0], 1.0).T
    return gram @ p["alpha"].T


REFERENCES = {"Attention": attention, "GaussianMachine": machine}
