"""Constants outside of the domain of a formula are told while compiling, with their place."""

from __future__ import annotations

import pytest

import mercer

PROGRAM = """model M(x: f32[3, 4]) -> f32[3, 4] {{
  const a[i < 4, j < 4] = {element}
  const b[i < 4, j < 4] = 1.0
  return {result}
}}"""

RANK_2 = "1.0*i + j"
ZERO_ON_THE_DIAGONAL = "where(i == 2, 0.0, 1.0)"
INDEFINITE = "where(i == j, 1.0, 2.0)"


@pytest.mark.parametrize(
    ("element", "result", "message"),
    [
        ("i - 1.5", "x |> matmul(log(a))", "`log` of these constants is not a number, first at [0, 0] (found -1.5)"),
        ("i - 1.5", "x |> matmul(sqrt(a))", "`sqrt` of these constants is not a number"),
        ("i - 1.5", "x |> matmul(asin(a))", "first at [0, 0] (found -1.5)\nhint: it takes numbers from -1 to 1"),
        ("i - 1.5", "x |> matmul(acos(a))", "`acos` of these constants is not a number"),
        (RANK_2, "x |> matmul(inverse(a))", "`inverse` of a constant 4 x 4 matrix that is singular"),
        (RANK_2, "x |> matmul(solve(a, b))", "`solve` of a constant 4 x 4 matrix that is singular"),
        (RANK_2, "transpose(solve(a, transpose(x)))", "`solve` of a constant 4 x 4 matrix that is singular"),
        (ZERO_ON_THE_DIAGONAL, "transpose(triangular_solve(a, transpose(x)))", "matrix that is singular"),
        (ZERO_ON_THE_DIAGONAL, "x |> matmul(triangular_solve(a, b))", "matrix that is singular"),
        (INDEFINITE, "x |> matmul(cholesky(a))", "`cholesky` of these constants is not a number, first at [1, 1]"),
        (INDEFINITE, "x |> matmul(solve_positive(a, b))", "matrix that is not positive definite"),
        (INDEFINITE, "transpose(solve_positive(a, transpose(x)))", "matrix that is not positive definite"),
    ],
)
def test_constants_outside_of_the_domain(element: str, result: str, message: str) -> None:
    program = mercer.parse_text(PROGRAM.format(element=element, result=result))
    with pytest.raises(mercer.MercerError, match=r"<text>:4:\d+: error\[domain-error\]: ") as caught:
        mercer.compile(program)
    assert message in str(caught.value)


@pytest.mark.parametrize("element", ["where(i == j, 2.0, 0.5)", "where(i == j, 1.0, where(j < i, 0.25, 9.0))"])
def test_regular_systems_compile(element: str) -> None:
    """The second is not symmetric: what stands above the diagonal is not read."""
    for result in ("transpose(solve_positive(a, transpose(x)))", "transpose(triangular_solve(a, transpose(x)))"):
        mercer.compile(mercer.parse_text(PROGRAM.format(element=element, result=result)))
