"""Integer inference, against Python's integers of any size and NumPy's i64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tests.operators.records.record import Array, Operand, Record, bad, integers, sample


def codes(*shape: int, low: int = -128, high: int = 128) -> Operand:
    """Integers low <= i < high (i8)."""
    return lambda rng: rng.integers(low, high, shape).astype(np.int8)


def words(*shape: int) -> Operand:
    """Integers of 32 bits, the ends among them."""

    def make(rng: np.random.Generator) -> Array:
        values = rng.integers(-(2**31), 2**31, shape)
        values.flat[: min(values.size, 4)] = [-(2**31), 2**31 - 1, 0, -1][: values.size]
        return values.astype(np.int32)

    return make


def reals(*shape: int) -> Operand:
    """Normal numbers (f32), with halves of 1/4, infinities and a NaN among them."""

    def make(rng: np.random.Generator) -> Array:
        values = 8 * rng.standard_normal(shape)
        values.flat[:8] = [0.125, 0.375, -0.125, -0.375, np.inf, -np.inf, np.nan, 1e30]
        return values.astype(np.float32)

    return make


def scales(*shape: int) -> Operand:
    """Positive numbers (f32)."""
    return lambda rng: rng.uniform(0.001, 1.0, shape).astype(np.float32)


def quantized(x: torch.Tensor, scale: float, zero: int = 0, low: int = -128, high: int = 127) -> Array:
    ratio = x.numpy().astype(np.float32) / np.float32(scale)
    code = np.rint(ratio.astype(np.float64)) + zero
    return np.clip(np.nan_to_num(code, nan=low, posinf=1e300, neginf=-1e300), low, high).astype(np.int8)


def dequantized(x: torch.Tensor, scale: float, zero: int = 0) -> Array:
    return (x.numpy().astype(np.int64) - zero).astype(np.float32) * np.float32(scale)


def channels(x: torch.Tensor, scale: torch.Tensor) -> Array:
    return x.numpy().astype(np.float32) * scale.numpy().astype(np.float32)


def rounded(acc: torch.Tensor, multiplier: torch.Tensor, shift: int) -> Array:
    """acc * multiplier / 2**shift to the nearest integer, halves up, in Python's integers."""
    product = acc.numpy().astype(object) * multiplier.numpy().astype(object)
    return (2 * product + 2**shift) // 2 ** (shift + 1)


def requantized(dtype: Any, lowest: int, highest: int) -> Callable[..., Array]:
    def reference(
        acc: torch.Tensor, multiplier: torch.Tensor, shift: int, zero: int = 0, low: int = lowest, high: int = highest
    ) -> Array:
        return np.clip(rounded(acc, multiplier, shift) + zero, low, high).astype(dtype)

    return reference


def wrapped(acc: torch.Tensor, multiplier: torch.Tensor, shift: int, bits: int) -> Array:
    return (rounded(acc, multiplier, shift) % 2**bits).astype(np.int32)


def looked_up(x: torch.Tensor, table: torch.Tensor, low: int = -128) -> torch.Tensor:
    return table[x.long() - low]


def looked_up_by_channel(x: torch.Tensor, table: torch.Tensor, low: int = -128) -> torch.Tensor:
    return torch.stack([row[part.long() - low] for row, part in zip(table, x.unbind(1), strict=True)], 1)


def edges(x: torch.Tensor, table: torch.Tensor, low: int = -128) -> torch.Tensor:
    inputs = [table[:, d][:, x[..., d].long() - low] for d in range(x.shape[-1])]
    return torch.stack(inputs).long().sum(0).movedim(0, -1).int()


def distances(power: int) -> Callable[..., Array]:
    def reference(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None) -> Array:
        difference = np.abs(x.numpy()[:, None].astype(np.int64) - y.numpy()[None].astype(np.int64))
        factor = 1 if weight is None else weight.numpy()[None].astype(np.int64)
        return (factor * difference**power).sum(-1).astype(x.numpy().dtype)

    return reference


def pooled(rank: int) -> Callable[..., Array]:
    def reference(x: torch.Tensor, k: Any, stride: Any = None, pad: Any = 0) -> Array:
        window, pads = (v if isinstance(v, tuple) else (v,) * rank for v in (k, pad))
        strides = window if stride is None else stride if isinstance(stride, tuple) else (stride,) * rank
        padded = np.pad(x.numpy().astype(np.int64), [(0, 0), (0, 0), *((p, p) for p in pads)])
        views = np.lib.stride_tricks.sliding_window_view(padded, window, tuple(range(2, rank + 2)))
        steps = tuple(slice(None, None, s) for s in strides)
        return views[(slice(None), slice(None), *steps)].sum(tuple(range(-rank, 0))).astype(x.numpy().dtype)

    return reference


def exact(name: str, samples: Sequence[Any], reference: Callable[..., Any], *refused: Any) -> Record:
    return Record(name, tuple(samples), reference, refused, differentiable=False, tolerance=0.0)


SMALL = (integers(5, 4, low=-128, high=128), integers(6, 4, low=-128, high=128))

RECORDS: tuple[Record, ...] = (
    exact(
        "quantize",
        (sample(reals(5, 7), scale=0.25), sample(reals(4, 9), scale=0.0371, zero=-3, low=-100, high=90)),
        quantized,
        bad("scale is 0", (3,), scale=0),
        bad("low is 5, high is 4", (3,), scale=1.0, low=5, high=4),
    ),
    exact(
        "dequantize",
        (sample(codes(5, 7), scale=0.0371, zero=-3), sample(words(9), scale=1e-3)),
        dequantized,
        bad("scale is -1", (3,), scale=-1, of="i8"),
    ),
    exact("dequantize_channels", (sample(codes(2, 3, 5), scales(3, 1)),), channels),
    exact("widen", (sample(codes(5, 7)), sample(codes(5, 7), zero=-128)), lambda x, zero=0: x.int() - zero),
    exact(
        "requantize",
        (
            sample(words(4, 5, 3), words(5, 1), shift=37),
            sample(words(40), words(40), shift=62, zero=-7),
            sample(integers(64, low=-99, high=99), integers(1, low=1, high=9), shift=1, zero=5, low=-8, high=7),
        ),
        requantized(np.int8, -128, 127),
        bad("shift is 0", (3,), (3,), shift=0, of="i32"),
        bad("shift is 63", (3,), (3,), shift=63, of="i32"),
        bad("low is 3, high is 2", (3,), (3,), shift=1, low=3, high=2, of="i32"),
    ),
    exact(
        "rescale",
        (
            sample(words(4, 5, 3), words(5, 1), shift=31),
            sample(words(40), words(40), shift=50, zero=512, low=0, high=1023),
        ),
        requantized(np.int32, -(2**31), 2**31 - 1),
        bad("shift is 63", (3,), (3,), shift=63, of="i32"),
        bad("low is 3, high is 2", (3,), (3,), shift=1, low=3, high=2, of="i32"),
    ),
    exact(
        "wrap",
        (sample(words(4, 5, 3), words(5, 1), shift=40, bits=10), sample(words(40), words(40), shift=1, bits=31)),
        wrapped,
        bad("bits is 32", (3,), (3,), shift=1, bits=32, of="i32"),
        bad("shift is 0", (3,), (3,), shift=0, bits=8, of="i32"),
    ),
    exact(
        "lookup",
        (
            sample(codes(5, 7), words(256)),
            sample(codes(5, 7, low=-8, high=8), codes(16), low=-8),
            sample(integers(4, 3, high=1024), words(1024), low=0),
        ),
        looked_up,
    ),
    exact(
        "channel_lookup",
        (sample(codes(2, 3, 4, 5), words(3, 256)), sample(integers(5, 3, high=16), codes(3, 16), low=0)),
        looked_up_by_channel,
    ),
    exact(
        "edge_lookup",
        (sample(codes(5, 4), codes(3, 4, 256)), sample(integers(2, 3, 4, high=16), words(5, 4, 16), low=0)),
        edges,
    ),
    exact("squared_distances", (sample(*SMALL),), distances(2)),
    exact("weighted_squared_distances", (sample(*SMALL, integers(6, 4, low=-8, high=8)),), distances(2)),
    exact("l1_distances", (sample(*SMALL),), distances(1)),
    exact(
        "sum_pool1d",
        (sample(integers(2, 3, 9, high=99), k=2), sample(words(2, 3, 9), k=3, stride=2, pad=1)),
        pooled(1),
    ),
    exact(
        "sum_pool2d",
        (
            sample(integers(2, 3, 6, 8, high=99), k=2),
            sample(words(1, 2, 7, 6), k=(3, 2), stride=(1, 2), pad=1),
        ),
        pooled(2),
        bad("a window of 5 does not fit an input of 4 x 9 with pad 0", (1, 2, 4, 9), k=5),
        bad("pad 2 must be from 0 to half of the window 3", (1, 2, 9, 9), k=3, pad=2),
        bad("stride 0", (1, 2, 9, 9), k=3, stride=0),
    ),
    exact("sum_pool3d", (sample(words(1, 2, 4, 5, 6), k=(2, 3, 2), stride=(1, 2, 2), pad=1),), pooled(3)),
)
