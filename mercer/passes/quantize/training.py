"""Where a module that is trained for integers rounds: at the points that the pass `quantize` has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mercer.ir.graph import Graph, Initializer, KernelValue, Node, Parameter
from mercer.ir.integers import IntExpr
from mercer.ir.library import Library
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array, DType, TensorType
from mercer.passes.quantize.code_books import code_books
from mercer.passes.quantize.kernel_rules import measure_of, measured
from mercer.passes.quantize.quantize import Plan, Quantize
from mercer.passes.quantize.ranges import Point, buffer_of
from mercer.passes.quantize.translation import QuantizeError
from mercer.passes.rewrite import Builder

WEIGHTS: dict[str, tuple[int, int | None]] = {
    **{f"conv{n}d": (1, 0) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (1, None) for n in (1, 2, 3)},
    "linear": (1, 0),
    "matmul": (1, 1),
    "deform_conv2d_v1": (2, 0),
    "deform_conv2d": (3, 0),
    "kernel_machine": (2, 0),
    "rbf_field": (3, 0),
    "random_fourier_features": (1, 0),
    "hash_grid": (1, 0),
    "decode_levels": (1, 0),
}
"""Operators whose weight gets codes: the operand, and its axis of output channels, each of which has its own scale."""


@dataclass(frozen=True)
class Training:
    """A program to train: `graph` has a buffer f32[2] for each range, by `ranges` the name of the value.

    `bits` are those of the codes of values, 0 where only the range is kept. `weights` are (node, operand) with the axis
    of their scales; `books` the codes of weights.
    """

    graph: Graph
    ranges: Mapping[str, str]
    bits: Mapping[str, int]
    weights: Mapping[tuple[str, int], int | None]
    books: tuple[tuple[int, ...], ...]
    initial: Mapping[str, tuple[float, float]]


def typical(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights, moved a little: none is a zero or a one that the passes before `quantize` would leave out."""
    random = np.random.default_rng(0)

    def moved(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        values = array.astype(np.float64)
        factor, summand = 1e-3 * random.random((2, *array.shape))
        return np.asarray(values + factor * np.abs(values) + summand, array.dtype)

    return {name: moved(array) for name, array in weights.items()}


def training(graph: Graph, library: Library, first: Plan, usual: Plan, scheme: Quantize) -> Training:
    """The plans are for the first weights, which give the ranges, and for `typical` ones, which say what is rounded.

    All ranges of both are kept, for the integers of any weights.
    """
    points = {**usual.points, **first.points}
    names = {name: buffer_of(name) for name in points}
    if len(set(names.values())) < len(names):
        raise QuantizeError("two values have ranges of the same name", "`.` and `__` are the same in it")
    kind = TensorType(DType.F32, (IntExpr.constant(2),))
    zeros = Initializer("zeros", ())
    buffers = tuple(Parameter(buffer, kind, zeros, False, NOWHERE) for buffer in names.values())
    nodes = _with_distances(graph, library, points)
    return Training(
        replace(graph, parameters=(*graph.parameters, *buffers), nodes=tuple(nodes)),
        names,
        {name: usual.points[name].bits if name in usual.points else 0 for name in points},
        _weights(graph, usual.kept, scheme.per_channel),
        tuple(tuple(map(int, book)) for book in code_books(scheme.codes, scheme.weights)),
        {names[name]: (point.low, point.high) for name, point in points.items()},
    )


def _weights(graph: Graph, kept: frozenset[str], per_channel: bool) -> dict[tuple[str, int], int | None]:
    """The weights of nodes that compute with what depends on an input; the others are known before any rounding."""
    moving = {value.name for value in graph.inputs}
    found: dict[tuple[str, int], int | None] = {}
    for node in graph.nodes:
        if moving.isdisjoint(node.operands):
            continue
        moving.update(value.name for value in node.results)
        if node.operator in WEIGHTS and node.name not in kept:
            position, axis = WEIGHTS[node.operator]
            if node.operands[position] not in moving:
                found[node.name, position] = axis if per_channel else None
    return found


def _with_distances(graph: Graph, library: Library, points: Mapping[str, Point]) -> list[Node]:
    """The nodes, and before each kernel machine or field the distances that its table is looked up by."""
    types = graph.types()
    nodes: list[Node] = []
    for node in graph.nodes:
        build = Builder(library, types, set(types), node.name, node.span)
        kernel = dict(node.attributes).get("kernel")
        if measured(node) not in points:
            pass
        elif node.operator == "kernel_machine" and isinstance(kernel, KernelValue):
            build.node(measure_of(kernel), node.operands[:2])
        elif node.operator == "rbf_field":
            x, centers, precision, _ = node.operands
            build.node("weighted_squared_distances", (x, centers, build.node("mul", (precision, precision))))
        if build.nodes:
            last = build.nodes[-1]
            build.nodes[-1] = replace(last, results=(replace(last.results[0], name=measured(node)),))
        nodes += [*build.nodes, node]
    return nodes
