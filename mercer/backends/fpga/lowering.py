"""The state of a lowering: what stands for each value of the graph on its way into hardware.

A value is an affine function of one or two streams (`Tensor`), so that zero points, biases and factors end up in the
stage that computes with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.network import Input, identifier
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Scale, Stage, Stream
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, Graph, Node
from mercer.ir.library import Library
from mercer.ir.lower import lower as lower_to_nests
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.runtime.errors import MercerError
from mercer.runtime.simulation import StreamSpec

Layout = npt.NDArray[np.int64]
"""[pixels, channels]: the position in the (flattened) tensor of every element of the stream."""

Integers = npt.NDArray[np.int64]

ACCUMULATOR = Interval(-(1 << 31), (1 << 31) - 1)


class UnsupportedError(MercerError):
    """A node that the hardware cannot take; the hint is the nearest form that it can."""


@dataclass(frozen=True, eq=False)
class Border:
    """A real (or integer) input of the graph, or a view of it; `index` are positions in the input."""

    input: int
    index: Layout


@dataclass(frozen=True, eq=False)
class Term:
    stage: str
    factor: int = 1


@dataclass(frozen=True, eq=False)
class Tensor:
    """sum of factor * stream + offset, as a tensor of `shape` (without the batch) whose elements travel by `layout`.

    `offset` is one number or one per channel of the stream. `exclusive`: no other value reads the last stage.
    """

    terms: tuple[Term, ...]
    offset: npt.NDArray[np.int64]
    shape: tuple[int, ...]
    layout: Layout
    exclusive: bool

    @property
    def pixels(self) -> int:
        return int(self.layout.shape[0])

    @property
    def channels(self) -> int:
        return int(self.layout.shape[1])

    @property
    def plain(self) -> bool:
        """Whether it is a stream as it is."""
        return len(self.terms) == 1 and self.terms[0].factor == 1 and not self.offset.any()


@dataclass(frozen=True, eq=False)
class Result:
    """Real numbers of codes: what leaves the design."""

    codes: Tensor
    scale: Array
    zero: int


Form: TypeAlias = Border | Tensor | Result

Rule: TypeAlias = "Callable[[Lowering, Node], Form]"


def image_layout(shape: tuple[int, ...]) -> Layout:
    """Of a tensor [channels, *pixels], channels last in the stream."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape[0], -1).T.copy()


def token_layout(shape: tuple[int, ...]) -> Layout:
    """Of a tensor [*pixels, channels]."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(-1, shape[-1])


@dataclass
class Lowering:
    """One walk over a graph; the rules of the operators add stages."""

    graph: Graph
    library: Library
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    inputs: dict[str, Input] = field(default_factory=dict[str, Input])
    input_specs: list[StreamSpec] = field(default_factory=list[StreamSpec])
    forms: dict[str, Form] = field(default_factory=dict[str, Form])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])

    def __post_init__(self) -> None:
        self.types = self.graph.types()
        self.uses = Counter(name for node in self.graph.nodes for name in node.operands)
        self.uses.update(self.graph.outputs)
        self.producers = {value.name: node for node in self.graph.nodes for value in node.results}
        self.users: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in node.operands:
                self.users.setdefault(name, []).append(node)

    # --- values -------------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """Without the batch, which is the first axis."""
        dims = self.types[name].shape[1:]
        if any(not d.is_constant for d in dims):
            raise MercerError(
                f"the FPGA target needs sizes that are known: %{name} is {self.types[name]}",
                "only the first axis, the batch, may be symbolic",
            )
        return tuple(d.value for d in dims)

    def constant(self, node: Node, position: int) -> Array:
        """The contents of an operand that must be known."""
        name = node.operands[position]
        if name not in self.constants:
            raise self.unsupported(node, f"operand {position + 1} is computed while the design runs", "a constant")
        return self.constants[name]

    def tensor(self, node: Node, position: int = 0) -> Tensor:
        name = node.operands[position]
        form = self.forms.get(name)
        if isinstance(form, Tensor):
            return form
        if isinstance(form, Border) and self.types[name].dtype is DType.I8:
            self.forms[name] = self.enter(name, form, Interval(-128, 127), None, 0)
            return self.tensor(node, position)
        raise self.unsupported(node, "it computes in real numbers", "compile with --quantize w8a8")

    def unsupported(self, node: Node, reason: str, hint: str | None = None) -> UnsupportedError:
        place = f"{node.span}: " if str(node.span) else ""
        return UnsupportedError(f"{place}error[fpga]: `{node.operator}` cannot be put into hardware: {reason}", hint)

    def enter(self, name: str, border: Border, codes: Interval, scale: float | None, zero: int) -> Tensor:
        """A stream of codes from outside."""
        shape = self.shape(name)
        layout = self._arriving(name, shape)
        stream = Stream(int(layout.shape[0]), int(layout.shape[1]), codes)
        taken = {identifier(other) for other in (*self.stages, *self.inputs)}
        source = name if identifier(name) not in taken else f"{name}_{len(self.inputs)}"
        self.inputs[source] = Input(source, stream)
        order = border.index.reshape(-1)[layout]
        value = self.graph.inputs[border.input]
        self.input_specs.append(
            StreamSpec(
                value.name, layout.shape[0], layout.shape[1], 1, stream.bits, str(value.type.dtype),
                self.shape(value.name), order.reshape(-1).tolist(), scale, zero, codes.low, codes.high,
            )
        )  # fmt: skip
        return Tensor((Term(source),), np.zeros((), np.int64), shape, layout, self.uses[name] == 1)

    def _arriving(self, name: str, shape: tuple[int, ...]) -> Layout:
        """Channels are the first axis of images and the last one of what goes into linear maps and into features."""
        waiting = [name]
        while waiting:
            for user in self.users.get(waiting.pop(), ()):
                if user.operator in ("linear", "matmul", "sigma_delta", "condense") and len(shape) > 1:
                    return token_layout(shape)
                if user.operator in ("quantize", "widen", "cast", "mul", "add", "requantize", "rescale", "lookup"):
                    waiting += [user.name]
        return image_layout(shape) if shape else token_layout((1,))

    # --- stages -------------------------------------------------------------------------------------------------------

    def stream(self, name: str) -> Stream:
        return self.inputs[name].stream if name in self.inputs else self.stages[name].gives

    def fresh(self, node: Node, suffix: str = "") -> str:
        """A name of a stage of this node."""
        base = node.name + suffix
        count = 0
        name = base
        taken = {identifier(other) for other in (*self.stages, *self.inputs)}
        while identifier(name) in taken:
            count += 1
            name = f"{base}_{count}"
        return name

    def place(self, stage: Stage) -> str:
        self.stages[stage.name] = stage
        return stage.name

    def interval(self, tensor: Tensor) -> Interval:
        total = Interval.of(tensor.offset)
        for term in tensor.terms:
            total = total.plus(self.stream(term.stage).interval.times(term.factor))
        return total

    def emitted(self, node: Node, stage: Stage, shape: tuple[int, ...], layout: Layout) -> Tensor:
        """The tensor that a new stage gives for the result of `node`."""
        zero = np.zeros((), np.int64)
        return Tensor((Term(self.place(stage)),), zero, shape, layout, self.uses[node.name] == 1)

    def open_product(self, tensor: Tensor) -> MatrixVector | Depthwise | None:
        """The sum of products behind a tensor, when nothing else reads it and it has no scale yet."""
        if len(tensor.terms) != 1 or tensor.terms[0].factor != 1 or not tensor.exclusive:
            return None
        stage = self.stages.get(tensor.terms[0].stage)
        return stage if isinstance(stage, MatrixVector | Depthwise) and stage.scale is None else None

    def settled(self, node: Node, tensor: Tensor) -> Tensor:
        """The same with an offset that is part of the sums, where they are still open."""
        product = self.open_product(tensor)
        if product is None or not tensor.offset.any():
            return tensor
        reached = self.accumulator(node, product.sums.plus(Interval.of(tensor.offset)))
        self.stages[product.name] = replace(
            product,
            bias=product.bias.astype(np.int64) + tensor.offset,
            sums=reached,
            origins=(*product.origins, node.name),
        )
        return replace(tensor, offset=np.zeros((), np.int64))

    def accumulator(self, node: Node, sums: Interval) -> Interval:
        if sums.low < ACCUMULATOR.low or sums.high > ACCUMULATOR.high:
            raise self.unsupported(
                node,
                f"its sums reach {sums.low}..{sums.high}, {sums.bits} bits",
                "at most 32: fewer bits or terms",
            )
        return sums

    def affine(self, node: Node, tensor: Tensor, scale: Scale | None) -> Stage:
        """One stage for factor * stream + offset of one stream, with a scale."""
        (term,) = tensor.terms
        source = self.stream(term.stage)
        weight = np.full((tensor.channels, 1), term.factor, np.int64)
        bias = np.broadcast_to(tensor.offset, (tensor.channels,)).astype(np.int64)
        return Depthwise(
            name=self.fresh(node), sources=(term.stage,), origins=(node.name,), weight=weight, bias=bias,
            input=replace(source, lanes=1), sums=self.accumulator(node, self.interval(tensor)), scale=scale,
            windows=tensor.pixels,
        )  # fmt: skip

    # --- constants ----------------------------------------------------------------------------------------------------

    def fold(self, node: Node) -> None:
        """A node of constants, by the reference."""
        operands = tuple(
            Constant(name, TensorType.of(self.constants[name]), Data(self.constants[name]))
            for name in dict.fromkeys(node.operands)
        )
        outputs = tuple(value.name for value in node.results)
        program = lower_to_nests(Graph(node.name, (), (), operands, (node,), outputs), self.library)
        self.constants |= dict(zip(outputs, evaluate(program, {}), strict=True))
