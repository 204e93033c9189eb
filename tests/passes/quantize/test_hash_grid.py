"""Fields on hash grids become integer latents: an image loses next to nothing, and bits are the same everywhere."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.ir.types import Array, DType
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.quantize.quantize import Quantize
from tests.passes.quantize.test_training import before_nests, reference

GRID = "levels = 4, size = 512, base = 8, growth = 1.6"
FIELDS = {
    "features": f"HashGrid(x; {GRID})",
    "latents": f"HashGrid(x; {GRID}, latents = 1)",
}


def program(name: str) -> Program:
    return mercer.parse_text(
        f"model Field(x: f32[N, 2]) -> f32[N, 1] {{ return {FIELDS[name]} |> Linear(16) |> relu |> Linear(1) }}"
    )


def image(size: int = 48) -> tuple[Array, Array]:
    """Coordinates of pixels, and a picture of waves, a disc and fine stripes."""
    line = (np.arange(size) + 0.5) / size
    i, j = np.meshgrid(line, line, indexing="ij")
    disc = 0.25 * ((i - 0.6) ** 2 + (j - 0.4) ** 2 < 0.06)
    picture = 0.5 + 0.25 * np.sin(9 * i) * np.cos(7 * j) + disc + 0.1 * np.sin(60 * i * j)
    return np.stack([i, j], -1).reshape(-1, 2).astype(np.float32), picture.reshape(-1, 1).astype(np.float32)


def fit(net: torch.nn.Module, steps: int) -> None:
    x, y = map(torch.from_numpy, image())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    net.train()
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@cache
def fitted(name: str) -> dict[str, Array]:
    torch.manual_seed(0)
    net = program(name).torch()
    fit(net, 200)
    return {key: value.numpy() for key, value in net.state_dict().items()}


def psnr(y: Array) -> float:
    """In dB, of values from 0 to 1."""
    return float(-10 * np.log10(np.mean((y.astype(np.float64) - image()[1]) ** 2)))


def integers(model: Program, weights: dict[str, Array], x: Any, quantize: Quantize) -> Program:
    """The program in integers; nothing else may lie between its first and its last node."""
    context = PassContext(model.library, weights=weights, data={"x": x})
    graph = run_passes(model.graph, before_nests(quantize), context)
    assert isinstance(graph, Graph)
    assert [entry.operator for entry in context.ledger.refused() if entry.pass_name == "quantize"] == []
    types = graph.types()
    between = [n for n in graph.nodes if not n.operator.startswith(("to_fixed_point", "quantize", "dequantize"))]
    assert not any(types[value.name].dtype.is_float for node in between for value in node.results)
    return Program(graph, model.library)


def same_everywhere(whole: Program, x: Array) -> Array:
    (found,) = whole.evaluate(x, weights={})
    with torch.no_grad():
        np.testing.assert_array_equal(whole.torch()(torch.from_numpy(x)).numpy(), found)
    np.testing.assert_array_equal(mercer.compile(whole)(x), found)
    return found


@pytest.mark.parametrize(("name", "bits", "loss"), [("features", 8, 0.1), ("features", 4, 1.0), ("latents", 8, 0.1)])
def test_an_image_loses_little(name: str, bits: int, loss: float) -> None:
    model, (x, _) = program(name), image()
    (real,) = model.evaluate(x, weights=fitted(name), precision=DType.F64)
    assert psnr(real) > 31
    whole = integers(model, fitted(name), x, Quantize(bits))
    found = same_everywhere(whole, x)
    assert abs(psnr(found) - psnr(real)) < loss
    (latents,) = [c.data.array for c in whole.graph.constants if c.name.endswith("latents")]
    assert latents is not None and latents.dtype == np.int8 and np.abs(latents).max() < 1 << bits - 1


def test_more_pixels_than_codes() -> None:
    """A coordinate has 20 bits, not those of activations: between the pixels the field is as smooth as before."""
    model, (x, _) = program("features"), image()
    line = np.linspace(0, 1, 3001, dtype=np.float32)
    dense = np.stack([line, np.full_like(line, 0.3)], 1)
    (real,) = model.evaluate(dense, weights=fitted("features"))
    (found,) = integers(model, fitted("features"), x, Quantize()).evaluate(dense, weights={})
    assert np.abs(found - real).max() < 0.02
    assert len(np.unique(found)) > 100


def test_latents_that_are_integers_stay() -> None:
    """As SHACIRA has trained them: rounded tables, and a decoder for each level."""
    model, (x, _) = program("latents"), image()
    weights = dict(fitted("latents"))
    (table,) = [key for key in weights if key.endswith("table")]
    scale = 100 / np.abs(weights[table]).max(axis=(1, 2))
    rounded = np.rint(weights[table] * scale[:, None, None])
    decoder = table.replace("table", "decoder")
    weights |= {table: rounded, decoder: weights[decoder] / scale[:, None, None].astype(np.float32)}
    whole = integers(model, weights, x, Quantize())
    (latents,) = [c.data.array for c in whole.graph.constants if c.name.endswith("latents")]
    np.testing.assert_array_equal(latents, rounded)
    assert psnr(same_everywhere(whole, x)) > psnr(model.evaluate(x, weights=weights)[0]) - 0.1


def test_a_field_in_space() -> None:
    model = mercer.parse_text(
        "model Field(x: f32[N, 3]) -> f32[N, 2] {"
        " return HashGrid(x; levels = 3, size = 256, base = 4, growth = 2.0) |> Linear(8) |> relu |> Linear(2) }"
    )
    random = np.random.default_rng(0)
    weights = {key: random.normal(size=array.shape).astype(np.float32) for key, array in model.initial().items()}
    x = random.random((500, 3), np.float32)
    (real,) = model.evaluate(x, weights=weights)
    found = same_everywhere(integers(model, weights, x, Quantize()), x)
    assert np.linalg.norm(found - real) < 0.02 * np.linalg.norm(real)


def test_a_table_that_is_computed_stays_real() -> None:
    model = mercer.parse_text(
        "model Field(x: f32[N, 2], table: f32[2, 16, 1]) -> f32[N, 2] {"
        " return hash_grid(x, 2.0 * table; base = 3) |> Linear(2) }"
    )
    data = {"x": np.ones((4, 2), np.float32) / 3, "table": np.ones((2, 16, 1), np.float32)}
    context = PassContext(model.library, weights=model.initial(), data=data)
    run_passes(model.graph, before_nests(Quantize()), context)
    refused = {entry.operator: entry.reason for entry in context.ledger.refused()}
    assert refused["hash_grid"] == "its table is not a constant"


def test_training_with_two_bits() -> None:
    """What is trained is what the integers compute, and better than what is rounded afterwards."""
    model, (x, _) = program("features"), image()
    torch.manual_seed(0)
    net = model.torch(data=x, quantize="w2a8")
    net.load_state_dict({key: torch.from_numpy(array) for key, array in fitted("features").items()}, strict=False)
    fit(net, 60)
    state = net.eval().state_dict()
    with torch.no_grad():
        found = net(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, reference(model, state, Quantize.scheme("w2a8"), x))
    np.testing.assert_array_equal(mercer.compile(model, weights=state, quantize="w2a8")(x), found)
    after = integers(model, fitted("features"), x, Quantize(2))
    assert psnr(found) > psnr(after.evaluate(x, weights={})[0]) + 1.5
