"""Movement of elements, against PyTorch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tests.operators.records.record import Record, bad, booleans, integers, normal, sample


def pad_axis(
    x: torch.Tensor, axis: int, before: int = 0, after: int = 0, mode: str = "constant", value: float = 0
) -> torch.Tensor:
    """F.pad takes the modes other than constant for the last axis of three."""
    last = x.movedim(axis, -1)
    folded = last.reshape(1, -1, last.shape[-1])
    more = {"value": value} if mode == "constant" else {}
    padded = F.pad(folded, (before, after), mode, **more)
    return padded.reshape(*last.shape[:-1], -1).movedim(-1, axis)


def pad(x: torch.Tensor, widths: tuple[int, ...], mode: str = "constant", value: float = 0) -> torch.Tensor:
    return F.pad(x, widths, mode, value) if mode == "constant" else F.pad(x, widths, mode)


def slice_axis(x: torch.Tensor, axis: int, start: int, stop: int, step: int = 1) -> torch.Tensor:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop, step),)]


def expand(x: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    return x.expand(*sizes)


def expand_axis(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    return x.repeat_interleave(size, axis)


def repeat(x: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    return torch.cat([x] * count, axis)


def reference(function: str, **names: str) -> Any:
    """torch.NAME with attributes renamed."""

    def call(x: torch.Tensor, *operands: torch.Tensor, **attributes: Any) -> torch.Tensor:
        renamed = {names.get(name, name): value for name, value in attributes.items()}
        return getattr(torch, function)(x, *operands, **renamed)

    return call


def largest(x: torch.Tensor, k: int) -> torch.Tensor:
    return torch.topk(x, k, dim=-1).values


RECORDS: tuple[Record, ...] = (
    Record(
        "slice_axis",
        (
            sample(normal(4, 5), axis=0, start=1, stop=3),
            sample(normal(4, 5), axis=-1, start=0, stop=5, step=2),
            sample(normal(4, 5), axis=1, start=2, stop=2),
        ),
        slice_axis,
        (bad("step is 0", (4, 5), axis=0, start=0, stop=2, step=0),),
    ),
    Record(
        "select",
        (sample(normal(4, 5), axis=0, index=2), sample(normal(4, 5, 2), axis=-2, index=0)),
        reference("select", axis="dim"),
    ),
    Record(
        "index_select",
        (sample(normal(4, 5), integers(6, high=5), axis=1),),
        lambda x, index, axis: torch.index_select(x, axis, index.long()),
    ),
    Record(
        "concat",
        (
            sample(normal(2, 3), normal(4, 3)),
            sample(normal(2, 3, 2), normal(2, 1, 2), axis=1),
            sample(normal(2, 3), normal(2, 2), axis=-1),
            sample(booleans(3), booleans(2)),
        ),
        lambda a, b, axis=0: torch.cat((a, b), axis),
        (bad("[3] and [4] differ", (2, 3), (2, 4)),),
    ),
    Record(
        "flatten",
        (sample(normal(2, 3, 4, 5)), sample(normal(2, 3, 4, 5), start=0, stop=-2), sample(normal(2, 3), start=1)),
        lambda x, start=1, stop=-1: torch.flatten(x, start, stop),
        (bad("flatten from axis 2 to 1 does not fit a tensor of rank 3", (2, 3, 4), start=2, stop=1),),
    ),
    Record(
        "squeeze",
        (sample(normal(2, 1, 3), axis=1), sample(normal(2, 1), axis=-1)),
        reference("squeeze", axis="dim"),
        (bad("axis 1 has 3", (2, 3), axis=1),),
    ),
    Record(
        "unsqueeze",
        tuple(sample(normal(2, 3), axis=axis) for axis in (0, 1, 2, -1, -3)),
        reference("unsqueeze", axis="dim"),
        (bad("unsqueeze at axis 3 does not fit a tensor of rank 2", (2, 3), axis=3),),
    ),
    Record(
        "transpose",
        (sample(normal(2, 3, 4)), sample(normal(2, 3, 4), first=0, second=-1), sample(normal(2, 3), first=1, second=1)),
        lambda x, first=-2, second=-1: torch.transpose(x, first, second),
        (bad("axes 0 and 2 does not fit a tensor of rank 2", (2, 3), first=0, second=2),),
    ),
    Record(
        "reshape",
        (sample(normal(2, 6), shape=(3, 4)), sample(normal(2, 6), shape=(-1, 2, 2))),
        reference("reshape"),
        (bad("12 elements; [5, 2] has 10", (2, 6), shape=(5, 2)),),
    ),
    Record(
        "permute",
        (sample(normal(2, 3, 4), dims=(2, 0, 1)), sample(normal(2, 3), dims=(-1, 0))),
        reference("permute"),
        (bad("orders the axes 0 to 1", (2, 3), dims=(0, 0)),),
    ),
    Record(
        "expand_axis",
        (sample(normal(2, 1, 3), axis=1, size=4),),
        expand_axis,
        (bad("axis 0 has 2", (2, 3), axis=0, size=4),),
    ),
    Record(
        "expand",
        (sample(normal(2, 1, 3), sizes=(2, 4, 3)), sample(normal(1, 1, 3), sizes=(2, 4, -1))),
        expand,
        (bad("one size per axis: 2, not 3", (2, 3), sizes=(1, 2, 3)),),
    ),
    Record(
        "repeat",
        (sample(normal(2, 3), axis=0, count=3), sample(normal(2, 3), axis=-1, count=2)),
        repeat,
        (bad("count is 0", (2, 3), axis=0, count=0),),
    ),
    Record(
        "repeat_interleave",
        (sample(normal(2, 3), axis=0, count=3), sample(normal(2, 3), axis=-1, count=2)),
        lambda x, axis, count: torch.repeat_interleave(x, count, axis),
        (bad("count is 0", (2, 3), axis=0, count=0),),
    ),
    Record("flip", (sample(normal(2, 3)), sample(normal(2, 3), axis=0)), lambda x, axis=-1: torch.flip(x, (axis,))),
    Record(
        "roll",
        (sample(normal(2, 5), shift=2), sample(normal(4, 3), shift=-5, axis=0)),
        lambda x, shift, axis=-1: torch.roll(x, shift, axis),
    ),
    Record(
        "pad_axis",
        (
            sample(normal(2, 3), axis=0, before=1, after=2, value=0.5),
            *(
                sample(normal(2, 5), axis=-1, before=2, after=3, mode=mode)
                for mode in ("replicate", "reflect", "circular")
            ),
            sample(normal(5, 2), axis=0, before=4, after=4, mode="reflect"),
        ),
        pad_axis,
        (
            bad("they are -1 and 0", (2, 3), axis=0, before=-1),
            bad('not "mirror"', (2, 3), axis=0, before=1, mode="mirror"),
            bad("reflect needs widths below the extent 2; they are 2 and 0", (2, 3), axis=0, before=2, mode="reflect"),
        ),
    ),
    Record(
        "pad",
        (
            sample(normal(2, 3), widths=(1, 2)),
            sample(normal(2, 3), widths=(1, 0, 0, 2), value=-1.5),
            sample(normal(2, 3, 4, 5), widths=(1, 2, 2, 1), mode="reflect"),
            sample(normal(2, 3, 4, 5), widths=(1, 2, 2, 1), mode="replicate"),
            sample(normal(2, 3, 4, 5), widths=(1, 2, 2, 1), mode="circular"),
        ),
        pad,
        (bad("at most 4; 3 given", (2, 3), widths=(1, 2, 3)),),
    ),
    Record(
        "top_k",
        (sample(normal(3, 7), k=2), sample(normal(2, 3, 9), k=9), sample(integers(4, 30, high=5), k=12)),
        largest,
        (bad("top_k takes 1 to 4 of 4 elements; k is 5", (2, 4), k=5),),
        differentiable=False,
    ),
    Record("tril", (sample(normal(2, 4, 3)), sample(normal(3, 4), diagonal=1)), reference("tril")),
    Record("triu", (sample(normal(2, 4, 3)), sample(normal(3, 4), diagonal=-1)), reference("triu")),
    Record(
        "pixel_shuffle",
        (sample(normal(2, 12, 3, 4), factor=2),),
        lambda x, factor: F.pixel_shuffle(x, upscale_factor=factor),
        (bad("a multiple of 4 channels; input has 6", (1, 6, 2, 2), factor=2),),
    ),
    Record(
        "pixel_unshuffle",
        (sample(normal(2, 3, 4, 6), factor=2),),
        lambda x, factor: F.pixel_unshuffle(x, downscale_factor=factor),
        (bad("multiples of 2; input is 3 x 4", (1, 6, 3, 4), factor=2),),
    ),
)
