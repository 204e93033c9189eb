"""S084 SL2A-INR (Heidari et al. 2025): reference. Chebyshev series from numpy, then ReLU layers with the skip psi."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.polynomial.chebyshev import chebval

SAMPLES = [{"N": 4}, {"N": 9}]


def point(p: dict[str, Array], x: Array) -> Array:
    c = p["chebyshev_layer.coefficient"]
    psi = np.array([sum(chebval(np.tanh(x[i]), row[i]) for i in range(len(x))) for row in c])
    z = psi
    for i in range(3):
        path = f"low_rank.{i}.linear"
        w = p[f"{path}.1.weight"] @ p[f"{path}.0.weight"]
        z = np.maximum(w @ (z * psi) + p[f"{path}.1.bias"], 0)
    return p["linear.weight"] @ z + p["linear.bias"]


def reference(p: dict[str, Array], x: Array) -> Array:
    return np.array([point(p, row) for row in x])


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"x": rng.uniform(-1, 1, shapes["x"])}
