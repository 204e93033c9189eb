"""S009 Adaptive basis layer (Yao, Mueller and Wang 2021): reference.

c_k = integral of beta_k(t) x(t) by np.trapezoid, one micro network and one example at a time.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [
    {"model": "Regular", "N": 2},
    {"model": "Regular", "N": 3},
    {"model": "Irregular", "N": 2, "J": 12},
    {"model": "Irregular", "N": 3, "J": 17},
]
PREFIX = "ada_fnn."


def beta(p: dict[str, Array], k: int, t: float) -> float:
    part = {name.rpartition(".")[2]: v[k] for name, v in p.items() if name.startswith(f"{PREFIX}basis.")}
    h = t * part["first_weight"] + part["first_bias"]
    h = (h - np.mean(h)) / np.sqrt(np.var(h) + 1e-5)
    h = np.tanh(h * part["norm_weight"] + part["norm_bias"])
    h = np.tanh(part["second_weight"] @ h + part["second_bias"])
    return float(part["last_weight"] @ h)


def irregular(p: dict[str, Array], x: Array, t: Array) -> Array:
    bases = len(p[f"{PREFIX}basis.last_weight"])
    rows = []
    for values, points in zip(x, t, strict=True):
        basis = [[beta(p, k, u) for u in points] for k in range(bases)]
        c = np.trapezoid(np.array(basis) * values, points, axis=1)
        h = np.maximum(p[f"{PREFIX}linear.0.weight"] @ c + p[f"{PREFIX}linear.0.bias"], 0)
        rows.append(p[f"{PREFIX}linear.1.weight"] @ h + p[f"{PREFIX}linear.1.bias"])
    return np.stack(rows)


def regular(p: dict[str, Array], x: Array) -> Array:
    return irregular(p, x, np.tile(np.linspace(0, 1, x.shape[1]), (len(x), 1)))


REFERENCES = {"Regular": regular, "Irregular": irregular}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    values = {"x": rng.normal(size=shapes["x"])}
    if "t" in shapes:
        values["t"] = np.sort(rng.uniform(size=shapes["t"]), axis=1)
    return values
