"""Pooling, against torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, normal, sample


def pooling(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def reference(x: torch.Tensor, k: Any, pad: Any = 0, **attributes: Any) -> torch.Tensor:
        return function(x, k, padding=pad, **attributes)

    return reference


REFUSED = (
    bad("a window of 5 does not fit an input of 4 x 9 with pad 0", (1, 2, 4, 9), k=5),
    bad("pad 2 must be from 0 to half of the window 3", (1, 2, 9, 9), k=3, pad=2),
    bad("stride 0", (1, 2, 9, 9), k=3, stride=0),
)
SIZES = (bad("size is 0", (1, 2, 9, 9), size=0),)


RECORDS: tuple[Record, ...] = (
    Record(
        "max_pool1d",
        (sample(normal(2, 3, 9), k=2), sample(normal(2, 3, 9), k=3, stride=2, pad=1, dilation=2)),
        pooling(F.max_pool1d),
    ),
    Record(
        "max_pool2d",
        (
            sample(normal(2, 3, 6, 8), k=2),
            sample(normal(2, 3, 7, 7), k=3, stride=2, pad=1),
            sample(normal(1, 2, 7, 6), k=(3, 2), stride=(1, 2), dilation=(2, 1)),
        ),
        pooling(F.max_pool2d),
        REFUSED,
    ),
    Record("max_pool3d", (sample(normal(1, 2, 4, 5, 6), k=(2, 3, 2), stride=(1, 2, 2), pad=1),), pooling(F.max_pool3d)),
    Record(
        "avg_pool1d",
        (sample(normal(2, 3, 9), k=2), sample(normal(2, 3, 9), k=3, pad=1, count_include_pad=False)),
        pooling(F.avg_pool1d),
    ),
    Record(
        "avg_pool2d",
        (
            sample(normal(2, 3, 6, 8), k=2),
            sample(normal(2, 3, 7, 7), k=3, stride=2, pad=1),
            sample(normal(1, 2, 7, 6), k=(3, 2), stride=(1, 2), pad=1, count_include_pad=False),
        ),
        pooling(F.avg_pool2d),
        REFUSED,
    ),
    Record(
        "avg_pool3d",
        (
            sample(normal(1, 2, 4, 5, 6), k=2),
            sample(normal(1, 2, 4, 5, 6), k=(2, 3, 2), stride=(1, 2, 2), pad=1, count_include_pad=False),
        ),
        pooling(F.avg_pool3d),
    ),
    Record(
        "adaptive_avg_pool1d",
        (sample(normal(2, 3, 8), size=4), sample(normal(2, 3, 7), size=3)),
        lambda x, size: F.adaptive_avg_pool1d(x, output_size=size),
    ),
    Record(
        "adaptive_avg_pool2d",
        (
            sample(normal(2, 3, 5, 7), size=1),
            sample(normal(2, 3, 5, 7), size=(3, 4)),
            sample(normal(2, 3, 3, 4), size=5),
        ),
        lambda x, size: F.adaptive_avg_pool2d(x, output_size=size),
        SIZES,
    ),
    Record(
        "adaptive_max_pool1d",
        (sample(normal(2, 3, 8), size=4), sample(normal(2, 3, 7), size=3)),
        lambda x, size: F.adaptive_max_pool1d(x, output_size=size),
    ),
    Record(
        "adaptive_max_pool2d",
        (sample(normal(2, 3, 5, 7), size=1), sample(normal(2, 3, 5, 7), size=(3, 4))),
        lambda x, size: F.adaptive_max_pool2d(x, output_size=size),
        SIZES,
    ),
)
