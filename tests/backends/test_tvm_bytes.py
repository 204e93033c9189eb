"""Sums of products of bytes, on CPUs that multiply them: the bits of the reference, at the ends of all ranges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mercer
from mercer.backends.tvm.target import host_level
from tests.backends.test_tvm_narrow import (
    DEPTHWISE,
    LINEAR,
    REQUANTIZED,
    SCALED,
    Case,
    codes,
    rewrites,
    scaled,
    slow,
)

pytestmark = pytest.mark.skipif(host_level() != "vnni", reason="this CPU does not multiply bytes")


@pytest.mark.parametrize("rest", ["y", REQUANTIZED])
@pytest.mark.parametrize("zero", [0, -128, 127, 5])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(3, 64, 16), (17, 256, 40), (1, 300, 23), (64, 1040, 32), (5, 16, 100), (0, 16, 16)]
)
def test_matrix_products(rows: int, inputs: int, outputs: int, zero: int, rest: str) -> None:
    result = f"{'i32' if rest == 'y' else 'i8'}[N, {outputs}]"
    text = LINEAR.format(rows="N", inputs=inputs, outputs=outputs, zero=zero, result=result, rest=rest)
    weights = {"w": codes(outputs, inputs, seed=1).astype(np.float32)}
    assert rewrites(mercer.parse_text(text), weights, codes(rows, inputs), "cpu") == "products_of_bytes"


FEW = [
    Case(258, 33, 14, 14, kernel=(1, 1), pad=0),
    Case(31, 20, 13, 13, stride=2),
    Case(33, 16, 9, 9, pad=2, dilation=2, batch="3"),
]
CASES = [
    Case(3, 8, 12, 13),
    Case(3, 20, 31, 30, kernel=(7, 7), stride=2, pad=3),
    Case(40, 33, 14, 14, kernel=(1, 1), pad=0, batch="3"),
    Case(17, 9, 16, 16, kernel=(1, 1), stride=2, pad=0),
    Case(18, 70, 8, 9, kernel=(1, 1), pad=0),
    Case(130, 13, 7, 9, kernel=(3, 2)),
    Case(16, 24, 15, 15, pad=2, dilation=2),
    Case(15, 12, 9, 7, groups=3),
    Case(600, 10, 4, 4),
    *FEW,
]


@pytest.mark.parametrize("rest", ["y", REQUANTIZED])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("zero", [0, -128, 127, 5])
def test_convolutions(case: Case, zero: int, rest: str) -> None:
    assert case.rewrites(zero, rest, "cpu") == "products_of_bytes"


@pytest.mark.parametrize("rest", ["y", REQUANTIZED, SCALED])
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
@pytest.mark.parametrize("zero", [-128, 5])
def test_fours_of_taps(case: Case, zero: int, rest: str) -> None:
    """Results at four kinds of places have sums of their own, which are stored apart where `y` is read again."""
    expected = {"products_of_bytes"} | ({"scale_in_f32"} if rest == SCALED else set())
    assert set(scaled(case, zero, rest, "cpu").split()) == expected


@pytest.mark.parametrize(
    ("case", "rest", "is_line"),
    [
        (Case(4, 4, 14, 14, groups=4), "y", True),
        (Case(4, 4, 32, 32, groups=4), "y", False),
        (Case(4, 4, 14, 14, groups=4), "i8(y + i32(x))", False),
        (Case(4, 4, 14, 14, groups=4, stride=2), "y", False),
    ],
    ids=str,
)
def test_short_rows_lie_in_a_line(case: Case, rest: str, is_line: bool) -> None:
    """Where the same is done with all sums."""
    assert ("tiles in a line" in details(case, rest)) == is_line


@pytest.mark.parametrize("case", [Case(6, 6, 12, 28, groups=6), Case(6, 6, 7, 7, groups=6)], ids=str)
def test_fours_of_taps_are_faster_than_f32(case: Case) -> None:
    assert slow(case, "cpu") == []


@pytest.mark.parametrize("case", FEW, ids=str)
def test_vectors_along_channels_where_pixels_are_few(case: Case) -> None:
    """Of words that are made before."""
    assert "vectors along channels, " in details(case)
    assert "vectors along channels, " not in details(replace(case, channels=9))


def details(case: Case, rest: str = "y") -> str:
    artifact = mercer.compile(mercer.parse_text(case.text(5, rest))).artifact
    return "; ".join(step["detail"] for step in artifact.manifest.entry["steps"])


def test_words_of_one_image_with_different_borders() -> None:
    """Both are planes of 15 x 15."""
    program = mercer.parse_text("""
model M(x: i8[N, 32, 13, 13]) -> (i32[N, 16, 7, 7], i32[N, 16, 4, 4]) {
  param v: f32[16, 32, 3, 3] = normal(0, 30)
  param w: f32[16, 32, 3, 3] = normal(0, 30)
  a = conv2d(widen(x; zero = 5), widen(quantize(v; 1.0)); pad = 1, stride = 2)
  b = conv2d(widen(x; zero = 5), widen(quantize(w; 1.0)); pad = 2, stride = 4)
  return a, b
}
""")
    weights = {name: codes(16, 32, 3, 3, seed=seed).astype(np.float32) for seed, name in enumerate("vw", 1)}
    executable = mercer.compile(program, weights=weights)
    x = codes(2, 32, 13, 13)
    for found, expected in zip(executable(x), program.evaluate(x, weights=weights), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_sums_of_one_nest_lack_different_numbers() -> None:
    program = mercer.parse_text("""
op both(a: i32[n, d], b: i32[n, d], v: i32[m, d], w: i32[m, d]) -> i32[n, m] {
  return y[n, m] = (sum[k < d] a[n, k] * v[m, k]) + (sum[k < d] b[n, k] * w[m, k])
}
model M(x: i8[N, 64], y: i8[N, 64]) -> i32[N, 32] {
  param v: f32[32, 64] = normal(0, 30)
  param w: f32[32, 64] = normal(0, 30)
  return both(widen(x; zero = 5), widen(y; zero = -7), widen(quantize(v; 1.0)), widen(quantize(w; 1.0)))
}
""")
    weights = {"v": codes(32, 64, seed=1).astype(np.float32), "w": codes(32, 64, seed=2).astype(np.float32)}
    executable = mercer.compile(program, weights=weights)
    x, y = codes(5, 64), codes(5, 64, seed=3)
    np.testing.assert_array_equal(executable(x, y), program.evaluate(x, y, weights=weights)[0])
    assert b".missing1" in executable.artifact.members["ir/nests.mir"]


def test_numbers_of_more_than_a_byte_stay_in_pairs() -> None:
    """Nine bits of a tensor, which is the sum of two."""
    program = mercer.parse_text("""
model M(x: i8[N, 64], y: i8[N, 64]) -> i32[N, 32] {
  param w: f32[32, 64] = normal(0, 30)
  return linear(widen(x) + widen(y), widen(quantize(w; 1.0)))
}
""")
    weights = {"w": codes(32, 64, seed=1).astype(np.float32)}
    executable = mercer.compile(program, weights=weights)
    x, y = codes(5, 64), codes(5, 64, seed=2)
    np.testing.assert_array_equal(executable(x, y), program.evaluate(x, y, weights=weights)[0])
    assert "i16" in executable.artifact.members["ir/nests.mir"].decode()
