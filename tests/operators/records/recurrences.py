"""Running sums and recurrences, against PyTorch and loops."""

from __future__ import annotations

from typing import Any

import torch

from tests.operators.records.record import Record, bad, normal, sample, uniform


def recurrence(a: Any, b: Any) -> Any:
    h, steps = torch.zeros_like(b[:, 0]), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        steps.append(h)
    return torch.stack(steps, 1)


def selective(x: Any, delta: Any, a: Any, b: Any, c: Any, skip: Any) -> Any:
    """The product of the decays between two steps, written out as a matrix."""
    steps = x.shape[1]
    logs = torch.cumsum(delta[..., None] * a, 1)
    decay = torch.exp(logs[:, :, None] - logs[:, None])  # [n, t, j, d, s]
    decay = decay * torch.tril(torch.ones(steps, steps, dtype=x.dtype))[None, :, :, None, None]
    y = torch.einsum("nts,ntjds,njd,njs,njd->ntd", c, decay, delta, b, x)
    return y + skip * x


RECORDS: tuple[Record, ...] = (
    Record(
        "cumsum",
        (sample(normal(3, 7)), sample(normal(3, 4, 5), axis=1), sample(normal(6), axis=0)),
        lambda x, axis=-1: torch.cumsum(x, axis),
        (bad("axis 2 of `x`, which has 2 axes", (3, 4), axis=2),),
    ),
    Record(
        "cumprod",
        (sample(normal(3, 7)), sample(normal(3, 4, 5), axis=1)),
        lambda x, axis=-1: torch.cumprod(x, axis),
    ),
    Record(
        "cummax",
        (sample(normal(3, 7)), sample(normal(3, 4, 5), axis=0)),
        lambda x, axis=-1: torch.cummax(x, axis).values,
        (bad("cummax of nothing", (3, 0)),),
    ),
    Record(
        "linear_recurrence",
        (
            sample(uniform(2, 9, 3, low=0, high=1), normal(2, 9, 3)),
            sample(uniform(2, 6, low=0, high=1), normal(2, 6)),
            sample(uniform(2, 5, 3, 2, low=0, high=1), normal(2, 5, 3, 2)),
        ),
        recurrence,
        (bad("`b` has size 4 along axis 1; `l` = 3", (2, 3), (2, 4)),),
    ),
    Record(
        "selective_scan",
        (
            sample(
                normal(2, 6, 3),
                uniform(2, 6, 3, low=0.1, high=1),
                uniform(3, 4, low=-1, high=-0.1),
                normal(2, 6, 4),
                normal(2, 6, 4),
                normal(3),
            ),
        ),
        selective,
    ),
)
