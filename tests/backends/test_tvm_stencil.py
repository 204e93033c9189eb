"""Sums over windows of a plane on the CPU against the NumPy reference."""

from __future__ import annotations

import pytest

from mercer.ir.index import Read, call
from mercer.ir.nests import Nests
from mercer.ir.types import DType
from tests.backends.tvm_programs import (
    F32,
    Binary,
    assert_agrees,
    axes,
    build,
    generator,
    index,
    mul,
    nest,
    normal,
    number,
    program,
    read,
    tensor,
    total,
)


def outputs(size: int, taps: int, stride: int, pad: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1


def image(
    batch: str | int, size: tuple[int, int], taps: tuple[int, int], stride: int, pad: int, dilation: int
) -> Nests:
    """Three channels; bias, residual and relu after the sum."""
    (h, w), (tall, wide) = size, taps
    window = read(
        "x",
        "n",
        "c",
        index("p") * stride + index("i") * dilation - pad,
        index("q") * stride + index("j") * dilation - pad,
        pad=0.0,
    )
    body = total(mul(read("w", "c", "i", "j"), window), i=tall, j=wide)
    p, q = outputs(h, tall, stride, pad, dilation), outputs(w, wide, stride, pad, dilation)
    after = call("max", call("add", call("add", body, read("b", "c")), read("r", "n", "c", "p", "q")), number(0.0))
    inputs = {"x": tensor(batch, 3, h, w), "r": tensor(batch, 3, p, q)}
    return program(
        inputs, {"w": normal(3, tall, wide), "b": normal(3)}, [nest("y", axes(n=batch, c=3, p=p, q=q), after)], "y"
    )


def check(nests: Nests, target: str = "cpu:avx2", tolerance: float = 1e-5) -> Binary:
    binary = build(nests, target)
    symbolic = any(not size.is_constant for value in nests.inputs for size in value.type.shape)
    for batch in (0, 1, 3) if symbolic else (1,):
        shapes = {v.name: [s.value if s.is_constant else batch for s in v.type.shape] for v in nests.inputs}
        assert_agrees(binary, {name: normal(*shape) for name, shape in shapes.items()}, tolerance)
    assert binary.families[-1] == "stencil"
    return binary


@pytest.mark.parametrize(
    ("size", "taps", "stride", "pad", "dilation"),
    [
        ((5, 4), (3, 3), 1, 1, 1),
        ((7, 7), (3, 3), 1, 1, 1),
        ((9, 21), (5, 5), 1, 2, 1),
        ((14, 14), (7, 7), 1, 3, 1),
        ((56, 56), (3, 3), 2, 1, 1),
        ((17, 40), (3, 5), 3, 2, 2),
        ((33, 19), (5, 3), 2, 0, 3),
        ((20, 20), (13, 13), 1, 6, 1),
        ((30, 27), (21, 15), 1, 10, 1),
        ((40, 12), (31, 3), 1, 15, 1),
        ((40, 25), (19, 3), 1, 2, 2),
        ((130, 150), (7, 7), 1, 3, 1),
        ((9, 16), (1, 7), 1, 3, 1),
        ((9, 16), (7, 1), 1, 3, 1),
    ],
)
@pytest.mark.parametrize("target", ["cpu:avx2", "cpu:generic"])
def test_image(target: str, size: tuple[int, int], taps: tuple[int, int], stride: int, pad: int, dilation: int) -> None:
    check(image("N", size, taps, stride, pad, dilation), target)


@pytest.mark.parametrize(
    ("length", "taps", "stride", "pad", "dilation"),
    [
        (20, 4, 1, 2, 1),
        (101, 7, 2, 3, 1),
        (200, 16, 1, 15, 1),
        (1000, 64, 1, 63, 1),
        (900, 40, 1, 0, 2),
        (900, 40, 3, 5, 1),
        (3001, 301, 1, 150, 1),
    ],
)
def test_line(length: int, taps: int, stride: int, pad: int, dilation: int) -> None:
    window = read("x", "n", "c", index("p") * stride + index("i") * dilation - pad, pad=0.0)
    p = outputs(length, taps, stride, pad, dilation)
    body = call("tanh", total(mul(read("w", "c", "i"), window), i=taps))
    statement = nest("y", axes(n="N", c=3, p=p), body)
    check(program({"x": tensor("N", 3, length)}, {"w": normal(3, taps) / taps**0.5}, [statement], "y"))


def test_causal_line_backwards() -> None:
    """y[t] = sum[s] w[s] x[t - s]: the window runs against the line."""
    window = read("x", "c", index("t") - index("s"), pad=0.0)
    statement = nest("y", axes(c=3, t=500), total(mul(read("w", "c", "s"), window), s=50))
    check(program({"x": tensor(3, 500)}, {"w": normal(3, 50)}, [statement], "y"))


def test_source_is_computed_once_per_element() -> None:
    """The window sees relu(x + b[c]), and relu(b[c]) around the border."""
    window = read("x", "c", index("p") + index("i") - 1, index("q") + index("j") - 1, pad=0.0)
    source = call("max", call("add", window, read("b", "c")), number(0.0))
    statement = nest("y", axes(c=3, p=9, q=12), total(mul(source, read("w", "c", "i", "j")), i=3, j=3))
    check(program({"x": tensor(3, 9, 12)}, {"w": normal(3, 3, 3), "b": normal(3)}, [statement], "y"))


def test_pool_without_weights() -> None:
    window = read("x", "c", index("p") * 2 + index("i") - 1, index("q") * 2 + index("j") - 1, pad=0.0)
    statement = nest("y", axes(c=3, p=10, q=10), mul(total(window, i=3, j=3), number(1 / 9)))
    check(program({"x": tensor(3, 20, 20)}, {}, [statement], "y"))


def test_integers() -> None:
    """int8 numbers with a zero point, sums of 32 bits: the same bits."""
    window = read("x", "c", index("p") + index("i") - 1, index("q") + index("j") - 1, dtype=DType.I8)
    window = Read("x", window.indices, DType.I8, number(3, DType.I8))
    source = call("sub", call("cast", window, dtype=DType.I32), number(3, DType.I32))
    weight = call("cast", read("w", "c", "i", "j", dtype=DType.I8), dtype=DType.I32)
    statement = nest("y", axes(c=3, p=9, q=12), total(mul(source, weight), i=3, j=3))
    weights = {"w": generator().integers(-127, 128, (3, 3, 3)).astype("i1")}
    binary = build(program({"x": tensor(3, 9, 12, dtype=DType.I8)}, weights, [statement], "y"))
    assert_agrees(binary, {"x": generator().integers(-128, 128, (3, 9, 12)).astype("i1")})
    assert binary.families == ["stencil"]


def test_convolutions_that_mix_channels_are_none() -> None:
    window = read("x", "c", index("p") + index("i"), index("q") + index("j"))
    statement = nest("y", axes(o=8, p=10, q=10), total(mul(window, read("w", "o", "c", "i", "j")), c=4, i=3, j=3))
    binary = build(program({"x": tensor(4, 12, 12)}, {"w": normal(8, 4, 3, 3)}, [statement], "y"))
    assert "stencil" not in binary.families
    assert F32 is statement.type.dtype
