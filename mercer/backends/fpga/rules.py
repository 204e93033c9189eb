"""How each operator of an integer graph becomes stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.attributes import number, plain
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lowering import Border, Form, Integers, Layout, Lowering, Result, Rule, Tensor
from mercer.backends.fpga.rules_features import FEATURE_RULES
from mercer.backends.fpga.rules_spatial import SPATIAL_RULES
from mercer.backends.fpga.rules_vectors import VECTOR_RULES
from mercer.backends.fpga.scaling import TABLE_BITS, is_image, materialized
from mercer.backends.fpga.stages import Scale, Table
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, Graph, Node
from mercer.ir.lower import lower as lower_to_nests
from mercer.ir.types import Array, Data, DType, TensorType

# --- the border -------------------------------------------------------------------------------------------------------


def _quantize(state: Lowering, node: Node) -> Form:
    form = state.forms.get(node.operands[0])
    if not isinstance(form, Border):
        raise state.unsupported(node, "real numbers are computed before it", "quantize the inputs of the model")
    scale, zero, low, high = (number(node, name) for name in ("scale", "zero", "low", "high"))
    return state.enter(node.name, form, Interval(int(low), int(high)), float(scale), int(zero))


def _dequantize(state: Lowering, node: Node) -> Form:
    return Result(state.tensor(node), np.asarray(number(node, "scale")), int(number(node, "zero")))


def _dequantize_channels(state: Lowering, node: Node) -> Form:
    return Result(state.tensor(node), state.constant(node, 1), 0)


# --- the same elements ------------------------------------------------------------------------------------------------


def _viewed(state: Lowering, node: Node) -> Form:
    """A view: what moves is where an element stands in the tensor, not when it comes."""
    form = state.forms.get(node.operands[0])
    before, after = state.shape(node.operands[0]), state.shape(node.name)
    places = _moved(node, before)
    if isinstance(form, Border):
        return Border(form.input, form.index.reshape(-1)[places])
    x = state.tensor(node)
    inverse = np.empty_like(places)
    inverse[places] = np.arange(places.size)
    return replace(x, shape=after, layout=inverse[x.layout], exclusive=x.exclusive and state.uses[node.name] == 1)


def _moved(node: Node, shape: tuple[int, ...]) -> Layout:
    """For every element of the result (without the batch) where it stands in the operand."""
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(1, *shape)
    match node.operator:
        case "permute":
            dims = node.attribute("dims")
            assert isinstance(dims, tuple)
            axes = [int(plain(d)) % places.ndim for d in dims]
            moved = places.transpose(axes)
        case "transpose":
            moved = places.swapaxes(int(number(node, "first")), int(number(node, "second")))
        case "flip":
            moved = np.flip(places, int(number(node, "axis")))
        case _:
            moved = places
    return moved.reshape(-1)


def _widen(state: Lowering, node: Node) -> Form:
    x = state.tensor(node)
    zero = int(number(node, "zero")) if node.operator == "widen" else 0
    if node.operator == "cast" and state.types[node.name].dtype is not DType.I32:
        raise state.unsupported(node, f"it gives {state.types[node.name].dtype}", "a cast to i32")
    return replace(x, offset=x.offset - zero, exclusive=x.exclusive and state.uses[node.name] == 1)


# --- affine functions -------------------------------------------------------------------------------------------------


def per_channel(state: Lowering, node: Node, array: Array, x: Tensor) -> Integers:
    """A constant operand as one number, or as one per channel of the stream of `x`."""
    if node.operator == "bias_add":
        array = array.reshape(-1, *[1] * (len(x.shape) - 1))
    try:
        whole = np.broadcast_to(array, (1, *x.shape)).reshape(-1)[x.layout].astype(np.int64)
    except ValueError:
        raise state.unsupported(node, "it makes its operand larger", "a constant of its operand's shape") from None
    if np.all(whole == whole[0, 0]):
        return whole[0, 0]
    if np.any(whole != whole[:1]):
        raise state.unsupported(node, "its constant differs from place to place", "one number per channel")
    return whole[0]


def _with_constant(state: Lowering, node: Node) -> tuple[Tensor, Array, int] | None:
    """The computed operand, the constant one and its position, if there is one."""
    for position, name in enumerate(node.operands):
        if name in state.constants:
            return state.tensor(node, 1 - position), state.constants[name], position
    return None


def _add(state: Lowering, node: Node) -> Form:
    sign = -1 if node.operator == "sub" else 1
    exclusive = state.uses[node.name] == 1
    if found := _with_constant(state, node):
        x, array, position = found
        constant = per_channel(state, node, array, x)
        x = state.settled(node, x) if position == 1 or sign == 1 else _negated(x)
        moved = replace(x, offset=x.offset + (sign if position == 1 else 1) * constant)
        return replace(state.settled(node, moved), exclusive=x.exclusive and exclusive)
    parts = [state.tensor(node, position) for position in (0, 1)]
    if parts[0].shape != parts[1].shape or not np.array_equal(parts[0].layout, parts[1].layout):
        raise state.unsupported(node, "its operands have other shapes or orders", "operands of one shape")
    parts = [part if len(part.terms) == 1 else materialized(state, node, part) for part in parts]
    if sign == -1:
        parts[1] = _negated(parts[1])
    return replace(
        parts[0], terms=parts[0].terms + parts[1].terms, offset=parts[0].offset + parts[1].offset, exclusive=exclusive
    )


def _negated(x: Tensor) -> Tensor:
    return replace(x, terms=tuple(replace(t, factor=-t.factor) for t in x.terms), offset=-x.offset)


def _mul(state: Lowering, node: Node) -> Form:
    found = _with_constant(state, node)
    if found is None:
        raise state.unsupported(node, "both operands are computed", "a constant factor")
    x, array, _ = found
    factor = per_channel(state, node, array, x)
    if factor.ndim:
        raise state.unsupported(node, "its factors differ from channel to channel", "one factor, or a 1 x 1 conv2d")
    k = int(factor)
    terms = tuple(replace(t, factor=t.factor * k) for t in x.terms)
    return replace(x, terms=terms, offset=x.offset * k, exclusive=x.exclusive and state.uses[node.name] == 1)


def _scaled(state: Lowering, node: Node) -> Form:
    """requantize, rescale, wrap"""
    x = state.tensor(node)
    multipliers = per_channel(state, node, state.constant(node, 1), x)
    shift = int(number(node, "shift"))
    if node.operator == "wrap":
        scale = Scale(multipliers, shift, wrap_bits=int(number(node, "bits")))
    else:
        zero, low, high = (int(number(node, name)) for name in ("zero", "low", "high"))
        scale = Scale(multipliers, shift, zero, low, high)
    if scale.wrap_bits is None and scale.interval.bits > 18:
        reach = state.interval(x)
        scale = scale.within(reach)
    return materialized(state, node, x, scale)


# --- tables -----------------------------------------------------------------------------------------------------------


def _lookup(state: Lowering, node: Node) -> Form:
    x = state.tensor(node)
    table = state.constant(node, 1).astype(np.int64)
    low = int(number(node, "low"))
    if len(x.terms) != 1 or x.terms[0].factor != 1 or x.offset.ndim:
        x = materialized(state, node, x)
    low -= int(x.offset)
    stream = state.stream(x.terms[0].stage)
    if stream.interval.low < low or stream.interval.high >= low + table.shape[-1]:
        reach = f"{stream.interval.low}..{stream.interval.high}"
        raise state.unsupported(
            node, f"codes of {reach} leave its table of {low}..{low + table.shape[-1] - 1}", "a table of all codes"
        )
    stage = Table(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
        input=replace(stream, lanes=1), table=table, low=low,
    )  # fmt: skip
    if table.ndim == 2 and not is_image(x):
        raise state.unsupported(node, "channels are not what comes last in its stream", "the axes [n, channels, ...]")
    return state.emitted(node, stage, x.shape, x.layout)


def _tabulated(state: Lowering, node: Node) -> Form:
    """A function of one code, as a table made by the reference."""
    x = materialized(state, node, state.tensor(node))
    stream = state.stream(x.terms[0].stage)
    if stream.bits > TABLE_BITS:
        raise state.unsupported(node, f"its operand has {stream.bits} bits", "requantize to 8 bits first")
    kind = state.types[node.operands[0]].dtype
    codes = np.arange(stream.interval.low, stream.interval.high + 1).astype(kind.numpy).reshape(-1, *[1] * len(x.shape))
    operands = [Constant(node.operands[0], TensorType.of(codes), Data(codes))]
    operands += [
        Constant(name, TensorType.of(state.constants[name]), Data(state.constants[name])) for name in node.operands[1:]
    ]
    program = lower_to_nests(Graph(node.name, (), (), tuple(operands), (node,), (node.name,)), state.library)
    (table,) = evaluate(program, {})
    if table.size != codes.size or table.dtype.kind != "i":
        raise state.unsupported(node, "it is not a function of one code", "one number in, one number out")
    stage = Table(
        name=state.fresh(node), sources=(x.terms[0].stage,), origins=(node.name,),
        input=replace(stream, lanes=1), table=table.reshape(-1).astype(np.int64), low=stream.interval.low,
    )  # fmt: skip
    return state.emitted(node, stage, x.shape, x.layout)


RULES: dict[str, Rule] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "dequantize_channels": _dequantize_channels,
    **dict.fromkeys(("reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "flip"), _viewed),
    **dict.fromkeys(("widen", "cast"), _widen),
    **dict.fromkeys(("add", "sub", "bias_add"), _add),
    "mul": _mul,
    **dict.fromkeys(("requantize", "rescale", "wrap"), _scaled),
    **dict.fromkeys(("lookup", "channel_lookup"), _lookup),
    **dict.fromkeys(("relu", "relu6", "clamp", "neg", "abs"), _tabulated),
    **FEATURE_RULES,
    **SPATIAL_RULES,
    **VECTOR_RULES,
}
"""How an operator becomes stages, by its name."""
