"""Integer forms of normalization and softmax: integer square roots and shares instead of real division."""

from __future__ import annotations

import math

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.quantize.ranges import Matrix
from mercer.passes.quantize.translation import Form, NoIntegerForm, Rule, Sums, Translation

_FRACTION = 12
_GUARD = 12
"""Bits of the variance below one, as `integer_normalize` has them."""
_SHARES = (1 << 12) - 1


def _layer_norm(t: Translation, node: Node) -> Form:
    """layer_norm and rms_norm, over the last axis."""
    centered = node.operator == "layer_norm"
    length = t.real_types[node.name].shape[-1]
    weight, bias = t.known(node.operands[1]), t.known(node.operands[2]) if centered else np.zeros(())
    if weight is None or bias is None or not length.is_constant:
        raise NoIntegerForm("its weight, bias or length is not known")
    index, scale = _wide(t, node.operands[0], length.value)
    return _normalized(t, node, index, scale, length.value, centered, weight, bias)


def _group_norm(t: Translation, node: Node) -> Form:
    """group_norm and instance_norm, each group as a row."""
    shape = t.real_types[node.name].shape
    weight, bias = (t.known(name) for name in node.operands[1:])
    if weight is None or bias is None or not all(extent.is_constant for extent in shape[1:]):
        raise NoIntegerForm("its weight, bias or shape is not known")
    extents = [extent.value for extent in shape[1:]]
    groups = dict(node.attributes).get("groups", extents[0])
    assert isinstance(groups, int)
    length = math.prod(extents) // groups
    index, scale = _wide(t, node.operands[0], length)
    rows = t.emit("reshape", index, shape=(-1, groups, length))
    aligned = [array.reshape(-1, *[1] * (len(extents) - 1)) for array in (weight, bias)]
    form = _normalized(t, node, rows, scale, length, True, np.ones(()), np.zeros(()))
    back = t.emit("reshape", form.name, shape=(-1, *extents))
    return Sums(back, form.scale * aligned[0], form.low, form.high, aligned[1])


def _wide(t: Translation, name: str, length: int) -> tuple[str, float]:
    """The value as i32 with as many bits as tables have, fewer where sums of cubes of the length would not fit."""
    form = t.forms[name]
    bits = min(t.options.table_bits, (60 - _GUARD - 3 * length.bit_length()) // 2)
    if bits < 8:
        raise NoIntegerForm(f"a mean over {length} elements is too long for 64 bits")
    if not isinstance(form, Sums) or bits <= t.options.activations:
        narrow = t.narrow(name)
        return narrow.name, float(narrow.scale)
    largest = max(map(abs, t.extent(name))) or 1.0
    limit = (1 << bits - 1) - 1
    return t.requantized(form, largest / limit, "rescale", low=-limit, high=limit), largest / limit


def _normalized(
    t: Translation, node: Node, index: str, scale: float, length: int, centered: bool, weight: Matrix, bias: Matrix
) -> Sums:
    eps = dict(node.attributes)["eps"]
    assert isinstance(eps, int | float)
    unit = float(eps) / scale**2 * 2**_GUARD * (length**2 if centered else 1)
    attributes = {"fraction": _FRACTION, "eps": min(round(unit), 1 << 60), "centered": centered}
    result = t.emit("integer_normalize", index, **attributes)
    reach = math.ceil(math.sqrt(length) * 2**_FRACTION)  # one element of the row is not zero
    return Sums(result, weight / 2**_FRACTION, -reach, reach, bias)


def _softmax(t: Translation, node: Node) -> Form:
    """Shares of a table of exponentials."""
    name = node.operands[0]
    index, codes = t.index(name), t.index_encoding(name)
    steps = min(codes.high - codes.low + 1, math.ceil(17 / codes.scale) + 1)
    table = np.rint(np.exp(-codes.scale * np.arange(steps)) * 2**16).astype(np.int32)
    axis = dict(node.attributes)["axis"]
    result = t.emit("integer_softmax", index, t.constant(table, "table"), axis=axis, high=_SHARES)
    return Sums(result, np.asarray(1.0 / _SHARES), 0, _SHARES)


NORMALIZATION: dict[str, Rule] = {
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    "softmax": _softmax,
}
