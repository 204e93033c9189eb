"""Rows of scans: axes whose elements do not wait for each other, and chunks of them."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.target import parse

SELECTIVE = """model M(x: f32[N, 9, {d}], delta: f32[N, 9, {d}], b: f32[N, 9, 4], c: f32[N, 9, 4]) -> f32[N, 9, {d}] {{
  param a: f32[{d}, 4] = uniform(-2, -0.1)
  param skip: f32[{d}] = normal(0, 1)
  return selective_scan(x, delta, a, b, c, skip)
}}"""

STACKED = """op decay(x: T[l, d]) -> T[l, d] {
  scan t < l {
    carry h[d] = 1
    h[d] = 0.5*h[d] + x[t, d]
    emit y[t, d] = 2*h[d]
  }
  return y
}
model M(x: f32[7, 32]) -> f32[7, 32] { return decay(x) }"""

MIXED = """op mix(x: T[l, d], w: T[d, e]) -> T[l, d] {
  scan t < l {
    carry h[d] = 0
    h[d] = tanh(x[t, d] + (sum[e] w[d, e]*h[e]))
    emit y[t, d] = h[d]
  }
  return y
}
model M(x: f32[7, 32]) -> f32[7, 32] {
  param w: f32[32, 32] = normal(0, 0.2)
  return mix(x, w)
}"""


def check(text: str, batch: int = 1) -> str:
    """Compare with the reference; how the scan is computed."""
    program = mercer.parse_text(text)
    weights = program.initial()
    generator = np.random.default_rng(0)
    shapes = [[size.value if size.is_constant else batch for size in v.type.shape] for v in program.graph.inputs]
    inputs = [generator.uniform(0.0, 1.0, shape).astype(np.float32) for shape in shapes]
    found = mercer.compile(program, "cpu:avx2", weights=weights)(*inputs)
    (expected,) = program.evaluate(*inputs, weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    steps = compile_nests(program.nests, parse("cpu:avx2")).steps
    return next(step.detail for step in steps if step.family == "scan")


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(("channels", "rows"), [(32, 2), (8, 1), (20, 1)])
def test_channels_are_cut_into_chunks(channels: int, rows: int, batch: int) -> None:
    assert check(SELECTIVE.format(d=channels), batch) == f"{rows} axes of rows"


def test_the_last_axis_of_all_is_cut() -> None:
    assert check(STACKED) == "1 axes of rows"


def test_an_axis_that_is_mixed_is_not() -> None:
    assert check(MIXED) == "0 axes of rows"
