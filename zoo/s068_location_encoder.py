"""S068 Location encoder (Russwurm et al. 2024): reference. Real spherical harmonics from scipy, then a SIREN."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import sph_harm_y

SAMPLES = [{"N": 4}, {"N": 9}]


def harmonic(l: int, m: int, lon: Array, lat: Array) -> Array:  # noqa: E741
    y = sph_harm_y(l, abs(m), np.pi / 2 - lat, lon) * (-1) ** m
    return y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag)


def reference(p: dict[str, Array], point: Array) -> Array:
    lon, lat = point.T
    h = np.stack([harmonic(l, m, lon, lat) for l in range(5) for m in range(-l, l + 1)], axis=1)  # noqa: E741
    for i in range(2):
        h = np.sin(4 * (h @ p[f"siren.sine.{i}.weight"].T + p[f"siren.sine.{i}.bias"]))
    return h @ p["siren.linear.weight"].T + p["siren.linear.bias"]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    n = shapes["point"][0]
    return {"point": np.stack([rng.uniform(-np.pi, np.pi, n), np.arcsin(rng.uniform(-1, 1, n))], axis=1)}
