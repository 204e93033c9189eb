"""What index notation does not cover: the meaning of primitives, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from mercer.ir.functions import EvaluationError
from mercer.ir.nests import Primitive
from mercer.ir.types import Array

Rule: TypeAlias = Callable[[Primitive, Sequence[Array], Sequence[tuple[int, ...]]], tuple[Array, ...]]


def _reshape(statement: Primitive, operands: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    (operand,), (shape,) = operands, shapes
    if operand.size != math.prod(shape):
        raise EvaluationError(f"%{statement.targets[0].name}: {list(operand.shape)} does not reshape to {list(shape)}")
    return (operand.reshape(shape),)


def _argsort(statement: Primitive, operands: Sequence[Array], _: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Stable; a NaN is larger than any number, as in PyTorch."""
    (x,) = operands
    if dict(statement.attributes)["descending"]:
        # Stable and descending: an ascending sort of the reversed row keeps equal keys in reverse, twice.
        order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(x, axis=-1, kind="stable")
    return (order.astype(np.int32),)


def _fourier(statement: Primitive, operands: Sequence[Array], _: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Computed in f64 and rounded once."""
    (x,) = operands
    name, place = statement.name.split("_")
    axis = -2 if place == "inner" else -1
    wide = np.result_type(x.dtype, np.float64)
    y = getattr(np.fft, name)(x.astype(wide), axis=axis) if x.shape[axis] else x.astype(wide)
    precise = x.dtype.itemsize == (16 if x.dtype.kind == "c" else 8)
    return (y if precise else y.astype(np.complex64 if y.dtype.kind == "c" else np.float32),)


def _scatter_add(__: Primitive, operands: Sequence[Array], _: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Accumulated in f64 and rounded once (integers wrap); an index outside adds nothing."""
    base, index, values = cast(Any, operands)
    count, width = base.shape[-2:]
    wide = np.complex128 if base.dtype.kind == "c" else np.int64 if base.dtype.kind in "iu" else np.float64
    total = base.astype(wide).reshape(-1, count, width)
    rows = np.broadcast_to(np.arange(len(total))[:, None], (len(total), index.shape[-1]))
    flat = index.reshape(len(total), -1)
    inside = (flat >= 0) & (flat < count)
    added = values.astype(wide).reshape(len(total), -1, width)
    np.add.at(total, (rows[inside], flat[inside]), added[inside])
    return (total.reshape(base.shape).astype(base.dtype),)


THREEFRY_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of the rounds in turn, four between two additions of the key (Salmon et al. 2011, table 4)."""

THREEFRY_PARITY = 0x1BD11BDA
"""Makes the third word of the key together with the other two (the constant of Skein, for 32 bits)."""


def _threefry(__: Primitive, operands: Sequence[Array], _: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    key, counter = (operand.astype(np.int32).view(np.uint32) for operand in operands)
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(THREEFRY_PARITY))
    a, b = counter[0] + words[0], counter[1] + words[1]
    for group in range(5):
        for rotation in THREEFRY_ROTATIONS[group % 2]:
            a = a + b
            b = (b << np.uint32(rotation) | b >> np.uint32(32 - rotation)) ^ a
        a, b = a + words[(group + 1) % 3], b + words[(group + 2) % 3] + np.uint32(group + 1)
    return (np.stack([a, b]).view(np.int32),)


OF_KNOWN_LENGTH = {
    **dict.fromkeys(("fft_last", "ifft_last", "rfft_last", "irfft_last"), -1),
    **dict.fromkeys(("fft_inner", "ifft_inner"), -2),
}
"""Fourier transforms, and their axis, which must have a length that is a number."""

PRIMITIVES: dict[str, Rule] = {
    "reshape": _reshape,
    "argsort": _argsort,
    **dict.fromkeys(OF_KNOWN_LENGTH, _fourier),
    "scatter_add": _scatter_add,
    "threefry": _threefry,
}
"""Rules by name: (statement, operands, shapes of the results) -> results."""
