"""S082 Poly-INR (Singh, Shukla and Turaga 2023): reference. h <- leaky_relu(W (h * A [x, y, 1]) + b), per pixel."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [{"N": 2}, {"N": 3}]


def affine(p: dict[str, Array], path: str, h: Array) -> Array:
    return p[f"{path}.weight"] @ h + p[f"{path}.bias"]


def leaky(h: Array) -> Array:
    return np.maximum(h, 0) + 0.2 * np.minimum(h, 0)


def pixel(p: dict[str, Array], style: Array, x: float, y: float) -> Array:
    h, rgb = np.ones(8), np.zeros(3)
    for i in range(4):
        a = affine(p, f"levels.{i}.affine", style).reshape(8, 3)
        h = leaky(affine(p, f"levels.{i}.linear", h * (a @ [x, y, 1])))
        rgb += affine(p, f"levels.{i}.rgb", h)
    return rgb


def reference(p: dict[str, Array], z: Array) -> Array:
    axis = np.linspace(-1, 1, 12)
    images = []
    for code in z:
        style = code / np.linalg.norm(code)
        for i in range(2):
            style = leaky(affine(p, f"mapping.linear.{i}", style))
        images.append([[pixel(p, style, x, y) for x in axis] for y in axis])
    return np.array(images)


def parameters(_rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    """A mapping that carries the latent code to the image."""
    return {k: 3 * v if k.startswith("mapping") or k.endswith("affine.weight") else v for k, v in p.items()}
