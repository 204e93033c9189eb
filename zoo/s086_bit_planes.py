"""S086 Bit-plane INR (Han et al. 2025): reference. v = sum_i 2^i [b_i >= 1/2], packed by numpy's packbits."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import expit

SAMPLES = [{"N": 2, "P": 6}, {"N": 3, "P": 4}]


def bits(p: dict[str, Array], x: Array, index: int) -> Array:
    h = np.array([*x, np.linspace(-1, 1, 8)[index]])
    for i in range(2):
        h = np.sin(8 * (p[f"siren.sine.{i}.weight"] @ h + p[f"siren.sine.{i}.bias"]))
    return expit(p["siren.linear.weight"] @ h + p["siren.linear.bias"])


def reference(p: dict[str, Array], x: Array) -> tuple[Array, Array]:
    b = np.array([[[bits(p, point, i) for i in range(8)] for point in points] for points in x])
    return np.packbits(b >= 0.5, axis=2, bitorder="little")[:, :, 0].astype(np.int64), b


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"x": rng.uniform(-1, 1, shapes["x"])}
