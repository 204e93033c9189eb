"""Linear recurrences in modal form: any spectrum, start and end; nearly defective matrices and other reads refuse."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.ir.nests import Nests
from mercer.passes.factorize.recurrences import Coordinates
from tests.passes.factorize.exact import Result, run

STEP = "(sum[r] a[s, r] * h[n, r]) + (sum[d] b[s, d] * x[n, t, d])"
SEEN = "sum[s] c[o, s] * h[n, s]"


def recurrent(
    a: np.ndarray | None,
    step: str = STEP,
    seen: str = SEEN,
    start: str = "0",
    results: str = "y",
    types: str = "f32[N, L, 2]",
    emitted: str = "y[n, t, o]",
    options: str = "",
    body: str = "",
    length: str = "L",
    seed: int = 0,
) -> Result:
    """The pass on h' = step, y = seen, with states of the size of `a`; where it is None the matrix is an input."""
    size = 6 if a is None else len(a)
    declared, given = ("", f", a: f32[{size}, {size}]") if a is None else (f"param a: f32[{size}, {size}] = zeros", "")
    formal = "T[n, l, o]" if types.startswith("f32") else "(T[n, l, o], T[n, s])"
    if emitted == "y[n, t, s]":
        formal, types = "T[n, l, s]", f"f32[N, L, {size}]"
    text = f"""
op recurrence(x: T[n, l, d], a: T[s, r], b: T[s, d], c: T[o, s], g: T[s]) -> {formal} {{
  scan t < l {{
    carry h[n, s] = {start}
    {body}
    h[n, s] = {step}
    emit {emitted} = {seen}
  }}
  return {results}
}}
model M(x: f32[N, {length}, 3]{given}) -> {types} {{
  {declared}
  param b: f32[{size}, 3] = normal(0, 1)
  param c: f32[2, {size}] = normal(0, 1)
  param g: f32[{size}] = normal(0, 1)
  return recurrence(x, a, b, c, g)
}}"""
    weights = {} if a is None else {"a": a}
    sizes = {"N": 2, "L": 9}
    return run(text, f"diagonalize{{{options}}}", weights, sizes, prepare="bind,fold,lower", seed=seed)


def spectrum(random: np.random.Generator, real: int, pairs: int) -> np.ndarray:
    """A matrix with these eigenvalues within the unit circle, in a basis that is not orthogonal."""
    blocks = [np.diag([random.uniform(-0.95, 0.95)]) for _ in range(real)]
    for _ in range(pairs):
        radius, angle = random.uniform(0.4, 0.95), random.uniform(0.2, 3.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        blocks.append(radius * turn)
    size = real + 2 * pairs
    diagonal, start = np.zeros((size, size)), 0
    for block in blocks:
        diagonal[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    basis = np.linalg.qr(random.normal(size=(size, size)))[0] + 0.1 * random.normal(size=(size, size))
    return basis @ diagonal @ np.linalg.inv(basis)


@pytest.mark.parametrize(("real", "pairs"), [(6, 0), (0, 3), (1, 3), (3, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_any_spectrum(real: int, pairs: int, seed: int) -> None:
    matrix = spectrum(np.random.default_rng(seed), real, pairs)
    result = recurrent(matrix, seed=seed)
    assert len(result.fired) == 1 and result.saved
    assert isinstance(result.after, Nests)
    sizes = [[n.value for n in c.type.shape] for c in result.after.constants]
    assert [real + 2 * pairs] * 2 not in sizes and len(sizes) == (4 if pairs else 3)


VARIANTS = {
    "start": {"start": "g[s]"},
    "end": {"results": "y, h", "types": "(f32[N, L, 2], f32[N, 6])"},
    "start and end": {"start": "g[s]", "results": "y, h", "types": "(f32[N, L, 2], f32[N, 6])"},
    "a bias and all states driven alike": {
        "step": "g[s] + (sum[r] a[s, r] * h[n, r]) + (sum[d] b[s, d] * x[n, t, d]) + x[n, t, 0]",
        "seen": f"({SEEN}) * x[n, t, 1]",
    },
    "other factors": {
        "step": "(sum[r] h[n, r] * a[s, r]) + x[n, t, 0] * g[s] * x[n, t, 2]",
        "seen": "(sum[s] x[n, t, 0] * c[o, s] * h[n, s]) + (sum[s] h[n, s])",
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str) -> None:
    result = recurrent(spectrum(np.random.default_rng(5), 2, 2), **VARIANTS[name])
    assert len(result.fired) == 1


REFUSED = {
    "emitted": ({"seen": "h[n, s]", "emitted": "y[n, t, s]"}, "the state is read other than through a constant"),
    "nonlinear": ({"seen": "sum[s] c[o, s] * tanh(h[n, s])"}, "the state is read other than through a constant"),
    "squared": ({"seen": "sum[s] c[o, s] * h[n, s] * h[n, s]"}, "the state is read other than through a constant"),
    "driven": ({"step": f"{STEP} + tanh(g[s] * x[n, t, 0])"}, "what drives the states is not a constant times"),
    "gated": ({"step": f"{STEP} + g[s] * h[n, s]"}, "the step reads the state in another way, too"),
    "before": (
        {"body": "w[n] = sum[s] g[s] * h[n, s]", "seen": f"({SEEN}) + w[n]"},
        "reads the state of the step before",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    options, reason = REFUSED[name]
    assert reason in recurrent(spectrum(np.random.default_rng(5), 2, 2), **options).reasons


def test_unknown_matrix() -> None:
    assert recurrent(None).reasons == "the transition %a is not a constant"


def test_other_recurrences_are_none() -> None:
    """A diagonal one, and one that is not linear."""
    for step in ("g[s] * h[n, s] + x[n, t, 0]", "tanh(sum[r] a[s, r] * h[n, r])"):
        assert not recurrent(spectrum(np.random.default_rng(5), 2, 2), step=step).entries


def hippo(size: int) -> np.ndarray:
    """HiPPO-LegS, by the bilinear rule with a step of 1/size (Gu et al. 2020, equation 3)."""
    n = np.arange(size)
    a = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    half = a / (2 * size)
    return np.linalg.solve(np.eye(size) - half, np.eye(size) + half)


def test_condition_numbers() -> None:
    """Of HiPPO they grow exponentially; of a Jordan block they are infinite; of a symmetric matrix 1."""
    reasons = recurrent(hippo(16)).reasons
    assert "the condition number of the eigenvectors is" in reasons and "e+" in reasons
    jordan = 0.5 * np.eye(6) + np.eye(6, k=1)
    assert "the condition number of the eigenvectors is" in recurrent(jordan).reasons
    matrix = spectrum(np.random.default_rng(0), 1, 3)
    found = Coordinates.of(matrix)
    assert found is not None and found.condition > 1.5
    assert "more than 1.5" in recurrent(matrix, options="max_condition=1.5").reasons
    symmetric = Coordinates.of((matrix + matrix.T) / 2)
    assert symmetric is not None and abs(symmetric.condition - 1) < 1e-9 and symmetric.across is None


def test_short_sequences_stay() -> None:
    """Two steps do not pay for the coordinates of the first and the last state."""
    matrix = spectrum(np.random.default_rng(5), 2, 2)
    result = recurrent(matrix, length="2", start="g[s]", results="y, h", types="(f32[N, 2, 2], f32[N, 6])")
    assert "operations would take the place of" in result.reasons
