"""Integer forms of deformable convolution: positions in fixed point."""

from __future__ import annotations

import math

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.factorize.contractions import per_axis
from mercer.passes.quantize.ranges import aligned
from mercer.passes.quantize.rounding import weight_of
from mercer.passes.quantize.translation import INT32, Form, NoIntegerForm, Rule, Sums, Translation

_FRACTION = 6
"""Bits of a position below one pixel."""
_FARTHEST = 1 << 12
"""Pixels that an offset may be, so that positions have 32 bits."""
_MASK = 7
"""Bits of a mask below one."""
_GUARD = 4
"""Bits that a sample times its mask has beyond those of a sample: to round it to a whole code would cost too much."""


def _deform_conv2d(t: Translation, node: Node) -> Form:
    """Offsets never leave the whole pixels around what the data have shown, nor as far as the image is large: the bound
    is part of the operator."""
    weight = t.known(node.operands[-1])
    if weight is None:
        raise NoIntegerForm("its weight is not a constant")
    x = t.coded(node.operands[0])
    image = [extent.value for extent in t.real_types[node.operands[0]].shape[2:] if extent.is_constant]
    shown = max(1, math.ceil(max(map(abs, t.extent(node.operands[1])))))
    offset, fraction = _moves(t, node.operands[1], min(shown, max(max(image, default=shown + 1) - 1, 1)))
    codes, scales = weight_of(t, node, weight, 0 if t.options.per_channel else None)
    rows = np.abs(codes.astype(np.int64)).reshape(len(codes), -1)
    low, high = x.encoding.reach
    reach = int(rows.sum(axis=1).max(initial=0)) * max(-low, high)
    operands = [x.name, offset]
    attributes = {**dict(node.attributes), "fraction": fraction, "zero": x.encoding.zero}
    guard = 0
    if node.operator == "deform_conv2d":
        most = max(1, math.ceil(max(map(abs, t.extent(node.operands[2])))))
        operands.append(t.units(node.operands[2], 2.0**-_MASK, -most << _MASK, most << _MASK))
        reach *= most
        guard = min(_GUARD, max(0, (INT32 // max(reach, 1)).bit_length() - 1))
        attributes["mask_fraction"] = _MASK - guard
    reach = t.bounded(reach << guard, rows.shape[1])
    result = t.emit(f"fixed_{node.operator}", *operands, t.constant(codes, "codes"), **attributes)
    lost = np.zeros(())
    if t.options.bias_correction:
        lost = t.correction(node, weight - codes * scales.reshape(-1, 1, 1, 1)).reshape(-1, 1, 1)
    return Sums(result, x.encoding.scale / 2**guard * aligned(scales, 2), -reach, reach, lost)


def _square_offsets(t: Translation, node: Node) -> Form:
    """Numbers in fixed point, as far as the data have shown, times the whole distances of the taps."""
    moving = node.operands[0]
    shown = min(max(1, math.ceil(max(map(abs, t.extent(moving))))), _FARTHEST)
    moves, fraction = _moves(t, moving, shown)
    window = per_axis(node.attribute("window"), 2)
    farthest = max(max(window) // 2 * shown, 1) << fraction
    result = t.emit("square_offsets", moves, **dict(node.attributes))
    return Sums(result, np.asarray(2.0**-fraction), -farthest, farthest)


def _moves(t: Translation, name: str, bound: int) -> tuple[str, int]:
    """Offsets up to `bound` pixels as integers, and their bits below one pixel: none where they are whole pixels."""
    form = t.forms[name]
    if isinstance(form, Sums) and form.scale.size == 1 and not form.offset.any():
        for fraction in (0, _FRACTION):
            if form.scale == 2.0**-fraction and max(-form.low, form.high) <= _FARTHEST << fraction:
                return form.name, fraction
    fraction = 0 if t.whole(name) else _FRACTION
    return t.units(name, 2.0**-fraction, -bound << fraction, bound << fraction), fraction


SAMPLING: dict[str, Rule] = {
    "deform_conv2d": _deform_conv2d,
    "deform_conv2d_v1": _deform_conv2d,
    "square_offsets": _square_offsets,
}
