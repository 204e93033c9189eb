"""S054 Sigmoid self-attention (Ramapuram et al. 2024): reference. o = sigmoid(QK^T/sqrt(d) - log n) V, per pair."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

SAMPLES = [{"N": 2, "L": 6}, {"N": 3, "L": 9}]
HEADS = 2

Params = dict[str, np.ndarray]


def norm(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * p[name + ".weight"] + p[name + ".bias"]


def attend(p: Params, name: str, x: np.ndarray, causal: bool) -> np.ndarray:
    n, length, d = x.shape
    q, k, v = np.split(x @ p[name + ".qkv.weight"].T, 3, axis=-1)
    y, size = np.zeros_like(x), d // HEADS
    for b in range(n):
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            for i in range(length):
                for j in range(i + 1 if causal else length):
                    s = q[b, i, part] @ k[b, j, part] / np.sqrt(size)
                    y[b, i, part] += v[b, j, part] / (1 + length * np.exp(-s))
    return y @ p[name + ".linear.weight"].T + p[name + ".linear.bias"]


def transformer(p: Params, x: np.ndarray, causal: bool) -> np.ndarray:
    for i in range(2):
        b = f"transformer.blocks.{i}.block."
        x = x + p[b + "scale1.gamma"] * attend(p, b + "sigmoid_attention", norm(p, b + "layer_norm", x), causal)
        u = norm(p, b + "norm2", x) @ p[b + "up.weight"].T + p[b + "up.bias"]
        u = 0.5 * u * (1 + erf(u / np.sqrt(2)))
        x = x + p[b + "scale2.gamma"] * (u @ p[b + "down.weight"].T + p[b + "down.bias"])
    return norm(p, "transformer.layer_norm", x)


def bidirectional(p: Params, x: np.ndarray) -> np.ndarray:
    return transformer(p, x, False)


def causal(p: Params, x: np.ndarray) -> np.ndarray:
    return transformer(p, x, True)


REFERENCES = {"Bidirectional": bidirectional, "Causal": causal}
