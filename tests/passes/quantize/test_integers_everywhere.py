"""Sums that fast algorithms would round keep their bits when they are sums of integers."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.quantize import Quantize

LAYERS = {
    "Winograd": "Conv2d(32, 3, pad = 1) |> relu |> Conv2d(16, 3, pad = 1)",
    "Fourier": "Conv2d(16, 31, pad = 15, groups = 16)",
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_the_bits_are_those_of_plain_sums_of_i32(layers: str) -> None:
    program = mercer.parse_text(
        f"model M(x: f32[1, 16, 24, 24]) -> f32[1, 16, 24, 24] {{ return x |> {layers} |> Conv2d(16, 1) }}"
    )
    x = np.random.default_rng(0).standard_normal((1, 16, 24, 24)).astype(np.float32)
    standard = quantized(Quantize.scheme("w8a8"))
    plain = [each for each in standard if each.name not in ("narrow", "exact_float", "winograd", "fft_convolution")]
    assert len(plain) == len(standard) - 4
    found = [
        mercer.compile(program, weights=program.initial(), data={"x": x}, pipeline=pipeline)(x)
        for pipeline in (standard, plain)
    ]
    np.testing.assert_array_equal(*found)
