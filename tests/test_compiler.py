"""From text to a binary, through all rooms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer.compiler import route
from mercer.runtime.errors import MercerError


def test_a_dimension_may_stand_only_inside_formulas(tmp_path: Path) -> None:
    program = mercer.parse_text("""
model Net(x: f32[N, 2*K, 3], y: f32[N, 3*J + 1]) -> (f32[N, K, 3], f32[N, J]) {
  return relu(x[:, 0:shape(x)[1]:2]), y[:, 1::3]
}
""")
    path = tmp_path / "net.mrc"
    mercer.compile(program).save(path)
    binary = mercer.load(path)
    random = np.random.default_rng(0)
    for n, k, j in ((2, 3, 4), (0, 1, 1), (1, 5, 2), (3, 0, 0)):
        x, y = (random.standard_normal(shape, np.float32) for shape in ((n, 2 * k, 3), (n, 3 * j + 1)))
        for found, expected in zip(binary(x, y), program.evaluate(x, y), strict=True):
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)
    with pytest.raises(mercer.InputError, match=r"dim 1 is 3, but 2\*K = 2"):
        binary(np.zeros((1, 3, 3), np.float32), np.zeros((1, 4), np.float32))


def test_inputs_that_leave_nothing_of_an_output_are_refused() -> None:
    binary = mercer.compile(mercer.parse_text("model Net(x: f32[N, L]) -> f32[N, L - 6] { return x[:, 6:] }"))
    assert binary(np.zeros((2, 6), np.float32)).shape == (2, 0)
    with pytest.raises(mercer.InputError, match=r"too small: L - 6 = -2 in the output .* \(L = 4\)"):
        binary(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("target", ["fpga:ecp5-25k", "fpga:xcup"])
@pytest.mark.slow
def test_routing_adds_what_the_tools_make(target: str, tmp_path: Path) -> None:
    program = mercer.parse_text("model Net(x: f32[N, 4]) -> f32[N, 3] { return x |> Linear(6) |> relu |> Linear(3) }")
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    design = mercer.compile(program, target, data=x, quantize="w8a8")
    routed = route(design)
    routed.save(tmp_path / "net.mrc")
    made = json.loads(routed.artifact.member("fpga/implementation.json"))
    assert made["counts"]["lut"] > 100
    assert (made["clock"] is not None) == ("fpga/design.bit" in routed.artifact.members) == ("ecp5" in target)
    np.testing.assert_array_equal(mercer.load(tmp_path / "net.mrc")(x), design(x))


def test_only_designs_are_routed() -> None:
    program = mercer.parse_text("model Net(x: f32[N, 4]) -> f32[N, 3] { return x |> Linear(3) }")
    with pytest.raises(MercerError, match="torch is not routed"):
        route(mercer.compile(program, "torch"))


def test_inputs_lie_anywhere() -> None:
    """The binary reads arrays where they are; their alignment is that of their elements."""
    executable = mercer.compile(mercer.parse_text("model M(x: f32[2, 5, 8]) -> f32[2, 5, 8] { return exp(x) }"))
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    for offset in range(0, 64, 4):
        moved = np.zeros(x.nbytes + 64, np.uint8)[offset : offset + x.nbytes].view(np.float32).reshape(x.shape)
        moved[...] = x
        np.testing.assert_array_equal(executable(moved), executable(x))


def test_outputs_share_no_memory() -> None:
    program = mercer.parse_text("""
model M(x: f32[2, 6]) -> (f32[3, 4], f32[12], f32[2, 6]) {
  y = reshape(x; [3, 4])
  return y, reshape(y; [12]), x
}
""")
    executable = mercer.compile(program)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    outputs = executable(x)
    for i, output in enumerate(outputs):
        np.testing.assert_array_equal(output.ravel(), x.ravel())
        assert not any(np.shares_memory(output, other) for other in (x, *outputs[:i]))


def test_torch_is_not_quantized_in_silence() -> None:
    program = mercer.parse_text("model M(x: f32[2, 4]) -> f32[2, 4] { return x |> Linear(4) }")
    with pytest.raises(MercerError, match="target torch keeps the program"):
        mercer.compile(program, "torch", quantize="w8a8", data=np.ones((2, 4), np.float32))
