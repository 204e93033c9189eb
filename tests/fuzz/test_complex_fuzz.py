"""Random complex expressions: PyTorch and TVM against the reference."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mercer.compiler import compile, parse_text
from tests.operators.run import largest_error

LEAVES = ("z[i, j]", "w[j, i]", "z[i, (j + 1) % 5]", "w[j - 1, i; pad = 0]", "complex(0.5, -1)", "conj(z[i, j])")
COMPLEX = (
    "(Z + Z)",
    "(Z - Z)",
    "(Z * Z)",
    "(Z / (Z + 4))",
    "exp(0.1 * Z)",
    "(R * Z)",
    "where(R < 0.5, Z, Z)",
    "complex(R, R)",
    "conj(Z)",
)
REAL = ("real(Z)", "imag(Z)", "abs(Z)", "(R + R)", "where(Z == Z, 1.0, R)", "sin(R)", "x[i, j]", "1.5")
REDUCTIONS = ("sum[l < 3] u[i, l] * conj(v[l, j]) * Z", "prod[l < 3] (u[i, l] * 0.5 + v[l, j])", "mean[l < 3] u[i, l]")


def written(choice: random.Random, text: str, depth: int) -> str:
    """The text with every `Z` a complex and every `R` a real expression."""
    parts: list[str] = []
    for symbol in text:
        if symbol == "Z":
            chosen = choice.choice(COMPLEX if depth else LEAVES)
        elif symbol == "R":
            chosen = choice.choice(REAL if depth else REAL[-2:])
        else:
            parts.append(symbol)
            continue
        parts.append(written(choice, chosen, depth - 1))
    return "".join(parts)


@pytest.mark.parametrize("seed", range(6))
def test_random_expressions(seed: int) -> None:
    choice = random.Random(seed)
    first, second, third = (written(choice, text, 3) for text in ("Z", "Z", "R"))
    reduction = written(choice, choice.choice(REDUCTIONS), 1)
    text = f"""
    op f(z: c64[n, m], w: c64[m, n], x: f32[n, m]) -> c64[n, m] {{ return y[i < n, j < m] = {first} }}
    op g(z: c64[n, m], w: c64[m, n], x: f32[n, m], u: c64[n, 3], v: c64[3, m]) -> c64[n, m] {{
      return y[i < n, j < m] = {second} + ({reduction})
    }}
    op h(z: c64[n, m], w: c64[m, n], x: f32[n, m]) -> f32[n, m] {{ return y[i < n, j < m] = {third} }}
    model M(z: c64[4, 5], w: c64[5, 4], x: f32[4, 5], u: c64[4, 3], v: c64[3, 5])
      -> (c64[4, 5], c64[4, 5], f32[4, 5]) {{
      p = f(z, w, x)
      q = g(p, w, x, u, v)
      return p, q, h(0.25 * q, w, x)
    }}
    """
    rng = np.random.default_rng(seed)
    shapes = ((4, 5), (5, 4), (4, 5), (4, 3), (3, 5))
    arrays = [(rng.standard_normal(s) + 1j * rng.standard_normal(s)).astype(np.complex64) for s in shapes]
    arrays[2] = arrays[2].real.copy()
    program = parse_text(text)
    expected = program.evaluate(*arrays)
    for target in ("torch", "cpu"):
        actual = compile(program, target=target, verify_each=True)(*arrays)
        assert max(largest_error(a, e) for a, e in zip(actual, expected, strict=True)) < 1e-4, target
