"""Branches become one convolution: any window, dilation, stride and grouping; what cannot be merged says why."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.factorize.exact import run

PREPARE = "bind,fold,batch_norm"


def branch(random: np.random.Generator, channels: int, stride: int) -> str:
    """A branch that keeps the image size at stride 1."""
    k, dilation = int(random.choice([1, 3, 5])), int(random.choice([1, 2]))
    groups = int(random.choice([g for g in (1, 2, channels) if channels % g == 0]))
    text = f"Conv2d(x; {channels}, {k}, stride = {stride}, pad = {dilation * (k // 2)}, dilation = {dilation}"
    text += f", groups = {groups}, bias = {str(bool(random.integers(2))).lower()})"
    return f"BatchNorm({text})" if random.integers(2) else text


@pytest.mark.parametrize("seed", range(8))
def test_any_branches(seed: int) -> None:
    """All of them end as one convolution, whatever it costs."""
    random = np.random.default_rng(seed)
    channels, stride = int(random.choice([2, 4])), int(random.choice([1, 1, 2]))
    terms = [branch(random, channels, stride) for _ in range(random.integers(2, 5))]
    if stride == 1:
        terms += ["x", "BatchNorm(x)", "avg_pool2d(x; 3, 1, pad = 1)"][: int(random.integers(4))]
        random.shuffle(terms)
    total = " + ".join(terms[:2])
    for term in terms[2:]:
        total = f"({total}) + {term}" if random.integers(2) else f"{term} + ({total})"
    size = 6 // stride
    text = f"model M(x: f32[N, {channels}, 6, 6]) -> f32[N, {channels}, {size}, {size}] {{ return {total} }}"
    result = run(text, "merge_branches{growth=100}", prepare=PREPARE, sizes={"N": 2}, seed=seed)
    convolutions = sum("Conv2d" in term for term in terms)
    if convolutions and len(terms) > 1:
        assert len(result.fired) == len(terms) - 1
        assert result.operators.count("conv2d") == 1 and "add" not in result.operators


def test_symbolic_image() -> None:
    """The size of the image need not be known."""
    text = """model M(x: f32[N, 2, H, W]) -> f32[N, 2, H, W] {
      return Conv2d(x; 2, 5, pad = 2) + Conv2d(x; 2, 3, pad = 2, dilation = 2) + x
    }"""
    result = run(text, "merge_branches")
    assert result.operators == ["conv2d", "bias_add"] and result.saved


@pytest.mark.parametrize(("axes", "size"), [(1, "9"), (3, "5, 5, 5")])
def test_other_dimensions(axes: int, size: str) -> None:
    text = f"""model M(x: f32[N, 2, {size}]) -> f32[N, 2, {size}] {{
      return Conv{axes}d(x; 2, 3, pad = 1) + Conv{axes}d(x; 2, 1)
    }}"""
    assert run(text, "merge_branches", sizes={"N": 2}).operators == [f"conv{axes}d", "bias_add"]


def test_a_common_dilation_stays() -> None:
    text = """model M(x: f32[N, 2, 12]) -> f32[N, 2, 12] {
      return Conv1d(x; 2, 5, pad = 6, dilation = 3) + Conv1d(x; 2, 3, pad = 3, dilation = 3)
    }"""
    (convolved,) = (node for node in run(text, "merge_branches").graph.nodes if node.operator == "conv1d")
    assert convolved.attribute("dilation") == (3,) and convolved.attribute("pad") == (6,)


def test_scales_and_biases_on_top() -> None:
    """Layer scale, and biases of every spelling."""
    text = """model M(x: f32[N, 3, 9]) -> f32[N, 3, 9] {
      param scale: f32[3, 1] = ones
      param shift: f32[1, 3, 1] = ones
      y = (Conv1d(x; 3, 3, pad = 1) * scale + shift) * 0.5
      return (x * scale + y) + (x + shift) * scale
    }"""
    assert sorted(run(text, "merge_branches").operators) == ["bias_add", "conv1d"]


def test_other_terms_stay() -> None:
    text = """model M(x: f32[N, 2, 9], z: f32[N, 2, 9]) -> f32[N, 2, 9] {
      return Conv1d(x; 2, 3, pad = 1) + (relu(z) + Conv1d(x; 2, 1))
    }"""
    assert sorted(run(text, "merge_branches").operators) == ["add", "bias_add", "conv1d", "relu"]


REFUSED = {
    "Conv1d(x; 2, 3, pad = 1) + Conv1d(x; 2, 3, pad = 5, dilation = 5)": "one window of 11 would take",
    "Conv1d(x; 2, 3, pad = 1, stride = 2) + Conv1d(x; 2, 7)": "the strides [2] and [1] differ",
    "BatchNorm(x) + x": "",
    "Conv1d(x; 2, 3, pad = 1) + Conv1d(relu(x); 2, 1)": "",
    "Conv1d(x; 2, 3, pad = 1) + relu(Conv1d(x; 2, 1))": "",
}


@pytest.mark.parametrize("body", REFUSED)
def test_refused(body: str) -> None:
    size = 6 if "stride" in body else 12
    text = f"model M(x: f32[N, 2, 12]) -> f32[N, 2, {size}] {{ return {body} }}"
    reasons = run(text, "merge_branches", prepare=PREPARE).reasons
    assert REFUSED[body] in reasons and bool(REFUSED[body]) == bool(reasons)


def test_other_readers() -> None:
    text = """model M(x: f32[N, 2, 9]) -> f32[N, 2, 9] {
      y = Conv1d(x; 2, 1)
      return y * (Conv1d(x; 2, 3, pad = 1) + y)
    }"""
    assert "has other readers" in run(text, "merge_branches").reasons


def test_unknown_weight() -> None:
    text = """model M(x: f32[N, 2, 9], w: f32[2, 2, 3]) -> f32[N, 2, 9] {
      return conv1d(x, w; 1, 1) + Conv1d(x; 2, 1)
    }"""
    assert run(text, "merge_branches").reasons == "the weight %w is not a constant"
