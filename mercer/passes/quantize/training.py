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
from mercer.passes.quantize.layers import LayerBits, layers
from mercer.passes.quantize.quantize import Plan, Quantize
from mercer.passes.quantize.ranges import Point, buffer_of
from mercer.passes.quantize.rounding import FINE
from mercer.passes.quantize.translation import QuantizeError
from mercer.passes.rewrite import Builder


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
        _weights(graph, usual.kept, scheme),
        tuple(tuple(map(int, book)) for book in code_books(scheme.codes, scheme.weights)),
        {names[name]: (point.low, point.high) for name, point in points.items()},
    )


def _weights(graph: Graph, kept: frozenset[str], scheme: Quantize) -> dict[tuple[str, int], int | None]:
    """The weights that are rounded; those of layers with finer codes of their own are not."""
    bits = LayerBits.parse(scheme.layers).of(graph)
    found: dict[tuple[str, int], int | None] = {}
    for node, position, axis in layers(graph):
        if (own := bits.get(node.name, scheme.weights)) != scheme.weights:
            if own < FINE:
                raise QuantizeError(
                    f"training rounds weights to {scheme.weights} bits, and {node.name} is to have {own}",
                    f"{FINE} or 8 bits for layers of their own, which training does not round",
                )
        elif node.name not in kept:
            found[node.name, position] = axis if scheme.per_channel else None
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
