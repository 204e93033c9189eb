"""Cropped windows: exact where the border is zero, and where they lie after that."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.factorize.crop import Crop, window
from mercer.passes.ledger import Exactness
from tests.passes.factorize.approximations import Result, apply
from tests.passes.factorize.test_convolutions import model

Pair = tuple[int, int]
RANDOM = np.random.default_rng(9)


EXACT = Crop()


def cropped(weight: np.ndarray, each: Crop = EXACT, size: tuple[int, ...] = (9, 10), **geometry: object) -> Result:
    groups = geometry.get("groups", 1)
    assert isinstance(groups, int)
    text = model(size, weight=weight.shape, **geometry)  # type: ignore[arg-type]
    x = RANDOM.normal(size=(6, weight.shape[1] * groups, *size)).astype(np.float32)
    return apply(text, each, x, {"weight": weight.astype(np.float32)})


def bordered(shape: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> np.ndarray:
    """A random weight with that many zeros before and after every spatial axis."""
    inner = RANDOM.normal(size=shape)
    return np.pad(inner, ((0, 0), (0, 0), *zip(before, after, strict=True)))


@pytest.mark.parametrize("before", [(0, 1), (2, 0), (1, 1), (3, 2)])
@pytest.mark.parametrize("after", [(0, 0), (1, 1), (3, 1)])
@pytest.mark.parametrize("pad", [(0, 0), (2, 1), (3, 3)])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 2), (2, 1))])
def test_exact_where_the_border_is_zero(
    before: tuple[int, int],
    after: tuple[int, int],
    pad: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    weight = bordered((3, 2, 2, 3), before, after)
    result = cropped(weight, size=(16, 14), stride=stride, pad=pad, dilation=dilation)
    (convolved,) = result.nodes("conv2d")
    assert [extent.value for extent in result.after.types()[convolved.operands[1]].shape] == [3, 2, 2, 3]
    assert result.fired.exactness is Exactness.REAL and result.fired.error is None
    assert result.error < 1e-6


def test_symmetric_borders_only_change_the_padding() -> None:
    result = cropped(bordered((3, 2, 3, 3), (2, 1), (2, 1)), pad=(3, 2))
    (convolved,) = result.after.nodes
    assert convolved.attribute("pad") == (1, 1)
    assert result.fired.cost_before and result.fired.cost_after
    assert result.fired.cost_before.flops * 9 == result.fired.cost_after.flops * 35


@pytest.mark.parametrize("spatial", [1, 3])
def test_other_numbers_of_axes_and_groups(spatial: int) -> None:
    weight = bordered((4, 1, 2, 3, 2)[: 2 + spatial], (1, 2, 0)[:spatial], (2, 0, 1)[:spatial])
    ones = (1,) * spatial
    result = cropped(weight, size=(8, 9, 7)[:spatial], stride=ones, pad=ones, dilation=ones, groups=4)
    assert result.error < 1e-6


def test_symbolic_sizes() -> None:
    text = """model M(x: f32[N, 1, H, W]) -> f32[N, 2, H - 1, W] {
      param weight: f32[2, 1, 4, 3] = normal(0, 1)
      return conv2d(x, weight; pad = 1)
    }"""
    x = RANDOM.normal(size=(4, 1, 6, 7)).astype(np.float32)
    weight = bordered((2, 1, 2, 2), (2, 0), (0, 1)).astype(np.float32)
    assert apply(text, Crop(), x, {"weight": weight}).error < 1e-6


def test_a_weight_of_zeros_keeps_one_tap() -> None:
    result = cropped(np.zeros((2, 1, 3, 3)), pad=(1, 1))
    assert result.outputs[1].shape == result.outputs[0].shape and not result.outputs[1].any()


FLEX = """model M(x: f32[N, 4, 16, 16]) -> f32[N, 4, 16, 16] {
  param values: f32[4, 1, 15, 15] = normal(0, 1)
  param center: f32[2] = zeros
  param deviation: f32[2] = constant(0.25)
  KERNEL
}"""
DRAWN = FLEX.replace("KERNEL", "return conv2d(x, flex_kernel2d(values, center, deviation); pad = 7, groups = 4)")
MASKED = FLEX.replace("KERNEL", "return flex_conv2d(x, values, center, deviation; pad = 7, groups = 4)")


@pytest.mark.parametrize("text", [DRAWN, MASKED])
def test_error_falls_with_the_threshold(text: str) -> None:
    """A Gaussian window of deviation 0.25 on -1..1, off its center."""
    x = RANDOM.normal(size=(4, 4, 16, 16)).astype(np.float32)
    values = {"center": np.array([0.2, -0.1], np.float32)}
    results = [apply(text, Crop(threshold=threshold), x, values) for threshold in (0.3, 0.03, 0.003)]
    errors = [result.error for result in results]
    costs = [result.fired.cost_after.flops for result in results if result.fired.cost_after]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01
    assert not any(result.ledger.refused() for result in results)
    assert costs == sorted(costs)
    assert all(result.fired.exactness is Exactness.APPROX for result in results)


def test_error_is_within_the_sum_of_the_dropped_taps() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 2, 5, 5))
    weight[..., 0] *= 0.1
    weight[..., -1, :] *= 0.05
    result = cropped(weight, Crop(threshold=0.12), pad=(2, 2))
    rows, columns = window(weight, 0.12)
    inside = np.zeros_like(weight)
    inside[..., rows.start : rows.stop, columns.start : columns.stop] = 1.0
    dropped = np.abs(weight * (1.0 - inside)).sum(axis=(1, 2, 3)).max()
    left, right = result.outputs
    assert 0.0 < np.abs(left - right).max() <= dropped * 6.0
    assert (rows, columns) == (range(4), range(1, 5))


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (Crop(), "no border of the window is zero"),
        (Crop(threshold=1e-6), "no border of the window is at most 1e-06 of the largest"),
        (Crop(threshold=0.9, max_error=0.01), "exceeds max_error"),
    ],
)
def test_refusals(each: Crop, reason: str) -> None:
    assert reason in cropped(RANDOM.normal(size=(3, 2, 5, 5)), each).reason


@pytest.mark.parametrize(("text", "name"), [(model((9, 9)), "weight %weight"), (MASKED, "values %values")])
def test_a_weight_that_is_not_bound_is_refused(text: str, name: str) -> None:
    x = np.zeros((2, 8, 9, 9) if text != MASKED else (2, 4, 16, 16), np.float32)
    assert apply(text, Crop(), x, bind=False).reason == f"the {name} is not a constant"
