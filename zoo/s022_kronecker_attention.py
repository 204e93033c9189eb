"""S022 Third-order attention (Alman and Song 2023): reference.

D^-1 exp(Q (K1 (/) K2)^T / d) (V1 (/) V2), with the column-wise Kronecker products written out as n^2 x d matrices.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.linalg import khatri_rao
from scipy.special import erf, softmax

SAMPLES = [{"N": 2, "L": 5}, {"N": 3, "L": 8}]
Params = dict[str, Array]


def linear(p: Params, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(p: Params, name: str, x: Array) -> Array:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: Params, name: str, x: Array, heads: int = 2) -> Array:
    """One sequence: [L, D]."""
    q, k1, k2, v1, v2 = (np.split(z, heads, axis=1) for z in np.split(linear(p, f"{name}.parts", x), 5, axis=1))
    size = x.shape[1] // heads
    outputs = []
    for h in range(heads):
        weights = softmax(q[h] @ khatri_rao(k1[h], k2[h]).T / size, axis=1)
        outputs.append(weights @ khatri_rao(v1[h], v2[h]))
    return linear(p, f"{name}.out", np.concatenate(outputs, axis=1))


def reference(p: Params, x: Array) -> Array:
    outputs = []
    for sequence in x:
        h = linear(p, "embed", sequence)
        for i in range(2):
            name = f"blocks.{i}"
            h = h + attention(p, f"{name}.tensor_attention", layer_norm(p, f"{name}.layer_norm.0", h))
            y = linear(p, f"{name}.linear.0", layer_norm(p, f"{name}.layer_norm.1", h))
            h = h + linear(p, f"{name}.linear.1", y * (1 + erf(y / np.sqrt(2))) / 2)
        outputs.append(linear(p, "head", h.mean(axis=0)))
    return np.stack(outputs)
