"""What a record says about an operator, and the operands that samples are made of."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
Operand = Callable[[np.random.Generator], Array]


def normal(*shape: int, scale: float = 1.0) -> Operand:
    """Standard normal numbers (f64), times `scale`."""
    return lambda rng: scale * rng.standard_normal(shape)


def uniform(*shape: int, low: float, high: float) -> Operand:
    """Numbers from low to high (f64)."""
    return lambda rng: rng.uniform(low, high, shape)


def integers(*shape: int, low: int = 0, high: int) -> Operand:
    """Integers low <= i < high (i32)."""
    return lambda rng: rng.integers(low, high, shape).astype(np.int32)


def booleans(*shape: int) -> Operand:
    return lambda rng: rng.integers(0, 2, shape).astype(np.bool_)


def given(values: Any, dtype: str = "float64") -> Operand:
    """These values."""
    return lambda rng: np.asarray(values, dtype)


@dataclass(frozen=True)
class Sample:
    """Operands and attributes of one call."""

    operands: tuple[Operand, ...]
    attributes: dict[str, Any]

    def arrays(self, seed: str) -> tuple[Array, ...]:
        """The operands: floats in f64, the same for the same seed."""
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        return tuple(make(rng) for make in self.operands)


def sample(*operands: Operand, **attributes: Any) -> Sample:
    return Sample(operands, attributes)


@dataclass(frozen=True)
class Bad:
    """Shapes and attributes that the operator refuses, and words of the message, numbers included.

    `dtypes` are the element types of the operands, over again when there are more operands.
    """

    shapes: tuple[tuple[int, ...], ...]
    message: str
    attributes: dict[str, Any]
    dtypes: str = "f32"


def bad(message: str, *shapes: tuple[int, ...], of: str = "f32", **attributes: Any) -> Bad:
    return Bad(shapes, message, attributes, of)


@dataclass(frozen=True)
class Record:
    """One operator: samples, an independent formula, and what it must refuse.

    `reference` takes the operands as torch tensors and the attributes by name. It is PyTorch's own function where there
    is one; a result in NumPy comes from SciPy or scikit-learn. `differentiable` is False where the derivative is zero
    or undefined; operands in `fixed` have none. `tolerance` is relative to the largest value, for computation in f64.
    """

    name: str
    samples: tuple[Sample, ...]
    reference: Callable[..., torch.Tensor | Array]
    bad: tuple[Bad, ...] = ()
    differentiable: bool = True
    fixed: tuple[int, ...] = ()
    tolerance: float = 1e-9
    gradient_tolerance: float = 1e-9
