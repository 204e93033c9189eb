"""What index notation does not cover: the meaning of primitives, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

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
    """Computed in f64 along the last axis and rounded once."""
    (x,) = operands
    transform = np.fft.fft if statement.name == "fft_last" else np.fft.ifft
    wide = x.astype(np.complex128)
    return ((transform(wide) if x.shape[-1] else wide).astype(x.dtype),)


OF_KNOWN_LENGTH = frozenset(("fft_last", "ifft_last"))
"""Those whose last axis must have a length that is a number."""

PRIMITIVES: dict[str, Rule] = {"reshape": _reshape, "argsort": _argsort, "fft_last": _fourier, "ifft_last": _fourier}
"""Rules by name: (statement, operands, shapes of the results) -> results."""
