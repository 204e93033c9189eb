"""How codes are found from samples."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.quantize.ranges import CALIBRATIONS, calibrated

GRIDS = {
    "pixels": np.arange(256) / 255,
    "levels": np.arange(17) / 16,
    "places": np.linspace(-1, 1, 64),
    "odd": np.linspace(-1, 1, 65),
    "shifted": 3 + np.arange(5) / 2,
}


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("grid", GRIDS)
def test_samples_on_a_grid_are_kept(grid: str, method: str) -> None:
    values = GRIDS[grid].astype(np.float32).astype(np.float64)
    codes = calibrated(values, 8, method, 99.0)
    np.testing.assert_allclose(codes.decode(codes.encode(values)), values, atol=1e-3 * codes.scale)
    assert codes.decode(np.asarray([codes.zero])) == [0.0]


def test_other_samples_are_not_taken_for_a_grid() -> None:
    values = np.random.default_rng(0).standard_normal(100)
    codes = calibrated(values, 8, "minmax", 99.0)
    reach = max(values.max(), 0) - min(values.min(), 0)
    assert codes.scale == pytest.approx(reach / 255)
    assert np.abs(codes.decode(codes.encode(values)) - values).max() > 0.1 * codes.scale


def test_a_grid_finer_than_codes_is_rounded() -> None:
    values = np.arange(300) / 299
    codes = calibrated(values, 8, "minmax", 99.0)
    assert codes.scale == pytest.approx(1 / 255)
