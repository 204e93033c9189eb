"""Reductions, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.operators.records.record import Bad, Record, bad, booleans, given, normal, sample

REFUSED = (bad("axis 2", (2, 3), axis=2),)
SPREAD = (bad("correction 1 needs more than 1 elements; axis -1 has 1", (2, 1)),)


def reduction(
    name: str, function: Callable[..., torch.Tensor], refused: tuple[Bad, ...] = REFUSED, **more: Any
) -> Record:
    """Over the first, a middle and the last axis, with and without `keepdim`."""
    samples = (
        sample(normal(2, 3, 4)),
        sample(normal(2, 3, 4), axis=1, keepdim=True),
        sample(normal(4, 3), axis=0),
        sample(normal(5), axis=-1),
    )
    if more:
        samples = (*samples, *(sample(normal(2, 3, 4), axis=-2, **{name: value}) for name, value in more.items()))
    return Record(
        name, samples, lambda x, axis=-1, keepdim=False, **a: function(x, axis, keepdim=keepdim, **a), refused
    )


def position(name: str, function: Callable[..., torch.Tensor]) -> Record:
    samples = (sample(normal(2, 3, 4)), sample(given([[3.0, 1.0, 3.0, 1.0]] * 2)), sample(normal(4, 3), axis=0))
    return Record(name, samples, lambda x, axis=-1: function(x, axis).to(torch.int32), REFUSED, differentiable=False)


def norm(x: torch.Tensor, p: float = 2, axis: int = -1, keepdim: bool = False) -> torch.Tensor:
    return torch.linalg.vector_norm(x, p, axis, keepdim)


LARGE = given([[1000.0, 999.0, -1000.0], [-1e4, -1e4 + 1, 0.0]])

RECORDS: tuple[Record, ...] = (
    reduction("sum", torch.sum),
    reduction("prod", torch.prod),
    reduction("mean", torch.mean),
    reduction("max", torch.amax),
    reduction("min", torch.amin),
    Record(
        "any",
        (sample(booleans(3, 4)), sample(booleans(3, 4), axis=0)),
        lambda x, axis=-1: torch.any(x, axis),
        differentiable=False,
    ),
    Record(
        "all",
        (sample(booleans(3, 4)), sample(booleans(3, 4), axis=0)),
        lambda x, axis=-1: torch.all(x, axis),
        differentiable=False,
    ),
    position("argmax", torch.argmax),
    position("argmin", torch.argmin),
    reduction("var", torch.var, (*REFUSED, *SPREAD), correction=0),
    reduction("std", torch.std, (*REFUSED, *SPREAD), correction=0),
    Record(
        "logsumexp",
        (sample(normal(2, 3, 4)), sample(LARGE), sample(normal(3, 4), axis=0, keepdim=True)),
        lambda x, axis=-1, keepdim=False: torch.logsumexp(x, axis, keepdim),
    ),
    Record(
        "norm",
        (
            sample(normal(3, 4)),
            sample(normal(3, 4), p=1),
            sample(normal(3, 4), p=3, axis=0),
            sample(normal(3, 4), p=float("inf"), keepdim=True),
        ),
        norm,
        (bad("p is 0", (3,), p=0),),
    ),
    Record(
        "softmax",
        (sample(normal(2, 3, 4)), sample(LARGE), sample(normal(3, 4), axis=0)),
        lambda x, axis=-1: torch.softmax(x, axis),
        REFUSED,
    ),
    Record(
        "log_softmax",
        (sample(normal(2, 3, 4)), sample(LARGE), sample(normal(3, 4), axis=0)),
        lambda x, axis=-1: torch.log_softmax(x, axis),
        REFUSED,
    ),
)
