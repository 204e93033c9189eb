"""Weights that are Kronecker sums or of low rank by blocks keep their factors; others say that they are neither."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.ir.graph import Graph
from mercer.ir.types import DType
from mercer.passes.factorize.contractions import exact_factors
from tests.passes.factorize.exact import Result, run


def structured(weight: np.ndarray, options: str = "", operator: str = "linear", batch: str = "N") -> Result:
    """The pass on x W^T."""
    stored = weight if operator == "linear" else weight.T
    text = f"""model M(x: f32[{batch}, {weight.shape[1]}]) -> f32[{batch}, {len(weight)}] {{
      param weight: f32[{stored.shape[0]}, {stored.shape[1]}] = normal(0, 1)
      return {operator}(x, weight)
    }}"""
    return run(text, f"structured{{{options}}}", {"weight": stored}, sizes={"N": 2})


def numbers(graph: Graph) -> int:
    return sum(constant.data.array.size for constant in graph.constants if constant.data.array is not None)


@pytest.mark.parametrize("operator", ["linear", "matmul"])
@pytest.mark.parametrize("seed", range(5))
def test_kronecker_products(seed: int, operator: str) -> None:
    random = np.random.default_rng(seed)
    a, b = (random.normal(size=[int(random.choice([2, 3, 4, 6])) for _ in range(2)]) for _ in range(2))
    result = structured(np.kron(a, b), operator=operator, batch="N, 3" if seed % 2 else "N")
    assert len(result.fired) == 1 and result.saved
    assert numbers(result.graph) <= a.size + b.size


def test_two_terms_and_both_orders() -> None:
    """A wide outer factor goes second, a wide inner factor first."""
    random = np.random.default_rng(0)
    weight = sum(np.kron(random.normal(size=(2, 12)), random.normal(size=(10, 3))) for _ in range(2))
    result = structured(np.asarray(weight))
    assert numbers(result.graph) == 2 * (24 + 30) and result.saved
    result = structured(np.asarray(weight).T.copy())
    assert numbers(result.graph) == 2 * (24 + 30) and result.saved


def hypercomplex(random: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Sum of n Kronecker products of n x n with size x size (Zhang et al. 2021)."""
    pairs = [(random.normal(size=(n, n)), random.normal(size=(size, size))) for _ in range(n)]
    return np.sum([np.kron(a, f) for a, f in pairs], axis=0)


def test_hypercomplex_layers_save_numbers_only() -> None:
    weight = hypercomplex(np.random.default_rng(1), 4, 8)
    assert "operations in place of" in structured(weight).reasons
    result = structured(weight, "growth=2")
    assert numbers(result.graph) == 4 * (16 + 64)


@pytest.mark.parametrize("seed", range(6))
def test_low_rank_by_blocks(seed: int) -> None:
    """Blocks that are zero, dense, or of low rank, at random."""
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(1, 4)), int(random.integers(1, 4))
    kinds = random.choice(["zero", "dense", "low"], (rows, columns), p=[0.3, 0.1, 0.6])
    kinds[0, 0] = "low"

    def block(kind: str) -> np.ndarray:
        if kind == "low":
            rank = int(random.integers(1, 3))
            return random.normal(size=(14, rank)) @ random.normal(size=(rank, 12))
        return random.normal(size=(14, 12)) * (kind == "dense")

    weight = np.block([[block(kind) for kind in row] for row in kinds])
    result = structured(weight, "terms=1")
    assert len(result.fired) == 1 and result.saved
    dense = int((kinds == "dense").sum()) * 14 * 12
    assert numbers(result.graph) <= dense + int((kinds == "low").sum()) * 2 * (14 + 12) + 14 * rows


def test_rows_of_zeros() -> None:
    weight = np.zeros((12, 12))
    weight[:6, :6] = np.random.default_rng(0).normal(size=(6, 6))
    assert len(structured(weight).fired) == 1


def test_unstructured_and_nearly_structured_weights_stay() -> None:
    random = np.random.default_rng(0)
    assert "and no grid of blocks has low rank" in structured(random.normal(size=(12, 16))).reasons
    weight = np.kron(random.normal(size=(4, 4)), random.normal(size=(5, 5)))
    noisy = weight * (1 + 1e-5 * random.normal(size=weight.shape))
    assert structured(weight).fired and "no grid of blocks" in structured(noisy).reasons


def test_unknown_weights() -> None:
    text = "model M(x: f32[N, 4], w: f32[4, 4]) -> f32[N, 4] { return linear(x, w) }"
    assert run(text, "structured").reasons == "the weight %w is not a constant"
    text = text.replace("linear(x, w)", "matmul(x, w)")
    assert not run(text, "structured").entries


@pytest.mark.parametrize("shape", [(300, 5), (5, 300), (200, 90)])
def test_exact_factors(shape: tuple[int, int]) -> None:
    """At every shape the least rank is found, and one less leaves something."""
    random = np.random.default_rng(0)
    matrix = (random.normal(size=(shape[0], 3)) @ random.normal(size=(3, shape[1]))).astype(np.float32).astype(float)
    found = exact_factors(matrix, 8, DType.F32)
    assert isinstance(found, tuple) and found[0].shape == (shape[0], 3)
    assert np.abs(found[0] @ found[1] - matrix).max() <= 1e-6 * np.abs(matrix).max()
    error = exact_factors(matrix, 2, DType.F32)
    assert not isinstance(error, tuple) and error > 1e-3
