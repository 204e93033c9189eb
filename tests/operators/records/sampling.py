"""Sampling between pixels. Deformable convolutions are checked against F.grid_sample, tap by tap."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tests.operators.records.record import Operand, Record, bad, given, normal, sample, uniform


def read(image: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Pixels of T[n, c, h, w] at rows u and columns v, both T[n, p, q], with zeros outside."""
    h, w = image.shape[2:]
    grid = torch.stack((2 * v / (w - 1) - 1, 2 * u / (h - 1) - 1), dim=-1)
    return F.grid_sample(image, grid, "bilinear", "zeros", align_corners=True)


def pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def unfold(
    x: torch.Tensor,
    offset: torch.Tensor,
    window: Any,
    stride: Any = 1,
    pad: Any = 0,
    dilation: Any = 1,
    offset_groups: int = 1,
) -> torch.Tensor:
    (height, width), strides, pads, dilations = pair(window), pair(stride), pair(pad), pair(dilation)
    _, _, p, q = offset.shape
    rows = (torch.arange(p, dtype=x.dtype) * strides[0] - pads[0])[:, None]
    columns = (torch.arange(q, dtype=x.dtype) * strides[1] - pads[1])[None]
    blocks = offset.chunk(offset_groups, 1)
    channels = x.chunk(offset_groups, 1)
    taps: list[torch.Tensor] = []
    for i in range(height):
        for j in range(width):
            at = 2 * (i * width + j)
            groups = [
                read(image, rows + i * dilations[0] + block[:, at], columns + j * dilations[1] + block[:, at + 1])
                for image, block in zip(channels, blocks, strict=True)
            ]
            taps.append(torch.cat(groups, 1))
    return torch.stack(taps, 2).unflatten(2, (height, width))


def widened(t: torch.Tensor, window: Any) -> torch.Tensor:
    """The columns of unfold for a window that is `t` further apart, less those that it has anyway."""
    height, width = pair(window)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    steps = torch.stack((rows - (height - 1) // 2, columns - (width - 1) // 2), -1).flatten()
    return torch.einsum("ngpq,b->ngbpq", t, steps.to(t.dtype)).flatten(1, 2)


def contract(columns: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    parts = zip(columns.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    return torch.cat([torch.einsum("ncijpq,ocij->nopq", s, w) for s, w in parts], 1)


def deform_v1(
    x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, groups: int = 1, **attributes: Any
) -> torch.Tensor:
    return contract(unfold(x, offset, tuple(weight.shape[2:]), **attributes), weight, groups)


def deform_v2(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    groups: int = 1,
    offset_groups: int = 1,
    **attributes: Any,
) -> torch.Tensor:
    window = tuple(weight.shape[2:])
    columns = unfold(x, offset, window, offset_groups=offset_groups, **attributes)
    shared = mask.unflatten(1, (offset_groups, *window)).repeat_interleave(x.shape[1] // offset_groups, 1)
    return contract(columns * shared, weight, groups)


def bilinear(x: torch.Tensor, size: Any, align_corners: bool = False) -> torch.Tensor:
    return F.interpolate(x, pair(size), mode="bilinear", align_corners=align_corners)


def grid(*shape: int) -> Operand:
    """Positions, some of them outside of the image."""
    return uniform(*shape, 2, low=-1.4, high=1.4)


def deformable(mask: bool) -> tuple[Any, ...]:
    def arrays(x: Operand, k: int, g: int, n: int, p: int, q: int, weight: Operand) -> tuple[Operand, ...]:
        masks = (uniform(n, g * k, p, q, low=0.0, high=1.0),) if mask else ()
        return (x, normal(n, 2 * g * k, p, q, scale=1.5), *masks, weight)

    return (
        sample(*arrays(normal(2, 3, 6, 7), 9, 1, 2, 6, 7, normal(4, 3, 3, 3)), pad=1),
        sample(*arrays(normal(1, 4, 7, 7), 6, 2, 1, 4, 3, normal(4, 4, 3, 2)), stride=2, pad=(1, 0), offset_groups=2),
        sample(*arrays(normal(1, 4, 6, 6), 4, 2, 1, 4, 4, normal(6, 2, 2, 2)), dilation=2, groups=2, offset_groups=2),
        sample(*arrays(normal(1, 4, 4, 4), 4, 1, 1, 3, 3, normal(4, 1, 2, 2)), groups=4),
    )


RECORDS: tuple[Record, ...] = (
    Record(
        "upsample_nearest2d",
        (sample(normal(2, 3, 3, 4)), sample(normal(2, 3, 3, 4), scale=(1, 3))),
        lambda x, scale=2: F.interpolate(x, scale_factor=tuple(map(float, pair(scale))), mode="nearest"),
        (bad("scale is 0", (1, 1, 2, 2), scale=0),),
    ),
    Record(
        "upsample_bilinear2d",
        (
            sample(normal(2, 3, 3, 4), size=(6, 8)),
            sample(normal(2, 3, 5, 4), size=(7, 3)),
            sample(normal(2, 3, 5, 4), size=(7, 3), align_corners=True),
            sample(normal(1, 1, 1, 4), size=(3, 1), align_corners=True),
        ),
        bilinear,
        (bad("size is 0", (1, 1, 2, 2), size=0),),
    ),
    Record(
        "grid_sample",
        (
            *(
                sample(normal(2, 3, 5, 6), grid(2, 4, 3), mode=mode, padding_mode=padding, align_corners=align)
                for mode in ("bilinear", "nearest")
                for padding in ("zeros", "border", "reflection")
                for align in (False, True)
            ),
            sample(normal(1, 1, 4, 4), given([[[[0.0, 0.0], [-1.0, 1.0], [5.0, -7.0]]]])),
        ),
        lambda x, grid, mode="bilinear", padding_mode="zeros", align_corners=False: F.grid_sample(
            x, grid, mode, padding_mode, align_corners
        ),
        (
            bad('not "cubic"', (1, 1, 4, 4), (1, 2, 2, 2), mode="cubic"),
            bad('not "wrap"', (1, 1, 4, 4), (1, 2, 2, 2), padding_mode="wrap"),
            bad("`grid` has size 3 along axis 3; 2 expected", (1, 1, 4, 4), (1, 2, 2, 3)),
        ),
    ),
    Record(
        "deform_unfold",
        (
            sample(normal(2, 4, 5, 6), normal(2, 18, 5, 6, scale=1.5), window=3, pad=1),
            sample(normal(1, 4, 5, 6), normal(1, 16, 2, 2, scale=1.5), window=2, stride=2, dilation=2, offset_groups=2),
        ),
        unfold,
        (
            bad(
                "offset has 16 channels; 2*k*l*offset_groups = 18 expected (a window of 3 x 3)",
                (1, 4, 5, 5),
                (1, 16, 5, 5),
                window=3,
                pad=1,
            ),
            bad("window of at least 1 is needed; window is 0", (1, 4, 5, 5), (1, 18, 5, 5), window=0),
            bad("offset is given for 5 x 5 positions; the output has 3 x 3", (1, 4, 5, 5), (1, 18, 5, 5), window=3),
            bad(
                "4 channels do not divide into 3 offset groups", (1, 4, 5, 5), (1, 54, 5, 5), window=3, offset_groups=3
            ),
        ),
    ),
    Record(
        "square_offsets",
        (
            sample(normal(2, 1, 3, 4), window=3),
            sample(normal(1, 3, 2, 2), window=(2, 5)),
            sample(normal(1, 2, 2, 3), window=(4, 1)),
        ),
        widened,
        (bad("window of at least 1 is needed; window is 0", (1, 1, 2, 2), window=0),),
    ),
    Record(
        "deform_conv2d_v1",
        deformable(mask=False),
        deform_v1,
        (bad("offset has 16 channels; 2*k*l*offset_groups = 18 expected", (1, 4, 5, 5), (1, 16, 3, 3), (2, 4, 3, 3)),),
    ),
    Record(
        "deform_conv2d",
        deformable(mask=True),
        deform_v2,
        (
            bad(
                "weight takes 3 channels (groups = 1); input has 4",
                (1, 4, 5, 5),
                (1, 18, 3, 3),
                (1, 9, 3, 3),
                (2, 3, 3, 3),
            ),
            bad(
                "mask has 8 channels; k*l*offset_groups = 9 expected (k = 3, l = 3 from the weight)",
                (1, 4, 5, 5),
                (1, 18, 3, 3),
                (1, 8, 3, 3),
                (2, 4, 3, 3),
            ),
            bad(
                "offset has 16 channels; 2*k*l*offset_groups = 18 expected",
                (1, 4, 5, 5),
                (1, 16, 3, 3),
                (1, 9, 3, 3),
                (2, 4, 3, 3),
            ),
        ),
    ),
)
