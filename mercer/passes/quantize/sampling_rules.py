"""Integer forms of deformable convolution: positions in fixed point."""

from __future__ import annotations

import math

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.quantize.ranges import aligned
from mercer.passes.quantize.rounding import weight_of
from mercer.passes.quantize.translation import INT32, Form, NoIntegerForm, Rule, Sums, Translation

_FRACTION = 6
"""Bits of a position below one pixel."""
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
    bound = min(shown, max(max(image, default=shown + 1) - 1, 1)) << _FRACTION
    codes, scales = weight_of(t, node, weight, 0 if t.options.per_channel else None)
    rows = np.abs(codes.astype(np.int64)).reshape(len(codes), -1)
    low, high = x.encoding.reach
    reach = int(rows.sum(axis=1).max(initial=0)) * max(-low, high)
    operands = [x.name, t.units(node.operands[1], 2.0**-_FRACTION, -bound, bound)]
    attributes = {**dict(node.attributes), "fraction": _FRACTION, "zero": x.encoding.zero}
    guard = 0
    if node.operator == "deform_conv2d":
        most = max(1, math.ceil(max(map(abs, t.extent(node.operands[2])))))
        operands.append(t.units(node.operands[2], 2.0**-_MASK, -most << _MASK, most << _MASK))
        reach *= most
        guard = min(_GUARD, max(0, (INT32 // max(reach, 1)).bit_length() - 1))
        attributes["mask_fraction"] = _MASK - guard
    reach = t.bounded(reach << guard, rows.shape[1])
    result = t.emit(f"fixed_{node.operator}", *operands, t.constant(codes, "codes"), **attributes)
    offset = np.zeros(())
    if t.options.bias_correction:
        offset = t.correction(node, weight - codes * scales.reshape(-1, 1, 1, 1)).reshape(-1, 1, 1)
    return Sums(result, x.encoding.scale / 2**guard * aligned(scales, 2), -reach, reach, offset)


SAMPLING: dict[str, Rule] = {"deform_conv2d": _deform_conv2d, "deform_conv2d_v1": _deform_conv2d}
