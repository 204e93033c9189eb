"""Sampling on the CPU: deformable convolutions, grid samples and look-ups, against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.plan import families
from mercer.backends.tvm.target import parse
from mercer.compiler import Program
from mercer.ir.types import Array
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import INFERENCE

BATCH = 3

PROGRAMS = {
    "deformable": "model M(x: f32[2,12,9,11], o: f32[2,18,9,11], m: f32[2,9,9,11]) -> f32[2,10,9,11] "
    "{ return DeformConv2d(x, o, m; 10, 3, pad = 1) |> relu }",
    "offset groups": "model M(x: f32[N,8,9,11], o: f32[N,36,9,11], m: f32[N,18,9,11]) -> f32[N,33,9,11] "
    "{ return DeformConv2d(x, o, m; 33, 3, pad = 1, offset_groups = 2) }",
    "groups": "model M(x: f32[1,12,9,11], o: f32[1,18,9,11], m: f32[1,9,9,11]) -> f32[1,24,9,11] "
    "{ return DeformConv2d(x, o, m; 24, 3, pad = 1, groups = 2) }",
    "depthwise": "model M(x: f32[1,12,9,11], o: f32[1,18,5,6], m: f32[1,9,5,6]) -> f32[1,12,5,6] "
    "{ return DeformConv2d(x, o, m; 12, 3, pad = 1, groups = 12, stride = 2) }",
    "few pixels": "model M(x: f32[1,5,2,1], o: f32[1,18,2,1], m: f32[1,9,2,1]) -> f32[1,3,2,1] "
    "{ return DeformConv2d(x, o, m; 3, 3, pad = 1) }",
    "unfold": "model M(x: f32[1,8,5,7], o: f32[1,18,5,7]) -> f32[1,8,3,3,5,7] "
    "{ return deform_unfold(x, o; [3, 3], pad = 1) }",
    "zeros": "model M(x: f32[N,6,7,9], g: f32[N,11,6,2]) -> f32[N,6,11,6] { return grid_sample(x, g) }",
    "border": "model M(x: f32[2,5,7,9], g: f32[2,11,6,2]) -> f32[2,5,11,6] "
    '{ return tanh(grid_sample(x, g; padding_mode = "border")) }',
    "reflection": "model M(x: f32[2,3,7,9], g: f32[2,11,6,2]) -> f32[2,3,11,6] "
    '{ return grid_sample(x, g; padding_mode = "reflection") }',
    "nearest": "model M(x: f32[2,67,7,9], g: f32[2,11,6,2]) -> f32[2,67,11,6] "
    '{ return grid_sample(x, g; mode = "nearest") }',
    "channels last": "op pick(x: T[h, w, c], u: T[n], v: T[n]) -> T[n, c] "
    "{ return y[n, c] = 2*x[i32(floor(u[n])), i32(floor(v[n])), c; pad = 1] }\n"
    "model M(x: f32[4,5,11], u: f32[N], v: f32[N]) -> f32[N,11] { return pick(x, u, v) }",
    "splines": "model M(x: f32[N,70]) -> f32[N,11] { return KANLinear(x; 11, grid = 8) |> tanh }",
}


def arrays(program: Program, scale: float, seed: int = 0) -> list[Array]:
    """Inputs, those after the first times `scale`."""
    rng = np.random.default_rng(seed)
    shapes = [[d.value if d.is_constant else BATCH for d in value.type.shape] for value in program.graph.inputs]
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return [drawn[0], *(array * np.float32(scale) for array in drawn[1:])]


def kernels(program: Program, target: str = "cpu") -> tuple[str, ...]:
    context = PassContext(program.library, weights=program.initial())
    nests = run_passes(program.graph, INFERENCE, context)
    return families(nests, parse(target))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", PROGRAMS)
def test_samples_agree_with_the_reference(name: str) -> None:
    program = mercer.parse_text(PROGRAMS[name])
    assert "gather" in kernels(program)
    executable = mercer.compile(program, weights=program.initial())
    for scale in (0.3, 4.0):
        inputs = arrays(program, scale)
        (expected,) = program.evaluate(*inputs)
        np.testing.assert_allclose(executable(*inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["deformable", "depthwise", "zeros"])
def test_samples_in_vectors_of_four(name: str) -> None:
    program = mercer.parse_text(PROGRAMS[name])
    executable = mercer.compile(program, target="cpu:generic", weights=program.initial())
    inputs = arrays(program, 3.0)
    (expected,) = program.evaluate(*inputs)
    np.testing.assert_allclose(executable(*inputs), expected, rtol=1e-5, atol=1e-5)


def test_positions_far_outside_read_the_padding() -> None:
    program = mercer.parse_text(PROGRAMS["deformable"])
    executable = mercer.compile(program, weights=program.initial())
    inputs = arrays(program, 1.0)
    for far in (1e4, 3e9, -3e9, 1e30, -1e30):
        moved = [inputs[0], np.full_like(inputs[1], far), inputs[2]]
        (nothing,) = program.evaluate(inputs[0] * 0, *inputs[1:])
        np.testing.assert_array_equal(executable(*moved), nothing)


def test_a_position_that_is_no_number_stays_alone() -> None:
    """Only its own pixel becomes NaN, and nothing outside of the image is read."""
    program = mercer.parse_text(PROGRAMS["deformable"])
    executable = mercer.compile(program, weights=program.initial())
    inputs = arrays(program, 1.0)
    inputs[1][1, 4, 3, 5] = np.nan
    lost = np.isnan(executable(*inputs))
    assert lost[1, :, 3, 5].all() and lost.sum() == 10


def test_a_deformable_convolution_stores_no_samples() -> None:
    """The samples are multiplied where they are computed; with groups they are a tensor of their own."""
    whole = kernels(mercer.parse_text(PROGRAMS["deformable"]))
    assert whole == ("transpose", "gather")
    assert len(kernels(mercer.parse_text(PROGRAMS["groups"]))) == 3
