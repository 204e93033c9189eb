"""Every operator that hardware takes, simulated on many random inputs, bit for bit what the integer reference gives."""

from __future__ import annotations

import pytest

from benchmarks.fpga_units import UNITS, compare, design_of

INPUTS = 10_000


@pytest.mark.parametrize("name", UNITS)
def test_an_operator_becomes_a_design(name: str) -> None:
    _, _, design = design_of(name)
    assert design.network.stages and design.report["cycles_per_sample"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", UNITS)
def test_an_operator_on_many_inputs(name: str) -> None:
    """With random stalls of all streams; without them also in the cycles that the model predicts."""
    result = compare(name, INPUTS)
    assert result.inputs == INPUTS
    assert (result.mismatches, result.mismatches_stalled, result.cycles_predicted) == (0, 0, True)
