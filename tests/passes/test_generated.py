"""What no input reaches is folded: drawn kernels, bases on grids, weights that a solve gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Primitive, defined

MODELS = {
    "continuous kernel": """
model M(x: f32[N, 2, 6, 6]) -> f32[N, 4, 6, 6] { return FlexConv2d(x; 4, size = 5) }""",
    "basis net": """
layer Basis(x: T[n, c, h, w]; out, count) {
  const grid[i < 9, d < 2] = where(d == 0, i/3, i % 3) - 1.0
  basis = sin(Linear(grid; count))
  param mix: T[out*c, count] = normal(0, 1)
  return conv2d(x, reshape(linear(mix, basis); shape = [out, c, 3, 3]); pad = 1)
}
model M(x: f32[N, 2, 6, 6]) -> f32[N, 4, 6, 6] { return Basis(x; 4, 5) }""",
    "kernel ridge regression": """
op ridge(a: T[n, m]; noise) -> T[n, m] { return y[n, m] = a[n, m] + where(n == m, noise, 0) }
model M(x: f32[N, 3]) -> f32[N, 2] {
  param data: f32[9, 3] = normal(0, 1)
  param values: f32[9, 2] = normal(0, 1)
  gram = ridge(kernel_matrix(data, data; kernel = gaussian(gamma = 0.5)); 0.1)
  weight = solve_positive(gram, values)
  return matmul(kernel_matrix(x, data; kernel = gaussian(gamma = 0.5)), weight)
}""",
    "orthogonal weight": """
op skew(a: T[n, m]) -> T[n, m] { return y[n, m] = (a[n, m] - a[m, n]) / 2 }
op shifted(a: T[n, m]; sign) -> T[n, m] { return y[n, m] = where(n == m, 1.0, 0.0) + sign*a[n, m] }
model M(x: f32[N, 4]) -> f32[N, 4] {
  param a: f32[4, 4] = normal(0, 1)
  return linear(x, solve(shifted(skew(a); 1.0), shifted(skew(a); -1.0)))       # Cayley transform
}""",
    "iterated normalization": """
op balanced(a: T[n, m]) -> T[n, m] {
  iterate k < 20 {
    carry p[n, m] = exp(a[n, m])
    q[n, m] = p[n, m] / (sum[m] p[n, m])
    p[n, m] = q[n, m] / (sum[n] q[n, m])
  }
  return p
}
model M(x: f32[N, 4]) -> f32[N, 4] {
  param a: f32[4, 4] = normal(0, 1)
  return linear(x, balanced(a))
}""",
}

FITTED = """
model M(x: f32[N, 3]) -> f32[N, 2] {
  param data: f32[9, 3] = normal(0, 1)
  param targets: f32[9, 2] = normal(0, 1)
  return krr_predict(x, data, targets; kernel = gaussian(gamma = 0.5), ridge = 0.1)
}"""


def test_a_solve_inside_an_operator_folds_below_the_graph(model: Callable[..., Any]) -> None:
    program = model(FITTED)
    assert any(isinstance(s, Primitive) and s.scan is not None for s in program.nests("bind,fold,lower").statements)
    folded = program.nests("bind,fold,lower,fold")
    assert all(isinstance(statement, Nest) for statement in folded.statements)
    reached = {"x"}
    for statement in folded.statements:
        assert reached & read_names(statement)
        reached |= {value.name for value in defined(statement)}


@pytest.mark.parametrize("name", MODELS)
def test_only_what_an_input_reaches_remains(name: str, model: Callable[..., Any]) -> None:
    program = model(MODELS[name])
    graph = program.changed("bind,fold")
    reached = {value.name for value in graph.inputs}
    for node in graph.nodes:
        assert reached.intersection(node.operands), node.operator
        reached |= {value.name for value in node.results}
    assert len(graph.nodes) < len(program.graph.nodes)
