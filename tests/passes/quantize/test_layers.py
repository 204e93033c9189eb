"""Layers with bits of their own, and weights that codes can hold as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mercer
from mercer.ir.graph import Graph
from mercer.passes.manager import PassContext, PipelineError, run_passes
from mercer.passes.pipeline import parse
from mercer.passes.quantize.code_books import code_books
from mercer.passes.quantize.layers import LayerBits
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.ranges import weight_codes
from mercer.passes.quantize.rounding import compensated, moments
from mercer.passes.quantize.translation import QuantizeError
from tests.passes.quantize.test_quantize import batch, distance, integer, program

MODEL = program("x |> Conv2d(6, 3) |> relu |> Conv2d(4, 3) |> relu |> flatten |> Linear(16) |> relu |> Linear(5)")
NAMES = ("conv2d.0.conv2d", "conv2d.1.conv2d", "linear.0.linear", "linear.1.linear")


def bits_of(scheme: str) -> list[int]:
    """The bits that the codes of each layer need."""
    whole, _ = integer(MODEL, batch(), Quantize.scheme(scheme))
    codes = [c.data.array for c in whole.graph.constants if c.name.endswith(".codes")]
    return [int(np.abs(array).max()).bit_length() + 1 for array in codes if array is not None]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("w4a8", [4, 4, 4, 4]),
        ("w4a8:first=8,last=8", [8, 4, 4, 8]),
        ("w8a8:linear*=3", [8, 8, 3, 3]),
        ("w4a8:*=6,conv2d.0.conv2d=2", [2, 6, 6, 6]),
    ],
)
def test_layers_have_bits_of_their_own(scheme: str, expected: list[int]) -> None:
    assert bits_of(scheme) == expected


def test_more_bits_in_the_first_and_last_layer_lose_less_and_are_in_the_ledger() -> None:
    x = batch()
    (expected,) = MODEL.evaluate(x, weights=MODEL.initial())
    (plain, first), (mixed, second) = (integer(MODEL, x, Quantize.scheme(s)) for s in ("w3a8", "w3a8:first=8,last=8"))
    errors = [distance(whole.evaluate(x, weights={})[0], expected) for whole in (plain, mixed)]
    assert errors[1] < 0.85 * errors[0]
    own = [(e.node, e.rewrite) for e in second.fired() if e.rewrite.endswith("-bit weights")]
    assert own == [(NAMES[0], "8-bit weights"), (NAMES[3], "8-bit weights")]
    assert not any(e.rewrite.endswith("-bit weights") for e in first.fired())


def test_in_a_pipeline() -> None:
    (written,) = parse("quantize{weights=4,layers=first=8 last=8}")
    assert written == Quantize(weights=4, layers="first=8 last=8")
    assert (
        LayerBits.parse("first=8,last=6") == LayerBits.parse("first=8 last=6") == LayerBits((("first", 8), ("last", 6)))
    )


@pytest.mark.parametrize("scheme", ["w4a8:", "w4a8:first", "w4a8:first=9", "w4a8:=8", "w4a8:last=0", "w4a8:middle=8"])
def test_bad_schemes(scheme: str) -> None:
    with pytest.raises(PipelineError) as caught:
        mercer.compile(MODEL, data=batch(8), quantize=scheme)
    if "middle" in scheme:
        assert "there are: first, last, conv2d.0.conv2d" in str(caught.value.hint)


def test_a_rotation_is_no_layer() -> None:
    model = mercer.parse_text("model M(x: f32[N, 64]) -> f32[N, 5] { return x |> Linear(48) |> relu |> Linear(5) }")
    context = PassContext(model.library, weights=model.initial(), data={"x": batch(16).reshape(64, 64)})
    graph = run_passes(model.graph, parse("bind,fold,rotate{gain=0},quantize{weights=4,layers=first=8}"), context)
    assert isinstance(graph, Graph)
    sizes = {c.type.shape[0].value: np.abs(c.data.array).max() for c in graph.constants if c.name.endswith(".codes")}
    assert sizes[48] > 7 >= sizes[5]


def test_training_leaves_finer_layers_and_refuses_others() -> None:
    x = batch(16)
    net = MODEL.torch(data=x, quantize="w4a8:first=8,last=8").eval()
    binary = mercer.compile(MODEL, weights=net.state_dict(), quantize="w4a8:first=8,last=8")
    np.testing.assert_array_equal(binary(x), net(torch.from_numpy(x)).detach().numpy())
    with pytest.raises(QuantizeError, match=r"rounds weights to 2 bits, and conv2d.0.conv2d is to have 4"):
        MODEL.torch(data=x, quantize="w2a8:first=4")


# --- weights that codes can hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", ["uniform", "power_of_two", "ternary"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_on_a_grid_are_kept(bits: int, codes: str) -> None:
    """As those of a model that was trained elsewhere with steps of its own; not every row has the largest code."""
    random = np.random.default_rng(0)
    (levels,) = code_books(codes, bits)
    some = random.choice(levels, (12, 40)) * random.choice([1.0, 0.0], (12, 40))
    some[:4] = random.choice(levels[np.abs(levels) <= max(levels[-1] // 2, 1)], (4, 40))
    weight = (some * random.uniform(0.001, 0.1, (12, 1))).astype(np.float32).astype(np.float64)
    found, scales = weight_codes(weight, bits, 0, codes)
    np.testing.assert_allclose(found * scales[:, None], weight, rtol=1e-6)
    rows = random.standard_normal((1, 64, 40)) @ random.standard_normal((40, 40))
    found, scales = compensated(weight[None], moments(rows, True), code_books(codes, bits), False)
    np.testing.assert_allclose((found * scales)[0], weight, rtol=1e-6, atol=1e-9)


def test_two_inputs_lose_little() -> None:
    """One of two weights is exact with many scales, and the other nearly so with one of them."""
    model = mercer.parse_text("model M(x: f32[N, 2]) -> f32[N, 40] { return x |> Linear(40) }")
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16, dtype=np.float32)] * 2), axis=-1).reshape(-1, 2)
    (expected,) = model.evaluate(x, weights=model.initial())
    errors = [
        distance(integer(model, x, Quantize(rounding=rounding))[0].evaluate(x, weights={})[0], expected)
        for rounding in ("nearest", "auto")
    ]
    assert errors[1] < 0.35 * errors[0]
