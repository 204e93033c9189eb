"""The state of a translation into integers: what stands for each real value, and how one form becomes another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mercer.ir.evaluate import evaluate
from mercer.ir.graph import AttributeValue, Constant, Graph, Node, Value
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.library import Library
from mercer.ir.lower import lower
from mercer.ir.types import Array, DType, TensorType
from mercer.passes.factorize.approximation import compute
from mercer.passes.quantize.ranges import Encoding, Matrix, Point, buffer_of, calibrated, encoding
from mercer.passes.rewrite import Builder
from mercer.runtime.errors import MercerError

INT32 = (1 << 31) - 1
_MULTIPLIER_BITS = 31
_PERIODIC = frozenset(("sin", "cos"))


class QuantizeError(MercerError):
    """A program or data that cannot be quantized."""


class NoIntegerForm(Exception):
    """A node stays in real numbers; the message says why."""


@dataclass(frozen=True)
class Coded:
    """An i8 tensor of codes."""

    name: str
    encoding: Encoding


@dataclass(frozen=True)
class Sums:
    """An i32 tensor that stands for scale * sum + offset, which both broadcast to its shape. Elements lie in low..high.

    The offset is what is yet to be added, once, in units of the scale: see `Translation.settled`.
    """

    name: str
    scale: Matrix
    low: int
    high: int
    offset: Matrix = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True)
class Real:
    """A tensor that is not quantized."""

    name: str


@dataclass(frozen=True)
class Function:
    """A function, element by element, of one value of the real program: the nodes from `variable` to here."""

    variable: str
    nodes: tuple[Node, ...]


Form: TypeAlias = Coded | Sums | Real | Function

Rule: TypeAlias = "Callable[[Translation, Node], Form]"
"""The integer form of a node, which raises NoIntegerForm when it has none."""


@dataclass(frozen=True)
class Options:
    """What a translation is asked for; see the pass `quantize`."""

    weights: int
    activations: int
    calibration: str
    percentile: float
    per_channel: bool
    bias_correction: bool
    table_bits: int
    rounding: str = "auto"
    codes: str = "uniform"


@dataclass
class Translation:
    """One walk over a program in real numbers; `samples` are its values on the data, in f64.

    Where `ranges` are given, which were found in training, they take the place of samples. `points` are all ranges that
    were asked for, by the name of their value; those given go by `buffer_of` it.
    `forms` says what stands for each value so far. `begin` starts the translation of a node: what is built then gets
    its names and place.
    """

    graph: Graph
    library: Library
    options: Options
    samples: Mapping[str, Matrix]
    ranges: Mapping[str, tuple[float, float]] | None = None
    points: dict[str, Point] = field(default_factory=dict[str, Point])
    forms: dict[str, Form] = field(default_factory=dict[str, Form])
    nodes: list[Node] = field(default_factory=list[Node])
    constants: list[Constant] = field(default_factory=list[Constant])

    def __post_init__(self) -> None:
        self.real_types = self.graph.types()
        self.real_constants = {c.name: c for c in self.graph.constants}
        self.types = dict(self.real_types)
        self.taken = set(self.types)
        self._coded: dict[str, Coded] = {}
        self._indices: dict[str, str] = {}
        self._settled: dict[tuple[str, bytes], Sums] = {}
        self._encodings: dict[str, Encoding] = {}

    # --- building -----------------------------------------------------------------------------------------------------

    def begin(self, node: Node) -> None:
        self.place = node

    def emit(self, operator: str, *operands: str, **attributes: AttributeValue) -> str:
        """A new node with one result."""
        build = Builder(self.library, self.types, self.taken, self.place.name, self.place.span)
        name = build.node(operator, operands, attributes)
        self.types[name] = build.type(name)
        self.nodes += build.nodes
        return name

    def keep(self, node: Node, operands: Sequence[str]) -> None:
        """The node as it was, on other operands."""
        self.nodes.append(replace(node, operands=tuple(operands)))

    def constant(self, array: npt.NDArray[Any], hint: str) -> str:
        build = Builder(self.library, self.types, self.taken, self.place.name, self.place.span)
        name = build.constant(np.ascontiguousarray(array), hint)
        self.types[name] = build.type(name)
        self.constants += build.constants
        return name

    def known(self, name: str) -> Matrix | None:
        """The contents of a constant of the real program, in f64."""
        found = self.real_constants.get(name)
        if found is None or found.data.array is None or not found.type.dtype.is_float:
            return None
        return found.data.array.astype(np.float64)

    # --- forms --------------------------------------------------------------------------------------------------------

    def encoding(self, name: str) -> Encoding:
        """The codes of a value of the real program, by calibration or as its range is given."""
        if name not in self._encodings:
            options, bits = self.options, self.options.activations
            if self.ranges is None:
                found = calibrated(self.samples[name], bits, options.calibration, options.percentile)
            else:
                found = encoding(*self._given(name), bits)
            low, high = found.reach
            self.points[name] = Point(found.scale * low, found.scale * high, bits)
            self._encodings[name] = found
        return self._encodings[name]

    def extent(self, name: str, values: Matrix | None = None) -> tuple[float, float]:
        """The least and the largest of a value on the data and zero; of `values` where the real program has none."""
        if self.ranges is None:
            values = self.samples[name] if values is None else values
            low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        else:
            low, high = self._given(name)
            low, high = min(low, 0.0), max(high, 0.0)
        self.points.setdefault(name, Point(low, high, 0))
        return low, high

    def _given(self, name: str) -> tuple[float, float]:
        assert self.ranges is not None
        if (buffer := buffer_of(name)) not in self.ranges:
            raise QuantizeError(
                f"the weights have no `{buffer}`, the range of a value",
                "train with the module that program.torch makes with the same `quantize`",
            )
        return self.ranges[buffer]

    def coded(self, name: str) -> Coded:
        """The value as codes."""
        form = self.forms[name]
        if isinstance(form, Coded):
            return form
        if name not in self._coded:
            self._coded[name] = self._encode(name, form)
        return self._coded[name]

    def _encode(self, name: str, form: Form) -> Coded:
        codes = self.encoding(name)
        attributes = {"zero": codes.zero, "low": codes.low, "high": codes.high}
        match form:
            case Sums():
                return Coded(self.requantized(form, codes.scale, "requantize", **attributes), codes)
            case Real():
                return Coded(self.emit("quantize", form.name, scale=codes.scale, **attributes), codes)
            case Function():
                return self._tabulated(form, codes)
            case Coded():
                return form

    def requantized(self, sums: Sums, scale: float, operator: str, **attributes: AttributeValue) -> str:
        """`requantize`, `rescale` or `wrap` of sums, to integers in units of `scale`.

        A multiplier has 24 bits before its zeros, as f32 has, and the last of them is 1, see `exact_scale`; a power of
        two stays one.
        """
        sums = self.settled(sums)
        ratio = sums.scale / scale
        largest = float(np.abs(ratio).max(initial=0.0))
        shift = 1 if largest == 0.0 else min(max(_MULTIPLIER_BITS - 1 - math.frexp(largest)[1], 1), 62)
        multiplier = np.rint(_odd((ratio * 2.0**shift).astype(np.float32)))
        if np.abs(multiplier).max(initial=0.0) > INT32:
            raise NoIntegerForm("its codes would be too small a part of its sums")
        stored = self.constant(multiplier.astype(np.int32), "multiplier")
        return self.emit(operator, sums.name, stored, shift=shift, **attributes)

    def settled(self, sums: Sums) -> Sums:
        """Sums whose offset has been added."""
        if not sums.offset.any():
            return sums
        key = sums.name, sums.offset.tobytes()
        if key not in self._settled:
            bias = np.rint(sums.offset / np.where(sums.scale == 0.0, 1.0, sums.scale))
            reach = int(min(np.abs(bias).max(initial=0.0), 2.0**62))
            low, high = sums.low - reach, sums.high + reach
            if max(-low, high) > INT32:
                raise NoIntegerForm("its offset is too large for the scale of its sums")
            added = self.emit("add", sums.name, self.constant(bias.astype(np.int32), "bias"))
            self._settled[key] = Sums(added, sums.scale, low, high)
        return self._settled[key]

    def sums(self, name: str) -> Sums:
        """The value as integers to calculate with, relative to zero."""
        form = self.forms[name]
        if isinstance(form, Sums):
            return form
        return self.narrow(name)

    def narrow(self, name: str) -> Sums:
        """The value as integers of as many bits as codes have, with one scale, whatever it was."""
        codes = self.coded(name)
        low, high = codes.encoding.reach
        wide = self.emit("widen", codes.name, zero=codes.encoding.zero)
        return Sums(wide, np.asarray(codes.encoding.scale), low, high)

    def bounded(self, bound: int, fan_in: int) -> int:
        """The bound on sums of this node; raises QuantizeError when they do not fit into 32 bits."""
        if bound <= INT32:
            return bound
        weights, activations = self.options.weights, self.options.activations
        fit = weights + activations - (bound // (INT32 + 1)).bit_length()
        raise QuantizeError(
            f"{self.place.span}: error[overflow]: sums of `{self.place.operator}` may reach {bound}, more than "
            f"2**31 - 1: {fan_in} products of {weights}-bit weights and {activations}-bit activations",
            f"together they may have {fit} bits, such as w{max(fit // 2, 1)}a{max(fit - fit // 2, 1)}",
        )

    def correction(self, node: Node, lost: Matrix) -> Matrix:
        """The mean per channel of what a linear map loses with this part of its weight (Nagel et al. 2019, 4.2)."""
        arrays = [*(self.samples[name] for name in node.operands[:-1]), lost]
        difference = compute(self.library, node.operator, arrays, dict(node.attributes))
        axis = difference.ndim - 1 if node.operator in ("linear", "matmul") else 1
        return difference.mean(axis=tuple(other for other in range(difference.ndim) if other != axis))

    def real(self, name: str) -> str:
        """The value as real numbers."""
        if name not in self.forms:
            return name
        form = self.forms[name]
        match form:
            case Real():
                return form.name
            case Coded(codes, encoding):
                return self.emit("dequantize", codes, scale=encoding.scale, zero=encoding.zero)
            case Sums():
                sums = self.settled(form)
                return self.emit(
                    "dequantize_channels", sums.name, self.constant(sums.scale.astype(np.float32), "scale")
                )
            case Function():
                values = {form.variable: self.real(form.variable)}
                for node in form.nodes:
                    operands = [values.get(operand, operand) for operand in node.operands]
                    values[node.name] = self.emit(node.operator, *operands, **dict(node.attributes))
                return values[name]

    # --- tables -------------------------------------------------------------------------------------------------------

    def _tabulated(self, function: Function, codes: Encoding) -> Coded:
        """The codes of a function of one value, by a table; what only clips is left to the limits of the codes."""
        form = self.forms[function.variable]
        if isinstance(form, Sums) and self._periodic(function):
            bits = self.options.table_bits
            encoding = Encoding(2 * math.pi / (1 << bits), 0, 0, (1 << bits) - 1)
            values = self.evaluate(function, encoding.decode(np.arange(1 << bits)))
            phase = self.requantized(form, encoding.scale, "wrap", bits=bits)
            return Coded(self.looked_up(phase, encoding, codes.encode(values)), codes)
        encoding = self.index_encoding(function.variable)
        points = encoding.decode(np.arange(encoding.low, encoding.high + 1))
        values = self.evaluate(function, points)
        least, most = values.min(keepdims=True), values.max(keepdims=True)
        if isinstance(form, Sums) and np.array_equal(values, np.clip(points, least, most)):
            low, high = (int(codes.encode(end)[0]) for end in (least, most))
            high = codes.high if most >= points[-1] else high
            limits = {"zero": codes.zero, "low": low, "high": high}
            return Coded(self.requantized(form, codes.scale, "requantize", **limits), codes)
        return Coded(self.looked_up(self.index(function.variable), encoding, codes.encode(values)), codes)

    def _periodic(self, function: Function) -> bool:
        """Whether sums go into sines and cosines only."""
        first = [node for node in function.nodes if function.variable in node.operands]
        return isinstance(self.forms[function.variable], Sums) and all(node.operator in _PERIODIC for node in first)

    def index_encoding(self, name: str) -> Encoding:
        """The codes that functions of a value are looked up by: its own, or finer ones where it has sums."""
        if not isinstance(self.forms[name], Sums):
            return self.coded(name).encoding
        (low, high), bits = self.extent(name), self.options.table_bits
        scale = max(high - low, 1e-12) / ((1 << bits) - 1)
        first = int(np.floor(low / scale))
        return Encoding(scale, 0, first, first + (1 << bits) - 1)

    def index(self, name: str) -> str:
        form = self.forms[name]
        if not isinstance(form, Sums):
            return self.coded(name).name
        if name not in self._indices:
            codes = self.index_encoding(name)
            if not self.points[name].bits:
                self.points[name] = replace(self.points[name], bits=self.options.table_bits)
            self._indices[name] = self.requantized(form, codes.scale, "rescale", low=codes.low, high=codes.high)
        return self._indices[name]

    def looked_up(self, index: str, encoding: Encoding, table: Array) -> str:
        return self.emit("lookup", index, self.constant(table, "table"), low=encoding.low)

    def units(self, name: str, unit: float, low: int, high: int) -> str:
        """The value as i32 in units of `unit`, limited to low..high."""
        form = self.forms[name]
        if isinstance(form, Sums):
            return self.requantized(form, unit, "rescale", low=low, high=high)
        if not isinstance(form, Function):
            codes = self.index_encoding(name)
            points = codes.decode(np.arange(codes.low, codes.high + 1))
            return self.looked_up(self.index(name), codes, np.clip(np.rint(points / unit), low, high).astype(np.int32))
        codes, points, values = self._course(form)
        counts = np.clip(np.rint(values / unit), low, high).astype(np.int32)
        sums = self.forms[form.variable]
        if isinstance(sums, Sums) and np.array_equal(
            counts, np.clip(np.rint(points / unit), counts.min(), counts.max())
        ):
            return self.requantized(sums, unit, "rescale", low=int(counts.min()), high=int(counts.max()))
        return self.looked_up(self.index(form.variable), codes, counts)

    def whole(self, name: str) -> bool:
        """Whether the value is a function that gives whole numbers only."""
        form = self.forms[name]
        if not isinstance(form, Function):
            return False
        values = self._course(form)[2]
        return np.array_equal(values, np.rint(values))

    def _course(self, function: Function) -> tuple[Encoding, Matrix, Matrix]:
        """The codes that a function is looked up by, the points that they stand for, and the function there."""
        codes = self.index_encoding(function.variable)
        points = codes.decode(np.arange(codes.low, codes.high + 1))
        return codes, points, self.evaluate(function, points)

    def evaluate(self, function: Function, points: Matrix) -> Matrix:
        """The function at these points, by the reference in f64; raises NoIntegerForm when it has another shape."""
        rank = self.real_types[function.variable].rank
        kind = TensorType(DType.F32, (IntExpr.constant(len(points)), *[ONE] * (rank - 1)))
        types = {function.variable: kind}
        nodes: list[Node] = []
        for node in function.nodes:
            operands = [types.get(name) or self.real_types[name] for name in node.operands]
            instance = self.library.instantiate(node.operator, operands, dict(node.attributes), node.span)
            if instance.results != (kind,):
                raise NoIntegerForm(f"{node.operator} does not work element by element")
            types[node.name] = kind
            nodes.append(replace(node, results=(Value(node.name, kind),)))
        read = {name for node in nodes for name in node.operands}
        constants = tuple(c for c in self.graph.constants if c.name in read)
        inputs = (Value(function.variable, kind),)
        graph = Graph("function", inputs, (), constants, tuple(nodes), (nodes[-1].name,))
        shaped = points.reshape(-1, *[1] * (rank - 1))
        (values,) = evaluate(lower(graph, self.library), {function.variable: shaped}, {}, DType.F64)
        return np.nan_to_num(values.astype(np.float64).reshape(-1), posinf=3.4e38, neginf=-3.4e38)


def _odd(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Numbers from 2**24 on that are no powers of two, with an odd significand."""
    bits = numbers.view(np.int32)
    change = (np.abs(numbers) >= 2.0**24) & (bits & 0x7FFFFF != 0)
    return np.where(change, bits | 1, bits).astype(np.int32).view(np.float32)
