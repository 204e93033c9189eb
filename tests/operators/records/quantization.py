"""Integer inference, against Python's integers of any size and NumPy's i64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tests.operators.records.record import Array, Operand, Record, bad, given, integers, sample


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


def odd(*shape: int, exponent: int) -> Operand:
    """Odd numbers from -11 to 11 times 2**exponent (i32): a product of two such is halfway between multiples of
    2**shift where their exponents have the sum shift - 1."""
    return lambda rng: ((2 * rng.integers(-6, 6, shape) + 1) << exponent).astype(np.int32)


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
    with np.errstate(over="ignore", invalid="ignore"):
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


def unpacked(x: torch.Tensor, table: torch.Tensor, count: int) -> torch.Tensor:
    pairs = x.view(torch.uint8).long()
    return table[torch.stack([pairs & 15, pairs >> 4], -1).flatten(-2)[..., :count]]


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


def deformed(
    x: torch.Tensor,
    offset: torch.Tensor,
    window: Any,
    stride: Any = 1,
    pad: Any = 0,
    dilation: Any = 1,
    offset_groups: int = 1,
    fraction: int = 8,
    zero: int = 0,
) -> Array:
    """Sample by sample, from four pixels gathered out of an image with a border of zeros."""
    (height, width), strides, pads, dilations = pair(window), pair(stride), pair(pad), pair(dilation)
    n, c, h, w = x.shape
    p, q = offset.shape[2:]
    image = np.zeros((n, c, h + 2, w + 2), np.int64)
    image[:, :, 1:-1, 1:-1] = x.numpy().astype(np.int64) - zero
    shifts = offset.numpy().astype(np.int64).reshape(n, offset_groups, height, width, 2, p, q)
    shifts = shifts.repeat(c // offset_groups, axis=1)
    start = [np.arange(size) * s - before for size, s, before in zip((p, q), strides, pads, strict=True)]
    rows = start[0][:, None] + np.arange(height)[:, None, None, None] * dilations[0]
    columns = start[1] + np.arange(width)[:, None, None] * dilations[1]
    u = (rows << fraction) + shifts[..., 0, :, :]
    v = (columns << fraction) + shifts[..., 1, :, :]
    u, v = (position.astype(np.int32).astype(np.int64) for position in (u, v))
    total = np.zeros_like(u)
    batch, channel = np.ogrid[:n, :c]
    at = (batch[..., None, None, None, None], channel[..., None, None, None, None])
    for below in (0, 1):
        for right in (0, 1):
            row = np.clip((u >> fraction) + below + 1, 0, h + 1)
            column = np.clip((v >> fraction) + right + 1, 0, w + 1)
            share = np.abs((1 - below << fraction) - (u & (1 << fraction) - 1))
            share = share * np.abs((1 - right << fraction) - (v & (1 << fraction) - 1))
            total += share * image[(*at, row, column)]
    return ((2 * total + (1 << 2 * fraction)) >> 2 * fraction + 1).astype(np.int32)


def pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def deformed_conv(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, groups: int = 1, **rest: Any) -> Array:
    return contracted(deformed(x, offset, tuple(weight.shape[2:]), **rest), weight, groups)


def masked_deformed_conv(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    groups: int = 1,
    offset_groups: int = 1,
    mask_fraction: int = 8,
    **rest: Any,
) -> Array:
    window = tuple(weight.shape[2:])
    samples = deformed(x, offset, window, offset_groups=offset_groups, **rest).astype(np.int64)
    shared = mask.numpy().astype(np.int64).reshape(len(x), offset_groups, *window, *mask.shape[2:])
    product = samples * shared.repeat(x.shape[1] // offset_groups, axis=1)
    return contracted((product + (1 << mask_fraction - 1)) >> mask_fraction, weight, groups)


def contracted(columns: Array, weight: torch.Tensor, groups: int) -> Array:
    parts = zip(np.split(columns, groups, 1), np.split(weight.numpy(), groups), strict=True)
    sums = [np.einsum("ncijpq,ocij->nopq", s.astype(np.int64), w.astype(np.int64)) for s, w in parts]
    return np.concatenate(sums, 1).astype(np.int32)


def shares(x: torch.Tensor, table: torch.Tensor, axis: int = -1, high: int = 255) -> Array:
    """In Python's integers."""
    codes = x.numpy().astype(np.int64)
    below = codes.max(axis=axis, keepdims=True) - codes
    e = table.numpy().astype(object)[np.minimum(below, len(table) - 1)]
    total = e.sum(axis=axis, keepdims=True)
    return ((2 * e * high + total) // (2 * total)).astype(np.int32)


def normalized(x: Array, fraction: int = 12, eps: int = 0, centered: bool = True) -> Array:
    """With Python's integers, row by row."""
    result = np.zeros(x.shape, np.int32)
    for place in np.ndindex(x.shape[:-1]):
        row = [int(number) for number in x[place]]
        values = [len(row) * number - sum(row) for number in row] if centered else row
        root = math.isqrt(sum(number**2 for number in values) * 4096 // len(row) + eps)
        result[place] = [(number * 2 ** (fraction + 6) + root // 2) // max(root, 1) for number in values]
    return result


def roots(x: torch.Tensor) -> Array:
    return np.vectorize(lambda value: math.isqrt(max(value, 0)), [np.int32])(x.numpy().astype(object))


def exact(name: str, samples: Sequence[Any], reference: Callable[..., Any], *refused: Any) -> Record:
    return Record(name, tuple(samples), reference, refused, differentiable=False, tolerance=0.0)


def offsets(*shape: int) -> Operand:
    """A few pixels in units of 1/256."""
    return integers(*shape, low=-800, high=800)


def pixels(*shape: int) -> Operand:
    """A few whole pixels."""
    return integers(*shape, low=-3, high=4)


def masks(*shape: int) -> Operand:
    return integers(*shape, high=257)


EXPONENTIALS = given(np.rint(2**20 * np.exp(-np.arange(256) / 16)), "int32")
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
            sample(odd(40, exponent=20), odd(40, exponent=16), shift=37, zero=-3),
            sample(odd(40, exponent=0), odd(1, exponent=0), shift=1),
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
            sample(odd(40, exponent=15), odd(40, exponent=15), shift=31),
            sample(odd(40, exponent=27), odd(40, exponent=27), shift=55),
        ),
        requantized(np.int32, -(2**31), 2**31 - 1),
        bad("shift is 63", (3,), (3,), shift=63, of="i32"),
        bad("low is 3, high is 2", (3,), (3,), shift=1, low=3, high=2, of="i32"),
    ),
    exact(
        "wrap",
        (
            sample(words(4, 5, 3), words(5, 1), shift=40, bits=10),
            sample(words(40), words(40), shift=1, bits=31),
            sample(odd(40, exponent=12), odd(40, exponent=7), shift=20, bits=5),
        ),
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
        "unpack4",
        (sample(codes(4, 3, 5), scales(16), count=9), sample(codes(7), codes(16), count=14)),
        unpacked,
        bad("3 bytes hold 5 or 6 codes, not 4", (2, 3), (16,), count=4, of="i8"),
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
    exact(
        "fixed_deform_columns2d",
        (
            sample(codes(2, 4, 7, 6), offsets(2, 36, 4, 3), window=3, stride=2, pad=1, offset_groups=2, zero=-5),
            sample(codes(1, 2, 5, 6), words(1, 12, 4, 6), window=(2, 3), pad=(0, 2), dilation=(1, 2), fraction=11),
            sample(codes(2, 3, 5, 6), pixels(2, 18, 5, 6), window=3, pad=1, fraction=0, zero=7),
        ),
        deformed,
        bad("fraction is 12", (1, 2, 5, 5), (1, 18, 5, 5), window=3, pad=1, fraction=12, of="i8 i32"),
        bad("offset has 9 channels", (1, 2, 5, 5), (1, 9, 5, 5), window=3, pad=1, of="i8 i32"),
        bad("zero is a code from -128 to 127", (1, 2, 5, 5), (1, 18, 5, 5), window=3, zero=128, of="i8 i32"),
    ),
    exact(
        "fixed_deform_conv2d_v1",
        (
            sample(codes(2, 4, 7, 6), offsets(2, 18, 7, 6), codes(3, 4, 3, 3), pad=1, zero=3),
            sample(
                *(codes(2, 4, 7, 6), offsets(2, 36, 4, 3), codes(6, 2, 3, 3)),
                stride=2,
                pad=1,
                groups=2,
                offset_groups=2,
                fraction=5,
            ),
            sample(codes(1, 4, 6, 5), pixels(1, 18, 6, 5), codes(4, 1, 3, 3), pad=1, groups=4, fraction=0, zero=-9),
        ),
        deformed_conv,
        bad("weight takes 3 channels", (1, 2, 5, 5), (1, 18, 5, 5), (1, 3, 3, 3), pad=1, of="i8 i32 i8"),
    ),
    exact(
        "fixed_deform_conv2d",
        (
            sample(codes(2, 4, 7, 6), offsets(2, 18, 7, 6), masks(2, 9, 7, 6), codes(3, 4, 3, 3), pad=1, zero=3),
            sample(
                *(codes(2, 4, 7, 6), offsets(2, 36, 4, 3), masks(2, 18, 4, 3), codes(6, 2, 3, 3)),
                stride=2,
                pad=1,
                groups=2,
                offset_groups=2,
                mask_fraction=7,
            ),
        ),
        masked_deformed_conv,
        bad("mask has 8 channels", (1, 2, 5, 5), (1, 18, 5, 5), (1, 8, 5, 5), (1, 2, 3, 3), pad=1, of="i8 i32 i32 i8"),
    ),
    exact(
        "integer_softmax",
        (
            sample(codes(6, 9), EXPONENTIALS),
            sample(words(3, 5, 4), EXPONENTIALS, axis=1, high=65535),
        ),
        shares,
        bad("high is 0", (3,), (256,), high=0, of="i8 i32"),
    ),
    exact(
        "integer_normalize",
        (
            sample(codes(5, 24)),
            sample(codes(3, 2, 7), fraction=8, eps=12345),
            sample(codes(6, 5), centered=False, eps=1),
        ),
        normalized,
        bad("a fraction has 1 to 16 bits", (2, 3), fraction=17, of="i8"),
        bad("eps is -1", (2, 3), eps=-1, of="i8"),
    ),
    exact("integer_sqrt", (sample(given([0, 1, 2, 3, 4, -1, 2**31 - 1, 46340**2, 46340**2 - 1], "int32")),), roots),
)
