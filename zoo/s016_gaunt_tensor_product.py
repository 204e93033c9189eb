"""S016 Gaunt tensor products (Luo, Chen and Krishnapriyan 2024): reference.

The functions sum_i x_i Y_i are multiplied on a Gauss-Legendre grid of the sphere and the product is projected on the
harmonics of scipy; no table of Gaunt coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import expit, sph_harm_y

SAMPLES = [{"N": 2}, {"N": 3}]
DEGREES = [0] + 3 * [1] + 5 * [2]
Params = dict[str, Array]


def harmonics(theta: Array, phi: Array) -> Array:
    """Real spherical harmonics up to degree 2, last axis of 9."""
    parts = []
    for degree in range(3):
        for m in range(-degree, degree + 1):
            y = (-1) ** m * sph_harm_y(degree, abs(m), theta, phi)
            parts.append(y.real if m == 0 else np.sqrt(2) * (y.real if m > 0 else y.imag))
    return np.stack(parts, axis=-1)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(6)
PHI = 2 * np.pi * np.arange(12) / 12
GRID = harmonics(np.arccos(NODES)[:, None], PHI[None, :])
AREA = WEIGHTS[:, None] * np.full(12, 2 * np.pi / 12)


def product(a: Array, b: Array) -> Array:
    return (AREA[..., None] * (GRID @ a * (GRID @ b))[..., None] * GRID).sum(axis=(0, 1))


def mix(p: Params, name: str, x: Array) -> Array:
    """[C, 9] to [O, 9]."""
    return np.stack([p[f"net.{name}.weight"][degree] @ x[:, i] for i, degree in enumerate(DEGREES)], axis=1)


def reference(p: Params, x: Array, r: Array) -> tuple[Array, Array]:
    outputs, features = [], []
    for one, (u, v, w) in zip(x, r, strict=True):
        y = harmonics(np.arctan2(np.hypot(u, v), w), np.arctan2(v, u))[None]
        h = mix(p, "equivariant_linear", one)
        for i in range(2):
            name = f"layers.{i}"
            pairs = zip(mix(p, f"{name}.left", h), mix(p, f"{name}.right", y), strict=True)
            m = np.stack([product(a, b) for a, b in pairs])
            gate = expit(p[f"net.{name}.linear.weight"] @ m[:, 0] + p[f"net.{name}.linear.bias"])
            h = h + mix(p, f"{name}.update", m * gate[:, None])
        scalars = h[:, 0] * expit(h[:, 0])
        outputs.append(p["net.head.weight"] @ scalars + p["net.head.bias"])
        features.append(h)
    return np.stack(outputs), np.stack(features)
