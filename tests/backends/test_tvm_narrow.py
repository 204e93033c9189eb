"""Sums of products of 16 bits on the CPU: the bits of the reference, at the ends of all ranges and for odd sizes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.target import host_level
from mercer.commands.explain import read_ledger
from mercer.compiler import Program

PAIRS = "cpu:avx512" if host_level() == "vnni" else "cpu"
"""What runs here and multiplies no bytes."""

REQUANTIZED = "requantize(y, y * 0 + 1518500249; shift = 41, zero = -7)"
SCALED = "requantize(y, m; shift = 41, zero = -7)"
LINEAR = """
model M(x: i8[{rows}, {inputs}]) -> {result} {{
  param w: f32[{outputs}, {inputs}] = normal(0, 30)
  y = linear(widen(x; zero = {zero}), widen(quantize(w; 1.0)))
  return {rest}
}}
"""


def codes(*shape: int, seed: int = 0) -> np.ndarray:
    """Any i8, half of them at the ends of the range."""
    rng = np.random.default_rng(seed)
    ends = rng.choice(np.array([-128, 127], np.int8), shape)
    return np.where(rng.random(shape) < 0.5, ends, rng.integers(-128, 128, shape)).astype(np.int8)


def rewrites(program: Program, weights: dict[str, np.ndarray], x: np.ndarray, target: str = PAIRS) -> str:
    """What its sums became, after its bits have been compared with the reference."""
    exe = mercer.compile(program, weights=weights, target=target)
    (expected,) = program.evaluate(x, weights=weights)
    np.testing.assert_array_equal(exe(x), expected)
    assert exe(x).dtype == expected.dtype
    fired = {entry.rewrite for entry in read_ledger(exe.artifact).fired()}
    names = {"products_of_bytes", "products_of_i16", "sum_in_f32", "scale_in_f32", "winograd2", "winograd4"}
    return " ".join(sorted(fired & names))


@pytest.mark.parametrize("rest", ["y", REQUANTIZED])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "zero"),
    [(3, 64, 16, 0), (17, 255, 40, 127), (1, 300, 23, -128), (6, 9, 8, -128), (64, 1040, 32, -128), (0, 16, 16, 0)],
)
def test_matrix_products(rows: int, inputs: int, outputs: int, zero: int, rest: str) -> None:
    result = f"{'i32' if rest == 'y' else 'i8'}[N, {outputs}]"
    text = LINEAR.format(rows="N", inputs=inputs, outputs=outputs, zero=zero, result=result, rest=rest)
    weights = {"w": codes(outputs, inputs, seed=1).astype(np.float32)}
    assert rewrites(mercer.parse_text(text), weights, codes(rows, inputs)) == "products_of_i16"


@dataclass(frozen=True)
class Case:
    """A convolution of i8[batch, channels, height, width]."""

    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    groups: int = 1
    batch: str = "N"

    def text(self, zero: int, rest: str) -> str:
        """The model, with the weights as a parameter `w`; `rest` is computed of the sum y."""
        p, q = (
            (size + 2 * self.pad - self.dilation * (k - 1) - 1) // self.stride + 1
            for size, k in zip((self.height, self.width), self.kernel, strict=True)
        )
        window = ", ".join(map(str, (self.outputs, self.channels // self.groups, *self.kernel)))
        options = f"pad = {self.pad}, stride = {self.stride}, dilation = {self.dilation}, groups = {self.groups}"
        result = f"{'i32' if rest == 'y' else 'i8'}[{self.batch}, {self.outputs}, {p}, {q}]"
        return f"""
model M(x: i8[{self.batch}, {self.channels}, {self.height}, {self.width}]) -> {result} {{
  param w: f32[{window}] = normal(0, 30)
  y = conv2d(widen(x; zero = {zero}), widen(quantize(w; 1.0)); {options})
  return {rest}
}}
"""

    def rewrites(self, zero: int, rest: str, target: str = PAIRS) -> str:
        """As `rewrites` says, for weights and images of any codes."""
        weights = {"w": codes(self.outputs, self.channels // self.groups, *self.kernel, seed=1).astype(np.float32)}
        program = mercer.parse_text(self.text(zero, rest))
        return rewrites(program, weights, codes(3, self.channels, self.height, self.width), target)


CASES = [
    Case(3, 8, 12, 13),
    Case(3, 20, 31, 30, kernel=(7, 7), stride=2, pad=3),
    Case(40, 33, 14, 14, kernel=(1, 1), pad=0, batch="3"),
    Case(17, 9, 16, 16, kernel=(1, 1), stride=2, pad=0),
    Case(130, 13, 7, 9, kernel=(3, 2)),
    Case(2, 6, 13, 13, pad=2, dilation=2),
    Case(15, 12, 9, 7, groups=3),
    Case(600, 10, 4, 4),
]


@pytest.mark.parametrize("rest", ["y", REQUANTIZED])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("zero", [0, -128])
def test_convolutions(case: Case, zero: int, rest: str) -> None:
    assert case.rewrites(zero, rest) == "products_of_i16"


@pytest.mark.parametrize(
    ("case", "algorithm"),
    [
        (Case(64, 40, 12, 28, pad=2, batch="3"), "winograd4"),
        (Case(48, 73, 19, 18, batch="3"), "winograd4"),
        (Case(400, 32, 12, 12, pad=0, batch="3"), "winograd2"),
    ],
    ids=str,
)
@pytest.mark.parametrize("zero", [0, -128, 127])
def test_winograd_is_exact(case: Case, algorithm: str, zero: int) -> None:
    """On numbers that the transforms bring to the ends of their ranges, too."""
    weights = {"w": codes(case.outputs, case.channels, 3, 3, seed=1).astype(np.float32)}
    program = mercer.parse_text(case.text(zero, "y" if zero else REQUANTIZED))
    x = codes(3, case.channels, case.height, case.width)
    checkered = np.indices(x.shape).sum(axis=0) % 2 * 255 - 128
    x[0], x[1] = checkered[0], -128
    assert rewrites(program, weights, x) == f"products_of_i16 {algorithm}"


DEPTHWISE = [
    Case(9, 9, 12, 14, groups=9),
    Case(5, 5, 31, 33, groups=5, stride=2),
    Case(3, 3, 7, 7, kernel=(5, 5), groups=3, pad=2, batch="3"),
    Case(3, 3, 8, 8, groups=3),
    Case(3, 3, 7, 7, groups=3, batch="3"),
    Case(3, 3, 70, 4, kernel=(5, 2), groups=3, pad=2),
    Case(3, 3, 9, 5, kernel=(3, 5), groups=3, pad=0),
    Case(3, 3, 9, 6, kernel=(4, 3), groups=3, pad=3),
    Case(4, 8, 15, 16, groups=4),
    Case(3, 3, 70, 6, kernel=(5, 2), groups=3, pad=2),
    Case(2, 2, 40, 57, kernel=(7, 7), groups=2, pad=3, batch="3"),
    Case(3, 3, 20, 21, kernel=(8, 8), groups=3, pad=0, stride=2),
    Case(6, 6, 9, 300, kernel=(2, 5), groups=6, pad=1, stride=2),
    Case(2, 2, 130, 120, groups=2, pad=2),
]


def scaled(case: Case, zero: int, rest: str, target: str = PAIRS) -> str:
    """As `rewrites` says, where `rest` may read scales m of the channels."""
    text = case.text(zero, rest).replace("  y =", f"  param scale: f32[{case.outputs}, 1, 1] = zeros\n  y =")
    text = text.replace(" m;", " i32(scale);")
    rng = np.random.default_rng(2)
    weights = {
        "w": codes(case.outputs, case.channels // case.groups, *case.kernel, seed=1).astype(np.float32),
        "scale": (rng.integers(2**22, 2**23, (case.outputs, 1, 1)) * 2 + 1).astype(np.float32) * 128,
    }
    return rewrites(mercer.parse_text(text), weights, codes(3, case.channels, case.height, case.width), target)


@pytest.mark.parametrize("rest", ["y", REQUANTIZED, SCALED])
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
@pytest.mark.parametrize("zero", [0, -128])
def test_depthwise_convolutions(case: Case, zero: int, rest: str) -> None:
    """Results at even and at odd places have sums of their own, which are stored apart where `y` is read again."""
    expected = {"products_of_i16"} | ({"scale_in_f32"} if rest == SCALED else set())
    assert set(scaled(case, zero, rest).split()) == expected


@pytest.mark.parametrize("target", ["cpu", "cpu:avx2"])
@pytest.mark.parametrize("shift", [41, 33])
@pytest.mark.parametrize("zero", [-128, 90])
@pytest.mark.parametrize(
    "case",
    [
        Case(6, 6, 9, 40, groups=6),
        Case(6, 6, 9, 9, groups=6),
        Case(6, 6, 21, 30, groups=6, stride=2),
        Case(5, 9, 11, 13),
        Case(20, 17, 8, 8, kernel=(1, 1), pad=0),
    ],
    ids=str,
)
def test_codes_far_beyond_their_limits(case: Case, zero: int, shift: int, target: str) -> None:
    """Products of up to 16 bits are limited when bytes are made of them, larger ones before."""
    rest = f"requantize(y, m; shift = {shift}, zero = {zero})"
    assert "scale_in_f32" in scaled(case, -128, rest, target)
    assert "scale_in_f32" in scaled(case, -128, rest.replace(")", ", low = -100)"), target)


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
def test_depthwise_convolutions_with_what_is_added_to_them(target: str) -> None:
    """The rest of the nest runs along the row, also where that is shorter than a tile."""
    program = mercer.parse_text("""
model M(x: i8[N, 6, 9, 11], z: i32[N, 6, 9, 11]) -> i32[N, 6, 9, 11] {
  param w: f32[6, 1, 3, 3] = normal(0, 30)
  return conv2d(widen(x), widen(quantize(w; 1.0)); pad = 1, groups = 6) + z
}
""")
    weights = {"w": codes(6, 1, 3, 3, seed=1).astype(np.float32)}
    x, z = codes(2, 6, 9, 11), np.arange(2 * 6 * 9 * 11, dtype=np.int32).reshape(2, 6, 9, 11) * 1000003
    exe = mercer.compile(program, weights=weights, target=target)
    np.testing.assert_array_equal(exe(x, z), program.evaluate(x, z, weights=weights)[0])


@pytest.mark.parametrize(("options", "size"), [("pad = 2, dilation = 2", 12), ("pad = 1, stride = 3", 4)])
def test_windows_without_pairs_stay_in_f32(options: str, size: int) -> None:
    program = mercer.parse_text(f"""
model M(x: i8[N, 6, 12, 12]) -> i32[N, 6, {size}, {size}] {{
  param w: f32[6, 1, 3, 3] = normal(0, 30)
  return conv2d(widen(x), widen(quantize(w; 1.0)); {options}, groups = 6)
}}
""")
    weights = {"w": codes(6, 1, 3, 3, seed=1).astype(np.float32)}
    assert rewrites(program, weights, codes(2, 6, 12, 12)) == "sum_in_f32"


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
@pytest.mark.parametrize("shift", [33, 37, 45])
def test_scales_are_exact(target: str, shift: int) -> None:
    """One f32 product gives the integers of the 64-bit one: for all sums at which they step, and for the largest."""
    program = mercer.parse_text(f"""
model M(x: i16[N, 8], y: i8[N, 8]) -> i8[N, 8] {{
  param scale: f32[8] = zeros
  return requantize(widen(x) * 256 + widen(y), i32(scale); shift = {shift}, zero = 3, low = -100)
}}
""")
    rng = np.random.default_rng(3)
    scale = (rng.integers(2**22, 2**23, 8) * 2 + 1).astype(np.float32) * 64
    scale[0], scale[1] = 0.0, -scale[1]
    with np.errstate(divide="ignore"):
        steps = np.rint((np.arange(-130, 130)[:, None] + 0.5) * 2.0**shift / scale)
    sums = np.concatenate([steps + k for k in range(-2, 3)] + [rng.integers(-(2**23), 2**23, (999, 8))])
    sums = np.clip(sums, -(2**23), 2**23 - 129).astype(np.int32)
    x, y = ((sums + 128) // 256).astype(np.int16), ((sums + 128) % 256 - 128).astype(np.int8)
    exe = mercer.compile(program, weights={"scale": scale}, target=target)
    np.testing.assert_array_equal(exe(x, y), program.evaluate(x, y, weights={"scale": scale})[0])
    assert "scale_in_f32" in {e.rewrite for e in read_ledger(exe.artifact).fired()}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(6, 6, 12, 28, groups=6, stride=2), None),
        (Case(6, 6, 12, 28, groups=6), "pairs in its rows of 3 taps take as many instructions as f32"),
        (Case(6, 6, 7, 7, kernel=(5, 5), pad=2, groups=6), None),
        (Case(6, 6, 12, 12, groups=6, pad=2, dilation=2), "its products are those of f32"),
        (Case(16, 16, 12, 12), None),
    ],
    ids=str,
)
def test_the_ledger_says_what_is_not_faster_than_in_f32(case: Case, reason: str | None) -> None:
    assert slow(case, PAIRS) == ([] if reason is None else [reason])


def slow(case: Case, target: str) -> list[str]:
    """Why its sums will not be faster than those of f32."""
    weights = {"w": codes(case.outputs, case.channels // case.groups, *case.kernel, seed=1).astype(np.float32)}
    exe = mercer.compile(mercer.parse_text(case.text(0, REQUANTIZED)), weights=weights, target=target)
    return [entry.reason or "" for entry in read_ledger(exe.artifact).refused() if entry.rewrite == "faster_than_f32"]


def test_one_channel_stays_in_f32() -> None:
    program = mercer.parse_text(Case(1, 8, 12, 12).text(0, "y"))
    weights = {"w": codes(8, 1, 3, 3, seed=1).astype(np.float32)}
    assert rewrites(program, weights, codes(3, 1, 12, 12)) == "sum_in_f32"


@pytest.mark.parametrize(
    ("target", "instruction"),
    [("cpu:generic", "pmaddwd"), ("cpu:avx2", "vpmaddwd"), ("cpu:avx512", "vpmaddwd"), ("cpu:vnni", "vpdpbusd")],
)
def test_products_are_one_instruction(target: str, instruction: str, tmp_path: Path) -> None:
    """In machine code of every level; only the levels of this machine run."""
    program = mercer.parse_text(Case(16, 32, 14, 14).text(0, "y"))
    weights = {"w": codes(32, 16, 3, 3, seed=1).astype(np.float32)}
    library = tmp_path / "lib.so"
    library.write_bytes(mercer.compile(program, weights=weights, target=target).artifact.members["lib.so"])
    code = subprocess.run(["objdump", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert instruction in code and "pmulld" not in code
    assert ("pmaddwd" in code) == ("pmaddwd" in instruction)


def test_long_rows_go_through_several_products_in_pairs() -> None:
    """A tile of rows keeps each row in one piece."""
    program = mercer.parse_text("""
model M(x: i8[96, 512]) -> i32[96, 16] {
  param v: f32[512, 512] = normal(0, 30)
  param w: f32[16, 512] = normal(0, 30)
  param m: f32[512] = constant(1073741824)
  y = requantize(linear(widen(x), widen(quantize(v; 1.0))), i32(m); shift = 43)
  return linear(widen(y), widen(quantize(w; 1.0)))
}
""")
    weights = {"v": codes(512, 512, seed=1), "w": codes(16, 512, seed=2), "m": np.full(512, 2**30)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    exe = mercer.compile(program, weights=weights)
    x = codes(96, 512)
    np.testing.assert_array_equal(exe(x), program.evaluate(x, weights=weights)[0])
    details = " ".join(step["detail"] for step in exe.artifact.manifest.entry["steps"])
    assert "rows in lanes" not in details
