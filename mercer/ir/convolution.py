"""Convolutions among loop nests: which nests they are, and their geometry."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mercer.ir.index import Axis, Call, Expr, Read, Reduce, Reducer, walk
from mercer.ir.integers import IntExpr, Var
from mercer.ir.nests import Nest
from mercer.ir.packed import SIGN, packed_factors
from mercer.ir.types import DType, TensorType

FEW_PIXELS = 200
"""Of an image whose vectors lie along the channels: those along so few pixels would compute many of them twice."""


@dataclass(frozen=True)
class Window:
    """Along one spatial axis, output p reads the inputs p*stride - pad + i*dilation for 0 <= i < size."""

    size: int
    stride: int
    dilation: int
    pad: int
    inputs: int
    outputs: int

    @property
    def is_point(self) -> bool:
        """Whether every output reads the one input at its own place."""
        return self.size == 1 and self.stride == 1 and self.pad == 0 and self.inputs == self.outputs

    @property
    def is_inside(self) -> bool:
        """Whether no output reads beyond the inputs."""
        return self.pad <= 0 and self.last < self.inputs

    @property
    def last(self) -> int:
        """The last of the inputs that is read, or the place beyond them."""
        return (self.outputs - 1) * self.stride - self.pad + (self.size - 1) * self.dilation


@dataclass(frozen=True)
class Convolution:
    """`reduce`, within the body of `nest`, is a convolution with constant weights over the axes (batch, channel, ...).

    Of `data`, [batch, channels, ...], the channels `first` to `first + groups * channels - 1` are read. `order` are the
    dims of `weight` that stand for output, input channel (None: there is one channel) and window positions
    (None: a window of one). The factors are of `dtype`; where they are packed bytes, `pad` without sign is padding.
    """

    nest: Nest
    reduce: Reduce
    data: str
    weight: str
    order: tuple[int | None, ...]
    first: int
    groups: int
    channels: int
    windows: tuple[Window, ...]
    dtype: DType = DType.F32
    pad: int = 0

    @property
    def batch(self) -> Axis:
        return self.nest.axes[0]

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.nest.axes[1].extent.value

    @property
    def is_integer(self) -> bool:
        """Whether it is a sum of i32."""
        return self.reduce.dtype is DType.I32

    @property
    def is_point(self) -> bool:
        """Whether its windows are 1 x 1, and every output reads its own place."""
        return all(window.is_point for window in self.windows)

    @property
    def spatial(self) -> tuple[Axis, ...]:
        return self.nest.axes[2:]

    @property
    def pixels(self) -> int:
        """Outputs of one channel of one image."""
        return math.prod(window.outputs for window in self.windows)

    @property
    def taps(self) -> int:
        """Terms of one output from one channel."""
        return math.prod(window.size for window in self.windows)

    @property
    def products(self) -> int:
        """Multiplications for one image, padding included."""
        return self.outputs * self.channels * self.taps * self.pixels


RESULTS = {
    DType.F32: frozenset((DType.F32,)),
    DType.I32: frozenset((DType.F32, DType.I32, DType.I16, DType.I8)),
}
"""The element types that a nest may have, by that of its sum."""


class _Mismatch(Exception):
    """Why a nest is no convolution."""


def recognize(
    nest: Nest, types: Mapping[str, TensorType], constants: Collection[str], dtype: DType = DType.F32
) -> Convolution | str:
    """The convolution that a nest computes before its pointwise rest, or the reason why there is none.

    Its sum is one of `dtype`, f32 or i32; the factors of one of i32 may be packed.
    """
    try:
        return _recognize(nest, types, constants, dtype)
    except _Mismatch as mismatch:
        return str(mismatch)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Mismatch(reason)


def _recognize(nest: Nest, types: Mapping[str, TensorType], constants: Collection[str], dtype: DType) -> Convolution:
    found = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    _require(len(found) == 1, f"{len(found)} reductions")
    (reduce,) = found
    _require(reduce.reducer is Reducer.SUM and reduce.dtype is dtype, f"no sum of {dtype}")
    _require(nest.type.dtype in RESULTS[dtype], f"a result in {nest.type.dtype}")
    _require(len(nest.axes) in (3, 4), f"{len(nest.axes)} output axes")
    _require(all(axis.extent.is_constant for axis in (*nest.axes[1:], *reduce.axes)), "a symbolic size")
    data, weight = _factors(reduce.body, constants)
    type = types[data.tensor]
    _require(type.rank == len(nest.axes), "no batch, channels and one window for each spatial axis")
    _require(all(size.is_constant for size in type.shape[1:]), "a symbolic size")
    is_byte = data.dtype is DType.I8
    _require(is_byte or data.pad is None or data.pad.number == 0, "padding with another number than 0")
    pad = int(data.pad.number.real) + SIGN if is_byte and data.pad is not None else 0
    batch, channel = nest.axes[0], nest.axes[1]
    _require(data.indices[0] == IntExpr.var(batch.name), "the batch is not the first axis")
    extents = {axis.name: axis.extent.value for axis in reduce.axes}
    inner, first, groups = _channels(data.indices[1], channel, type.shape[1].value, extents)
    windows: list[Window] = []
    names: list[str | None] = [channel.name, inner]
    for index, axis, size in zip(data.indices[2:], nest.axes[2:], type.shape[2:], strict=True):
        window, name = _window(index, axis, size.value, extents)
        _require(data.pad is not None or window.is_inside, "a read outside of the input")
        windows.append(window)
        names.append(name)
    _require({n for n, k in extents.items() if k > 1} <= set(names[1:]), "another reduction axis")
    channels = extents[inner] if inner is not None else 1
    sizes = [channel.extent.value, channels, *(window.size for window in windows)]
    order = _order(weight, names, types[weight.tensor], sizes)
    places = order, first, groups, channels, tuple(windows)
    return Convolution(nest, reduce, data.tensor, weight.tensor, *places, data.dtype, pad)


def _factors(body: Expr, constants: Collection[str]) -> tuple[Read, Read]:
    """(data, weight)"""
    _require(isinstance(body, Call) and body.function == "mul", "no sum of products")
    assert isinstance(body, Call)
    left, right = packed_factors(body) or body.arguments
    _require(isinstance(left, Read) and isinstance(right, Read), "no product of two tensors")
    assert isinstance(left, Read) and isinstance(right, Read)
    weights = [read.tensor in constants and read.pad is None for read in (left, right)]
    _require(any(weights), "no constant weights")
    return (right, left) if weights[0] else (left, right)


def _linear(index: IntExpr) -> tuple[dict[str, int], IntExpr]:
    """Factors of the loop indices that stand alone, and the rest."""
    factors: dict[str, int] = {}
    rest = index
    for monomial, coefficient in index.terms:
        if len(monomial) == 1 and isinstance(monomial[0], Var):
            factors[monomial[0].name] = coefficient
            rest = rest - IntExpr.atom(monomial[0]) * coefficient
    return factors, rest


def _channels(index: IntExpr, channel: Axis, size: int, extents: Mapping[str, int]) -> tuple[str | None, int, int]:
    """(index of the reduction over channels, first channel, groups)"""
    factors, _ = _linear(index)
    inner = [name for name in factors if name in extents]
    _require(len(inner) <= 1 and all(factors[name] == 1 for name in inner), "channels that are not read in order")
    name = inner[0] if inner else None
    each = extents[name] if name is not None else 1
    offset = index - IntExpr.var(name) if name is not None else index
    if offset.is_constant:
        _require(offset.value >= 0 and offset.value + each <= size, "channels outside of the input")
        return name, offset.value, 1
    groups = size // each
    _require(size % each == 0 and channel.extent.value % groups == 0, "groups of unequal size")
    expected = IntExpr.var(channel.name) // (channel.extent.value // groups) * each
    _require(offset == expected, "channels that are not read in order")
    return name, 0, groups


def _window(index: IntExpr, axis: Axis, size: int, extents: Mapping[str, int]) -> tuple[Window, str | None]:
    """The window and the index of its reduction."""
    factors, rest = _linear(index)
    _require(rest.is_constant, "an index that is not linear")
    stride = factors.pop(axis.name, 0)
    if stride == 0 and axis.extent.value == 1:
        stride = 1
    _require(stride >= 1 and len(factors) <= 1, "an index that is not that of a window")
    for name, dilation in factors.items():
        _require(name in extents and dilation >= 1, "an index that is not that of a window")
        if extents[name] > 1:
            return Window(extents[name], stride, dilation, -rest.value, size, axis.extent.value), name
    return Window(1, stride, 1, -rest.value, size, axis.extent.value), None


def _order(weight: Read, names: list[str | None], type: TensorType, sizes: list[int]) -> tuple[int | None, ...]:
    """The dim of the weights for every name; all others have one element."""
    order: list[int | None] = []
    for name, size in zip(names, sizes, strict=True):
        if name is None:
            order.append(None)
            continue
        dims = [dim for dim, index in enumerate(weight.indices) if index == IntExpr.var(name)]
        _require(len(dims) == 1 and type.shape[dims[0]] == IntExpr.constant(size), "weights that are not read in order")
        order.append(dims[0])
    _require(
        all(extent == IntExpr.constant(1) for dim, extent in enumerate(type.shape) if dim not in order),
        "weights that are not read in order",
    )
    return tuple(order)


def is_integer(body: Expr) -> bool:
    """Whether a sum becomes an integer at once: it is exact in f32, which an algorithm that rounds would spoil."""
    casts = (e for e in walk(body) if isinstance(e, Call) and e.function == "cast" and e.dtype.is_integer)
    return any(isinstance(cast.arguments[0], Reduce) for cast in casts)
