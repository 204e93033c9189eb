"""Causal linear attention as a masked product, compiled, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import mercer
from mercer.ir.nests import Nests, Primitive
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import INFERENCE

SOURCE = """op masked_attention(q: T[n, l, g, d], k: T[n, s, g, d], v: T[n, s, g, e]) -> T[n, l, g, e] {
  score[n, g, l, s] = where(s <= l, sum[d] q[n, l, g, d] * k[n, s, g, d], 0)
  return y[n, l, g, e] = (sum[s] score[n, g, l, s] * v[n, s, g, e]) / (sum[s] score[n, g, l, s])
}
model M(q: f32[1, L, 2, 16], k: f32[1, L, 2, 16], v: f32[1, L, 2, 24]) -> f32[1, L, 2, 24] {
  return masked_attention(exp(q), exp(k), v)
}"""


@pytest.mark.parametrize(("declared", "length"), [("160", 160), ("131", 131), ("L", 1), ("L", 77)])
def test_masked_product_in_chunks(declared: str, length: int) -> None:
    program = mercer.parse_text(SOURCE.replace("L,", f"{declared},"))
    nests = run_passes(program.graph, INFERENCE, PassContext(program.library, weights={}))
    assert isinstance(nests, Nests)
    assert any(isinstance(statement, Primitive) and statement.scan is not None for statement in nests.statements)
    executable = mercer.compile(program)
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal((1, length, 2, width)).astype(np.float32) for width in (16, 16, 24))
    score = np.tril(np.einsum("nlgd,nsgd->ngls", np.exp(q.astype(np.float64)), np.exp(k.astype(np.float64))))
    expected = np.einsum("ngls,nsge->nlge", score / score.sum(-1, keepdims=True), v.astype(np.float64))
    np.testing.assert_allclose(executable(q, k, v), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
