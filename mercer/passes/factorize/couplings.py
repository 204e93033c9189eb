"""Random directions that are drawn together, for random features."""

from __future__ import annotations

import numpy as np

from mercer.passes.factorize.approximation import Matrix

COUPLINGS = ("iid", "orthogonal", "simplex")


def normal_rows(coupling: str, count: int, dim: int, random: np.random.Generator) -> Matrix:
    """Rows [count, dim], each standard normal; blocks of `dim` rows depend on each other.

    `iid`: not at all. `orthogonal`: their directions are orthonormal (Yu et al. 2016). `simplex`: they point to the
    corners of a regular simplex around the origin, each pair at the cosine -1/(dim - 1) (Reid et al. 2023). Lengths
    are independent, those of normal vectors.
    """
    if coupling == "iid":
        return random.standard_normal((count, dim))
    corners = np.eye(dim) if coupling == "orthogonal" else simplex(dim)
    blocks = [corners @ _rotation(dim, random) for _ in range(-(-count // dim))]
    lengths = np.sqrt(random.chisquare(dim, count))
    return lengths[:, None] * np.concatenate(blocks)[:count]


def simplex(dim: int) -> Matrix:
    """Unit vectors from the center of a regular simplex to its `dim` corners (Reid et al. 2023, equation 8)."""
    centered = np.eye(dim) - 1.0 / dim
    return centered * np.sqrt(dim / (dim - 1.0))


def _rotation(dim: int, random: np.random.Generator) -> Matrix:
    """A rotation or reflection, uniform over all of them (Mezzadri 2007)."""
    basis, triangle = np.linalg.qr(random.standard_normal((dim, dim)))
    return (basis * np.sign(np.diag(triangle))).astype(np.float64)
