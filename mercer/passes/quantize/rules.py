"""The integer form of each operator that is more than a function element by element."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.types import TensorType
from mercer.passes.factorize.contractions import per_axis
from mercer.passes.quantize.hash_rules import HASH_GRIDS
from mercer.passes.quantize.kernel_rules import KERNELS
from mercer.passes.quantize.noise_shaping_rules import NOISE_SHAPING
from mercer.passes.quantize.normalization_rules import NORMALIZATION
from mercer.passes.quantize.ranges import Matrix, aligned
from mercer.passes.quantize.rotate import is_rotation, rotated
from mercer.passes.quantize.rounding import weight_of
from mercer.passes.quantize.sampling_rules import SAMPLING
from mercer.passes.quantize.translation import Coded, Form, NoIntegerForm, Rule, Sums, Translation

_SHARES = 1 << 20
"""Addends are brought to a common scale of that part of the coarsest of theirs."""


# --- sums of products -------------------------------------------------------------------------------------------------


def _weighted(axis: int | None, trailing: int) -> Rule:
    """A linear map of operand 0 by a constant operand 1.

    `axis` of the weight are the results, the last one of a matrix; they have `trailing` axes after it. None for a
    transposed convolution, which gets one scale.
    """

    def rule(t: Translation, node: Node) -> Form:
        weight = t.known(node.operands[1])
        if weight is None:
            return _of_two(t, node)
        if node.operator == "linear" and is_rotation(weight):
            return rotated(t, node, weight)
        results = weight.ndim - 1 if node.operator == "matmul" else 1 if axis is None else axis
        codes, scales = weight_of(t, node, weight, None if axis is None or not t.options.per_channel else results)
        x = t.narrow(node.operands[0])
        reach = max(-x.low, x.high)
        rows = np.moveaxis(np.abs(codes.astype(np.int64)), results, 0).reshape(codes.shape[results], -1)
        bound = t.bounded(int(rows.sum(axis=1).max(initial=0)) * reach, rows.shape[1])
        wide = t.emit("widen", t.constant(codes, "codes"))
        result = t.emit(node.operator, x.name, wide, **dict(node.attributes))
        scale, lost = x.scale * aligned(scales, trailing), weight - codes * _along(scales, weight.ndim, results)
        offset = aligned(t.correction(node, lost), trailing) if t.options.bias_correction else np.zeros(())
        return Sums(result, scale, -bound, bound, offset)

    return rule


def _along(channels: Matrix, rank: int, axis: int | None) -> Matrix:
    return (
        channels.reshape(()) if channels.size == 1 else channels.reshape([-1 if a == axis else 1 for a in range(rank)])
    )


def _of_two(t: Translation, node: Node) -> Form:
    """A linear map of two values that are computed, such as a product of matrices."""
    x, y = (t.narrow(name) for name in node.operands[:2])
    shape = t.real_types[node.operands[0]].shape
    if node.operator not in ("matmul", "linear") or not shape[-1].is_constant:
        raise NoIntegerForm("its weight is not a constant")
    fan_in = shape[-1].value
    bound = t.bounded(fan_in * max(-x.low, x.high) * max(-y.low, y.high), fan_in)
    return Sums(t.emit(node.operator, x.name, y.name, **dict(node.attributes)), x.scale * y.scale, -bound, bound)


def _bias(t: Translation, node: Node) -> Form:
    """A constant that is added to sums."""
    x, array = _with_constant(t, node)
    if node.operator == "bias_add":
        array = array.reshape(-1, *[1] * (t.real_types[x].rank - 2))
    if node.operator == "sub":
        if node.operands[0] != x:
            raise NoIntegerForm("it is subtracted from a constant")
        array = -array
    sums = _fine(t, x)
    return replace(sums, offset=sums.offset + array)


def _fine(t: Translation, name: str) -> Sums:
    """Sums fine enough that what is added need not be rounded much."""
    sums = t.sums(name)
    if isinstance(t.forms[name], Sums):
        return sums
    factor = 1 << 16
    scaled = t.emit("mul", sums.name, t.constant(np.asarray(factor, np.int32), "factor"))
    return Sums(scaled, sums.scale / factor, sums.low * factor, sums.high * factor)


def _with_constant(t: Translation, node: Node) -> tuple[str, Matrix]:
    """The operand that is computed, and the constant one."""
    for x, other in (node.operands, node.operands[::-1]):
        array = t.known(other)
        if array is not None and t.real_types[x] == t.real_types[node.name]:
            return x, array
    raise NoIntegerForm("it changes the shape of what it computes with")


def _add(t: Translation, node: Node) -> Form:
    """Addends at a common scale; a constant one is a bias."""
    if any(t.known(name) is not None for name in node.operands):
        return _bias(t, node)
    parts = [t.narrow(name) for name in node.operands]
    unit = max(float(part.scale) for part in parts) / _SHARES
    scaled: list[str] = []
    reach = 0
    for sign, part in zip((1, -1 if node.operator == "sub" else 1), parts, strict=True):
        factor = sign * round(float(part.scale) / unit)
        scaled.append(t.emit("mul", part.name, t.constant(np.asarray(factor, np.int32), "factor")))
        reach += abs(factor) * max(-part.low, part.high)
    return Sums(t.emit("add", *scaled), np.asarray(unit), -reach, reach)


def _mul(t: Translation, node: Node) -> Form:
    """A factor that is constant changes the scale alone."""
    if any(t.known(name) is not None for name in node.operands):
        x, array = _with_constant(t, node)
        sums = t.sums(x)
        return replace(sums, scale=sums.scale * array, offset=sums.offset * array)
    x, y = (t.narrow(name) for name in node.operands)
    bound = max(-x.low, x.high) * max(-y.low, y.high)
    return Sums(t.emit("mul", x.name, y.name), x.scale * y.scale, -bound, bound)


# --- sums over windows and axes ---------------------------------------------------------------------------------------


def _avg_pool(t: Translation, node: Node) -> Form:
    attributes = dict(node.attributes)
    if not attributes.pop("count_include_pad") and any(per_axis(attributes["pad"], int(node.operator[-2]))):
        raise NoIntegerForm("windows at the border have fewer elements")
    operator = node.operator.replace("avg", "sum")
    area = math.prod(per_axis(attributes["k"], int(operator[-2])))
    x = t.narrow(node.operands[0])
    return Sums(t.emit(operator, x.name, **attributes), x.scale / area, x.low * area, x.high * area)


def _reduction(t: Translation, node: Node) -> Form:
    """`sum` and `mean` over axes of known extent."""
    x = t.narrow(node.operands[0])
    result = t.emit("sum", x.name, **dict(node.attributes))
    before, after = t.real_types[node.operands[0]], t.real_types[node.name]
    count = _count(before, after)
    scale = x.scale / count if node.operator == "mean" else x.scale
    reach = t.bounded(count * max(-x.low, x.high), count)
    return Sums(result, scale, -reach, reach)


def _count(before: TensorType, after: TensorType) -> int:
    """How many elements become one."""
    elements = [np.prod([d.value for d in kind.shape if d.is_constant], initial=1) for kind in (before, after)]
    symbolic = [sorted(str(d) for d in kind.shape if not d.is_constant) for kind in (before, after)]
    if symbolic[0] != symbolic[1]:
        raise NoIntegerForm("how many elements are summed is not known")
    return int(elements[0] // elements[1])


# --- operators that move codes ----------------------------------------------------------------------------------------


def _sliced(t: Translation, node: Node) -> Form:
    """A slice of sums keeps the scales of its channels."""
    form = t.forms[node.operands[0]]
    if not isinstance(form, Sums):
        return _moved(t, node)
    rank = t.real_types[node.name].rank
    attributes = dict(node.attributes)
    axis, *cut = (_whole(attributes[name]) for name in ("axis", "start", "stop", "step"))

    def part(array: Matrix) -> Matrix:
        from_end = (axis if axis < 0 else axis - rank) + array.ndim
        if from_end < 0 or array.shape[from_end] == 1:
            return array
        return array[(slice(None),) * from_end + (slice(*cut),)]

    name = t.emit("slice_axis", form.name, **attributes)
    return replace(form, name=name, scale=part(form.scale), offset=part(form.offset))


def _whole(value: AttributeValue) -> int:
    if not isinstance(value, int):
        raise NoIntegerForm("where it cuts is not known")
    return value


def _moved(t: Translation, node: Node) -> Form:
    """The same operator on codes."""
    x = t.coded(node.operands[0])
    return Coded(t.emit(node.operator, x.name, **dict(node.attributes)), x.encoding)


def _concat(t: Translation, node: Node) -> Form:
    """Operands at the scale of the result."""
    codes = t.encoding(node.name)
    attributes = {"zero": codes.zero, "low": codes.low, "high": codes.high}
    parts = [t.requantized(t.sums(name), codes.scale, "requantize", **attributes) for name in node.operands]
    return Coded(t.emit("concat", *parts, **dict(node.attributes)), codes)


RULES: dict[str, Rule] = {
    **{f"conv{n}d": _weighted(axis=0, trailing=n) for n in (1, 2, 3)},
    "linear": _weighted(axis=0, trailing=0),
    "matmul": _weighted(axis=1, trailing=0),
    **{f"conv_transpose{n}d": _weighted(axis=None, trailing=n) for n in (1, 2, 3)},
    "add": _add,
    "sub": _add,
    "bias_add": _bias,
    "mul": _mul,
    **{f"avg_pool{n}d": _avg_pool for n in (1, 2, 3)},
    "mean": _reduction,
    "sum": _reduction,
    "concat": _concat,
    "slice_axis": _sliced,
    **dict.fromkeys(
        "reshape flatten squeeze unsqueeze transpose permute max_pool1d max_pool2d max_pool3d "
        "adaptive_max_pool1d adaptive_max_pool2d upsample_nearest2d pixel_shuffle flip expand dropout".split(),
        _moved,
    ),
    **HASH_GRIDS,
    **KERNELS,
    **NOISE_SHAPING,
    **NORMALIZATION,
    **SAMPLING,
}
"""The rule of an operator that has an integer form of its own, by its name."""
