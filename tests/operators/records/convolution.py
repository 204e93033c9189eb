"""Convolutions, against torch.nn.functional."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, normal, sample, uniform

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(rank: int) -> Any:
    def reference(x: torch.Tensor, weight: torch.Tensor, **attributes: Any) -> torch.Tensor:
        return CONV[rank](x, weight, None, **_renamed(attributes))

    return reference


def transposed(rank: int) -> Any:
    def reference(x: torch.Tensor, weight: torch.Tensor, **attributes: Any) -> torch.Tensor:
        return TRANSPOSED[rank](x, weight, None, **_renamed(attributes))

    return reference


def _renamed(attributes: dict[str, Any]) -> dict[str, Any]:
    names = {"pad": "padding", "output_pad": "output_padding"}
    return {names.get(name, name): value for name, value in attributes.items()}


def flex_kernel(values: torch.Tensor, center: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Values times the density of a diagonal normal distribution, scaled to 1 at its center."""
    rows, columns = (torch.linspace(-1, 1, n, dtype=values.dtype) for n in values.shape[2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    normal_ = torch.distributions.MultivariateNormal(center, torch.diag(deviation**2))
    return values * torch.exp(normal_.log_prob(grid) - normal_.log_prob(center))


def flex_conv(
    x: torch.Tensor,
    values: torch.Tensor,
    center: torch.Tensor,
    deviation: torch.Tensor,
    pad: int = 0,
    **attributes: Any,
) -> torch.Tensor:
    return F.conv2d(x, flex_kernel(values, center, deviation), padding=pad, **attributes)


REFUSED = (
    bad("weight takes 2 channels (groups = 1); input has 3", (1, 3, 8, 8), (4, 2, 3, 3)),
    bad("weight takes 4 channels (groups = 2); input has 3", (1, 3, 8, 8), (4, 2, 3, 3), groups=2),
    bad("5 outputs do not divide into 2 groups", (1, 4, 8, 8), (5, 2, 3, 3), groups=2),
    bad("stride 0", (1, 2, 8, 8), (5, 2, 3, 3), stride=0),
    bad("pad -1", (1, 2, 8, 8), (5, 2, 3, 3), pad=-1),
    bad("a window of 3 x 3 does not fit an input of 2 x 8", (1, 2, 2, 8), (5, 2, 3, 3)),
    bad("list of 2 is needed; found a list of 3", (1, 2, 8, 8), (5, 2, 3, 3), stride=(1, 1, 1)),
    bad("`x` has 3 axes; 4 expected", (1, 2, 8), (5, 2, 3, 3)),
)
REFUSED_TRANSPOSED = (
    bad("weight takes 2 channels; input has 3", (1, 3, 8, 8), (2, 4, 3, 3)),
    bad("3 channels do not divide into 2 groups", (1, 3, 8, 8), (3, 4, 3, 3), groups=2),
    bad("output_pad 2 must be below stride 2", (1, 3, 8, 8), (3, 4, 3, 3), stride=2, output_pad=2),
    bad("pad 3 leaves no output of an input of 3 x 8", (1, 3, 3, 8), (3, 4, 3, 3), pad=3),
)

RECORDS: tuple[Record, ...] = (
    Record(
        "conv1d",
        (
            sample(normal(2, 3, 9), normal(4, 3, 3)),
            sample(normal(2, 4, 9), normal(6, 2, 3), stride=2, pad=2, dilation=2, groups=2),
        ),
        conv(1),
        (bad("weight takes 2 channels (groups = 1); input has 3", (1, 3, 8), (4, 2, 3)),),
    ),
    Record(
        "conv2d",
        (
            sample(normal(2, 3, 6, 7), normal(4, 3, 3, 3)),
            sample(normal(2, 3, 6, 7), normal(4, 3, 3, 2), stride=2, pad=1),
            sample(normal(1, 4, 7, 6), normal(4, 1, 3, 3), pad=(2, 1), dilation=(2, 1), groups=4),
            sample(normal(1, 4, 7, 6), normal(6, 2, 1, 3), stride=(1, 2), groups=2),
            sample(normal(0, 3, 5, 5), normal(4, 3, 3, 3), pad=1),
        ),
        conv(2),
        REFUSED,
    ),
    Record(
        "conv3d",
        (
            sample(normal(1, 2, 5, 4, 5), normal(3, 2, 3, 2, 3), pad=1),
            sample(normal(1, 2, 5, 4, 5), normal(4, 1, 2, 2, 2), stride=(2, 1, 2), dilation=2, pad=1, groups=2),
        ),
        conv(3),
        (bad("weight takes 3 channels (groups = 1); input has 2", (1, 2, 4, 4, 4), (3, 3, 2, 2, 2)),),
    ),
    Record(
        "conv_transpose1d",
        (
            sample(normal(2, 3, 5), normal(3, 4, 3)),
            sample(normal(2, 4, 5), normal(4, 3, 3), stride=3, pad=1, output_pad=2, groups=2, dilation=2),
        ),
        transposed(1),
        (bad("weight takes 2 channels; input has 3", (1, 3, 8), (2, 4, 3)),),
    ),
    Record(
        "conv_transpose2d",
        (
            sample(normal(2, 3, 4, 5), normal(3, 4, 3, 3)),
            sample(normal(2, 3, 4, 5), normal(3, 4, 3, 2), stride=2, pad=1, output_pad=1),
            sample(normal(1, 4, 4, 3), normal(4, 2, 3, 3), stride=(2, 1), dilation=(1, 2), groups=2),
            sample(normal(1, 4, 4, 3), normal(4, 1, 2, 2), stride=2, groups=4),
        ),
        transposed(2),
        REFUSED_TRANSPOSED,
    ),
    Record(
        "conv_transpose3d",
        (sample(normal(1, 2, 3, 2, 3), normal(2, 2, 2, 3, 2), stride=(2, 1, 2), pad=1, output_pad=(1, 0, 1)),),
        transposed(3),
        (bad("weight takes 3 channels; input has 2", (1, 2, 4, 4, 4), (3, 3, 2, 2, 2)),),
    ),
    Record(
        "flex_kernel2d",
        (
            sample(normal(3, 2, 5, 4), normal(2, scale=0.3), uniform(2, low=0.3, high=1.0)),
            sample(normal(1, 1, 1, 1), normal(2, scale=0.0), uniform(2, low=0.3, high=1.0)),
        ),
        lambda values, center, deviation: (
            values if values.shape[2:] == (1, 1) else flex_kernel(values, center, deviation)
        ),
        (bad("`center` has size 3 along axis 0; 2 expected", (1, 1, 3, 3), (3,), (2,)),),
    ),
    Record(
        "flex_conv2d",
        (
            sample(normal(2, 3, 6, 6), normal(4, 3, 5, 5), normal(2, scale=0.3), uniform(2, low=0.3, high=1.0), pad=2),
            sample(
                normal(2, 3, 6, 6),
                normal(3, 1, 3, 5),
                normal(2, scale=0.3),
                uniform(2, low=0.3, high=1.0),
                stride=2,
                groups=3,
            ),
        ),
        flex_conv,
        (bad("weight takes 2 channels (groups = 1); input has 3", (1, 3, 8, 8), (4, 2, 3, 3), (2,), (2,)),),
    ),
)
