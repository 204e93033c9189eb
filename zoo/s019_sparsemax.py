"""S019 Sparsemax (Martins and Astudillo 2016): reference.

The projection of z on the simplex, found here by bisection for the tau with sum max(z - tau, 0) = 1.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.optimize import brentq

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 12}]
Params = dict[str, Array]


def sparsemax(z: Array) -> Array:
    """Rows of [N, D]."""
    rows = []
    for row in z:
        tau = brentq(lambda t, row=row: np.maximum(row - t, 0).sum() - 1, row.max() - 1, row.max(), xtol=1e-14)
        rows.append(np.maximum(row - tau, 0))
    return np.stack(rows)


def linear(p: Params, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def reference(p: Params, premise: Array, hypothesis: Array) -> tuple[Array, Array]:
    memory = np.tanh(linear(p, "linear", premise))
    query = linear(p, "sparse_attention.query", hypothesis)
    hidden = np.tanh(linear(p, "sparse_attention.key", memory) + query[:, None])
    weights = sparsemax(2 * linear(p, "sparse_attention.score", hidden)[..., 0])
    context = np.einsum("nl,nld->nd", weights, memory)
    state = np.tanh(linear(p, "context", context) + linear(p, "hypothesis", hypothesis))
    return sparsemax(linear(p, "labels", state)), weights
