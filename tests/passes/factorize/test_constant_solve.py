"""Solves of constant systems: each operator reads its own part of the matrix; ill-conditioned systems stay."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.runtime.errors import MercerError
from tests.passes.factorize.exact import Result, run

SIZE = 7


def solved(operator: str, matrix: np.ndarray, attributes: str = "", options: str = "") -> Result:
    shape = ", ".join(map(str, matrix.shape))
    batch = "".join(f"{n}, " for n in matrix.shape[:-2])
    text = f"""model M(x: f32[{batch}{SIZE}, N]) -> f32[{batch}{SIZE}, N] {{
      param a: f32[{shape}] = zeros
      return {operator}(a, x{attributes})
    }}"""
    return run(text, f"constant_solve{{{options}}}", {"a": matrix})


def positive(random: np.random.Generator, *batch: int) -> np.ndarray:
    root = random.normal(size=(*batch, SIZE, SIZE))
    return root @ np.swapaxes(root, -1, -2) + 0.5 * np.eye(SIZE)


CASES = [("solve", ""), ("solve_positive", ""), ("triangular_solve", ""), ("triangular_solve", "; transposed = true")]


@pytest.mark.parametrize(("operator", "attributes"), CASES)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_every_solve(operator: str, attributes: str, batch: tuple[int, ...]) -> None:
    """What lies above the diagonal counts for `solve` only."""
    random = np.random.default_rng(len(batch))
    matrix = positive(random, *batch)
    if operator != "solve":
        matrix = np.tril(matrix) + np.triu(random.normal(size=(*batch, SIZE, SIZE)), 1)
    result = solved(operator, matrix, attributes)
    assert result.operators == ["matmul"] and len(result.fired) == 1 and result.saved


def test_ill_conditioned_systems_stay_and_singular_ones_are_told() -> None:
    hilbert = 1.0 / (np.arange(SIZE)[:, None] + np.arange(SIZE) + 1)
    reasons = solved("solve", hilbert).reasons
    assert "the condition number of %a is" in reasons and "e+08" in reasons
    matrix = np.diag([1.0] * (SIZE - 1) + [0.0])
    for operator in ("triangular_solve", "solve"):
        with pytest.raises(MercerError, match=f"`{operator}` of a constant 7 x 7 matrix that is singular"):
            solved(operator, matrix)
    matrix = np.diag([1.0] * (SIZE - 1) + [-1.0])
    with pytest.raises(MercerError, match="`solve_positive` of a constant 7 x 7 matrix that is not positive definite"):
        solved("solve_positive", matrix)
    assert solved("solve", matrix).fired
    scaled = np.diag(np.linspace(1.0, 50.0, SIZE))
    assert "is 5.0e+01" in solved("solve", scaled, options="max_condition=40").reasons


def test_unknown_matrix() -> None:
    text = "model M(a: f32[4, 4], x: f32[4, N]) -> f32[4, N] { return solve(a, x) }"
    assert run(text, "constant_solve").reasons == "the matrix %a is not a constant"
