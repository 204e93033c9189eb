"""Factorized convolutions: errors by the theory, none at the rank of the weight, geometry, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.factorize.approximation import Approximation
from mercer.passes.factorize.cp_conv import CpConv, cp
from mercer.passes.factorize.one_way import OneWay
from mercer.passes.factorize.tucker_conv import TuckerConv, tucker2
from tests.passes.factorize.approximations import Result, apply, twice

OUT, CHANNELS, ROWS, COLUMNS = 10, 8, 5, 3
SHAPE = (OUT, CHANNELS, ROWS, COLUMNS)
RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.normal(size=SHAPE)


IMAGE = (2 * ROWS - 1, 2 * COLUMNS - 1)


def model(
    size: tuple[int, ...] = IMAGE,
    stride: tuple[int, ...] = (1, 1),
    pad: tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
    weight: tuple[int, ...] = SHAPE,
) -> str:
    """One convolution of images of this size; `weight` is the shape of its weight."""
    out, share, *window = weight
    sizes = zip(size, pad, dilation, window, stride, strict=True)
    results = ", ".join(str((n + 2 * p - d * (k - 1) - 1) // s + 1) for n, p, d, k, s in sizes)
    return f"""model M(x: f32[N, {share * groups}, {", ".join(map(str, size))}]) -> f32[N, {out}, {results}] {{
      param weight: f32[{", ".join(map(str, weight))}] = normal(0, 1)
      return conv{len(size)}d(x, weight; stride = {list(stride)}, pad = {list(pad)},
                              dilation = {list(dilation)}, groups = {groups})
    }}"""


def impulses() -> np.ndarray:
    """One channel after the other is 1 in the middle: outputs are the weight, mirrored."""
    x = np.zeros((CHANNELS, CHANNELS, *IMAGE))
    x[range(CHANNELS), range(CHANNELS), ROWS - 1, COLUMNS - 1] = 1.0
    return twice(x)


def factorized(each: Approximation, weight: np.ndarray) -> Result:
    return apply(model(), each, impulses(), {"weight": weight.astype(np.float32)})


def separable(rank: int) -> np.ndarray:
    """A weight of this rank in every sense."""
    return np.einsum("or,cr,ir,jr->ocij", *(RANDOM.normal(size=(extent, rank)) for extent in SHAPE))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_one_way_error_is_the_tail_of_the_singular_values(rank: int) -> None:
    matrix = WEIGHT.transpose(1, 2, 0, 3).reshape(CHANNELS * ROWS, OUT * COLUMNS)
    values = np.linalg.svd(matrix, compute_uv=False)
    expected = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    assert factorized(OneWay(rank=rank), WEIGHT).error == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("rank_in", "rank_out"), [(1, 1), (3, 4), (6, 6)])
def test_tucker_error_is_within_the_bound_of_the_higher_order_svd(rank_in: int, rank_out: int) -> None:
    tails = [
        float(np.sum(np.linalg.svd(unfolded, compute_uv=False)[rank:] ** 2))
        for unfolded, rank in (
            (WEIGHT.reshape(OUT, -1), rank_out),
            (WEIGHT.transpose(1, 0, 2, 3).reshape(CHANNELS, -1), rank_in),
        )
    ]
    squared = (factorized(TuckerConv(rank_in, rank_out), WEIGHT).error * np.linalg.norm(WEIGHT)) ** 2
    assert max(tails) * (1 - 1e-5) <= squared <= sum(tails)


def test_iterations_improve_the_higher_order_svd() -> None:
    flat = WEIGHT.reshape(OUT, CHANNELS, -1)
    kept = [float(np.linalg.norm(tucker2(flat, 4, 3, iterations)[1])) for iterations in (0, 1, 8)]
    assert kept[0] < kept[1] < kept[2]


def test_error_falls_with_the_rank() -> None:
    for passes in (
        [CpConv(rank=rank) for rank in (1, 4, 8, 16)],
        [OneWay(rank=rank) for rank in (1, 4, 8, 12)],
        [TuckerConv(rank, rank) for rank in (1, 3, 5, 7)],
    ):
        errors = [factorized(each, WEIGHT).error for each in passes]
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]


def test_full_rank_is_exact() -> None:
    flat = WEIGHT.reshape(OUT, CHANNELS, -1)
    left, core, right = tucker2(flat, OUT, CHANNELS, 2)
    assert np.allclose(np.einsum("or,rsk,cs->ock", left, core, right), flat)
    small = WEIGHT[:4, :3, :2, :2]
    factors = cp(small, 24, iterations=500)
    assert np.linalg.norm(np.einsum("or,cr,ir,jr->ocij", *factors) - small) < 1e-4 * np.linalg.norm(small)


@pytest.mark.parametrize("each", [TuckerConv(8, 4), TuckerConv(3, 12)])
def test_a_full_rank_leaves_its_side_as_it_is(each: TuckerConv) -> None:
    result = factorized(each, WEIGHT)
    assert len(result.nodes("conv2d")) == 2
    unfolded = WEIGHT.reshape(OUT, -1) if each.rank_out < OUT else WEIGHT.transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
    values = np.linalg.svd(unfolded, compute_uv=False)
    rank = min(each.rank_in, each.rank_out)
    assert result.error == pytest.approx(np.linalg.norm(values[rank:]) / np.linalg.norm(values), rel=1e-5)


@pytest.mark.parametrize("each", [CpConv(rank=3, starts=3), OneWay(rank=3), TuckerConv(3, 3)])
def test_exact_at_the_rank_of_the_weight(each: Approximation) -> None:
    assert factorized(each, separable(3)).error < 1e-5


def test_multiply_adds() -> None:
    x = np.ones((2, CHANNELS, ROWS, COLUMNS), np.float32)
    weights = {"weight": WEIGHT.astype(np.float32)}
    text = model((ROWS, COLUMNS))
    window = ROWS * COLUMNS
    for each, count in (
        (OneWay(rank=2), 2 * (CHANNELS * window + OUT * COLUMNS)),
        (TuckerConv(2, 3), 2 * CHANNELS * window + 2 * 3 * window + 3 * OUT),
        (CpConv(rank=2), 2 * (CHANNELS * window + window + COLUMNS + OUT)),
    ):
        entry = apply(text, each, x, weights).fired
        assert entry.cost_before and entry.cost_after
        assert entry.cost_before.flops == 2 * OUT * CHANNELS * window
        assert entry.cost_after.flops == 2 * count


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [CpConv(rank=2), OneWay(rank=2), TuckerConv(2, 2)])
@pytest.mark.parametrize(
    ("stride", "pad", "dilation"), [((2, 1), (1, 2), (1, 1)), ((2, 2), (3, 3), (1, 2)), ((1, 3), (0, 1), (2, 1))]
)
def test_stride_pad_and_dilation(
    each: Approximation, stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int]
) -> None:
    x = np.random.default_rng(0).normal(size=(4, CHANNELS, 9, 8)).astype(np.float32)
    text = model((9, 8), stride, pad, dilation)
    assert apply(text, each, x, {"weight": separable(2).astype(np.float32)}).error < 1e-5


def test_one_way_in_groups() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6, 9, 8)).astype(np.float32)
    text = model((9, 8), pad=(2, 2), groups=3, weight=(12, 2, ROWS, COLUMNS))
    weight = np.concatenate([separable(2)[:4, :2] for _ in range(3)]).astype(np.float32)
    result = apply(text, OneWay(rank=2), x, {"weight": weight})
    assert result.error < 1e-5
    assert [node.attribute("groups") for node in result.nodes("conv2d")] == [3, 3]


@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_kernels(rank: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, 6, 9, 8)).astype(np.float32)
    text = model((9, 8), pad=(2, 1), groups=6, weight=(6, 1, ROWS, COLUMNS))
    weight = np.concatenate([separable(rank)[:1, :1] for _ in range(6)]).astype(np.float32)
    result = apply(text, OneWay(rank=rank), x, {"weight": weight})
    assert (result.error < 1e-5) if rank == 1 else "would take the place" in result.reason


@pytest.mark.parametrize("each", [CpConv(rank=3, starts=3), TuckerConv(3, 3)])
@pytest.mark.parametrize("spatial", [1, 3])
def test_other_numbers_of_axes(each: Approximation, spatial: int) -> None:
    window = (4, 3, 2)[:spatial]
    extents = (9, 8, *window)
    letters = "ocijk"[: len(extents)]
    factors = [RANDOM.normal(size=(extent, 3)) for extent in extents]
    weight = np.einsum(",".join(f"{letter}r" for letter in letters) + "->" + letters, *factors)
    size = (6, 7, 5)[:spatial]
    text = model(size, (2,) * spatial, (1,) * spatial, (1,) * spatial, weight=extents)
    x = RANDOM.normal(size=(2, 8, *size)).astype(np.float32)
    assert apply(text, each, x, {"weight": weight.astype(np.float32)}).error < 1e-4


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (CpConv(rank=0), "rank 0 is below 1"),
        (CpConv(rank=100, iterations=1), "operations would take the place of"),
        (OneWay(rank=31), "rank 31 is not between 1 and 30, the full rank"),
        (OneWay(rank=20), "operations would take the place of"),
        (TuckerConv(8, 10), "ranks 8 and 10 are full for 8 and 10 channels"),
        (TuckerConv(0, 3), "ranks 0 and 3 are not positive"),
        (TuckerConv(7, 9), "operations would take the place of"),
        (TuckerConv(2, 2, max_error=0.1), "exceeds max_error"),
    ],
)
def test_refusals(each: Approximation, reason: str) -> None:
    assert reason in factorized(each, WEIGHT).reason


@pytest.mark.parametrize("each", [CpConv(), TuckerConv()])
def test_groups_are_refused(each: Approximation) -> None:
    text = model(groups=2, weight=(OUT, CHANNELS // 2, ROWS, COLUMNS))
    assert apply(text, each, impulses()).reason == "the channels are in 2 groups"


@pytest.mark.parametrize("each", [CpConv(), TuckerConv(), OneWay()])
def test_a_weight_that_is_not_bound_is_refused(each: Approximation) -> None:
    assert apply(model(), each, impulses(), bind=False).reason == "the weight %weight is not a constant"
