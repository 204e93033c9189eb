"""S079 NILUT (Conde et al. 2024): reference. RGB' = RGB + f([RGB, s]); the table is read by scipy's interpolator."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.interpolate import RegularGridInterpolator

SAMPLES = [{"N": 2, "H": 4, "W": 5}, {"N": 3, "H": 6, "W": 3}]


def colour(p: dict[str, Array], rgb: Array, style: Array) -> Array:
    h = np.concatenate([rgb, style])
    for i in range(3):
        h = p[f"net.linear.{i}.weight"] @ h + p[f"net.linear.{i}.bias"]
        h = np.maximum(h, 0) if i == 0 else np.tanh(h) if i == 1 else h
    return np.clip(rgb + h, 0, 1)


def nilut(p: dict[str, Array], image: Array, style: Array) -> Array:
    return np.array([[[colour(p, rgb, s) for rgb in row] for row in x] for x, s in zip(image, style, strict=True)])


def lookup(p: dict[str, Array], image: Array, style: Array) -> Array:
    axis = np.linspace(0, 1, 5)
    images = []
    for x, s in zip(image, style, strict=True):
        table = np.array([[[colour(p, np.array([r, g, b]), s) for b in axis] for g in axis] for r in axis])
        images.append(RegularGridInterpolator((axis, axis, axis), table)(np.clip(x, 0, 1)))
    return np.array(images)


REFERENCES = {"NILUT": nilut, "Lookup": lookup}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    style = rng.dirichlet(np.ones(3), shapes["style"][0])
    return {"image": rng.uniform(0, 1, shapes["image"]), "style": style}
