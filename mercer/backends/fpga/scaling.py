"""A tensor as one stream, at its own or at another scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lowering import Integers, Lowering, Tensor, image_layout
from mercer.backends.fpga.stages import MatrixVector, Rescale, Scale, Table
from mercer.backends.fpga.stages_streams import Add
from mercer.ir.graph import Node

TABLE_BITS = 8
"""Functions of codes of up to so many bits are tables."""


def materialized(state: Lowering, node: Node, x: Tensor, scale: Scale | None = None) -> Tensor:
    """The tensor as one stream, at another scale."""
    if x.plain and scale is None:
        return x
    product = state.open_product(x)
    if product is not None:
        x = state.settled(node, x)
        product = state.open_product(x)
        assert product is not None
        if scale is not None:
            origins = (*product.origins, node.name)
            state.stages[product.name] = replace(product, scale=scale, origins=origins)
        return replace(x, exclusive=state.uses[node.name] == 1)
    if scale is not None and x.plain and state.stream(x.terms[0].stage).bits > TABLE_BITS:
        stream = state.stream(x.terms[0].stage)
        scaled = Rescale(
            name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), input=replace(stream, lanes=1),
            scale=scale,
        )  # fmt: skip
        return state.emitted(node, scaled, x.shape, x.layout)
    if scale is not None and scale.multipliers.size == 1 and x.offset.ndim == 0 and len(x.terms) == 1:
        stream = state.stream(x.terms[0].stage)
        if stream.bits <= TABLE_BITS:
            codes = np.arange(stream.interval.low, stream.interval.high + 1, dtype=np.int64)
            table = scale.apply(codes * x.terms[0].factor + x.offset)
            stage = Table(
                name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
                input=replace(stream, lanes=1), table=table, low=stream.interval.low,
            )  # fmt: skip
            return state.emitted(node, stage, x.shape, x.layout)
    if len(x.terms) == 1:
        return state.emitted(node, state.affine(node, x, scale), x.shape, x.layout)
    return _added(state, node, x, scale)


def _added(state: Lowering, node: Node, x: Tensor, scale: Scale | None) -> Tensor:
    """Two streams as one."""
    inner = scale if scale is not None and scale.multipliers.size == 1 and scale.wrap_bits is None else None
    offset = x.offset if x.offset.ndim == 0 else np.zeros((), np.int64)
    later = x.offset if x.offset.ndim else np.zeros((), np.int64)
    if later.any():
        inner = None
    streams = [replace(state.stream(term.stage), lanes=1) for term in x.terms]
    bare = replace(x, offset=offset)
    stage = Add(
        name=state.fresh(node, "_sum"), sources=tuple(term.stage for term in x.terms), origins=(node.name,),
        a=streams[0], b=streams[1], factors=(x.terms[0].factor, x.terms[1].factor), bias=int(offset),
        sums=state.accumulator(node, state.interval(bare)), scale=inner,
    )  # fmt: skip
    total = state.emitted(node, stage, x.shape, x.layout)
    if later.any():
        total = replace(total, offset=later)
    return total if inner is scale and total.plain else materialized(state, node, total, scale)


def is_image(x: Tensor) -> bool:
    return np.array_equal(x.layout, image_layout(x.shape))


def one_stream(state: Lowering, node: Node, x: Tensor, common: bool) -> Tensor:
    """One stream plus an offset; with `common` the offset is one number."""
    if len(x.terms) == 1 and x.terms[0].factor == 1 and not (common and x.offset.ndim):
        return x
    return materialized(state, node, x)


def reordered(state: Lowering, node: Node, source: str, order: Integers) -> str:
    """A stage whose channel i is channel order[i] of `source`: a matrix with its rows in that order."""
    stage = state.stages.get(source)
    match stage:
        case MatrixVector():
            scale = None if stage.scale is None else _ordered(stage.scale, order)
            moved = replace(stage, weight=stage.weight[order], bias=stage.bias[order], scale=scale)
        case Table():
            table = stage.table if stage.table.ndim == 1 else stage.table[order]
            moved = replace(stage, sources=(reordered(state, node, stage.sources[0], order),), table=table)
        case Rescale():
            before = reordered(state, node, stage.sources[0], order)
            moved = replace(stage, sources=(before,), scale=_ordered(stage.scale, order))
        case _:
            raise state.unsupported(
                node, "the offsets or masks of its groups of channels come from no convolution", "those of a conv2d"
            )
    return state.place(replace(moved, name=state.fresh(node, "_ordered")))


def _ordered(scale: Scale, order: Integers) -> Scale:
    each = scale.multipliers
    return scale if each.size == 1 else replace(scale, multipliers=each.reshape(-1)[order])


def reach(matrix: Integers, bias: Integers, codes: Interval) -> Interval:
    """What `matrix @ x + bias` can be for x anywhere in `codes`."""
    positive, negative = np.maximum(matrix, 0).sum(axis=1), np.minimum(matrix, 0).sum(axis=1)
    low = positive * codes.low + negative * codes.high + bias
    high = positive * codes.high + negative * codes.low + bias
    return Interval(int(low.min()), int(high.max()))
