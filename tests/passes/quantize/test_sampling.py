"""Offsets of deformable convolutions in integers: what is clamped or rounded needs no table."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.ir.graph import Graph, Node
from mercer.passes.manager import Lower, PassContext, run_passes
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.quantize import Quantize


def nodes(attributes: str, offsets: int, before: str = "") -> list[Node]:
    """Of a convolution whose offsets, bounded by 2 pixels, come from another; `before` changes them first."""
    program = mercer.parse_text(
        f"""
        model Net(x: f32[N, 4, 8, 8]) -> f32[N, 2, 8, 8] {{
          offset = 9.0*Conv2d(x; {offsets}, 3, pad = 1){before}
          return BoundedDeformConv2d(x, offset; 2, 3, bound = 2, pad = 1, {attributes})
        }}
        """
    )
    x = np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)
    passes = quantized(Quantize.scheme("w8a8"))
    before_nests = next(place for place, each in enumerate(passes) if isinstance(each, Lower))
    context = PassContext(program.library, weights=program.initial(), data={"x": x})
    graph = run_passes(program.graph, passes[:before_nests], context)
    assert isinstance(graph, Graph)
    return list(graph.nodes)


@pytest.mark.parametrize(
    ("attributes", "offsets", "fraction", "limit"),
    [
        ("square = false", 18, 6, 128),
        ("rounded = true", 18, 0, 2),
        ("square = true", 1, 6, 128),
        ("square = true, rounded = true", 1, 0, 2),
    ],
)
def test_offsets_are_scaled_sums(attributes: str, offsets: int, fraction: int, limit: int) -> None:
    found = {node.operator: node for node in nodes(attributes, offsets)}
    assert "lookup" not in found
    assert ("square_offsets" in found) == ("square = true" in attributes)
    assert found["fixed_deform_conv2d_v1"].attribute("fraction") == fraction
    assert (found["rescale"].attribute("low"), found["rescale"].attribute("high")) == (-limit, limit)


def test_other_functions_before_offsets_are_tables() -> None:
    found = {node.operator: node for node in nodes("rounded = true", 18, " |> sin")}
    assert "lookup" in found and found["fixed_deform_conv2d_v1"].attribute("fraction") == 0
