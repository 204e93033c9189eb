"""Matrix products and embeddings, against PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, integers, normal, sample

RECORDS: tuple[Record, ...] = (
    Record(
        "matmul",
        (
            sample(normal(3, 4), normal(4, 5)),
            sample(normal(2, 3, 4), normal(2, 4, 5)),
            sample(normal(2, 1, 3, 4), normal(6, 4, 5)),
            sample(normal(0, 4), normal(4, 5)),
        ),
        torch.matmul,
        (bad("`b` has size 5 along axis 0; `k` = 4", (3, 4), (5, 2)), bad("has 1 axes", (4,), (4, 2))),
    ),
    Record(
        "linear",
        (sample(normal(3, 4), normal(5, 4)), sample(normal(2, 3, 4), normal(5, 4)), sample(normal(4), normal(5, 4))),
        F.linear,
        (bad("`weight` has size 5 along axis 1; `d` = 4", (3, 4), (2, 5)),),
    ),
    Record(
        "bias_add",
        (sample(normal(2, 3), normal(3)), sample(normal(2, 3, 4, 5), normal(3))),
        lambda x, b: x + b.reshape(1, -1, *[1] * (x.ndim - 2)),
        (bad("`bias` has size 4 along axis 0; `c` = 3", (2, 3), (4,)),),
    ),
    Record(
        "embedding",
        (sample(integers(2, 3, high=7), normal(7, 4)), sample(integers(high=7), normal(7, 4))),
        lambda indices, weight: F.embedding(indices.long(), weight),
    ),
    Record(
        "one_hot",
        (sample(integers(2, 3, high=5), classes=5),),
        lambda indices, classes: F.one_hot(indices.long(), classes).float(),
        differentiable=False,
    ),
)
