"""From an integer graph to stages.

The border is where codes are: `quantize` of an input and `dequantize` to an output stay outside, all between them is
hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mercer.backends.fpga.lowering import Border, Lowering, Result, Tensor, UnsupportedError
from mercer.backends.fpga.network import Input
from mercer.backends.fpga.rules import RULES
from mercer.backends.fpga.scaling import materialized
from mercer.backends.fpga.stages import Stage
from mercer.ir.graph import Graph
from mercer.ir.library import Library
from mercer.ir.types import Array
from mercer.runtime.errors import MercerError, nearest
from mercer.runtime.simulation import StreamSpec


@dataclass(frozen=True)
class Dataflow:
    """Stages with the least parallelism, in topological order, and the tensors at the border."""

    inputs: tuple[Input, ...]
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]
    input_specs: tuple[StreamSpec, ...]
    output_specs: tuple[StreamSpec, ...]


def lower(graph: Graph, library: Library, weights: Mapping[str, Array] | None = None) -> Dataflow:
    """The stages of an integer graph. Raises UnsupportedError, which names the node and the nearest form."""
    state = Lowering(graph, library)
    for index, value in enumerate(graph.inputs):
        size = int(np.prod(state.shape(value.name)))
        state.forms[value.name] = Border(index, np.arange(size, dtype=np.int64))
    for constant in graph.constants:
        if constant.data.array is None:
            raise MercerError(f"the data of %{constant.name} are not loaded")
        state.constants[constant.name] = constant.data.array
    for parameter in graph.parameters:
        if parameter.name not in (weights or {}):
            raise MercerError(f"no value is given for the parameter {parameter.name}")
        state.constants[parameter.name] = np.asarray((weights or {})[parameter.name])
    for node in graph.nodes:
        if all(name in state.constants for name in node.operands):
            state.fold(node)
            continue
        rule = RULES.get(node.operator)
        if rule is None:
            raise state.unsupported(node, "there is no module for it", _nearest_form(node.operator))
        state.forms[node.name] = rule(state, node)
    outputs: list[str] = []
    specs: list[StreamSpec] = []
    for name in graph.outputs:
        stage, spec = _leaving(state, name)
        outputs.append(stage)
        specs.append(spec)
    ordered = _ordered(state, outputs)
    return Dataflow(tuple(state.inputs.values()), ordered, tuple(outputs), tuple(state.input_specs), tuple(specs))


_NEAREST = {
    "adaptive_avg_pool1d": "avg_pool1d with a window that divides the length",
    "adaptive_avg_pool2d": "avg_pool2d with a window that divides the image",
    "conv3d": "conv2d, with the third axis as channels",
    "conv_transpose1d": "conv1d of fewer, wider pixels",
    "conv_transpose2d": "conv2d of fewer, wider pixels",
    "integer_softmax": "argmax, or softmax outside of the design",
    "softmax": "argmax, or softmax outside of the design",
    "topk": "argmax",
}


def _nearest_form(operator: str) -> str:
    """What can be taken instead of an operator: of its kind, of nearly its name, or its integer form."""
    close = _NEAREST.get(operator) or nearest(operator, RULES)
    return f"the nearest form: {close}" if close else "an operator in integers: compile with --quantize w8a8"


def _leaving(state: Lowering, name: str) -> tuple[str, StreamSpec]:
    """The stage that gives an output, and how its stream becomes the tensor."""
    form = state.forms.get(name)
    scale: object = None
    zero = 0
    if isinstance(form, Result):
        scale = float(form.scale) if form.scale.ndim == 0 else form.scale.astype(float).tolist()
        zero, form = form.zero, form.codes
    last = next((node for node in state.graph.nodes if name in [v.name for v in node.results]), None)
    if not isinstance(form, Tensor) or last is None:
        raise UnsupportedError(f"the output %{name} does not depend on codes", "compile with --quantize w8a8")
    form = materialized(state, last, form)
    stage = form.terms[0].stage
    stream = state.stream(stage)
    dtype = str(state.types[name].dtype)
    order = form.layout.reshape(-1).tolist()
    spec = StreamSpec(name, form.pixels, form.channels, 1, stream.bits, dtype, state.shape(name), order, scale, zero)
    return stage, spec


def _ordered(state: Lowering, outputs: list[str]) -> tuple[Stage, ...]:
    """The stages that outputs need, sources first."""
    placed: dict[str, Stage] = {}

    def visit(name: str) -> None:
        if name in state.inputs or name in placed:
            return
        stage = state.stages[name]
        for source in stage.sources:
            visit(source)
        placed[name] = stage

    for name in outputs:
        visit(name)
    return tuple(placed.values())
