"""S071 complex wavelet INR (Roddenberry et al. 2024): reference. Re of two complex networks, point by point.

Complex products are written on real pairs: a matrix [[Re, -Im], [Im, Re]] acts on (re, im).
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [{"N": 2, "P": 5}, {"N": 3, "P": 8}]


def activation(a: Array, b: Array, band: bool) -> Array:
    window = np.exp(-(0.7**2) * (a * a + b * b))
    if not band:
        return np.concatenate([window, 0 * b])
    return np.concatenate([np.cos(2 * a), np.sin(2 * a)]) * np.tile(window * np.exp(-2 * b), 2)


def net(p: dict[str, Array], x: Array, band: bool) -> Array:
    path = "band" if band else "low"
    a = p[f"{path}.linear.weight"] @ x + p[f"{path}.linear.bias"]
    pair = np.concatenate([a, 0 * a])
    for i in range(2):
        q = {k: p[f"{path}.complex_linear.{i}.{k}"] for k in ("weight_re", "weight_im", "bias_re", "bias_im")}
        matrix = np.block([[q["weight_re"], -q["weight_im"]], [q["weight_im"], q["weight_re"]]])
        pair = matrix @ activation(*np.split(pair, 2), band) + np.concatenate([q["bias_re"], q["bias_im"]])
    return np.split(pair, 2)[0]


def reference(p: dict[str, Array], x: Array) -> Array:
    return np.array([[net(p, point, False) + net(p, point, True) for point in points] for points in x])


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"x": rng.uniform(-1, 1, shapes["x"])}
