"""Operators on random features: Sigma-Delta codes and their sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.attributes import number
from mercer.backends.fpga.lowering import Form, Integers, Layout, Lowering, Rule, Tensor
from mercer.backends.fpga.scaling import materialized, reach
from mercer.backends.fpga.stages import MatrixVector
from mercer.backends.fpga.stages_features import SigmaDelta
from mercer.ir.graph import Node


def _sigma_delta(state: Lowering, node: Node) -> Form:
    x = materialized(state, node, state.tensor(node))
    block = x.shape[-1] if node.attribute("block") is None else int(number(node, "block"))
    _blocks(state, node, x, block)
    stage = SigmaDelta(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
        input=replace(state.stream(x.terms[0].stage), lanes=1), block=block, high=int(number(node, "high")),
        bits=int(number(node, "bits")), order=int(number(node, "order")),
    )  # fmt: skip
    return state.emitted(node, stage, x.shape, x.layout)


def _condense(state: Lowering, node: Node) -> Form:
    """Sums of all codes of a block come from the stage that makes the codes; others are products with weights."""
    x = materialized(state, node, state.tensor(node))
    block, order = int(number(node, "block")), int(number(node, "order"))
    layout = _blocks(state, node, x, block) // block
    codes = state.stages.get(x.terms[0].stage)
    shape = state.shape(node.name)
    if isinstance(codes, SigmaDelta) and codes.block == block and order == 1:
        origins = (*codes.origins, node.name)
        return state.emitted(node, replace(codes, name=state.fresh(node), origins=origins, sums=True), shape, layout)
    places = np.arange(block, dtype=np.int64)
    weight: Integers = (
        np.minimum(places + 1, block - places)[np.newaxis] if order == 2 else np.ones((1, block), np.int64)
    )
    stream = replace(state.stream(x.terms[0].stage), pixels=layout.size, channels=block, lanes=1)
    bias = np.zeros(1, np.int64)
    stage = MatrixVector(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,), weight=weight, bias=bias,
        input=stream, sums=state.accumulator(node, reach(weight, bias, stream.interval)), vectors=layout.size,
    )  # fmt: skip
    return state.emitted(node, stage, shape, layout.reshape(-1, 1))


def _blocks(state: Lowering, node: Node, x: Tensor, block: int) -> Layout:
    """[pixels, blocks]: where each block of numbers along the last axis begins; they come one after the other."""
    if x.channels % block == 0:
        blocks = x.layout.reshape(-1, block)
        if np.array_equal(blocks, blocks[:, :1] + np.arange(block)) and not np.any(blocks[:, 0] % block):
            return blocks[:, 0].reshape(x.pixels, -1)
    raise state.unsupported(node, "its features do not come one after the other", "features along the last axis")


FEATURE_RULES: dict[str, Rule] = {"sigma_delta": _sigma_delta, "condense": _condense}
