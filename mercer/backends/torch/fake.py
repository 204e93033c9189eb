"""Fake quantization: a module that trains with real numbers rounded as integers will have them, and then has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Rounding:
    """What a module rounds.

    `ranges` names, by the name of a value, the buffer f32[2] that holds its least and largest; `bits` are those of its
    codes, 0 where only the range is kept. `weights` are (node, operand) and the axis of its scales, None for one scale;
    `books` are the codes that weights may have, of which the closest to a weight is taken.
    """

    ranges: Mapping[str, str] = field(default_factory=dict[str, str])
    bits: Mapping[str, int] = field(default_factory=dict[str, int])
    weights: Mapping[tuple[str, int], int | None] = field(default_factory=dict["tuple[str, int]", "int | None"])
    books: tuple[tuple[int, ...], ...] = ()


def source(rounding: Rounding) -> str:
    """The functions that a module with fake quantization calls."""
    return _SOURCE.replace("BOOKS_OF_CODES", f"({', '.join(map(_book, rounding.books))},)")


def _book(codes: tuple[int, ...]) -> str:
    if codes == tuple(range(codes[0], codes[-1] + 1)):
        return f"range({codes[0]}, {codes[-1] + 1})"
    return str(codes)


_SOURCE = '''
BOOKS = BOOKS_OF_CODES
"""The numbers that the codes of a weight can be."""


@torch.no_grad()
def observe(x, ends, training):
    """The ends of a range follow the least and the largest of each batch (Jacob et al. 2018, section 3.1)."""
    if training and x.numel():
        ends.lerp_(torch.stack((x.min(), x.max())).to(ends), 0.1)


def fake_quantize(x, ends, bits):
    """The value of the closest code of `bits` bits; the gradient is that of clipping (Jacob et al. 2018, section 3)."""
    low, high = ends[0].clamp(max=0.0), ends[1].clamp(min=0.0)
    scale = torch.where(high > low, high - low, 1.0) / (2**bits - 1)
    first = torch.round(low / scale)
    clipped = x.clamp(first * scale, (first + 2**bits - 1) * scale)
    return clipped + (torch.round(clipped / scale) * scale - clipped).detach()


def fake_weight(weight, axis):
    """The closest codes with the scale per place along `axis` of the least squared error; the gradient passes."""
    with torch.no_grad():
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1).contiguous()
        best, least = None, None
        for codes in BOOKS:
            levels = torch.tensor(list(codes), dtype=rows.dtype, device=rows.device)
            found = rounded_rows(rows, levels)
            error = (found - rows).square().sum()
            if least is None or error < least:
                best, least = found, error
        if axis is not None:
            best = best.view(weight.movedim(axis, 0).shape).movedim(0, axis)
    return weight + (best.view_as(weight) - weight).detach()


def rounded_rows(rows, levels):
    """Each row at the levels times its scale: for two levels the mean magnitude, else the best clipping of 80."""
    middles = (levels[1:] + levels[:-1]) / 2
    if len(levels) == 2:
        scale = rows.abs().mean(1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        return levels[torch.bucketize(rows / scale, middles)] * scale
    widest = rows.abs().amax(1, keepdim=True)
    widest = torch.where(widest > 0, widest, 1.0) / levels[-1]
    best, least = rows, torch.full_like(widest, torch.inf)
    for part in torch.linspace(1.0, 0.3, 80, dtype=torch.float64).tolist():
        scale = part * widest
        found = levels[torch.bucketize(rows / scale, middles)] * scale
        error = (found - rows).square().sum(1, keepdim=True)
        best = torch.where(error < least, found, best)
        least = torch.minimum(error, least)
    return best
'''.strip()


FUNCTIONS = ("observe", "fake_quantize", "fake_weight")
"""What the source defines and `forward` calls."""


class Quantized(nn.Module):
    """A generated module that rounds while it trains, and computes in integers while it does not.

    `build` makes the module in integers from a state; it is called again after the state has changed.
    """

    build: Callable[[Mapping[str, torch.Tensor]], nn.Module]

    def forward(self, *inputs: torch.Tensor) -> Any:
        if self.training:
            return super().forward(*inputs)
        return self.integers()(*inputs)

    def integers(self) -> nn.Module:
        """The module in integers with the present weights and ranges."""
        state = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        stamp = [(tensor.data_ptr(), tensor._version) for tensor in state.values()]  # noqa: SLF001
        if self.__dict__.get("_stamp") != stamp:
            device = next((tensor.device for tensor in state.values()), None)
            self.__dict__["_integers"] = type(self).build(state).eval().to(device)
            self.__dict__["_stamp"] = stamp
        return self.__dict__["_integers"]

    def train(self, mode: bool = True) -> nn.Module:
        self.__dict__.pop("_stamp", None)
        return super().train(mode)
