"""Rows of scans: axes whose elements do not wait for each other, and chunks of them."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.lower import Scope
from mercer.backends.tvm.primitives import kernel
from mercer.backends.tvm.scan import rows_first
from mercer.backends.tvm.scan_ahead import Ahead, shares
from mercer.backends.tvm.target import parse
from mercer.ir.index import Axis
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Primitive
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import INFERENCE

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


ATTENTION = """op causal(q: T[l, g, d], k: T[l, g, d], v: T[l, g, e]) -> T[l, g, e] {{
  scan t < l {{
    carry s[g, d, e] = 0
    s[g, d, e] = s[g, d, e] + k[t, g, d]*v[t, g, e]
    emit y[t, g, e] = sum[d] q[t, g, d]*s[g, d, e]
  }}
  return y
}}
model M(q: f32[{l}, 2, {d}], k: f32[{l}, 2, {d}], v: f32[{l}, 2, {e}]) -> f32[{l}, 2, {e}] {{
  return causal(q, k, v)
}}"""


@pytest.mark.parametrize(("length", "d", "e"), [(64, 32, 48), (64, 18, 20), (70, 16, 16), (128, 64, 64)])
def test_products_within_chunks(length: int, d: int, e: int) -> None:
    check(ATTENTION.format(l=length, d=d, e=e))


@pytest.mark.parametrize(("d", "e", "kept"), [(32, 48, False), (64, 64, False), (18, 20, True)])
def test_a_state_that_tiles_cover_exactly_is_replaced(d: int, e: int, kept: bool) -> None:
    nests = transformed(ATTENTION.format(l=64, d=d, e=e))
    scan = next(s for s in nests.statements if isinstance(s, Primitive) and s.scan is not None)
    found = kernel(scan, nests.types(), parse("cpu:avx2"))
    assert any("next" in operand.name for operand in found.scratch) is kept


def transformed(text: str) -> Nests:
    program = mercer.parse_text(text)
    nests = run_passes(program.graph, INFERENCE, PassContext(library=program.library))
    assert isinstance(nests, Nests)
    return nests


def test_every_line_is_fetched_once() -> None:
    place = IntExpr.var("row") * 256 + IntExpr.var("line") * 16
    axes = [Axis("row", IntExpr.constant(7)), Axis("line", IntExpr.constant(3))]
    aheads = [Ahead("x", tuple(axes), place), Ahead("y", tuple(axes[1:]), place)]
    for costs in ([1.0], [5.0, 0.0, 1.0, 30.0], [1.0] * 40, [0.0, 0.0]):
        assert covered(aheads, costs) == {"x": list(range(21)), "y": list(range(3))}


def covered(aheads: list[Ahead], costs: list[float]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"x": [], "y": []}

    class Recorded(Ahead):
        def fetch(self, scope: Scope, first: int, end: int) -> None:
            found[self.tensor] += range(first, end)

    recorded = [Recorded(each.tensor, each.axes, each.place) for each in aheads]
    for share in shares(recorded, costs):
        share(Scope({}, {}, {}, {}))
    return found


def test_slices_lie_as_their_states_do() -> None:
    scan = next(s.scan for s in transformed(ATTENTION.format(l=64, d=32, e=48)).statements if isinstance(s, Primitive))
    assert scan is not None
    changed = rows_first(scan.body, scan)
    emitted = next(s for s in changed.statements if isinstance(s, Nest) and s.target == scan.body.outputs[-1])
    assert [axis.extent.value for axis in emitted.axes] == [2, 16, 48]
    assert scan.axes == (0,)


def test_slices_that_are_read_keep_their_axes() -> None:
    nests = mercer.parse_text(MIXED).nests
    scan = next(s.scan for s in nests.statements if isinstance(s, Primitive) and s.scan is not None)
    assert rows_first(scan.body, scan) == scan.body
