"""ONNX graphs by hand, for operators that PyTorch's exporter does not produce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from benchmarks.cpu.workload import Array

OPSET, IR_VERSION = 22, 10
"""The newest that ONNX Runtime 1.31 takes."""


def node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> Any:
    """A node whose inputs and outputs are names with spaces between; `_` is an input that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), domain=domain, **attributes)


def graph(
    nodes: Sequence[Any],
    weights: Mapping[str, Array],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> Any:
    """A model with float32 inputs and outputs, and the weights that its nodes read."""
    used = {name for item in nodes for name in item.input}
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items() if name in used
    ]

    def values(shapes: Mapping[str, Sequence[int]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    domains = {item.domain for item in nodes} - {""}
    model = helper.make_model(
        helper.make_graph(nodes, "net", values(inputs), values(outputs), constants),
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(name, 1) for name in domains)],
        ir_version=IR_VERSION,
    )
    if not domains:
        checker.check_model(model)
    return model
