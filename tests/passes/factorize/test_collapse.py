"""Layers without a nonlinearity between them: any windows, strides, groups and biases; borders and readers refuse."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.factorize.exact import run

ALWAYS = "collapse{growth=1000}"


def size_after(size: int, k: int, stride: int, pad: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (k - 1) - 1) // stride + 1


@pytest.mark.parametrize("seed", range(16))
def test_any_two_convolutions(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers: list[str] = []
    size, channels = 16, 4
    bias = bool(random.integers(2))
    for position in range(2):
        k, dilation, stride = (int(random.integers(1, high)) for high in (4, 3, 3))
        reach = dilation * (k - 1)
        pad = int(random.choice([0, reach, reach + 1])) if position == 0 else 0 if bias else int(random.integers(2))
        if position == 0 and not bias:
            pad = reach + int(random.integers(2))
        groups, out = int(random.choice([1, 2])), int(random.choice([2, 4]))
        text = f"Conv1d({out}, {k}, stride = {stride}, pad = {pad}, dilation = {dilation}, groups = {groups}"
        layers.append(f"{text}, bias = {str(bias).lower()})")
        size = size_after(size, k, stride, pad, dilation)
        channels = out
    text = f"model M(x: f32[N, 4, 16]) -> f32[N, {channels}, {size}] {{ return x |> {' |> '.join(layers)} }}"
    result = run(text, ALWAYS, sizes={"N": 2}, seed=seed)
    assert len(result.fired) == 1 and result.operators.count("conv1d") == 1


@pytest.mark.parametrize("axes", [2, 3])
def test_more_axes(axes: int) -> None:
    image, result = ", ".join(["6"] * axes), ", ".join(["3"] * axes)
    text = f"""model M(x: f32[N, 2, {image}]) -> f32[N, 3, {result}] {{
      return x |> Conv{axes}d(4, {[2, 3, 1][:axes]}, pad = 0) |> Conv{axes}d(3, {[3, 2, 4][:axes]})
    }}"""
    assert run(text, ALWAYS, sizes={"N": 1}).operators == [f"conv{axes}d", "bias_add", "bias_add"]


def test_symbolic_image() -> None:
    text = """model M(x: f32[N, 2, H, W]) -> f32[N, 2, H, W] {
      return x |> Conv2d(8, 1, bias = false) |> Conv2d(2, 3, pad = 1)
    }"""
    result = run(text, "collapse")
    assert result.operators == ["conv2d", "bias_add"] and result.saved


@pytest.mark.parametrize("shape", ["N", "N, L"])
def test_linear_layers(shape: str) -> None:
    text = f"""model M(x: f32[{shape}, 6]) -> f32[{shape}, 5] {{
      return x |> Linear(20) |> Linear(30) |> Linear(5)
    }}"""
    result = run(text, "collapse")
    assert len(result.fired) == 2 and result.operators.count("linear") == 1 and result.saved


def test_scales_per_channel() -> None:
    """What batch normalization leaves in front of a linear layer, and a scale in front of a convolution that pads."""
    linear = "model M(x: f32[N, 6]) -> f32[N, 5] { return x |> BatchNorm |> Linear(5) }"
    assert run(linear, "collapse", prepare="bind,fold,batch_norm").operators == ["linear", "add", "add"]
    text = """model M(x: f32[N, 4, 9]) -> f32[N, 6, 9] {
      param scale: f32[4, 1] = ones
      return Conv1d(x * scale; 6, 3, pad = 1, groups = 2)
    }"""
    assert run(text, "collapse").operators == ["conv1d", "bias_add"]


def test_the_cost_includes_every_axis() -> None:
    """A 1 x 1 convolution that a strided one follows: the product is cheaper though its weight is larger."""
    text = "model M(x: f32[N, 4, 16]) -> f32[N, 4, 4] { return x |> Conv1d(4, 1) |> Conv1d(4, 4, stride = 4) }"
    assert len(run(text, "collapse").fired) == 1


REFUSED = {
    "Conv1d(x; 4, 1) |> Conv1d(4, 3, pad = 1)": "pads with zeros where one convolution would see the bias",
    "Conv1d(x; 4, 3, pad = 1, bias = false) |> Conv1d(4, 3, pad = 1)": "the border of its input",
    "Conv1d(x; 4, 3, pad = 1, groups = 4) |> Conv1d(4, 1)": "one step would take",
    "Conv1d(x; 4, 3, pad = 1) |> relu |> Conv1d(4, 1)": "",
}


@pytest.mark.parametrize("body", REFUSED)
def test_refused(body: str) -> None:
    reasons = run(f"model M(x: f32[N, 4, 9]) -> f32[N, 4, 9] {{ return {body} }}", "collapse").reasons
    assert REFUSED[body] in reasons and bool(REFUSED[body]) == bool(reasons)


def test_bottlenecks_stay() -> None:
    text = "model M(x: f32[N, 32]) -> f32[N, 32] { return x |> Linear(2) |> Linear(32) }"
    assert "one step would take" in run(text, "collapse").reasons


def test_other_readers_and_unknown_weights() -> None:
    text = "model M(x: f32[N, 4]) -> f32[N, 4] { y = Linear(x; 4)\n return Linear(y; 4) + y }"
    assert "has other readers" in run(text, "collapse").reasons
    text = "model M(x: f32[N, 4], w: f32[4, 4]) -> f32[N, 4] { return Linear(linear(x, w); 4) }"
    assert run(text, "collapse").reasons == "the weight %w is not a constant"
