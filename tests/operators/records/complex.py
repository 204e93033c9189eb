"""Complex numbers. They are c64, so that all of it is computed in f32."""

from __future__ import annotations

import numpy as np
import torch

from tests.operators.records.record import Array, Operand, Record, bad, sample

TOLERANCE = 1e-6


def real_normal(*shape: int) -> Operand:
    """Standard normal numbers (f32)."""
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def complex_normal(*shape: int) -> Operand:
    """Numbers with standard normal parts (c64)."""

    def make(rng: np.random.Generator) -> Array:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)

    return make


def _power(z: torch.Tensor, n: int) -> Array:
    return (z.numpy().astype(np.complex128) ** n).astype(np.complex64)


RECORDS = (
    Record(
        "complex",
        (sample(real_normal(3, 4), real_normal(3, 4)), sample(real_normal(3, 1), real_normal(4))),
        lambda re, im: torch.complex(*torch.broadcast_tensors(re, im)),
        (bad("3", (2, 3), (2, 2)),),
        tolerance=TOLERANCE,
    ),
    Record(
        "real", (sample(complex_normal(3, 4)),), torch.real, (bad("f32", (3,)),), differentiable=False, tolerance=0.0
    ),
    Record(
        "imag", (sample(complex_normal(3, 4)),), torch.imag, (bad("f32", (3,)),), differentiable=False, tolerance=0.0
    ),
    Record("conj", (sample(complex_normal(3, 4)),), torch.conj_physical, (bad("f32", (3,)),), tolerance=0.0),
    Record(
        "angle",
        (sample(complex_normal(3, 4)),),
        torch.angle,
        (bad("f32", (3,)),),
        differentiable=False,
        tolerance=TOLERANCE,
    ),
    Record(
        "complex_power",
        tuple(sample(complex_normal(3, 4), n=n) for n in (2, 5, 0, -3)),
        _power,
        (bad("f32", (3,), n=2),),
        tolerance=TOLERANCE,
    ),
)
