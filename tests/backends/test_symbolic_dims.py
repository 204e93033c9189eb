"""Symbolic dims in places where they are easily lost."""

from __future__ import annotations

import numpy as np
import pytest

import mercer

PROGRAMS = {
    "a quotient of a quotient as a size": (
        """model M(x: f32[N, 3, H, W]) -> f32[N, 3, H/4*4, W/4*4] {
  h = x |> Conv2d(6, 2, stride = 2) |> Conv2d(8, 2, stride = 2)
  return square(h) |> ConvTranspose2d(6, 2, stride = 2) |> ConvTranspose2d(3, 2, stride = 2)
}""",
        [(2, 3, 8, 12), (1, 3, 9, 7)],
    ),
    "a dim as a number": (
        """op less(x: T[n, l, d]) -> T[n, l, d] {
  let tokens = l
  return y[n, l, d] = x[n, l, d] - log(1.0*tokens)
}
model M(x: f32[N, L, 8]) -> f32[N, L, 8] { return less(x) }""",
        [(2, 5, 8), (1, 3, 8)],
    ),
    "a dim as a number alone": (
        """op count(x: T[n, l]) -> T[1] { return y[i < 1] = log(1.0*l) }
model M(x: f32[N, L]) -> f32[1] { return count(x) }""",
        [(2, 5), (1, 3)],
    ),
    "a number among the parameters": (
        """model M(x: f32[N, 4]) -> f32[N, 4] {
  param a: f32[3] = ones
  return a[0] + x * a[1]
}""",
        [(2, 4)],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_binary_agrees_with_the_reference(name: str) -> None:
    text, shapes = PROGRAMS[name]
    program = mercer.parse_text(text)
    executable = mercer.compile(program)
    for shape in shapes:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(executable(x), program.evaluate(x)[0], rtol=1e-5, atol=1e-5)
