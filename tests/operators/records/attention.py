"""Attention, against torch.nn.functional."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, normal, sample


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None, causal: bool = False
) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


RECORDS: tuple[Record, ...] = (
    Record(
        "attention",
        (
            sample(normal(2, 3, 4, 5), normal(2, 3, 6, 5), normal(2, 3, 6, 7)),
            sample(normal(2, 4, 5), normal(2, 4, 5), normal(2, 4, 5), causal=True),
            sample(normal(4, 5), normal(6, 5), normal(6, 5), scale=0.3, causal=True),
        ),
        attention,
        (bad("`k` has size 6 along axis 1; `d` = 5", (4, 5), (4, 6), (4, 5)),),
    ),
)
