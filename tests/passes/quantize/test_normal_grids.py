"""Grids for normally distributed weights, against known distortions and samples of their own."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.quantize.code_books import code_books, nearest_level
from mercer.passes.quantize.normal_grids import normal_levels, normal_pairs
from mercer.passes.quantize.pair_rounding import paired
from mercer.passes.quantize.ranges import best_scales
from mercer.passes.quantize.rounding import compensated
from tests.passes.quantize.test_rounding import correlated

MAX = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
"""Mean squared errors by bits (Max 1960, table I)."""


def samples(count: int = 200_000, dims: int = 1) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, dims))


@pytest.mark.parametrize("bits", MAX)
def test_levels_have_the_errors_of_the_table_by_max(bits: int) -> None:
    levels = normal_levels(1 << bits)
    ends = np.concatenate([[-12.0], (levels[1:] + levels[:-1]) / 2, [12.0]])
    x = np.linspace(-12.0, 12.0, 240_001)
    nearest = levels[np.searchsorted(ends[1:-1], x)]
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    assert np.trapezoid((x - nearest) ** 2 * density, x) == pytest.approx(MAX[bits], rel=5e-4)
    np.testing.assert_allclose(levels, -levels[::-1])


@pytest.mark.parametrize(("bits", "bound"), [(1, 0.3634), (2, 0.1085), (3, 0.0301), (4, 0.0081)])
def test_pairs_lose_less_than_numbers_and_no_less_than_is_possible(bits: int, bound: float) -> None:
    """The least possible is 4**-bits (Shannon 1959)."""
    points, x = normal_pairs(4**bits), samples(40_000, 2)
    error = np.square(x[:, None] - points).sum(axis=2).min(axis=1).mean() / 2
    assert 4.0**-bits < error < bound * (1.01 if bits == 1 else 1.0)
    assert bits == 1 or error < 0.93 * MAX[bits]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_in_eight_bits_lose_no_more(bits: int) -> None:
    rows = samples(64 * 512).reshape(64, 512)
    (levels,) = code_books("normal", bits)
    assert len(levels) == 1 << bits and levels[-1] == 127 == -levels[0]
    scales = best_scales(rows, levels)[:, None]
    error = np.square(nearest_level(rows / scales, levels) * scales - rows).mean()
    assert 0.9 * MAX[bits] < error < 1.005 * MAX[bits]  # less, since each row has a scale of its own
    codes, scales = paired(rows[None], np.eye(512)[None], bits, shared=False)
    assert np.square(codes[0] * scales[0] - rows).mean() < 0.93 * MAX[bits]


@pytest.mark.parametrize("shared", [False, True])
def test_pairs_make_up_for_each_other_on_data(shared: bool) -> None:
    rows = correlated(400, 24)
    hessian = rows.swapaxes(1, 2) @ rows / 400 + 0.01 * np.eye(24)
    weight = np.random.default_rng(1).standard_normal((1, 16, 24))

    def loss(found: tuple[np.ndarray, np.ndarray]) -> float:
        error = weight - found[0] * found[1]
        return float(np.einsum("gok,gkl,gol->", error, hessian, error))

    on_data = paired(weight, hessian, 3, shared)
    blind = paired(weight, np.eye(24)[None], 3, shared)
    uniform = compensated(weight, hessian, code_books("uniform", 3), shared)
    assert loss(on_data) < 0.5 * loss(blind)
    assert loss(on_data) < 0.9 * loss(uniform)
    assert np.unique(on_data[1]).size == (1 if shared else 16)
