"""Normalization, against torch.nn.functional."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, normal, sample, uniform


def batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> torch.Tensor:
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)


def statistics(channels: int) -> tuple:  # type: ignore[type-arg]
    return normal(channels), uniform(channels, low=0.5, high=2.0), normal(channels), normal(channels)


RECORDS: tuple[Record, ...] = (
    Record(
        "batch_norm",
        (
            sample(normal(4, 3), *statistics(3)),
            sample(normal(2, 3, 4, 5), *statistics(3), eps=1e-3),
            sample(normal(2, 3, 4), *statistics(3), momentum=0.3),
        ),
        batch_norm,
        (
            bad("`running_mean` has size 4 along axis 0; `c` = 3", (2, 3, 4), (4,), (3,), (3,), (3,)),
            bad("eps is -1", (2, 3), (3,), (3,), (3,), (3,), eps=-1),
            bad("0 <= momentum <= 1; momentum is 1.5", (2, 3), (3,), (3,), (3,), (3,), momentum=1.5),
        ),
        fixed=(1, 2),
    ),
    Record(
        "layer_norm",
        (sample(normal(3, 5), normal(5), normal(5)), sample(normal(2, 3, 5), normal(5), normal(5), eps=1e-2)),
        lambda x, w, b, eps=1e-5: F.layer_norm(x, w.shape, w, b, eps),
        (bad("`weight` has size 4 along axis 0; `d` = 5", (3, 5), (4,), (5,)),),
    ),
    Record(
        "group_norm",
        (
            sample(normal(2, 6, 3, 4), normal(6), normal(6), groups=3),
            sample(normal(2, 6), normal(6), normal(6), groups=2),
            sample(normal(2, 6, 5), normal(6), normal(6), groups=1, eps=1e-2),
        ),
        lambda x, w, b, groups, eps=1e-5: F.group_norm(x, groups, w, b, eps),
        (bad("6 channels do not divide into 4 groups", (2, 6, 3), (6,), (6,), groups=4),),
    ),
    Record(
        "instance_norm",
        (sample(normal(2, 3, 4, 5), normal(3), normal(3)), sample(normal(2, 3, 6), normal(3), normal(3), eps=1e-2)),
        lambda x, w, b, eps=1e-5: F.instance_norm(x, weight=w, bias=b, eps=eps),
        (bad("input has rank 2", (2, 3), (3,), (3,)),),
    ),
    Record(
        "rms_norm",
        (sample(normal(3, 5), normal(5)), sample(normal(2, 3, 5), normal(5), eps=1e-2)),
        lambda x, w, eps=2.0**-23: F.rms_norm(x, w.shape, w, eps),
        (bad("`weight` has size 4 along axis 0; `d` = 5", (3, 5), (4,)),),
    ),
    Record(
        "normalize",
        (sample(normal(3, 5)), sample(normal(2, 3, 5), axis=-1, eps=3.0)),
        lambda x, axis=1, eps=1e-12: F.normalize(x, dim=axis, eps=eps),
        (bad("normalize needs eps >= 0; eps is -1", (3, 5), eps=-1),),
    ),
)
