"""The gradient of every operator as an operator of its own, on PyTorch and TVM: one program for each family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mercer.backends.torch import module
from mercer.compiler import Program, compile
from mercer.ir.evaluate import evaluate
from mercer.ir.lower import lower
from mercer.ir.spans import NOWHERE
from mercer.ir.types import TensorType
from tests.operators.records import FAMILIES
from tests.operators.records.record import Array
from tests.operators.run import LIBRARY, graph_of, largest_error, single

Call = tuple[str, Sequence[Array], Mapping[str, Any]]

TOLERANCE = 1e-5
"""Relative to the largest value, in f32."""


def calls(family: str) -> list[Call]:
    """For the first sample of every operator: its gradients with respect to all operands, for a random cotangent."""
    found: list[Call] = []
    for record in FAMILIES[family]:
        sample = record.samples[0]
        arrays = single(sample.arrays(f"{record.name}-0"), "float32")
        types = [TensorType.of(np.asarray(a)) for a in arrays]
        (result, *_) = LIBRARY.instantiate(record.name, types, sample.attributes, NOWHERE).results
        real = [k for k, t in enumerate(types) if t.dtype.rounds and k not in record.fixed]
        if not record.differentiable or not result.dtype.is_float:
            continue
        shape = tuple(extent.value for extent in result.shape)
        cotangent = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
        for position in real:
            attributes = {**sample.attributes, "wrt": (position,)}
            found.append((f"{record.name}.grad", (*arrays, cotangent), attributes))
    return found


@pytest.mark.parametrize("family", [name for name in FAMILIES if calls(name)])
def test_backends_agree_with_the_reference(family: str) -> None:
    every = calls(family)
    graph, inputs = graph_of(every)
    wanted = evaluate(lower(graph, LIBRARY), inputs)
    net = module(graph, LIBRARY, {}).eval()
    on_torch = net(*(torch.from_numpy(np.array(a)) for a in inputs.values()))
    on_tvm = compile(Program(graph, LIBRARY), target="cpu")(**inputs)
    many = len(every) > 1
    for name, results in (("torch", on_torch if many else [on_torch]), ("tvm", on_tvm if many else [on_tvm])):
        errors = {
            f"{operator} {attributes}": error
            for (operator, _, attributes), actual, expected in zip(every, results, wanted, strict=True)
            if (error := largest_error(np.asarray(actual), expected)) > TOLERANCE
        }
        assert errors == {}, name
