"""Windows by the Fourier transform on the CPU against the NumPy reference, which sums them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.tvm.two_steps import factors
from mercer.ir.index import call
from mercer.ir.nests import Nest, Nests
from tests.backends.test_tvm_stencil import image, outputs
from tests.backends.tvm_programs import (
    assert_agrees,
    axes,
    build,
    index,
    mul,
    nest,
    normal,
    program,
    read,
    tensor,
    total,
)


def marked(nests: Nests) -> Nests:
    statements = [replace(s, algorithm="fft") if isinstance(s, Nest) else s for s in nests.statements]
    return replace(nests, statements=tuple(statements))


def check(nests: Nests, target: str = "cpu:avx2", family: str = "fft") -> None:
    binary = build(marked(nests), target)
    symbolic = any(not size.is_constant for value in nests.inputs for size in value.type.shape)
    for batch in (0, 1, 2, 3) if symbolic else (1,):
        shapes = {v.name: [s.value if s.is_constant else batch for s in v.type.shape] for v in nests.inputs}
        assert_agrees(binary, {name: normal(*shape) for name, shape in shapes.items()}, 1e-5)
    assert binary.families[-1] == family


@pytest.mark.parametrize(
    ("size", "taps", "pad", "dilation"),
    [
        ((20, 20), (13, 13), 6, 1),
        ((8, 8), (7, 7), 3, 1),
        ((33, 19), (5, 9), 0, 1),
        ((12, 57), (11, 3), 5, 1),
        ((30, 41), (9, 5), 4, 2),
        ((64, 40), (1, 31), 15, 1),
        ((40, 64), (31, 1), 2, 1),
    ],
)
def test_image(size: tuple[int, int], taps: tuple[int, int], pad: int, dilation: int) -> None:
    """Planes in pairs, of one image and of two, also where their number is odd."""
    check(image("N", size, taps, 1, pad, dilation))


@pytest.mark.parametrize(
    ("length", "taps", "pad", "dilation"),
    [(100, 16, 8, 1), (1000, 64, 63, 1), (1001, 300, 150, 1), (700, 40, 0, 3), (5000, 1000, 999, 1), (777, 9, 20, 1)],
)
def test_line(length: int, taps: int, pad: int, dilation: int) -> None:
    window = read("x", "n", "c", index("p") + index("i") * dilation - pad, pad=0.0)
    sum_ = call("tanh", total(mul(read("w", "c", "i"), window), i=taps))
    statement = nest("y", axes(n="N", c=3, p=outputs(length, taps, 1, pad, dilation)), sum_)
    check(program({"x": tensor("N", 3, length)}, {"w": normal(3, taps) / taps**0.5}, [statement], "y"))


def test_causal_line_with_one_kernel() -> None:
    """y[c, t] = sum[s] w[s] x[c, t - s], the same weights for every channel."""
    window = read("x", "c", index("t") - index("s"), pad=0.0)
    statement = nest("y", axes(c=5, t=500), total(mul(read("w", "s"), window), s=120))
    check(program({"x": tensor(5, 500)}, {"w": normal(120) / 11}, [statement], "y"))


def test_wide_vectors() -> None:
    """The numbers of a machine with AVX-512 build; where it cannot run them, they are not run."""
    from mercer.backends.tvm.plan import families
    from mercer.backends.tvm.target import parse

    assert families(marked(image(1, (56, 56), (31, 31), 1, 15, 1)), parse("cpu:avx512")) == ("fft",)


@pytest.mark.parametrize("target", ["cpu:generic", "cpu:avx2"])
def test_what_it_does_not_take_is_summed(target: str) -> None:
    check(image(1, (20, 20), (5, 5), 2, 2, 1), target, "stencil")


def test_lengths_have_two_short_factors() -> None:
    known = [n for n in range(1, 300) if factors(n)]
    assert {64, 72, 80, 96, 256} <= set(known)
    assert not {7, 14, 34, 200, 257} & set(known)
    for n in known:
        n1, n2 = factors(n) or (0, 0)
        assert n1 * n2 == n
        assert n2 <= n1 <= 16


def test_error_is_that_of_single_precision() -> None:
    """Relative to the largest result, for a large window of weights of one sign."""
    nests = image(1, (56, 56), (55, 55), 1, 27, 1)
    nests = replace(nests, statements=tuple(nests.statements))
    binary = build(marked(nests))
    x, r = normal(1, 3, 56, 56), np.zeros((1, 3, 56, 56), np.float32)
    (direct,), (found,) = build(nests)(x=x, r=r), binary(x=x, r=r)
    assert np.abs(direct - found).max() < 3e-6 * np.abs(direct).max()
