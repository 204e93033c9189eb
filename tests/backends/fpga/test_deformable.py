"""Deformable convolutions as CoDeNet restricts them (Dong et al. 2021): models of the library in hardware."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mercer
from mercer.backends.fpga.lower import lower
from mercer.backends.fpga.lowering import UnsupportedError
from mercer.backends.fpga.stages import Stage
from mercer.backends.fpga.stages_spatial import Deform
from mercer.compiler import Program
from mercer.runtime.session import Executable

SAMPLES = 6

FORMS = """
model Forms(x: f32[N, 4, 7, 8]) -> (f32[N, 3, 7, 8], f32[N, 4, 7, 8], f32[N, 3, 7, 8], f32[N, 4, 4, 4]) {
  branch = x |> Conv2d(18, 3, pad = 1)
  scale = x |> Conv2d(1, 3, pad = 1)
  wide = x |> Conv2d(1, 3, stride = 2, pad = 1)
  return BoundedDeformConv2d(x, 2.0*branch; 3, 3, bound = 2, pad = 1) as bounded,
    BoundedDeformConv2d(x, 2.0*branch; 4, 3, bound = 2, pad = 1, groups = 4, rounded = true) as rounded,
    BoundedDeformConv2d(x, 2.0*scale; 3, 3, bound = 2, pad = 1, square = true) as square,
    BoundedDeformConv2d(x, 3.0*wide; 4, [5, 3], bound = 4, stride = 2, pad = [2, 1], groups = 4,
                        square = true, rounded = true) as both
}
"""

GROUPS = """
model Groups(x: f32[N, 4, 6, 6]) -> (f32[N, 2, 6, 6], f32[N, 4, 6, 6]) {
  branch = x |> Conv2d(54, 3, pad = 1)
  offset = clamp(branch[:, :36]; -2.0, 2.0)
  return DeformConv2d(x, offset, sigmoid(branch[:, 36:]); 2, 3, pad = 1, offset_groups = 2) as masked,
    BoundedDeformConv2d(x, branch[:, :36]; 4, 3, bound = 1, pad = 1, groups = 4, offset_groups = 2) as bounded
}
"""

SQUARES = """
model Squares(x: f32[N, 4, 6, 6]) -> f32[N, 2, 6, 6] {
  scales = x |> Conv2d(2, 1)
  return BoundedDeformConv2d(x, scales; 2, 3, bound = 2, pad = 1, offset_groups = 2, square = true)
}
"""


def images(program: Program, count: int) -> np.ndarray:
    _, *shape = program.graph.inputs[0].type.shape
    return np.random.default_rng(3).normal(size=(count, *(d.value for d in shape))).astype(np.float32)


def compiled(text: str) -> tuple[Executable, Executable, np.ndarray]:
    """The program in integers on the CPU and in hardware, and samples."""
    program = mercer.parse_text(text)
    data = images(program, 32)
    weights = program.initial()
    cpu, design = (
        mercer.compile(program, target, weights, data=data, quantize="w4a8") for target in ("cpu", "fpga:ecp5-85k")
    )
    return cpu, design, data[:SAMPLES]


@pytest.mark.parametrize("text", [FORMS, GROUPS], ids=["forms", "groups"])
def test_models_give_the_bits_of_the_cpu_in_the_predicted_cycles(text: str) -> None:
    cpu, design, x = compiled(text)
    cycles = equal_cycles(cpu, design, x)
    report = json.loads(design.artifact.member("fpga/report.json"))
    assert cycles[0] == report["latency"]
    assert cycles[-1] - cycles[-2] == report["cycles_per_sample"]


def test_a_scale_for_each_group_gives_the_bits_of_the_cpu() -> None:
    """Here the first sample comes a little earlier than predicted: stages fill while what follows them waits."""
    cpu, design, x = compiled(SQUARES)
    cycles = equal_cycles(cpu, design, x)
    report = json.loads(design.artifact.member("fpga/report.json"))
    assert cycles[0] <= report["latency"]
    assert cycles[-1] - cycles[-2] == report["cycles_per_sample"]


def equal_cycles(cpu: Executable, design: Executable, x: np.ndarray) -> list[int]:
    """When the samples leave the design, which gives what the CPU gives for any stalls."""
    simulation = design.simulation
    assert simulation is not None
    wanted = outputs(cpu, x)
    for stalls in (2, 1, 0):
        simulation.stalls = stalls
        for mine, theirs in zip(outputs(design, x), wanted, strict=True):
            np.testing.assert_array_equal(mine, theirs, f"stalls {stalls}")
            assert len(np.unique(mine)) > 20
    return list(simulation.cycles)


def outputs(executable: Executable, x: np.ndarray) -> tuple[np.ndarray, ...]:
    result = executable(x)
    return result if isinstance(result, tuple) else (result,)


def stages(formula: str) -> list[Stage]:
    """Of a formula of x: i8[n, 4, 6, 6], an image of 4 offsets t, one of 1, s, and a weight w: i8[4, 4, 3, 3]."""
    program = mercer.parse_text(
        f"""
        model Integers(x: i8[N, 4, 6, 6]) {{
          param w: i8[4, 4, 3, 3] = zeros()
          param v: i8[36, 4, 1, 1] = zeros()
          param m: i32[1] = zeros()
          y = conv2d(widen(x), widen(v))
          s = rescale(y[:, :1], m; shift = 10, low = -100, high = 90)
          t = rescale(y[:, :18], m; shift = 10, low = -2, high = 1)
          return {formula}
        }}
        """
    )
    weights = {p.name: np.ones([d.value for d in p.type.shape], p.type.dtype.numpy) for p in program.parameters}
    return list(lower(program.graph, program.library, weights).stages)


def deform(formula: str) -> Deform:
    (found,) = [stage for stage in stages(formula) if isinstance(stage, Deform)]
    return found


def test_offsets_of_a_square_window_are_one_number_per_pixel() -> None:
    stage = deform("fixed_deform_conv2d_v1(x, square_offsets(s; window = 3), w; pad = 1, fraction = 5)")
    assert (stage.square, stage.rounded, stage.bound, stage.offsets.channels) == (True, False, 4, 1)
    alone = stages("square_offsets(s; window = [5, 3])")
    assert [type(stage).__name__ for stage in alone] == ["MatrixVector", "MatrixVector"]
    assert (alone[-1].gives.interval.low, alone[-1].gives.interval.high) == (-200, 200)


def test_whole_offsets_take_no_multipliers() -> None:
    stage = deform("fixed_deform_conv2d_v1(x, t, w; pad = 1, fraction = 0)")
    assert (stage.square, stage.rounded, stage.bound, stage.multipliers) == (False, True, 2, 0)
    assert deform("fixed_deform_conv2d_v1(x, t, w; pad = 1, fraction = 1)").multipliers > 0


def test_offsets_of_groups_must_come_from_a_convolution() -> None:
    order = "concat(t, t; axis = 1)"
    with pytest.raises(UnsupportedError, match="come from no convolution") as error:
        stages(f"fixed_deform_conv2d_v1(x, {order}, w; pad = 1, fraction = 0, offset_groups = 2)")
    assert "those of a conv2d" in str(error.value)
