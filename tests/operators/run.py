"""Runs one operator on each backend, as a graph of a single node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mercer.frontend.library import default_library
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph, Node, Value
from mercer.ir.lower import lower
from mercer.ir.spans import NOWHERE
from mercer.ir.types import TensorType
from tests.operators.records.record import Array

LIBRARY = default_library()


def single(arrays: Sequence[Array], dtype: str) -> tuple[Array, ...]:
    """Floats in the given type; integers and truth values as they are."""
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays)


def graph_of(
    calls: Sequence[tuple[str, Sequence[Array], Mapping[str, Any]]], types: Sequence[TensorType] | None = None
) -> tuple[Graph, dict[str, Array]]:
    """A graph in which each call stands alone, and its inputs, of the given types or of those of the arrays."""
    inputs: dict[str, Array] = {}
    values: list[Value] = []
    nodes: list[Node] = []
    for number, (operator, arrays, attributes) in enumerate(calls):
        names = [f"x{number}_{k}" for k in range(len(arrays))]
        inputs |= dict(zip(names, arrays, strict=True))
        operands = types or [TensorType.of(a) for a in arrays]
        values += map(Value, names, operands)
        instance = LIBRARY.instantiate(operator, operands, attributes, NOWHERE)
        results = tuple(Value(f"y{number}_{k}", type_) for k, type_ in enumerate(instance.results))
        nodes.append(Node(operator, tuple(names), LIBRARY.normalize(operator, attributes), results, NOWHERE))
    outputs = tuple(node.name for node in nodes)
    return Graph("Operators", tuple(values), (), (), tuple(nodes), outputs), inputs


def on_reference(
    operator: str, arrays: Sequence[Array], attributes: Mapping[str, Any], types: Sequence[TensorType] | None = None
) -> Array:
    graph, inputs = graph_of([(operator, arrays, attributes)], types)
    return evaluate(lower(graph, LIBRARY), inputs)[0]


def largest_error(actual: Array, expected: Array) -> float:
    """Largest difference over the largest expected value (at least 1e-30); infinities must be in the same places."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    wide = np.complex128 if "c" in (actual.dtype.kind, expected.dtype.kind) else np.float64
    actual, expected = actual.astype(wide), expected.astype(wide)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    finite = np.isfinite(expected)
    scale = max(float(np.abs(expected[finite]).max(initial=0.0)), 1e-30)
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(actual - expected)) / scale
    return float("inf") if np.isnan(difference).any() else float(difference.max())
