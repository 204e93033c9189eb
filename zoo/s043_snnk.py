"""S043 SNNK (Sehanobish et al. 2023): reference. f(w.x + b) ~ Phi(x) . Psi(w, b), universal random features.

Complex arithmetic, one pair (x, w) at a time: the mean over j of F(xi)/p(xi) exp(2 pi i xi b) L(a) L(x) with
L(v) = exp(g.v - v.v/2) and a = 2 pi i xi w; the density from scipy, arc-cosine features by their definition.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

SAMPLES = [{"N": 2}, {"N": 9}]
Params = dict[str, np.ndarray]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]


def gaussian(p: Params, x: np.ndarray) -> np.ndarray:
    g, xi = p["first.g"], p["first.xi"]
    transform = np.sqrt(2 * np.pi) * np.exp(-2 * (np.pi * xi) ** 2)
    y = np.zeros((len(x), len(p["first.bias"])))
    for o, (w, b) in enumerate(zip(p["first.weight"], p["first.bias"], strict=True)):
        for n, row in enumerate(x):
            terms = [
                np.exp(2j * np.pi * s * b + 2j * np.pi * s * (v @ w) - (2j * np.pi * s) ** 2 * (w @ w) / 2)
                * np.exp(v @ row - row @ row / 2)
                for v, s in zip(g, xi, strict=True)
            ]
            y[n, o] = np.mean(np.real(terms) * transform / norm.pdf(xi, scale=0.16))
    return y


def snnk(p: Params, x: np.ndarray) -> np.ndarray:
    h = unit(gaussian(p, unit(x)))
    pairs = [(g @ h.T > 0) * (g @ h.T) * np.maximum(p["second.weight"] @ g, 0)[:, None] for g in p["second.g"]]
    return np.mean(pairs, 0).T


def bundled(p: Params, x: np.ndarray) -> np.ndarray:
    x, g = unit(x), p["g"]
    logits = -((x[:, None] - g) ** 2).sum(-1) / 2 + (g**2).sum(-1) / 2
    return np.exp(logits) / np.sqrt(len(g)) @ p["bundle.weight"].T + p["bundle.bias"]


REFERENCES = {"SNNK": snnk, "Bundled": bundled}
reference = snnk
