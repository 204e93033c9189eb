"""Sigma-Delta quantization, element by element in Python's integers, and its sums as polynomials."""

from __future__ import annotations

import numpy as np
import torch

from tests.operators.records.quantization import codes, exact
from tests.operators.records.record import Array, Operand, Record, bad, integers, normal, sample, uniform


def features(*shape: int, high: int = 127) -> Operand:
    return integers(*shape, low=-high, high=high + 1)


def shaped(x: torch.Tensor, high: int, order: int = 1, bits: int = 1, block: int | None = None) -> Array:
    """The closest of all codes, the larger one of two, to what is left to say; all in units of high / (2**bits - 1)."""
    alphabet = range(1 - 2**bits, 2**bits, 2)
    result = np.zeros(x.shape, np.int8)
    for place in np.ndindex(x.shape[:-1]):
        u = v = 0
        for i, number in enumerate(x[place].tolist()):
            if i % (block or x.shape[-1]) == 0:
                u = v = 0
            left = number * (2**bits - 1) + u
            wanted = left if order == 1 else left + (u + v) // 2
            q = min(alphabet, key=lambda code: (abs(wanted - code * high), -code))
            u = left - q * high
            v += u
            result[(*place, i)] = q
    return result


def condensed(q: torch.Tensor, block: int, order: int = 1) -> Array:
    """Weights are the coefficients of a product of polynomials whose coefficients are ones."""
    degrees = [block] if order == 1 else [block // 2 + block % 2, block // 2 + 1]
    weights = np.ones(1, np.int64)
    for count in degrees:
        weights = np.convolve(weights, np.ones(count, np.int64))
    blocks = q.numpy().astype(np.int64).reshape(*q.shape[:-1], -1, block)
    return (blocks @ weights).astype(np.int32)


def condensed_features(
    x: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, block: int, bits: int = 1
) -> Array:
    """sqrt(2/p) V q / |v| for p blocks, with q as numbers from -1 to 1."""
    cosines = np.cos(np.asarray(x.double() @ frequency.double().T + phase.double()))
    z = torch.from_numpy(np.rint(127 * cosines).astype(np.int32))
    q = shaped(z, 127, 1, bits, block) / (2**bits - 1)
    blocks = q.reshape(*q.shape[:-1], -1, block)
    return np.sqrt(2 / blocks.shape[-2]) * blocks.sum(-1) / np.sqrt(block)


RECORDS: tuple[Record, ...] = (
    exact(
        "sigma_delta",
        (
            sample(features(3, 4, 24), high=127),
            sample(features(5, 24), high=127, block=8),
            sample(features(5, 24, high=1000), high=1000, bits=3, block=12),
            sample(features(5, 48, high=90), high=127, order=2),
            sample(features(4, 20), high=127, order=2, bits=7, block=10),
        ),
        shaped,
        bad("high is 0", (3,), high=0, of="i32"),
        bad("order is 3", (3,), high=1, order=3, of="i32"),
        bad("bits is 8", (3,), high=1, bits=8, of="i32"),
        bad("9 features do not divide into blocks of 4", (9,), high=1, block=4, of="i32"),
    ),
    exact(
        "condense",
        (
            sample(codes(3, 4, 24), block=8),
            sample(codes(5, 24), block=24),
            sample(codes(5, 24), block=12, order=2),
            sample(codes(5, 15), block=5, order=2),
        ),
        condensed,
        bad("order is 0", (3,), block=1, order=0, of="i8"),
        bad("9 features do not divide into blocks of 0", (9,), block=0, of="i8"),
    ),
    Record(
        "sigma_delta_features",
        (
            sample(normal(5, 3), normal(24, 3), uniform(24, low=0.0, high=6.28), block=6),
            sample(normal(4, 2), normal(12, 2), uniform(12, low=0.0, high=6.28), block=4, bits=3),
        ),
        condensed_features,
        (bad("9 features do not divide into blocks of 4", (5, 3), (9, 3), (9,), block=4),),
        differentiable=False,
    ),
)
