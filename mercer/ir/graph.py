"""The upper level of the IR: named operators over tensors, in single-assignment form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import Data, TensorType


@dataclass(frozen=True)
class KernelValue:
    """A kernel function with its attributes, as in `gaussian(gamma = 0.05)`."""

    name: str
    attributes: tuple[tuple[str, AttributeValue], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{key} = {format_attribute(value)}" for key, value in self.attributes)
        return f"{self.name}({inner})"


AttributeValue: TypeAlias = "int | float | bool | str | None | IntExpr | KernelValue | tuple[AttributeValue, ...]"


def format_attribute(value: AttributeValue) -> str:
    """As the language writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'
        case tuple():
            return f"[{', '.join(map(format_attribute, value))}]"
        case float():
            return repr(value)
        case _:
            return str(value)


@dataclass(frozen=True)
class Value:
    """A name and its type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Initializer:
    """How a parameter starts, for example `kaiming_uniform` with fan_in = 144."""

    name: str
    attributes: tuple[tuple[str, AttributeValue], ...] = ()

    def __str__(self) -> str:
        return str(KernelValue(self.name, self.attributes))


@dataclass(frozen=True)
class Parameter:
    """A tensor that training finds. `name` is dotted, as in a PyTorch state_dict; buffers are not trainable."""

    name: str
    type: TensorType
    initializer: Initializer
    trainable: bool
    span: Span


@dataclass(frozen=True)
class Constant:
    """A tensor known at compile time."""

    name: str
    type: TensorType
    data: Data


@dataclass(frozen=True)
class Node:
    """`results = operator(operands; attributes)`: operands are names of inputs, parameters, constants or results."""

    operator: str
    operands: tuple[str, ...]
    attributes: tuple[tuple[str, AttributeValue], ...]
    results: tuple[Value, ...]
    span: Span

    @property
    def name(self) -> str:
        return self.results[0].name

    def attribute(self, name: str) -> AttributeValue:
        """The value of an attribute; raises KeyError when the node has none of that name."""
        return dict(self.attributes)[name]


@dataclass(frozen=True)
class Graph:
    """A model: every name is assigned once, before it is used.

    `definitions` is the text of the operators and kernels that are the user's own, so that an IR dump stands alone.
    """

    name: str
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    constants: tuple[Constant, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    definitions: str = field(default="")

    def values(self) -> Iterator[Value]:
        """Everything that has a name, in order of definition."""
        for group in (self.inputs, self.parameters, self.constants):
            for entry in group:
                yield Value(entry.name, entry.type)
        for node in self.nodes:
            yield from node.results

    def types(self) -> dict[str, TensorType]:
        return {value.name: value.type for value in self.values()}
