"""Attention, against torch.nn.functional."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, normal, sample


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None = None, causal: bool = False
) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


def rotary(x: torch.Tensor, base: float = 10000.0) -> torch.Tensor:
    """Pairs as complex numbers, times exp(1j * angle)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


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
    Record(
        "rotary_embedding",
        (sample(normal(2, 3, 5, 6)), sample(normal(4, 2), base=100.0)),
        rotary,
        (bad("the head size is even, not 5", (2, 5)), bad("base is -1.0", (2, 4), base=-1.0)),
    ),
)
