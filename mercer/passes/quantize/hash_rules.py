"""Integer forms of hash grids: latents of few bits, and linear interpolation in fixed point."""

from __future__ import annotations

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.quantize.ranges import Codes, Matrix, weight_codes
from mercer.passes.quantize.translation import Form, NoIntegerForm, Real, Rule, Sums, Translation

_POSITION = 20
"""Bits of a coordinate below one."""
_FRACTION = {2: 10, 3: 7}
"""Bits of the place in a cell, by the number of coordinates: products of two or three and of a code have 32."""


def _hash_grid(t: Translation, node: Node) -> Form:
    """A table of codes with one scale per level, which is the decoder of its latents (Girish et al. 2023)."""
    table = t.known(node.operands[1])
    if table is None:
        raise NoIntegerForm("its table is not a constant")
    codes, scales = _latents(t, table)
    dims = t.real_types[node.operands[0]].shape[1].value
    fraction = _FRACTION[dims]
    attributes = {**dict(node.attributes), "position": _POSITION, "fraction": fraction}
    result = t.emit("fixed_hash_grid", _places(t, node.operands[0]), t.constant(codes, "latents"), **attributes)
    reach = int(np.abs(codes.astype(np.int64)).max(initial=0)) << dims * fraction
    offset = np.zeros(())
    if t.options.bias_correction:
        offset = t.correction(node, table - codes * scales[:, None, None])
    unit = np.repeat(scales, table.shape[2]) / 2 ** (dims * fraction)
    return Sums(result, unit, -reach, reach, offset)


def _latents(t: Translation, table: Matrix) -> tuple[Codes, Matrix]:
    """Codes[levels, size, features] and the scale of each level; latents that were trained as integers stay."""
    last = (1 << t.options.weights - 1) - 1
    whole = t.ranges is None and table.any() and np.array_equal(table, np.rint(table))
    if whole and np.abs(table).max() <= last:
        return table.astype(np.int8), np.ones(len(table))
    return _per_level(t, table)


def _places(t: Translation, name: str) -> str:
    """Coordinates in fixed point: of a model's input finer than its codes would be."""
    form, whole = t.forms[name], 1 << _POSITION
    if isinstance(form, Real):
        return t.emit("to_fixed_point", form.name, fraction=_POSITION, low=0, high=whole)
    return t.units(name, 1.0 / whole, 0, whole)


def _decode_levels(t: Translation, node: Node) -> Form:
    """A linear map whose weight has a block per level."""
    decoder = t.known(node.operands[1])
    if decoder is None:
        raise NoIntegerForm("its decoder is not a constant")
    levels, latents, features = decoder.shape
    codes, scales = _per_level(t, decoder)
    blocks = np.zeros((levels, features, levels, latents), np.int8)
    blocks[np.arange(levels), :, np.arange(levels)] = np.swapaxes(codes, 1, 2)
    x = t.narrow(node.operands[0])
    rows = np.abs(codes.astype(np.int64)).sum(axis=1)
    bound = t.bounded(int(rows.max(initial=0)) * max(-x.low, x.high), latents)
    weight = t.constant(blocks.reshape(levels * features, levels * latents), "codes")
    result = t.emit("linear", x.name, t.emit("widen", weight))
    offset = np.zeros(())
    if t.options.bias_correction:
        offset = t.correction(node, decoder - codes * scales[:, None, None])
    return Sums(result, x.scale * np.repeat(scales, features), -bound, bound, offset)


def _per_level(t: Translation, weight: Matrix) -> tuple[Codes, Matrix]:
    """Codes and the scale of each level, the first axis."""
    codes, scales = weight_codes(weight, t.options.weights, 0 if t.options.per_channel else None, t.options.codes)
    return codes, np.broadcast_to(scales, len(weight))


HASH_GRIDS: dict[str, Rule] = {"hash_grid": _hash_grid, "decode_levels": _decode_levels}
