"""Operators that every backend has its own code for, against PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from tests.operators.records.record import Record, bad, given, integers, normal, sample


def scattered(base: Any, index: Any, values: Any) -> Any:
    """A sum over all rows, each of which belongs to one row of the base or to none."""
    belongs = index[..., None, :] == torch.arange(base.shape[-2])[:, None]
    return base + belongs.to(base.dtype) @ values


RECORDS: tuple[Record, ...] = (
    Record(
        "argsort",
        (
            sample(normal(3, 7)),
            sample(normal(2, 3, 33), descending=True),
            sample(integers(4, 50, high=5)),
            sample(integers(4, 50, high=5), descending=True),
            sample(given([[2.0, float("nan"), 1.0, float("inf"), 1.0]])),
            sample(normal(2, 1)),
            sample(normal(0, 3)),
        ),
        lambda x, descending=False: torch.argsort(x, dim=-1, descending=descending, stable=True).to(torch.int32),
        differentiable=False,
    ),
    Record(
        "scatter_add",
        (
            sample(normal(5, 3), integers(20, high=5), normal(20, 3)),
            sample(normal(2, 3, 4, 2), integers(2, 3, 7, low=-2, high=6), normal(2, 3, 7, 2)),
        ),
        scattered,
        (bad("`index` is f32; i32 expected", (5, 4), (3,), (3, 4)),),
    ),
)
