"""S072 SIREN (Sitzmann et al. 2020): reference. The derivatives are carried forward by hand, layer by layer.

With u = omega (W h + b): d sin(u) = cos(u) du and Laplace sin(u) = cos(u) Laplace u - sin(u) sum_k (d_k u)^2.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [
    {"model": "Field", "N": 3},
    {"model": "Field", "N": 5},
    {"model": "HyperSIREN", "N": 2, "P": 6},
    {"model": "HyperSIREN", "N": 3, "P": 4},
]


def field(p: dict[str, Array], x: Array) -> tuple[Array, Array, Array]:
    rows = []
    for point in x:
        h, slope, laplacian = point, np.eye(2), np.zeros(2)
        for i in range(3):
            w, b = (p[f"siren.sine.{i}.{name}"] for name in ("weight", "bias"))
            u, du, ddu = 30 * (w @ h + b), 30 * w @ slope, 30 * w @ laplacian
            h, slope, laplacian = np.sin(u), np.cos(u)[:, None] * du, np.cos(u) * ddu - np.sin(u) * (du**2).sum(1)
        w = p["siren.linear.weight"][0]
        rows.append((w @ h + p["siren.linear.bias"][0], w @ slope, w @ laplacian))
    value, gradient, second = (np.array(part) for part in zip(*rows, strict=True))
    return value, gradient, second


def hyper(p: dict[str, Array], x: Array, code: Array) -> Array:
    scenes = []
    for points, c in zip(x, code, strict=True):
        z = np.maximum(p["linear.weight"] @ c + p["linear.bias"], 0)
        h = points.T
        for i, scale in enumerate((0.5, 0.05, 1.0)):
            path = f"dyn_linear.{i}"
            b = p[f"{path}.bias.weight"] @ z + p[f"{path}.bias.bias"]
            w = (p[f"{path}.weight.weight"] @ z + p[f"{path}.weight.bias"]).reshape(len(b), -1)
            h = scale * w @ h + b[:, None]
            h = np.sin(30 * h) if i < 2 else h
        scenes.append(h.T)
    return np.array(scenes)


REFERENCES = {"Field": field, "HyperSIREN": hyper}


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    """The initialization of the paper, without the noise of trained parameters, which omega would multiply by 30."""
    shapes = {k: v.shape for k, v in p.items()}
    for k, shape in shapes.items():
        if k.startswith("siren.sine"):
            bound = 0.5 if ".0.weight" in k else np.sqrt(6 / 12) / 30 if "weight" in k else 0.3
            p[k] = rng.uniform(-bound, bound, shape)
    return p


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {k: rng.uniform(-1, 1, s) for k, s in shapes.items()}
