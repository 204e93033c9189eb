"""Low-rank linear layers: the error of Eckart and Young, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.factorize.svd_linear import SvdLinear
from tests.passes.factorize.approximations import apply, twice

MODEL = "model M(x: f32[N, 24]) -> f32[N, 20] { param weight: f32[20, 24] = normal(0, 1)\n return linear(x, weight) }"
IDENTITY = twice(np.eye(24))
"""Outputs are the columns of the weight, so that the error of the outputs is that of the weight."""


def weight(rank: int = 20) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {"weight": (random.normal(size=(20, rank)) @ random.normal(size=(rank, 24))).astype(np.float32)}


@pytest.mark.parametrize("rank", [1, 4, 8, 10])
def test_error_is_the_tail_of_the_singular_values(rank: int) -> None:
    result = apply(MODEL, SvdLinear(rank=rank), IDENTITY, weight())
    values = np.linalg.svd(weight()["weight"].astype(np.float64), compute_uv=False)
    assert result.error == pytest.approx(np.linalg.norm(values[rank:]) / np.linalg.norm(values), rel=1e-5)


def test_exact_at_the_rank_of_the_weight() -> None:
    assert apply(MODEL, SvdLinear(rank=6), IDENTITY, weight(rank=6)).error < 1e-6


def test_multiply_adds() -> None:
    entry = apply(MODEL, SvdLinear(rank=4), IDENTITY, weight()).fired
    assert entry.cost_before and entry.cost_after
    assert (entry.cost_before.flops, entry.cost_after.flops) == (2 * 20 * 24, 2 * 4 * (20 + 24))


def test_every_layer_once() -> None:
    text = "model M(x: f32[N, 24]) -> f32[N, 8] { return x |> Linear(24) |> relu |> Linear(20) |> relu |> Linear(8) }"
    x = np.random.default_rng(0).normal(size=(32, 24)).astype(np.float32)
    result = apply(text, SvdLinear(rank=6), x)
    assert len(result.ledger.fired()) == 2 and len(result.nodes("linear")) == 5
    (refused,) = result.ledger.refused()
    assert refused.reason == "10,752 operations would take the place of 10,240"


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (SvdLinear(rank=11), "operations would take the place of"),
        (SvdLinear(rank=21), "rank 21 is not between 1 and 20, the full rank"),
        (SvdLinear(rank=0), "rank 0 is not between"),
        (SvdLinear(rank=4, max_error=0.1), "exceeds max_error"),
    ],
)
def test_refusals(each: SvdLinear, reason: str) -> None:
    assert reason in apply(MODEL, each, IDENTITY, weight()).reason


def test_a_weight_that_is_not_bound_is_refused() -> None:
    assert apply(MODEL, SvdLinear(rank=4), IDENTITY, bind=False).reason == "the weight %weight is not a constant"


def test_without_data_the_ledger_says_so() -> None:
    result = apply(MODEL, SvdLinear(rank=4), None, weight())
    assert result.fired.error and "standard normal" in result.ledger.warnings[0].message
