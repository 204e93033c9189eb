"""Convolutions on the CPU against float64: odd sizes, strides, dilations, groups, padding, batches, epilogues."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.schedules.direct import Direct
from mercer.backends.tvm.target import parse
from mercer.ir.convolution import recognize
from mercer.ir.index import Expr, Read, call, transform
from mercer.ir.nests import Nest, Nests
from tests.backends.tvm_programs import axes, build, index, mul, nest, normal, number, program, read, tensor, total


@dataclass(frozen=True)
class Case:
    """A convolution of f32[N, groups*channels, height, width], with bias, and perhaps a residual and relu."""

    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    groups: int = 1
    residual: bool = False

    def extents(self) -> tuple[int, int]:
        found = [
            (size + 2 * self.pad - self.dilation * (k - 1) - 1) // self.stride + 1
            for size, k in zip((self.height, self.width), self.kernel, strict=True)
        ]
        return found[0], found[1]

    def nests(self) -> Nests:
        p, q = self.extents()
        share = self.outputs // self.groups
        channel = index("c") if self.groups == 1 else index("o") // share * self.channels + index("c")
        rows = index("p") * self.stride + index("i") * self.dilation - self.pad
        columns = index("q") * self.stride + index("j") * self.dilation - self.pad
        window = read("x", "n", channel, rows, columns, pad=0.0)
        product = mul(read("w", "o", "c", "i", "j"), window)
        body: Expr = total(product, c=self.channels, i=self.kernel[0], j=self.kernel[1])
        body = call("add", body, read("b", "o"))
        inputs = {"x": tensor("N", self.groups * self.channels, self.height, self.width)}
        if self.residual:
            inputs["r"] = tensor("N", self.outputs, p, q)
            body = call("max", call("add", body, read("r", "n", "o", "p", "q")), number(0.0))
        weights = {"w": normal(self.outputs, self.channels, *self.kernel), "b": normal(self.outputs)}
        return program(inputs, weights, [nest("y", axes(n="N", o=self.outputs, p=p, q=q), body, "conv2d")], "y")

    def expected(self, nests: Nests, x: np.ndarray, r: np.ndarray | None) -> np.ndarray:
        w, b = (torch.tensor(c.data.array).double() for c in nests.constants)
        y = torch.nn.functional.conv2d(
            torch.tensor(x).double(), w, b, self.stride, self.pad, self.dilation, self.groups
        ).numpy()
        return y if r is None else np.maximum(y + r, 0)


CASES = [
    Case(3, 8, 12, 10),
    Case(5, 7, 9, 11, stride=2),
    Case(1, 16, 8, 8),
    Case(4, 6, 13, 13, pad=2, dilation=2),
    Case(4, 15, 7, 7, groups=3),
    Case(16, 64, 7, 7, kernel=(1, 1), pad=0, residual=True),
    Case(40, 33, 6, 9, residual=True),
    Case(70, 10, 5, 5, kernel=(2, 3), pad=1),
    Case(3, 20, 30, 31, kernel=(7, 7), stride=2, pad=3),
    Case(3, 12, 24, 24, kernel=(4, 4), stride=4, pad=0),
    Case(8, 3, 20, 20, kernel=(1, 1), pad=0),
    Case(6, 2, 3, 3, residual=True),
    Case(6, 2, 3, 6, residual=True),
    Case(2, 7, 40, 23, kernel=(1, 5), stride=3, pad=2),
    Case(9, 17, 16, 16, kernel=(1, 1), stride=2, pad=0),
    Case(200, 40, 7, 7, kernel=(1, 1), pad=0),
    Case(97, 70, 3, 3, kernel=(1, 1), pad=0, residual=True),
    Case(97, 70, 3, 6, kernel=(1, 1), pad=0, residual=True),
    Case(96, 16, 9, 11, kernel=(1, 1), pad=0, residual=True),
    Case(600, 13, 12, 11, kernel=(1, 1), pad=0, residual=True),
    Case(301, 25, 4, 40, kernel=(1, 1), pad=0),
    Case(33, 5, 13, 11, kernel=(1, 1), pad=0, residual=True),
    Case(600, 64, 12, 11, kernel=(1, 1), pad=0, residual=True),
    Case(70, 48, 9, 11, kernel=(1, 1), pad=0, residual=True),
    Case(3, 20, 90, 92, stride=2, residual=True),
    Case(33, 40, 13, 9, stride=2, residual=True),
    Case(50, 64, 14, 14, kernel=(2, 2), stride=2, pad=0),
    Case(7, 17, 27, 27, stride=2, residual=True),
    Case(9, 20, 13, 13, pad=2, dilation=2),
    Case(120, 17, 14, 14, kernel=(1, 1), stride=2, pad=0, residual=True),
    Case(12, 60, 24, 30, kernel=(1, 1), pad=0, groups=3),
    Case(500, 200, 20, 23, kernel=(1, 1), pad=0),
    Case(16, 48, 32, 33, kernel=(1, 1), pad=0, residual=True),
    Case(11, 30, 20, 23, kernel=(4, 3), stride=3),
    Case(8, 17, 2, 2, pad=6),
]


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_direct(case: Case, target: str) -> None:
    """Pixels that do not fill a vector are left to contractions."""
    nests = case.nests()
    binary = build(nests, target)
    few = math.prod(case.extents()) < parse(target).lanes
    assert binary.families[-1] == ("contraction" if few else "convolution")
    for batch in (0, 1, 3):
        inputs = {"x": normal(batch, case.groups * case.channels, case.height, case.width)}
        if case.residual:
            inputs["r"] = normal(batch, case.outputs, *case.extents())
        (found,) = binary(**inputs)
        expected = case.expected(nests, inputs["x"], inputs.get("r"))
        assert found.shape == expected.shape
        if expected.size:
            assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


def requests(case: Case) -> int:
    """Instructions that ask for a line; a few may be parts of others."""
    return build(case.nests(), "cpu:avx2").compiled.library.count(b"\x0f\x18")


def test_inputs_that_come_from_memory_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are read in place by one unit each, while the unit before is computed."""
    point = Case(32, 48, 60, 62, kernel=(1, 1), pad=0)
    cases = point, replace(point, outputs=400), replace(point, kernel=(1, 3))
    before = [requests(case) for case in cases]
    monkeypatch.setattr(Direct, "streams", False)
    assert [asked > requests(case) for asked, case in zip(before, cases, strict=True)] == [True, False, False]


def test_results_that_come_from_memory_are_asked_for() -> None:
    """Where the sums are so short that they would wait; the size of the batch is open and taken to be large."""
    large, small = Case(3, 20, 90, 92, stride=2), Case(3, 20, 20, 22, stride=2)
    assert requests(large) >= 24
    assert requests(small) < 8
    assert requests(replace(large, channels=30)) < 8


def test_vectors_along_channels_where_pixels_are_few() -> None:
    """Not where pixels fill vectors, nor where channels do not; of windows, not where their rows fill no tile."""

    def detail(case: Case, target: str = "cpu:avx2") -> str:
        return build(case.nests(), target).compiled.steps[-1].detail

    point = Case(200, 40, 7, 7, kernel=(1, 1), pad=0)
    assert detail(point).startswith("vectors along channels, 6 pixels x 16 channels, 68 terms")
    for other in (replace(point, height=8, width=8), replace(point, outputs=12), replace(point, height=14, width=15)):
        assert detail(other).startswith("columns, 6 channels x 16 pixels, 200 terms")
    window = Case(200, 40, 14, 14, stride=2)
    assert detail(window, "cpu:avx512").startswith("vectors along channels, 14 pixels x 16 channels, 90 terms")
    for other in (replace(window, stride=1, width=15), replace(window, kernel=(1, 17), pad=8)):
        assert detail(other, "cpu:avx512").startswith("direct")
    assert detail(window).startswith("direct")


def test_convolutions_of_one_image_share_its_padded_copy() -> None:
    case = Case(9, 20, 14, 13, stride=2)
    nests, others = case.nests(), replace(case, outputs=33).nests()
    names = {"y": "z", "w": "v", "b": "a"}
    weights = {c.name: c.data.array for c in nests.constants} | {names[c.name]: c.data.array for c in others.constants}
    (first,), (second,) = nests.statements, others.statements
    assert isinstance(first, Nest) and isinstance(second, Nest)
    body = transform(
        second.body, lambda e: replace(e, tensor=names.get(e.tensor, e.tensor)) if isinstance(e, Read) else e
    )
    second = replace(second, target="z", body=body)
    inputs = {value.name: value.type for value in nests.inputs}
    binary, x = build(program(inputs, weights, [first, second], "y", "z")), normal(3, 9, 14, 13)
    for found, each, made in zip(binary(x=x), (case, replace(case, outputs=33)), (nests, others), strict=True):
        expected = each.expected(made, x, None)
        assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


def test_columns_where_their_weights_stay_in_cache_and_outputs_are_not_many() -> None:
    def detail(case: Case) -> str:
        return build(case.nests(), "cpu:avx2").compiled.steps[0].detail

    point = Case(600, 24, 14, 15, kernel=(1, 1), pad=0)
    assert detail(point).startswith("columns, 6 channels x 16 pixels, 200 terms, 2 parts")  # 14 columns
    assert "parts" not in detail(replace(point, height=28))
    for other in (replace(point, outputs=200), replace(point, channels=5), replace(point, stride=2)):
        assert detail(other).startswith("direct")
    assert detail(replace(point, height=3, width=5)).startswith("vectors along channels")


THREES = [
    Case(64, 64, 24, 20),
    Case(13, 21, 9, 11, residual=True),
    Case(16, 32, 7, 7),
    Case(40, 48, 13, 9, pad=0),
    Case(8, 8, 6, 9, pad=2, residual=True),
    Case(32, 33, 4, 4),
    Case(8, 40, 3, 3, residual=True),
    Case(21, 37, 9, 11, residual=True),
    Case(16, 16, 6, 9, pad=2, residual=True),
    Case(16, 72, 3, 6, residual=True),
]


def marked(nests: Nests, algorithm: str) -> Nests:
    (statement,) = nests.statements
    assert isinstance(statement, Nest)
    return replace(nests, statements=(replace(statement, algorithm=algorithm),))


@pytest.mark.parametrize("target", ["cpu", "cpu:generic"])
@pytest.mark.parametrize(("m", "bound"), [(2, 2e-6), (4, 1e-5)])
@pytest.mark.parametrize("case", THREES, ids=str)
def test_winograd(case: Case, m: int, bound: float, target: str) -> None:
    """The bounds are those that docs/decisions/0014-winograd.md states. What does not fill a vector is not taken."""
    nests = marked(case.nests(), f"winograd{m}")
    binary = build(nests, target)
    *copies, step = binary.compiled.steps
    sizes = case.channels, case.outputs, case.height * case.width, math.prod(case.extents())
    fits = min(sizes) >= parse(target).lanes
    assert step.detail.startswith(f"Winograd F({m}x{m}") == fits
    assert not (fits and copies)
    for batch in (0, 1, 3):
        inputs = {"x": normal(batch, case.channels, case.height, case.width)}
        if case.residual:
            inputs["r"] = normal(batch, case.outputs, *case.extents())
        (found,) = binary(**inputs)
        expected = case.expected(nests, inputs["x"], inputs.get("r"))
        assert found.shape == expected.shape
        if expected.size:
            assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_a_mark_that_does_not_fit_is_ignored() -> None:
    binary = build(marked(Case(3, 8, 12, 10).nests(), "winograd4"))
    assert binary.compiled.steps[0].detail.startswith("direct")


@pytest.mark.parametrize("algorithm", ["", "winograd2", "winograd4"])
def test_avx512_compiles(algorithm: str) -> None:
    assert compile_nests(marked(Case(16, 32, 14, 14).nests(), algorithm), parse("cpu:avx512")).library


def test_columns_compile_for_avx512() -> None:
    case = Case(300, 32, 14, 15, kernel=(1, 1), pad=0, residual=True)
    compiled = compile_nests(case.nests(), parse("cpu:avx512"))
    assert compiled.steps[0].detail.startswith("columns, 12 channels x 32 pixels, 150 terms")


@pytest.mark.parametrize("pad", [0.5, -1.0, math.inf])
def test_padding_with_another_number_than_zero_is_kept(pad: float) -> None:
    """Such a sum is no convolution: all algorithms for those pad with 0."""
    window = read("x", "n", "c", index("p") + index("i") - 1, index("q") + index("j") - 1, pad=pad)
    body = total(mul(read("w", "o", "c", "i", "j"), window), c=16, i=3, j=3)
    y = nest("y", axes(n="N", o=16, p=9, q=10), body, "conv2d")
    nests = program({"x": tensor("N", 16, 9, 10)}, {"w": np.abs(normal(16, 16, 3, 3))}, [y], "y")
    assert recognize(y, nests.types(), {"w"}) == "padding with another number than 0"
    binary, x = build(nests), normal(2, 16, 9, 10)
    around = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=pad)
    (constant,) = nests.constants
    expected = torch.nn.functional.conv2d(torch.tensor(around), torch.tensor(constant.data.array)).numpy()
    np.testing.assert_allclose(binary(x=x)[0], expected, rtol=1e-4, atol=1e-4)


def test_weights_must_be_known() -> None:
    nests = Case(3, 8, 12, 10).nests()
    (statement,) = nests.statements
    assert isinstance(statement, Nest)
    assert "constant weights" in str(recognize(statement, nests.types(), ()))


def squares_of(
    channels: int, outputs: int, height: int, width: int, kernel: int = 1, also_output: bool = False
) -> Nests:
    """rsqrt of a convolution of the squares of x, times x in the first channel."""
    place = ("n", "c", index("p") + index("i"), index("q") + index("j"))
    body: Expr = total(mul(read("w", "o", "c", "i", "j"), read("s", *place)), c=channels, i=kernel, j=kernel)
    body = mul(read("x", "n", 0, "p", "q"), call("rsqrt", call("add", body, number(1.0))))
    square = mul(read("x", "n", "c", "p", "q"), read("x", "n", "c", "p", "q"))
    p, q = height - kernel + 1, width - kernel + 1
    return program(
        {"x": tensor("N", channels, height, width)},
        {"w": np.abs(normal(outputs, channels, kernel, kernel))},
        [
            nest("s", axes(n="N", c=channels, p=height, q=width), square, "square"),
            nest("y", axes(n="N", o=outputs, p=p, q=q), body, "conv2d"),
        ],
        *(("y", "s") if also_output else ("y",)),
    )


@pytest.mark.parametrize("shape", [(20, 9, 9, 11), (300, 24, 6, 8), (64, 64, 16, 16)], ids=str)
def test_squares_are_computed_in_the_convolution_that_reads_them(shape: tuple[int, int, int, int]) -> None:
    nests = squares_of(*shape)
    binary = build(nests, "cpu:avx2")
    assert [step.detail.rpartition(", ")[2] for step in binary.compiled.steps] == ["inputs computed"]
    (weights,) = (torch.tensor(c.data.array).double() for c in nests.constants)
    for batch in (0, 1, 3):
        x = normal(batch, shape[0], *shape[2:])
        (found,) = binary(x=x)
        exact = torch.tensor(x).double()
        expected = exact[:, :1] * torch.rsqrt(torch.nn.functional.conv2d(exact.square(), weights) + 1)
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found, expected.numpy(), rtol=3e-6, atol=1e-7)


def test_squares_that_are_an_output_or_read_by_windows_are_stored() -> None:
    for nests in (squares_of(20, 9, 9, 11, also_output=True), squares_of(20, 9, 9, 11, kernel=3)):
        binary = build(nests, "cpu:avx2")
        first, second = binary.compiled.steps
        assert first.family == "pointwise" and "computed" not in second.detail
