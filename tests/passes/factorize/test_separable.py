"""Weights that are products, of any geometry, become chains; weights that are nearly so do not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.factorize.exact import Result, run

SIZE = 11


def separated(
    weight: np.ndarray, seed: int = 0, groups: int = 1, passes: str = "separable", stride: int = 1, dilation: int = 1
) -> Result:
    """The pass on one convolution with this weight[o, c/groups, window...]."""
    random = np.random.default_rng(seed)
    window = weight.shape[2:]
    axes, pads = len(window), [int(random.integers(3)) for _ in window]
    sizes = [(SIZE + 2 * p - dilation * (k - 1) - 1) // stride + 1 for p, k in zip(pads, window, strict=True)]
    image, result = (", ".join(map(str, shape)) for shape in ([SIZE] * axes, sizes))
    text = f"""model M(x: f32[N, {weight.shape[1] * groups}, {image}]) -> f32[N, {len(weight)}, {result}] {{
      param weight: f32[{", ".join(map(str, weight.shape))}] = normal(0, 1)
      return conv{axes}d(x, weight; stride = {stride}, pad = {pads}, dilation = {dilation}, groups = {groups})
    }}"""
    return run(text, passes, {"weight": weight}, sizes={"N": 2}, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_depthwise_kernels(seed: int) -> None:
    """An outer product for every channel, one of which may be zero."""
    random = np.random.default_rng(seed)
    channels, rows, columns = 3, int(random.integers(3, 6)), int(random.integers(3, 6))
    weight = np.einsum("ci,cj->cij", random.normal(size=(channels, rows)), random.normal(size=(channels, columns)))
    weight[seed % 4 : seed % 4 + 1] = 0.0
    stride, dilation = (int(random.integers(1, 3)) for _ in range(2))
    result = separated(weight[:, None], seed, channels, stride=stride, dilation=dilation)
    windows = sorted([n.value for n in c.type.shape[2:]] for c in result.graph.constants)
    assert len(result.fired) == 1 and result.saved
    assert windows == [[1, columns], [rows, 1]]


@pytest.mark.parametrize("seed", range(6))
def test_dense_kernels_of_few_terms(seed: int) -> None:
    """sum over r of H[o, r, j] V[r, c, i], in two groups."""
    random = np.random.default_rng(seed)
    rank = int(random.integers(1, 3))
    v, h = random.normal(size=(2, rank, 4, 5)), random.normal(size=(2, 6, rank, 3))
    weight = np.einsum("gori,grcj->gocij", h, v).reshape(12, 4, 3, 5)
    if rank == 2:
        assert "no split of the weight has rank 1" in separated(weight, seed, 2).reasons
    result = separated(weight, seed, 2, f"separable{{rank={rank}}}")
    assert len(result.fired) == 1 and result.saved


def test_three_axes() -> None:
    """One after the other: two steps."""
    random = np.random.default_rng(0)
    weight = np.einsum("ci,cj,ck->cijk", *(random.normal(size=(2, 3)) for _ in range(3)))[:, None]
    result = separated(weight, groups=2)
    assert result.operators == ["conv3d"] * 3 and len(result.fired) == 2


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("subscripts", ["oi,oc->oci", "ci,oc->oci"])
def test_pointwise_and_depthwise(subscripts: str, groups: int) -> None:
    """Kernels that all outputs, or all inputs, of a group share up to a factor."""
    random = np.random.default_rng(groups)
    sizes = {"o": 8, "c": 6, "i": 5}
    parts = [
        np.einsum(subscripts, *(random.normal(size=[sizes[s] for s in t]) for t in subscripts[:5].split(",")))
        for _ in range(groups)
    ]
    result = separated(np.concatenate(parts), groups=groups)
    assert result.operators == ["conv1d"] * 2 and len(result.fired) == 1
    grouping = [node.attribute("groups") for node in result.graph.nodes]
    assert grouping == ([groups, 8 * groups] if subscripts[0] == "o" else [6 * groups, groups])


def test_nearly_separable_kernels_stay() -> None:
    random = np.random.default_rng(0)
    weight = np.outer(random.normal(size=5), random.normal(size=5))[None, None]
    noisy = weight * (1.0 + 1e-5 * random.normal(size=weight.shape))
    assert separated(weight).fired
    assert "no split of the weight has rank 1: the nearest leaves" in separated(noisy).reasons


def test_small_kernels_are_cheaper_whole() -> None:
    """2 + 2 multiply-adds in place of 2 x 2, and more positions between."""
    text = """model M(x: f32[N, 1, 9, 9]) -> f32[N, 1, 8, 8] {
      param weight: f32[1, 1, 2, 2] = normal(0, 1)
      return conv2d(x, weight)
    }"""
    weight = np.outer([1.0, 2.0], [1.0, 3.0])[None, None]
    assert "operations would take the place of" in run(text, "separable", {"weight": weight}).reasons


def test_unknown_weights_and_pointwise_convolutions() -> None:
    text = "model M(x: f32[N, 2, 9], w: f32[2, 2, 3]) -> f32[N, 2, 7] { return conv1d(x, w) }"
    assert run(text, "separable").reasons == "the weight %w is not a constant"
    text = "model M(x: f32[N, 2, 9]) -> f32[N, 2, 9] { return Conv1d(x; 2, 1) }"
    assert not run(text, "separable").entries
