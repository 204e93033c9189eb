"""Operators that reduce vectors or join them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.attributes import number
from mercer.backends.fpga.lowering import Form, Layout, Lowering, Rule, Tensor
from mercer.backends.fpga.scaling import materialized, one_stream, reach
from mercer.backends.fpga.stages import MatrixVector, Table
from mercer.backends.fpga.stages_spatial import Pool
from mercer.backends.fpga.stages_streams import ArgMax, Concat, Distance, EdgeTable
from mercer.backends.fpga.stages_vectors import Normalize, Slice
from mercer.ir.graph import Node

LARGEST_VECTOR = 1024


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


def _distances(state: Lowering, node: Node) -> Form:
    """Distances to constant rows. With weights they are linear in x and x**2, which is a table of x."""
    x, order = _vector(state, node)
    centers = state.constant(node, 1).astype(np.int64)[:, order] - np.resize(x.offset, len(order))
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    shape, layout = state.shape(node.name), np.arange(len(centers), dtype=np.int64)[np.newaxis]
    if node.operator != "weighted_squared_distances":
        distance = Distance(
            name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), input=stream, centers=centers,
            vectors=1, absolute=node.operator == "l1_distances",
        )  # fmt: skip
        return state.emitted(node, distance, shape, layout)
    weight = state.constant(node, 2).astype(np.int64)[:, order]
    codes = np.arange(stream.interval.low, stream.interval.high + 1, dtype=np.int64)
    square = Table(
        name=state.fresh(node, "_square"), sources=(x.terms[0].stage,), origins=(node.name,), input=stream,
        table=codes**2, low=stream.interval.low,
    )  # fmt: skip
    both = Concat(
        name=state.fresh(node, "_powers"), sources=(x.terms[0].stage, state.place(square)), origins=(node.name,),
        a=stream, b=square.gives,
    )  # fmt: skip
    powers = replace(both.gives, lanes=1)
    linear = (-2 * weight * centers).reshape(len(centers), stream.pixels, stream.channels)
    pieces = (linear, weight.reshape(linear.shape))
    matrix = np.concatenate(pieces, axis=2).reshape(len(centers), -1)
    bias = (weight * centers**2).sum(axis=1)
    product = MatrixVector(
        name=state.fresh(node), sources=(state.place(both),), origins=(node.name,), weight=matrix, bias=bias,
        input=powers, sums=state.accumulator(node, reach(matrix, bias, powers.interval)), vectors=1,
    )  # fmt: skip
    return state.emitted(node, product, shape, layout)


def _vector(state: Lowering, node: Node) -> tuple[Tensor, Layout]:
    """A tensor [n, d] as one stream plus an offset, and which element of it comes when."""
    x = one_stream(state, node, state.tensor(node), common=False)
    if len(x.shape) != 1:
        raise state.unsupported(node, f"its operand has {len(x.shape) + 1} axes", "an operand [n, d]")
    return x, x.layout.reshape(-1)


def _edge_lookup(state: Lowering, node: Node) -> Form:
    x, order = _vector(state, node)
    table = state.constant(node, 1).astype(np.int64)[:, order]
    if x.offset.ndim:
        x = materialized(state, node, x)
    low = int(number(node, "low")) - int(x.offset)
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    if stream.interval.low < low or stream.interval.high >= low + table.shape[2]:
        raise state.unsupported(node, "its operand has codes beyond its tables", "tables of all codes")
    stage = EdgeTable(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), input=stream, table=table, low=low,
        vectors=1,
    )  # fmt: skip
    layout = np.arange(len(table), dtype=np.int64)[np.newaxis]
    return state.emitted(node, stage, state.shape(node.name), layout)


def _normalize(state: Lowering, node: Node) -> Form:
    x = materialized(state, node, state.tensor(node))
    size = x.shape[-1]
    centered = bool(node.attribute("centered"))
    layout = x.layout.reshape(-1, size)
    if np.any(layout // size != layout[:, :1] // size):
        raise state.unsupported(node, "its vectors do not come one after the other", "the channels as the last axis")
    if not centered and size & size - 1:
        raise state.unsupported(node, f"its mean is over {size} numbers", "a power of two, or centered = true")
    if size > LARGEST_VECTOR:
        raise state.unsupported(node, f"its vectors have {size} numbers", f"at most {LARGEST_VECTOR}")
    stage = Normalize(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
        input=replace(state.stream(x.terms[0].stage), lanes=1), size=size, vectors=len(layout),
        fraction=int(number(node, "fraction")), eps=int(number(node, "eps")), centered=centered,
    )  # fmt: skip
    return state.emitted(node, stage, x.shape, layout)


def _slice_axis(state: Lowering, node: Node) -> Form:
    """Some channels of all; of a product only those rows, so that nothing is computed that is not read."""
    x = state.tensor(node)
    axis = int(number(node, "axis")) % (len(x.shape) + 1) - 1
    start, stop, step = (int(number(node, name)) for name in ("start", "stop", "step"))
    kept = np.zeros(x.shape, bool)
    kept[(slice(None),) * axis + (slice(start, stop, step),)] = True
    inside = kept.reshape(-1)[x.layout]
    channels = np.flatnonzero(inside[0])
    if np.any(inside != inside[:1]) or np.any(np.diff(channels) != 1):
        raise state.unsupported(node, "it does not take channels that follow each other", "x[:, a:b] of an image")
    places = np.cumsum(kept.reshape(-1)) - 1
    rows = slice(int(channels[0]), int(channels[-1]) + 1)
    offset = x.offset if x.offset.ndim == 0 else x.offset[rows]
    source = state.stages.get(x.terms[0].stage) if len(x.terms) == 1 else None
    if isinstance(source, MatrixVector) and source.scale is None and source.gives.channels == x.channels:
        weight, bias = source.weight[rows].astype(np.int64), source.bias[rows].astype(np.int64)
        stage = replace(source, name=state.fresh(node), weight=weight, bias=bias, origins=(*source.origins, node.name))
        stage = replace(stage, sums=reach(weight, bias, source.input.interval))
        sliced = state.emitted(node, stage, state.shape(node.name), places[x.layout[:, channels]])
        return replace(sliced, terms=(replace(x.terms[0], stage=stage.name),), offset=offset)
    x = materialized(state, node, x)
    part = Slice(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
        input=replace(state.stream(x.terms[0].stage), lanes=1), start=rows.start, stop=rows.stop,
    )  # fmt: skip
    return state.emitted(node, part, state.shape(node.name), places[x.layout[:, channels]])


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
    **dict.fromkeys(("squared_distances", "weighted_squared_distances", "l1_distances"), _distances),
    "edge_lookup": _edge_lookup,
    "integer_normalize": _normalize,
    "slice_axis": _slice_axis,
    "sum": _sum,
    "concat": _concat,
    "argmax": _argmax,
}
