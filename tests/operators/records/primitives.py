"""Operators that every backend has its own code for, against PyTorch."""

from __future__ import annotations

import torch

from tests.operators.records.record import Record, given, integers, normal, sample

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
)
