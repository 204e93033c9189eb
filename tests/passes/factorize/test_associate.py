"""Chains of matrices: the order is the best of all orders, values stay, and nothing is reordered through softmax."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mercer.passes.factorize.associate import Chain, Factor
from tests.passes.factorize.exact import run


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=7), st.integers(0, 2**7 - 1))
def test_the_order_is_the_best_of_all(sizes: list[int], constants: int) -> None:
    """Held to every way to put the brackets."""
    pairs = list(pairwise(sizes))
    chain = Chain(
        tuple(Factor(str(i), (), r, c, False, bool(constants >> i & 1)) for i, (r, c) in enumerate(pairs)),
        (),
        0,
        (),
        (),
    )

    def every(first: int, last: int) -> list[int]:
        if first == last or all(constants >> i & 1 for i in range(first, last + 1)):
            return [0]
        return [
            a + b + sizes[first] * sizes[split + 1] * sizes[last + 1]
            for split in range(first, last)
            for a in every(first, split)
            for b in every(split + 1, last)
        ]

    assert chain.best()[0] == min(every(0, len(pairs) - 1))


@pytest.mark.parametrize("seed", range(8))
def test_any_chain(seed: int) -> None:
    """Random brackets over values, parameters and weights of linear layers, with batches and scales."""
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(1, 12, 5)]
    leaves = ["x", "p", "w", "v"]
    shapes = {
        "x": f"N, {sizes[0]}, {sizes[1]}",
        "p": f"{sizes[1]}, {sizes[2]}",
        "w": f"{sizes[3]}, {sizes[2]}",
        "v": f"N, {sizes[3]}, {sizes[4]}",
    }

    @cache
    def spelled(first: int, last: int) -> str:
        if first == last:
            return "transpose(w)" if leaves[first] == "w" else leaves[first]
        split = int(random.integers(first, last))
        left = spelled(first, split)
        if split + 1 == last and leaves[last] == "w":
            return f"linear({left}, w)"
        text = f"matmul({left}, {spelled(split + 1, last)})"
        return str(random.choice([text, f"0.5*{text}", f"{text}/3.0"]))

    text = f"""model M(x: f32[{shapes["x"]}], v: f32[{shapes["v"]}]) -> f32[N, {sizes[0]}, {sizes[4]}] {{
      param p: f32[{shapes["p"]}] = normal(0, 1)
      param w: f32[{shapes["w"]}] = normal(0, 1)
      return {spelled(0, 3)}
    }}"""
    result = run(text, "associate,fold", sizes={"N": 3}, seed=seed)
    assert result.saved or not result.fired


def attention(scores: str, length: str = "L", width: int = 4) -> str:
    shape = f"f32[N, {length}, {width}]"
    return f"""model M(q: {shape}, k: {shape}, v: {shape}) -> {shape} {{
      s = {scores}
      return matmul(s, v) / sum(s; axis = -1, keepdim = true)
    }}"""


def test_kernel_attention_of_any_length() -> None:
    text = attention("matmul(exp(q), transpose(exp(k)))")
    result = run(text, "associate", sizes={"L": 7})
    assert {entry.rewrite for entry in result.fired} == {"reassociate", "sum_of_product"}
    lengths = [value.type.shape[1:] for node in result.graph.nodes for value in node.results]
    assert all(sum(not size.is_constant for size in shape) <= 1 for shape in lengths)


def test_attention_over_few_keys_stays() -> None:
    reasons = run(attention("matmul(exp(q), transpose(exp(k)))", "3", 9), "associate").reasons
    assert "no order takes fewer than the" in reasons and "operations would take the place of" in reasons


@pytest.mark.parametrize("between", ["softmax", "tril", "relu"])
def test_what_stands_between(between: str) -> None:
    reasons = run(attention(f"{between}(matmul(q, transpose(k)))"), "associate").reasons
    assert reasons == f"{between} stands between the products"


@pytest.mark.parametrize("axis", [-2, 1, 2])
@pytest.mark.parametrize("keep", ["true", "false"])
def test_sums_of_products(axis: int, keep: str) -> None:
    size = {"true": "1, 30" if axis != 2 else "30, 1", "false": "30"}[keep]
    text = f"""model M(a: f32[N, 30, 2], b: f32[N, 2, 30]) -> f32[N, {size}] {{
      return sum(matmul(a, b); axis = {axis}, keepdim = {keep})
    }}"""
    assert len(run(text, "associate").fired) == 1


def test_sums_over_the_batch_stay() -> None:
    text = """model M(a: f32[9, 30, 2], b: f32[9, 2, 30]) -> f32[30, 30] { return sum(matmul(a, b); axis = 0) }"""
    assert not run(text, "associate").entries


def test_a_solve_of_constants_goes_first() -> None:
    """K^-1 y of a Gaussian process is a constant, however the mean is written."""
    text = """model M(x: f32[N, 3]) -> f32[N, 2] {
      param data: f32[8, 3] = normal(0, 1)
      param inverse: f32[8, 8] = normal(0, 1)
      param values: f32[8, 2] = normal(0, 1)
      return matmul(matmul(kernel_matrix(x, data; kernel = gaussian(gamma = 0.5)), inverse), values)
    }"""
    result = run(text, "associate,fold")
    assert result.operators == ["kernel_matrix", "matmul"] and len(result.fired) == 1
