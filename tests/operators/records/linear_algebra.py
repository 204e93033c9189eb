"""Factorizations and solves, against torch.linalg."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.operators.records.record import Array, Operand, Record, bad, normal, sample


def positive(*shape: int) -> Operand:
    """Symmetric positive definite matrices with eigenvalues above 1."""

    def make(rng: np.random.Generator) -> Array:
        root = rng.standard_normal(shape)
        return root @ np.swapaxes(root, -1, -2) / shape[-1] + np.eye(shape[-1])

    return make


def triangles(*shape: int) -> Operand:
    """Matrices whose lower triangle is well conditioned; the upper one is noise."""
    return lambda rng: 0.3 * rng.standard_normal(shape) + 2 * np.eye(shape[-1])


def factor(a: Any) -> Any:
    """PyTorch's derivative is that of the symmetric part; the operator reads the lower triangle."""
    return torch.linalg.cholesky(torch.tril(a) + torch.tril(a, -1).mT)


def triangular(lower: Any, b: Any, transposed: bool = False) -> Any:
    lower = torch.tril(lower)
    return torch.linalg.solve_triangular(lower.mT if transposed else lower, b, upper=transposed)


RECORDS: tuple[Record, ...] = (
    Record(
        "cholesky",
        (sample(positive(5, 5)), sample(positive(2, 3, 4, 4)), sample(positive(1, 1))),
        factor,
        (bad("cholesky takes square matrices; these are 3 x 4", (3, 4)),),
    ),
    Record(
        "triangular_solve",
        (
            sample(triangles(5, 5), normal(5, 2)),
            sample(triangles(2, 4, 4), normal(2, 4, 3)),
            sample(triangles(2, 4, 4), normal(2, 4, 3), transposed=True),
        ),
        triangular,
        (bad("`b` has size 4 along axis 0; `n` = 5", (5, 5), (4, 2)),),
    ),
    Record(
        "solve_positive",
        (sample(positive(5, 5), normal(5, 2)), sample(positive(2, 4, 4), normal(2, 4, 3))),
        lambda a, b: torch.linalg.solve(torch.tril(a) + torch.tril(a, -1).mT, b),
    ),
    Record(
        "solve",
        (sample(normal(5, 5), normal(5, 2)), sample(normal(2, 4, 4), normal(2, 4, 3))),
        torch.linalg.solve,
        (bad("solve takes square matrices; these are 3 x 4", (3, 4), (3, 2)),),
    ),
    Record("inverse", (sample(normal(4, 4)), sample(positive(2, 3, 3))), torch.linalg.inv),
)
