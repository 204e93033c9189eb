"""Sigma-Delta quantization and hash grids in fixed point: the same bits on every backend, on many random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mercer
from tests.operators.records import RECORDS
from tests.operators.records.record import Array
from tests.operators.test_integers import COUNT, RNG, Case, codes, words, wrong

REFERENCES: dict[str, Callable[..., Any]] = {record.name: record.reference for record in RECORDS}


def case(operator: str, *operands: Array, **attributes: Any) -> Case:
    expected = REFERENCES[operator](*map(torch.from_numpy, operands), **attributes)
    return Case(operator, operands, attributes, np.asarray(expected))


def features(high: int, *shape: int) -> Array:
    values = RNG.integers(-high, high, shape, endpoint=True)
    values[0], values[1] = high, -high
    return values.astype(np.int32)


def test_sigma_delta() -> None:
    """Also far outside of -high..high, where codes are the outermost and sums of errors wrap."""
    cases = [
        case("sigma_delta", features(127, COUNT // 500, 500), high=127),
        case("sigma_delta", features(1000, COUNT // 480, 480), high=1000, bits=2, block=16),
        case("sigma_delta", features(100, COUNT // 480, 480), high=127, order=2, block=48),
        case("sigma_delta", features(2**23 - 1, 100, 50), high=2**23 - 1, bits=3),
        case("condense", codes(COUNT // 480, 480), block=16),
        case("condense", codes(COUNT // 480, 480), block=15, order=2),
    ]
    assert wrong(cases) == []


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_errors_of_sigma_delta_cancel(bits: int) -> None:
    """Of order 1 in sums, of order 2 also in sums of sums."""
    waves = np.rint(95 * np.cos(RNG.normal(size=(50, 1)) * np.arange(2000) + RNG.normal(size=(50, 1)))).astype(np.int32)
    sums: list[Array] = []
    for order in (1, 2):
        program = mercer.parse_text(
            f"model M(x: i32[N, 2000]) -> i8[N, 2000] {{ return sigma_delta(x; 127, order = {order}, bits = {bits}) }}"
        )
        lost = waves - 127 / (2**bits - 1) * program.evaluate(waves)[0].astype(np.float64)
        sums.append(np.abs(np.cumsum(lost, axis=1)).max(axis=1) * (2**bits - 1) / 127)
        if order == 2:
            assert np.abs(np.cumsum(np.cumsum(lost, axis=1), axis=1)).max() < 10 * 127
    assert sums[0].max() <= 1.0 + 1e-9
    assert sums[1].max() <= 6.0


def test_hash_grids_in_fixed_point() -> None:
    around = RNG.integers(-(2**18), 2**20 + 2**18, (COUNT // 4, 3)).astype(np.int32)
    around[:2] = [[0], [2**20]]
    cases = [
        case("fixed_hash_grid", around[:, :2], codes(6, 4096, 2), growth=2.0),
        case("fixed_hash_grid", around, codes(4, 1024, 2), base=7, growth=1.9),
        case("fixed_hash_grid", words(COUNT // 4, 2), codes(3, 256, 1), base=5000, position=30, fraction=11),
        case("to_fixed_point", words(COUNT).view(np.float32), fraction=20, low=0, high=2**20),
        case("to_fixed_point", RNG.uniform(-0.1, 1.1, COUNT).astype(np.float32), fraction=20, low=0, high=2**20),
    ]
    assert wrong(cases) == []
