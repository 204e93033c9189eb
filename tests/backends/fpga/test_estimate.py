"""Estimates against Yosys on a handful of modules; benchmarks/fpga_estimates.py compares many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mercer.backends.fpga import tools
from mercer.backends.fpga.estimate import MODULES, estimate
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lut_weights import WEIGHTS
from mercer.backends.fpga.stages import Stage, Stream
from mercer.backends.fpga.stages_spatial import Deform, Pool, Window
from mercer.backends.fpga.stages_streams import Add, Concat
from mercer.backends.fpga.tally import blocks, read_only, written
from tests.backends.fpga.bench import RTL

CODES = Interval(-128, 127)
PARTS = (
    "mercer_ram",
    "mercer_rows",
    "mercer_walk",
    "mercer_bilinear",
    "mercer_delay",
    "mercer_product",
    "mercer_requantize",
)
STAGES: list[Stage] = [
    Window(name="w", sources=("x",), input=Stream(28 * 28, 4, CODES), size=(28, 28), kernel=(3, 3), out=(28, 28),
           pad=(1, 1), lanes=4),
    Deform(name="d", sources=("x", "o"), input=Stream(256, 4, CODES), offsets=Stream(256, 18, CODES), size=(16, 16),
           kernel=(3, 3), out=(16, 16), fraction=4, bound=2, pad=(1, 1), lanes=2),
    Pool(name="p", sources=("x",), input=Stream(9, 16, CODES), windows=1, taps=9, maximum=False, lanes=4),
    Concat(name="c", sources=("x", "y"), a=Stream(4, 8, CODES), b=Stream(4, 8, CODES), lanes=4),
    Add(name="a", sources=("x", "y"), a=Stream(4, 4, CODES), b=Stream(4, 4, CODES), factors=(100, 77),
        sums=CODES.times(177), lanes=4),
]  # fmt: skip


def test_every_module_has_weights() -> None:
    assert set(MODULES) == set(WEIGHTS)


def test_memories_go_where_they_cost_least() -> None:
    assert (blocks(8, 2048), blocks(36, 512), blocks(8, 16384), blocks(12, 1024, ports=4)) == (1, 1, 8, 2)
    assert read_only(8, 1024).bram == 1 and read_only(8, 64).lut == 32
    assert written(8, 16).bram == 0 and written(8, 1024).bram == 1


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.module)
def test_estimates_are_near_the_counts_of_yosys(stage: Stage) -> None:
    files: list[Path] = sorted(RTL.glob("*.sv"))
    used = [file for file in files if file.stem in {stage.module, *PARTS}]
    parameters = replace(stage, pipelined=True).parameters()
    count = tools.synthesize(used, stage.module, parameters=parameters)
    guess = estimate(stage.module, parameters)
    assert (guess.dsp, guess.bram) == (count.dsp, count.bram)
    np.testing.assert_allclose([guess.lut, guess.ff], [count.lut, count.ff], rtol=0.2, atol=3)
