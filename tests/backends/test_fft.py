"""Fourier transforms in the binary: every way of computing one, batches that do not fill a vector, and accuracy."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.fft_nests import expanded
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.stockham import radices
from mercer.backends.tvm.target import parse as parse_target
from mercer.compiler import compile, parse_text
from mercer.frontend.diagnostics import CompileError
from mercer.ir.evaluate import evaluate
from mercer.ir.nests import Primitive
from mercer.ir.verify import verify

LENGTHS = (1, 2, 6, 8, 11, 29, 36, 58, 64, 121, 128, 289, 320, 1000, 1024, 4096)


def normal(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def error(actual: Any, expected: Any) -> float:
    """Relative L2 norm of the difference."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("level", "operator", "lengths"),
    [("cpu", "fft", LENGTHS), ("cpu", "ifft", (1, 6, 29, 64, 320)), ("cpu:generic", "fft", (11, 36, 64, 1000))],
)
def test_every_length(level: str, operator: str, lengths: tuple[int, ...]) -> None:
    """One binary with all lengths, for a batch that is not a multiple of a vector."""
    inputs = ", ".join(f"x{n}: c64[N, {n}]" for n in lengths)
    outputs = ", ".join(f"c64[N, {n}]" for n in lengths)
    calls = ", ".join(f"{operator}(x{n})" for n in lengths)
    binary = compile(parse_text(f"model M({inputs}) -> ({outputs}) {{ return {calls} }}"), target=level)
    transform = getattr(np.fft, operator)
    for batch in (1, 11):
        arrays = [normal(batch, n) for n in lengths]
        pairs = zip(lengths, binary(*arrays), map(transform, arrays), strict=True)
        errors = {n: error(actual, expected) for n, actual, expected in pairs}
        assert {n: e for n, e in errors.items() if not e < 6e-7} == {}


@pytest.mark.parametrize("batch", [1, 3, 4, 17, 300])
def test_fixed_batches(batch: int) -> None:
    """A single row alone, several side by side, many in shares."""
    text = f"model M(x: c64[{batch}, 40], y: c64[{batch}, 64]) -> (c64[{batch}, 40], c64[{batch}, 64])"
    binary = compile(parse_text(f"{text} {{ return fft(x), fft(y) }}"))
    x, y = normal(batch, 40), normal(batch, 64)
    first, second = binary(x, y)
    assert max(error(first, np.fft.fft(x)), error(second, np.fft.fft(y))) < 5e-7


def test_no_rows_and_many_axes() -> None:
    binary = compile(parse_text("model M(x: c64[N, 3, K, 8]) -> c64[N, 3, K, 8] { return fft(x) }"))
    assert binary(normal(0, 3, 2, 8)).shape == (0, 3, 2, 8)
    x = normal(2, 3, 5, 8)
    assert error(binary(x), np.fft.fft(x)) < 5e-7


def test_accuracy_grows_with_the_logarithm() -> None:
    """As of any FFT: unlike the sum of the definition, which grows with the length."""
    text = "model M(x: c64[2, 65536]) -> c64[2, 65536] { return fft(x) }"
    x = normal(2, 65536)
    assert error(compile(parse_text(text))(x), np.fft.fft(x.astype(np.complex128))) < 4e-7


def test_equal_transforms_share_their_roots() -> None:
    program = parse_text("model M(x: c64[4, 96]) -> c64[4, 96] { return ifft(fft(fft(x))) }")
    binary = compile(program)
    roots = [name for name in binary.artifact.manifest.entry["weights"] if name.startswith("roots")]
    assert len(roots) == 2  # re and im
    steps = [step["function"] for step in binary.artifact.manifest.entry["steps"]]
    assert len([name for name in steps if "fft" in name]) == 3
    assert len({name for name in steps if "fft" in name}) == 2
    x = normal(4, 96)
    assert error(binary(x), np.fft.fft(x)) < 1e-6


@pytest.mark.parametrize("operator", ["fft(x)", "ifft(x)", "fft(x; axis = 0)"])
def test_symbolic_lengths_are_refused(operator: str) -> None:
    with pytest.raises(CompileError) as refused:
        parse_text(f"model M(x: c64[N, N]) -> c64[N, N] {{ return {operator} }}")
    assert [d.name for d in refused.value.diagnostics] == ["not-static"]
    assert "needs a length known at compile time; found N" in str(refused.value)


def test_real_numbers_are_refused() -> None:
    with pytest.raises(CompileError, match="c64"):
        parse_text("model M(x: f32[N, 8]) -> c64[N, 8] { return fft(x) }")


@pytest.mark.parametrize("n", [1, 2, 8, 12, 32, 90, 97, 1024, 2310])
def test_radices(n: int) -> None:
    assert np.prod(radices(n), dtype=int) == n
    assert all(r in (4, 8) or all(r % d for d in range(2, r)) for r in radices(n))


def test_real_transforms_take_half_the_length() -> None:
    """Of an even length; and no copies before or after."""
    binary = compile(parse_text("model M(x: f32[N, 128]) -> f32[N, 128] { return irfft(rfft(x)) }"))
    steps = binary.artifact.manifest.entry["steps"]
    assert [step["family"] for step in steps] == ["rfft_last", "irfft_last"]
    assert all("real rows of 128" in step["detail"] for step in steps)
    x = normal(5, 128).real.copy()
    assert error(binary(x), x) < 5e-7


def test_rows_of_an_image() -> None:
    """Columns side by side for any number of columns, a symbolic one too, and of images without columns."""
    text = "model M(x: c64[N, 12, K], y: c64[N, 12, 3]) -> (c64[N, 12, K], c64[N, 12, 3])"
    binary = compile(parse_text(f"{text} {{ return fft(x; axis = 1), ifft(y; axis = 1) }}"))
    for count in (0, 1, 9):
        x, y = normal(2, 12, count), normal(2, 12, 3)
        first, second = binary(x, y)
        assert np.allclose(first, np.fft.fft(x, axis=1), atol=1e-5)
        assert np.allclose(second, np.fft.ifft(y, axis=1), atol=1e-6)


def test_odd_real_lengths_in_the_primitive_are_refused() -> None:
    program = parse_text("model M(x: f32[N, 9]) -> c64[N, 5] { return rfft_last(x) }")
    with pytest.raises(UnsupportedError, match="even length; found 9"):
        compile(program)


def test_long_convolution_is_the_direct_one() -> None:
    """y[t] = sum of weight[s] x[t - s], against NumPy, through the binary."""
    text = "model M(x: f32[N, 2, 500], w: f32[2, 500]) -> f32[N, 2, 500] { return fft_conv(x, w) }"
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 500), (2, 500)))
    expected = [[np.convolve(x[n, c], w[c])[:500] for c in range(2)] for n in range(3)]
    assert error(compile(parse_text(text))(x, w), np.array(expected)) < 1e-6


# --- loop nests -------------------------------------------------------------------------------------------------------


NESTS = {
    "fft(x)": (1, 2, 12, 34, 240, 1024, 2053),
    "ifft(x)": (1, 30, 64),
    "fft(x; axis = 1)": (12,),
    "ifft(x; axis = 1)": (12,),
    "irfft(x; n = 2*shape(x)[2] - 2)": (2, 9, 65),
    "rfft(real(x))": (2, 16, 90),
}


@pytest.mark.parametrize(("expression", "length"), [(e, n) for e, lengths in NESTS.items() for n in lengths])
def test_transforms_as_nests(expression: str, length: int) -> None:
    """What a GPU computes has the same values in the reference, and no Fourier primitive is left."""
    dtype = "f32" if "irfft" in expression else "c64"
    last = 2 * length - 2 if "irfft" in expression else length // 2 + 1 if "rfft" in expression else length
    text = f"model M(x: c64[N, 12, {length}]) -> {dtype}[N, 12, {last}] {{ return {expression} }}"
    nests = parse_text(text).nests
    passes = expanded(nests)
    verify(passes)
    assert {s.name for s in passes.statements if isinstance(s, Primitive)} <= {"reshape"}
    x = {"x": normal(2, 12, length)}
    assert error(evaluate(passes, x)[0], evaluate(nests, x)[0]) < 3e-7


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")
def test_transforms_compile_for_a_gpu() -> None:
    nests = parse_text("model M(x: f32[N, 12, 16]) -> f32[N, 12, 16] { return irfft2(rfft2(x)) }").nests
    compiled = compile_nests(nests, parse_target("cuda:sm_90"))
    assert compiled.source is not None
    assert {step.family for step in compiled.steps} == {"threads"}
