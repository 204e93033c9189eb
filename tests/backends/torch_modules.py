"""Programs as modules, and the comparison of a module with the reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from mercer.backends.torch import module
from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import DefinitionLibrary, default_library, load
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import AttributeValue, Graph
from mercer.ir.initializers import initialize
from mercer.ir.library import Instance
from mercer.ir.lower import lower
from mercer.ir.spans import Span
from mercer.ir.types import Array, DType, TensorType


def parsed(text: str) -> tuple[Graph, DefinitionLibrary]:
    loaded = load(text, "net.mer")
    library = default_library().extended(loaded.definitions)
    return elaborate(library, find_model(loaded.definitions, None, loaded.file)), library


def initial(graph: Graph) -> dict[str, Array]:
    return {p.name: initialize(p, 0) for p in graph.parameters}


def built(text: str) -> nn.Module:
    graph, library = parsed(text)
    return module(graph, library, initial(graph))


def inputs_of(graph: Graph, batch: int, high: int = 3) -> dict[str, Array]:
    """Random inputs: floats around 0, integers below `high`."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        shape = [int(e.evaluate(lambda _: batch)) for e in value.type.shape]
        numbers = rng.standard_normal(shape) if value.type.dtype.is_float else rng.integers(0, high, shape)
        arrays[value.name] = numbers.astype(value.type.dtype.numpy)
    return arrays


def check(graph: Graph, library: Any, batch: int = 3) -> None:
    """The module in f64 agrees with the reference: shapes, element types and values."""
    arrays, values = inputs_of(graph, batch), initial(graph)
    wanted = evaluate(lower(graph, library), arrays, values, DType.F64)
    net = module(graph, library, values).double().eval()
    tensors = [torch.from_numpy(a) for a in arrays.values()]
    results = net(*(t.double() if t.is_floating_point() else t for t in tensors))
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(wanted)
    for result, expected, name in zip(results, wanted, graph.outputs, strict=True):
        assert result.dtype == (
            torch.float64 if expected.dtype == np.float64 else getattr(torch, expected.dtype.name)
        ), name
        assert tuple(result.shape) == expected.shape
        np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


class Fixed:
    """A library of one operator `op` with a given definition."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def instantiate(
        self, operator: str, operands: Sequence[TensorType], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        return self.instance

    def operators(self) -> frozenset[str]:
        return frozenset(["op"])

    def normalize(self, operator: str, attributes: Mapping[str, AttributeValue]) -> tuple[()]:
        return ()
