"""Deformable convolutions of codes on the CPU: the bits of the reference, at the ends of all ranges."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.plan import families
from mercer.backends.tvm.target import parse
from mercer.commands.explain import read_ledger
from mercer.compiler import Program
from mercer.ir.types import Array
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import INFERENCE

BATCH = 2
LOW, HIGH = -(2**31), 2**31 - 1


@dataclass(frozen=True)
class Case:
    """A deformable convolution of i8[N, channels, height, width]."""

    channels: int
    outputs: int
    height: int = 9
    width: int = 11
    window: int = 3
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    offset_groups: int = 1
    fraction: int = 6
    zero: int = 0
    mask_fraction: int = 0
    rest: str = "y"

    @property
    def size(self) -> tuple[int, int]:
        reach = self.dilation * (self.window - 1) + 1
        p, q = ((n + 2 * self.pad - reach) // self.stride + 1 for n in (self.height, self.width))
        return p, q

    @property
    def taps(self) -> int:
        return self.offset_groups * self.window**2

    def text(self) -> str:
        p, q = self.size
        mask = f", mask: i8[N, {self.taps}, {p}, {q}]" if self.mask_fraction else ""
        operands = "offset, widen(mask; zero = -128)" if self.mask_fraction else "offset"
        more = f", mask_fraction = {self.mask_fraction}" if self.mask_fraction else ""
        return f"""
model M(x: i8[N, {self.channels}, {self.height}, {self.width}], offset: i32[N, {2 * self.taps}, {p}, {q}]{mask})
    -> {"i32" if self.rest == "y" else "i8"}[N, {self.outputs}, {p}, {q}] {{
  param w: f32[{self.outputs}, {self.channels}, {self.window}, {self.window}] = normal(0, 30)
  y = fixed_deform_conv2d{"" if self.mask_fraction else "_v1"}(x, {operands}, quantize(w; 1.0);
    stride = {self.stride}, pad = {self.pad}, dilation = {self.dilation}, offset_groups = {self.offset_groups},
    fraction = {self.fraction}, zero = {self.zero}{more})
  return {self.rest}
}}
"""

    def arrays(self, offsets: str, seed: int = 0) -> list[Array]:
        rng = np.random.default_rng(seed)
        shape = (BATCH, 2 * self.taps, *self.size)
        one = 2**self.fraction
        near = rng.integers(-3 * one, 3 * one + 1, shape)
        far = rng.integers(-40 * one, 40 * one + 1, shape)
        ends = rng.choice([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH], shape)
        offset = {"near": near, "far": np.where(rng.random(shape) < 0.5, near, far), "ends": ends}[offsets]
        arrays = [codes(rng, BATCH, self.channels, self.height, self.width), offset.astype(np.int32)]
        return [*arrays, codes(rng, BATCH, self.taps, *self.size)] if self.mask_fraction else arrays

    def weights(self) -> dict[str, Array]:
        shape = (self.outputs, self.channels, self.window, self.window)
        return {"w": codes(np.random.default_rng(1), *shape).astype(np.float32)}


def codes(rng: np.random.Generator, *shape: int) -> Array:
    """Any i8, half of them at the ends of the range."""
    ends = rng.choice(np.array([-128, 127], np.int8), shape)
    return np.where(rng.random(shape) < 0.5, ends, rng.integers(-128, 128, shape)).astype(np.int8)


def kernels(program: Program, target: str = "cpu") -> tuple[str, ...]:
    context = PassContext(program.library, weights=program.initial())
    return families(run_passes(program.graph, INFERENCE, context), parse(target))  # pyright: ignore[reportArgumentType]


REQUANTIZED = "requantize(y, y * 0 + 1518500249; shift = 45, zero = -7)"
CASES = [
    Case(16, 16),
    Case(16, 16, mask_fraction=8, zero=127),
    Case(5, 9, zero=-128, mask_fraction=8),
    Case(67, 33, stride=2, zero=4, mask_fraction=7, rest=REQUANTIZED),
    Case(6, 8, offset_groups=2, mask_fraction=8, zero=127),
    Case(40, 24, offset_groups=2, dilation=2, pad=2, zero=-1),
    Case(200, 16, height=4, width=5, window=1, pad=0, zero=-128),
    Case(8, 12, height=1, width=2, fraction=7, zero=127, mask_fraction=8),
    Case(12, 8, fraction=0, zero=5),
    Case(12, 64, window=5, pad=3, fraction=1, zero=-128, mask_fraction=8),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_reference(case: Case) -> None:
    program = mercer.parse_text(case.text())
    assert kernels(program)[-1] == "gather"
    executable = mercer.compile(program, weights=case.weights())
    assert "faster_than_f32" not in {entry.rewrite for entry in read_ledger(executable.artifact).refused()}
    for offsets in ("near", "far", "ends"):
        inputs = case.arrays(offsets)
        (expected,) = program.evaluate(*inputs, weights=case.weights())
        np.testing.assert_array_equal(executable(*inputs), expected)


def test_words_in_vectors_of_four() -> None:
    case = Case(13, 10, mask_fraction=8, zero=3)
    program = mercer.parse_text(case.text())
    executable = mercer.compile(program, weights=case.weights(), target="cpu:generic")
    inputs = case.arrays("near")
    (expected,) = program.evaluate(*inputs, weights=case.weights())
    np.testing.assert_array_equal(executable(*inputs), expected)


@pytest.mark.parametrize(
    "case", [Case(16, 16, fraction=8), Case(16, 4), Case(16, 16, fraction=9, mask_fraction=8)], ids=str
)
def test_what_is_not_in_words(case: Case) -> None:
    """Weights of more than 15 bits, and few outputs."""
    program = mercer.parse_text(case.text())
    assert "gather" not in kernels(program)
    executable = mercer.compile(program, weights=case.weights())
    inputs = case.arrays("near")
    (expected,) = program.evaluate(*inputs, weights=case.weights())
    np.testing.assert_array_equal(executable(*inputs), expected)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [("cpu:generic", "pmaddwd"), ("cpu:avx2", "vpmaddwd"), ("cpu:avx512", "vpmaddwd"), ("cpu:vnni", "vpdpwssd")],
)
def test_blends_and_products_are_of_pairs(target: str, instruction: str, tmp_path: Path) -> None:
    """In machine code of every level; only the levels of this machine run."""
    case = Case(32, 32)
    library = tmp_path / "lib.so"
    executable = mercer.compile(mercer.parse_text(case.text()), weights=case.weights(), target=target)
    library.write_bytes(executable.artifact.members["lib.so"])
    code = subprocess.run(["objdump", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert instruction in code and "punpcklwd" in code
