"""Every operator on the torch backend: values and gradients, once as PyTorch's own call and once from its formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mercer.backends.torch import module
from mercer.ir.graph import AttributeValue, Graph
from mercer.ir.library import Instance
from mercer.ir.spans import Span
from mercer.ir.types import TensorType
from tests.operators.records import RECORDS, Record
from tests.operators.records.record import Array
from tests.operators.run import LIBRARY, graph_of, largest_error

FORMULA = "formula_of_"
SAMPLES = [pytest.param(r, i, id=f"{r.name}-{i}") for r in RECORDS for i in range(len(r.samples))]


class Formulas:
    """The library under names that no backend knows, so that it must read the definitions."""

    def instantiate(
        self, operator: str, operands: Sequence[TensorType], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        return LIBRARY.instantiate(operator.removeprefix(FORMULA), operands, attributes, span)

    def operators(self) -> frozenset[str]:
        return frozenset(FORMULA + name for name in LIBRARY.operators())

    def normalize(
        self, operator: str, attributes: Mapping[str, AttributeValue]
    ) -> tuple[tuple[str, AttributeValue], ...]:
        return LIBRARY.normalize(operator.removeprefix(FORMULA), attributes)


def anonymous(graph: Graph) -> Graph:
    return replace(graph, nodes=tuple(replace(node, operator=FORMULA + node.operator) for node in graph.nodes))


def leaves(arrays: Sequence[Array], fixed: tuple[int, ...]) -> list[torch.Tensor]:
    tensors = [torch.from_numpy(np.array(array)) for array in arrays]
    return [t.requires_grad_(t.is_floating_point() and k not in fixed) for k, t in enumerate(tensors)]


def gradients(function: Callable[..., torch.Tensor], arrays: Sequence[Array], fixed: tuple[int, ...]) -> list[Array]:
    """Of the dot product of the result with fixed numbers."""
    tensors = leaves(arrays, fixed)
    result = function(*tensors)
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(tuple(result.shape)))
    (result * direction).sum().backward()
    return [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors if t.requires_grad]


@pytest.mark.parametrize("written", ["native", "formula"])
@pytest.mark.parametrize(("record", "number"), SAMPLES)
def test_torch_agrees_with_independent_formula(record: Record, number: int, written: str) -> None:
    sample = record.samples[number]
    arrays = sample.arrays(f"{record.name}-{number}")
    graph, _ = graph_of([(record.name, arrays, sample.attributes)])
    net = module(graph, LIBRARY, {}) if written == "native" else module(anonymous(graph), Formulas(), {})
    net.eval()

    def reference(*tensors: torch.Tensor) -> Any:
        return record.reference(*tensors, **sample.attributes)

    wanted = reference(*(torch.from_numpy(np.array(a)) for a in arrays))
    actual = net(*(torch.from_numpy(np.array(a)) for a in arrays))
    assert largest_error(actual.numpy(), np.asarray(wanted)) <= record.tolerance
    if not record.differentiable or not actual.is_floating_point():
        return
    if isinstance(wanted, torch.Tensor):
        pairs = zip(gradients(net, arrays, record.fixed), gradients(reference, arrays, record.fixed), strict=True)
        assert max(largest_error(a, b) for a, b in pairs) <= record.gradient_tolerance
    else:
        assert torch.autograd.gradcheck(net, leaves(arrays, record.fixed))
