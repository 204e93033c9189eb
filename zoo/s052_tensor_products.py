"""S052 Equivariant tensor products (Xie et al. 2025): reference. 3j symbols of e3nn, Gaunt integrals of sympy."""

from __future__ import annotations

import functools

import numpy as np
import torch
from e3nn import o3
from sympy.physics.wigner import real_gaunt

SAMPLES = [{"N": 2}, {"N": 5}]
SLICES = (slice(0, 1), slice(1, 4), slice(4, 9))
NEGATIVE = {(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
"""Paths whose sign is the opposite of e3nn's."""

Params = dict[str, np.ndarray]


def mix(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    weight = p[name + ".weight"]
    return np.concatenate([np.einsum("vu,nua->nva", weight[..., i], x[..., s]) for i, s in enumerate(SLICES)], axis=-1)


def clebsch_gordan(p: Params, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    h, weight = mix(p, "before", x), p["product.weight"]
    y = np.zeros_like(h)
    for i in range(3):
        for j in range(3):
            for k in range(abs(i - j), min(i + j, 2) + 1):
                c = o3.wigner_3j(i, j, k, dtype=torch.float64).numpy() * (-1 if (i, j, k) in NEGATIVE else 1)
                part = np.einsum("abc,nua,nb->nuc", c, h[..., SLICES[i]], z[:, SLICES[j]])
                y[..., SLICES[k]] += weight[None, :, i, j, k, None] * part
    return x + mix(p, "after", y)


@functools.cache
def integrals() -> np.ndarray:
    """The integrals of products of three real harmonics."""
    order = [(degree, m) for degree in range(3) for m in range(-degree, degree + 1)]
    return np.array(
        [[[float(real_gaunt(a[0], b[0], c[0], a[1], b[1], c[1])) for c in order] for b in order] for a in order]
    )


def gaunt(p: Params, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    degrees = np.repeat(np.arange(3), [1, 3, 5])
    left, right, out = (p[f"product.{k}"][:, degrees] for k in ("left", "right", "out"))
    y = np.einsum("abc,nua,nub->nuc", integrals(), left * mix(p, "before", x), right * z[:, None])
    return x + mix(p, "after", out * y)


REFERENCES = {"ClebschGordanMessage": clebsch_gordan, "GauntMessage": gaunt}
