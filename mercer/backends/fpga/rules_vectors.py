"""Operators that reduce vectors or join them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.attributes import number
from mercer.backends.fpga.lowering import Form, Layout, Lowering, Rule
from mercer.backends.fpga.scaling import materialized, one_stream, reach
from mercer.backends.fpga.stages import MatrixVector
from mercer.backends.fpga.stages_spatial import Pool
from mercer.backends.fpga.stages_streams import ArgMax, Concat
from mercer.ir.graph import Node


def _linear(state: Lowering, node: Node) -> Form:
    x = one_stream(state, node, state.tensor(node), common=False)
    weight = state.constant(node, 1).astype(np.int64)
    matrix = weight if node.operator == "linear" else weight.T
    if matrix.ndim != 2:
        raise state.unsupported(node, "its weight is not a matrix", "one matrix for all")
    outputs, inputs = matrix.shape
    vectors = x.layout.size // inputs
    places = x.layout.reshape(vectors, inputs)
    rows, columns = places // inputs, places % inputs
    if np.any(rows != rows[:, :1]) or np.any(columns != columns[:1]):
        raise state.unsupported(node, "its vectors do not come one after the other", "flatten, or a 1 x 1 conv2d")
    ordered = matrix[:, columns[0]]
    bias = ordered @ np.resize(x.offset, inputs)
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    sums = state.accumulator(node, reach(ordered, bias, stream.interval))
    stage = MatrixVector(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), weight=ordered, bias=bias,
        input=stream, sums=sums, vectors=vectors,
    )  # fmt: skip
    layout: Layout = rows[:, :1] * outputs + np.arange(outputs, dtype=np.int64)
    return state.emitted(node, stage, state.shape(node.name), layout)


def _sum(state: Lowering, node: Node) -> Form:
    """Over one axis of pixels: those that come one after the other."""
    x = one_stream(state, node, state.tensor(node), common=True)
    rank = len(x.shape) + 1
    axis = int(number(node, "axis")) % rank - 1
    if axis < 0:
        raise state.unsupported(node, "it sums over the batch", "sums within a sample")
    extent = x.shape[axis]
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    places = np.moveaxis(np.arange(int(np.prod(x.shape))).reshape(x.shape), axis, -1).reshape(-1, extent)
    result = np.empty(places.size, np.int64)
    result[places] = np.arange(places.shape[0])[:, np.newaxis]
    if x.pixels % extent == 0:
        grouped = result[x.layout].reshape(x.pixels // extent, extent, x.channels)
        if np.all(grouped == grouped[:, :1]):
            stage = Pool(
                name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), input=stream,
                windows=grouped.shape[0], taps=extent, maximum=False, zero=-int(x.offset),
            )  # fmt: skip
            return state.emitted(node, stage, state.shape(node.name), grouped[:, 0])
    raise state.unsupported(node, f"axis {axis + 1} does not come last in its stream", "sums over the last pixel axis")


# --- several streams --------------------------------------------------------------------------------------------------


def _concat(state: Lowering, node: Node) -> Form:
    parts = [materialized(state, node, state.tensor(node, position)) for position in range(len(node.operands))]
    shapes = [(1, *part.shape) for part in parts]
    axis = int(number(node, "axis")) % len(shapes[0])
    if parts[0].pixels != parts[1].pixels or axis == 0:
        raise state.unsupported(node, "its operands have other numbers of pixels", "operands joined along channels")
    total = int(sum(np.prod(shape) for shape in shapes))
    starts = np.split(
        np.arange(total, dtype=np.int64).reshape(1, *state.shape(node.name)), [shapes[0][axis]], axis=axis
    )
    layout = np.concatenate([s.reshape(-1)[part.layout] for s, part in zip(starts, parts, strict=True)], axis=1)
    streams = [replace(state.stream(part.terms[0].stage), lanes=1) for part in parts]
    stage = Concat(
        name=state.fresh(node), sources=tuple(part.terms[0].stage for part in parts), origins=(node.name,),
        a=streams[0], b=streams[1],
    )  # fmt: skip
    return state.emitted(node, stage, state.shape(node.name), layout)


def _argmax(state: Lowering, node: Node) -> Form:
    x = materialized(state, node, state.tensor(node))
    axis = int(number(node, "axis")) % (len(x.shape) + 1) - 1
    size = x.shape[axis]
    places = np.arange(int(np.prod(x.shape))).reshape(x.shape)
    wanted = np.moveaxis(places, axis, -1).reshape(-1, size)
    if size != x.channels or axis < 0 or not np.array_equal(wanted, x.layout):
        raise state.unsupported(node, "it does not run over the channels", "argmax over the channels")
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    stage = ArgMax(name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), input=stream)
    layout = np.arange(x.pixels, dtype=np.int64)[:, np.newaxis]
    return state.emitted(node, stage, state.shape(node.name), layout)


VECTOR_RULES: dict[str, Rule] = {
    **dict.fromkeys(("linear", "matmul"), _linear),
    "sum": _sum,
    "concat": _concat,
    "argmax": _argmax,
}
