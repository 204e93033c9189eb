"""Readable source of an `nn.Module` from a graph."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
from torch import nn

from mercer.backends.torch import fake, integers
from mercer.backends.torch.code import Block, Names, wrapped
from mercer.backends.torch.fake import Rounding
from mercer.backends.torch.functions import TORCH_TYPES, literal
from mercer.backends.torch.index import dim_lines, helper
from mercer.backends.torch.native import Site, native
from mercer.backends.torch.terms import Algebra
from mercer.ir.graph import AttributeValue, Constant, Graph, Initializer, Node, Parameter, format_attribute
from mercer.ir.index import Const
from mercer.ir.integers import IntExpr
from mercer.ir.library import Library
from mercer.ir.types import Array, DType, TensorType
from mercer.runtime.errors import MercerError

LISTED = 64
"""Constants of up to this many elements are written as lists, larger ones as their bytes."""

RESERVED = frozenset(dir(nn.Module()))


def source(graph: Graph, library: Library, rounding: Rounding | None = None) -> str:
    """A complete Python module that needs only PyTorch: one class, named as the model, and the functions it calls.

    `state_dict` keys are the names of the parameters, whose values are not in the text. The same graph gives the same
    text. Raises MercerError when a constant has no data, when a parameter has a name that PyTorch cannot hold, or from
    `library` when an operator does not fit. With `rounding` the module computes with values as integers will have them.
    """
    return _Generator(graph, library, rounding or Rounding()).source()


def class_name(graph: Graph) -> str:
    """The name of the generated class."""
    return Names().new(graph.name)


@dataclass
class _Container:
    """A module that only holds others: the tree that the dots in parameter names draw."""

    children: dict[str, _Container] = field(default_factory=dict[str, "_Container"])
    parameters: dict[str, Parameter] = field(default_factory=dict[str, Parameter])

    @property
    def is_list(self) -> bool:
        numbers = [str(i) for i in range(len(self.children))]
        return bool(self.children) and not self.parameters and list(self.children) == numbers

    @property
    def expression(self) -> str:
        return f"nn.ModuleList(nn.Module() for _ in range({len(self.children)}))" if self.is_list else "nn.Module()"


class _Generator:
    def __init__(self, graph: Graph, library: Library, rounding: Rounding) -> None:
        self.graph = graph
        self.rounding = rounding
        self.library = library
        self.types = graph.types()
        self.dims = sorted({d for type in self.types.values() for extent in type.shape for d in extent.dims()})
        self.helpers: dict[str, str] = {}
        self.helper_names = Names([class_name(graph), *self.dims, *self.types])
        self.attributes = Names(RESERVED | {p.name.split(".")[0] for p in graph.parameters})
        self.buffers: dict[tuple[str, DType], str] = {}
        self.declarations: list[str] = []
        self.expressions: dict[str, str] = {}
        self.literals: dict[str, Const] = {}
        self.functions: list[str] = []
        self.extents = Algebra(Block(Names()), None, {})

    def source(self) -> str:
        self._parameters()
        self._constants()
        body = self._forward()
        graph = self.graph
        types = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        results = ", ".join(str(self.types[name]) for name in graph.outputs)
        arguments = ", ".join(f"{self.expressions[v.name]}: torch.Tensor" for v in graph.inputs)
        returned = "torch.Tensor"
        if len(graph.outputs) != 1:
            returned = f"tuple[{', '.join(['torch.Tensor'] * len(graph.outputs))}]"
        functions = [integers.SOURCE] if any(f"{integers.NAME}(" in text for text in self.functions) else []
        functions += self.functions
        functions += [fake.source(self.rounding)] if self.rounding.ranges else []
        lines = [
            f'"""{graph.name}, a PyTorch module written by Mercer. Load its parameters with `load_state_dict`."""',
            "",
            "import torch",
            *(["import torch.nn.functional as F"] if any("F." in text for text in (*functions, *body)) else []),
            "from torch import nn",
            *(line for function in functions for line in ("", "", function)),
            "",
            "",
            f"class {class_name(graph)}(nn.Module):",
            f'    """({types}) -> {results}"""',
            "",
            "    def __init__(self):",
            "        super().__init__()",
            *_indented(self.declarations),
            "",
            f"    def forward(self, {arguments}) -> {returned}:",
            *_indented(body),
        ]
        return "\n".join(lines) + "\n"

    # --- parameters and constants -------------------------------------------------------------------------------------

    def _parameters(self) -> None:
        root = _Container()
        for parameter in self.graph.parameters:
            *path, name = parameter.name.split(".")
            if "training" in (*path, name):
                hint = "give the layer another name with `as`"
                raise MercerError(f"PyTorch modules cannot hold `training`, a part of `{parameter.name}`", hint)
            container = root
            for part in path:
                container = container.children.setdefault(part, _Container())
            container.parameters[name] = parameter
        self._container(root, "self")

    def _container(self, container: _Container, path: str) -> None:
        for name, parameter in container.parameters.items():
            self._parameter(parameter, name, path)
        for name, child in container.children.items():
            place = f"{path}[{name}]" if container.is_list else _attribute(path, name, "_modules")
            if child.is_list or not container.is_list:
                self.declarations.append(f"{place} = {child.expression}")
            self._container(child, place)

    def _parameter(self, parameter: Parameter, name: str, path: str) -> None:
        place = _attribute(path, name, "_parameters" if parameter.trainable else "_buffers")
        self.expressions[parameter.name] = place
        shape = ", ".join(str(extent.value) for extent in parameter.type.shape) or "()"
        dtype = parameter.type.dtype
        empty = f"torch.empty({shape}{'' if dtype is DType.F32 else f', dtype={TORCH_TYPES[dtype]}'})"
        comment = f"  # {_shown(parameter.initializer)}"
        if parameter.trainable:
            frozen = "" if dtype.is_float or dtype is DType.C64 else ", requires_grad=False"
            self.declarations.append(f"{place} = nn.Parameter({empty}{frozen}){comment}")
        elif place.endswith("]"):
            self.declarations.append(f"{place} = {empty}{comment}")
        else:
            self.declarations.append(f'{path}.register_buffer("{name}", {empty}){comment}')

    def _constants(self) -> None:
        for constant in self.graph.constants:
            array = _data(constant)
            if not constant.type.shape:
                self.literals[constant.name] = Const(array.item(), constant.type.dtype)
            else:
                self.expressions[constant.name] = self._buffer(constant.name, constant)

    def _buffer(self, wanted: str, constant: Constant) -> str:
        key = (constant.data.digest, constant.type.dtype)
        if key not in self.buffers:
            name = self.attributes.new(wanted)
            text = _tensor(_data(constant), constant.type)
            self.declarations.append(f'self.register_buffer("{name}", {text}, persistent=False)')
            self.buffers[key] = f"self.{name}"
        return self.buffers[key]

    # --- forward ------------------------------------------------------------------------------------------------------

    def _forward(self) -> list[str]:
        names = Names([*self.dims, class_name(self.graph), *(fake.FUNCTIONS if self.rounding.ranges else ())])
        for value in self.graph.inputs:
            self.expressions[value.name] = names.new(value.name)
        arguments = {self.expressions[v.name]: v.type for v in self.graph.inputs}
        lines = [line for value in self.graph.inputs for line in self._rounded(value.name)]
        last = ""
        for node in self.graph.nodes:
            weights = self._rounded_weights(node, names)
            whole, self.expressions = self.expressions, self.expressions | {w: name for w, (name, _) in weights.items()}
            right = self._node(node)
            self.expressions = self.expressions | whole
            results = [names.new(result.name) for result in node.results]
            self.expressions |= {r.name: name for r, name in zip(node.results, results, strict=True)}
            if (place := _place(node)) != last:
                lines += [f"# {place}"] if place else []
                last = place
            lines += [f"{name} = {text}" for name, text in weights.values()]
            lines.append(f"{', '.join(results)} = {right}")
            lines += [line for result in node.results for line in self._rounded(result.name)]
        lines.append(f"return {', '.join(self._operand(name) for name in self.graph.outputs)}")
        header, missing = dim_lines(self.dims, lines, arguments)
        if missing:
            raise MercerError(f"the dim {missing[0]} does not follow from the shapes of the inputs")
        return [*header, *lines]

    def _rounded(self, name: str) -> list[str]:
        """The value as its codes have it."""
        if name not in self.rounding.ranges:
            return []
        value, kept = self.expressions[name], self.expressions[self.rounding.ranges[name]]
        observed = f"observe({value}, {kept}, self.training)"
        bits = self.rounding.bits[name]
        return [observed, *([f"{value} = fake_quantize({value}, {kept}, {bits})"] if bits else [])]

    def _rounded_weights(self, node: Node, names: Names) -> dict[str, tuple[str, str]]:
        """By name of the weight: the variable that holds it as its codes have it, and how it is computed."""
        return {
            weight: (names.new(f"{node.name}_weight"), f"fake_weight({self._operand(weight)}, {axis})")
            for place, weight in enumerate(node.operands)
            if (axis := self.rounding.weights.get((node.name, place), ...)) is not ...
        }

    def _operand(self, name: str) -> str:
        """A tensor by name; a scalar constant becomes one where it must."""
        if name in self.literals and name not in self.expressions:
            constant = next(c for c in self.graph.constants if c.name == name)
            self.expressions[name] = self._buffer(name, constant)
        return self.expressions[name]

    def _node(self, node: Node) -> str:
        types = tuple(self.types[name] for name in node.operands)
        numbers = tuple(name in self.literals for name in node.operands)
        operands = tuple(
            _number(self.literals[name]) if number else self.expressions[name]
            for name, number in zip(node.operands, numbers, strict=True)
        )
        buffers = {p.name for p in self.graph.parameters if not p.trainable}
        attributes = dict(self.library.normalize(node.operator, dict(node.attributes))) | dict(node.attributes)
        site = Site(
            operands,
            types,
            node.results[0].type,
            attributes,
            numbers,
            tuple(name in buffers for name in node.operands),
            self._extent,
        )
        return native(node.operator, site) or self._call(node, types, attributes)

    def _extent(self, value: IntExpr) -> str:
        return self.extents.block.inline(self.extents.count(value).code)

    def _call(self, node: Node, types: Sequence[TensorType], attributes: Mapping[str, AttributeValue]) -> str:
        instance = self.library.instantiate(node.operator, types, dict(node.attributes), node.span)
        outer = dict(zip(instance.operands, node.operands, strict=True))
        literals = {inner: self.literals[name] for inner, name in outer.items() if name in self.literals}
        function = helper(instance, types, literals)
        name = self.helpers.get(function.text)
        if name is None:
            name = self.helpers[function.text] = self.helper_names.new(f"_{node.operator}")
            settings = "".join(f"; {key}={format_attribute(value)}" for key, value in attributes.items())
            described = f"{node.operator} of {', '.join(map(str, types))}{settings}"
            comment = textwrap.wrap(described, 118, break_on_hyphens=False)
            self.functions.append("\n".join([*(f"# {line}" for line in comment), f"def {name}{function.text}"]))
        constants = {c.name: c for c in instance.constants}
        arguments = [
            self._operand(outer[p]) if p in outer else self._buffer(f"{name.strip('_')}_{p}", constants[p])
            for p in function.parameters
        ]
        return f"{name}({', '.join([*arguments, *function.dims])})"


def _attribute(path: str, name: str, table: str) -> str:
    """`path.name`; through the module's own table where Python or `nn.Module` has another use for the name."""
    plain = name.isidentifier() and not keyword.iskeyword(name) and name not in RESERVED
    return f"{path}.{name}" if plain else f'{path}.{table}["{name}"]'


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"        {part}" for line in lines for part in wrapped(line, 8)]


def _shown(initializer: Initializer) -> str:
    """The initializer in short: six digits are enough for a comment."""
    values = ((k, f"{v:.6g}" if isinstance(v, float) else format_attribute(v)) for k, v in initializer.attributes)
    return f"{initializer.name}({', '.join(f'{k} = {v}' for k, v in values)})"


def _number(constant: Const) -> str:
    text = literal(constant.number)
    return f"({text})" if text.startswith("-") else text


def _place(node: Node) -> str:
    """File and line of the node in the user's text."""
    return f"{PurePath(node.span.file).name}:{node.span.line}" if node.span.line else ""


def _data(constant: Constant) -> Array:
    if constant.data.array is None:
        raise MercerError(f"constant `{constant.name}` has no data: the text of the IR was read without weights")
    return constant.data.array


def _tensor(array: Array, type: TensorType) -> str:
    """A constant as an expression."""
    dtype = "" if type.dtype is DType.F32 else f", dtype={TORCH_TYPES[type.dtype]}"
    if array.size <= LISTED:
        return f"torch.tensor({_listed(array)}{dtype or ', dtype=torch.float32'})"
    shape = ", ".join(map(str, array.shape))
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes().hex()
    return f'torch.frombuffer(bytearray.fromhex("{data}"), dtype={TORCH_TYPES[type.dtype]}).reshape({shape})'


def _listed(array: Array) -> str:
    """The numbers as nested lists, with as few digits as the element type needs."""
    if array.ndim:
        return f"[{', '.join(_listed(np.asarray(part)) for part in array)}]"
    number = array.item()
    if isinstance(number, float) and np.isfinite(number):
        return repr(float(str(array[()])))
    return literal(number)
