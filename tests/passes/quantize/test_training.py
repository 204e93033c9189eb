"""Training with fake quantization: it learns, and what it learns is what the integers compute, bit for bit."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Graph
from mercer.passes.manager import Pass, PassContext, run_passes
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.code_books import CODES
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.ranges import PREFIX, weight_codes
from mercer.runtime.errors import MercerError

CONV = """h = x |> Conv2d(8, 3, pad = 1) |> BatchNorm |> relu
  h = h + (h |> Conv2d(8, 3, pad = 1) |> BatchNorm |> silu)
  return h |> max_pool2d(k = 2) |> flatten |> Linear(10)"""
BODIES = {
    "conv": CONV,
    "deform": "h = x |> Conv2d(4, 3) |> relu\n  b = h |> Conv2d(27, 3, pad = 1)\n"
    "  h = DeformConv2d(h, b[:, :18], sigmoid(b[:, 18:]); 4, 3, pad = 1)\n"
    "  return h |> relu |> flatten |> Linear(12) |> LayerNorm |> KernelMachine(10, centers = 16)",
    "field": "return x |> flatten |> Linear(3) |> tanh |> RBFField(10, count = 20)",
    "siren": "return x |> flatten |> SIREN(10, hidden = 16, depth = 2, omega = 5.0)",
    "splines": "return x |> flatten |> Linear(6) |> tanh |> KANLinear(10)",
    "features": "return x |> flatten |> Linear(6) |> RandomFourierFeatures(32) |> Linear(10)",
    "continuous": "return x |> FlexConv2d(4, size = 3) |> relu |> flatten |> Linear(10)",
}


def program(name: str) -> Program:
    return mercer.parse_text(f"model M(x: f32[N, 1, 8, 8]) -> f32[N, 10] {{\n  {BODIES[name]}\n}}")


def digits(count: int = 256) -> tuple[np.ndarray, np.ndarray]:
    found: Any = pytest.importorskip("sklearn.datasets").load_digits()
    return (found.images[:count, None] / 16).astype(np.float32), found.target[:count]


def trained(net: torch.nn.Module, steps: int) -> list[float]:
    """The loss of each step."""
    x, y = map(torch.from_numpy, digits())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses: list[float] = []
    net.train()
    for _ in range(steps):
        loss = cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def reference(model: Program, state: dict[str, torch.Tensor], quantize: Quantize, x: np.ndarray) -> np.ndarray:
    """What the graph of integers gives by the NumPy reference."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    ranges = {name: (float(a[0]), float(a[1])) for name, a in arrays.items() if name.startswith(PREFIX)}
    weights = {name: array for name, array in arrays.items() if name not in ranges}
    context = PassContext(model.library, weights=weights, ranges=ranges)
    graph = run_passes(model.graph, before_nests(quantize), context)
    assert isinstance(graph, Graph)
    return Program(graph, model.library).evaluate(x, weights={})[0]


def before_nests(quantize: Quantize) -> list[Pass]:
    return list(itertools.takewhile(lambda each: each.name != "lower", quantized(quantize)))


def generated(net: torch.nn.Module) -> ModuleType:
    """The Python module with the source."""
    return sys.modules[type(net).__mro__[2].__module__]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("scheme", ["w4a8", "w2a8"])
def test_what_is_trained_is_what_the_integers_compute(name: str, scheme: str) -> None:
    model, (x, _) = program(name), digits()
    torch.manual_seed(0)
    net = model.torch(data=x, quantize=scheme)
    assert [key for key in net.state_dict() if not key.startswith(PREFIX)] == list(model.torch().state_dict())
    losses = trained(net, 12)
    assert losses[-1] < 0.95 * losses[0]
    state = net.eval().state_dict()
    with torch.no_grad():
        found = net(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, reference(model, state, Quantize.scheme(scheme), x))
    binary = mercer.compile(model, weights=state, quantize=scheme)
    np.testing.assert_array_equal(binary(x), found)


@pytest.mark.parametrize("name", ["deform", "field", "siren", "splines", "continuous"])
def test_training_computes_with_the_numbers_of_the_integers(name: str) -> None:
    model, (x, _) = program(name), digits()
    net = model.torch(data=x, quantize="w4a8")
    batch = torch.from_numpy(x)
    with torch.no_grad():
        for _ in range(60):
            near = net.train()(batch)
        integers = net.eval()(batch)
        real = model.torch()(batch)
    assert (near - integers).norm() < 0.25 * (real - integers).norm()
    assert (near - integers).norm() < 0.05 * integers.norm()


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_weights_in_training_have_the_codes_of_the_pass(codes: str, bits: int) -> None:
    from mercer.backends.torch import fake

    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    net = program("conv").torch(data=digits()[0], quantize=Quantize(weights=bits, codes=codes))
    functions = vars(generated(net))
    for axis in (0, 1, None):
        found = functions["fake_weight"](torch.from_numpy(weight), axis).numpy()
        expected, scales = weight_codes(weight.astype(np.float64), bits, axis, codes)
        shape = [-1 if place == axis else 1 for place in range(4)]
        np.testing.assert_allclose(found, expected * scales.reshape(shape), atol=1e-6)
    assert set(fake.FUNCTIONS) <= functions.keys()


def test_a_change_of_the_weights_changes_the_integers() -> None:
    model, (x, _) = program("conv"), digits(8)
    net = model.torch(data=x, quantize="w4a8").eval()
    first = net(torch.from_numpy(x))
    assert torch.equal(first, net(torch.from_numpy(x)))
    with torch.no_grad():
        net.get_parameter("linear.bias").add_(1.0)
    assert torch.allclose(net(torch.from_numpy(x)), first + 1.0, atol=0.05)


def test_training_goes_on_from_a_state() -> None:
    model, (x, _) = program("conv"), digits()
    net = model.torch(data=x, quantize="w4a8")
    trained(net, 2)
    again = model.torch(weights=net.state_dict(), quantize="w4a8")
    assert torch.equal(again.eval()(torch.from_numpy(x)), net.eval()(torch.from_numpy(x)))
    plain = mercer.compile(model, weights=net.state_dict())
    np.testing.assert_allclose(
        plain(x), model.torch(weights=_without_ranges(net)).eval()(torch.from_numpy(x)).detach(), atol=1e-4
    )


def _without_ranges(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(PREFIX)}


def test_bad_input() -> None:
    model, (x, _) = program("conv"), digits(8)
    with pytest.raises(MercerError, match="needs data"):
        model.torch(quantize="w4a8")
    state = model.torch(data=x, quantize="w4a8").state_dict()
    del state["ranges.relu"]
    with pytest.raises(MercerError, match=r"no `ranges.relu`"):
        mercer.compile(model, weights=state, quantize="w4a8")


@pytest.mark.parametrize("name", BODIES)
def test_every_weight_that_gets_codes_is_rounded_in_training(name: str) -> None:
    model, (x, _) = program(name), digits(16)
    context = PassContext(model.library, weights=model.initial(), data={"x": x})
    graph = run_passes(model.graph, before_nests(Quantize()), context)
    assert isinstance(graph, Graph)
    coded = [constant.name for constant in graph.constants if re.search(r"\.codes(_\d+)?$", constant.name)]
    text = inspect.getsource(generated(model.torch(data=x, quantize="w4a8")))
    assert text.count("= fake_weight(") == len(coded)
