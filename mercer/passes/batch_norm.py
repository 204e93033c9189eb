"""Batch normalization with known statistics folds into what feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Node
from mercer.ir.types import Array, DType
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, any_node, constant, node, value
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

CONTRACTIONS: dict[str, tuple[int, int]] = {
    "conv1d": (1, 0),
    "conv2d": (1, 0),
    "conv3d": (1, 0),
    "conv_transpose1d": (1, 1),
    "conv_transpose2d": (1, 1),
    "conv_transpose3d": (1, 1),
    "deform_conv2d_v1": (2, 0),
    "deform_conv2d": (3, 0),
    "linear": (1, 0),
}
"""Operators that are linear in a weight: (position of that operand, its axis of output channels)."""

STATISTICS = ("mean", "variance", "weight", "bias")

_FOLDABLE = any_node(*CONTRACTIONS, capture="contraction")
_KNOWN = tuple(map(constant, STATISTICS))


@dataclass(frozen=True)
class BatchNorm(RewritePass):
    """`batch_norm` with constant statistics becomes a scale and a shift per channel.

    The scale weight/sqrt(variance + eps) goes into the weight of a preceding convolution or linear layer, also through
    its bias; otherwise it stays as a multiplication. The shift stays as `bias_add`. Needs a Graph after `bind`. Class:
    real; scale and shift are computed in f64 and rounded once (Ioffe and Szegedy 2015, section 3.1).
    """

    name: ClassVar[str] = "batch_norm"

    def rewrites(self) -> Sequence[Rewrite]:
        return REWRITES


def _scale_and_shift(match: Match) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What the node does to each channel: y = x*scale + shift, in f64."""
    mean, variance, weight, bias = (match.array(name).astype(np.float64) for name in STATISTICS)
    eps = cast(float, match.root.attribute("eps"))
    scale = weight / np.sqrt(variance + eps)
    return scale, bias - mean * scale


def _into_contraction(match: Match, build: Builder) -> Outcome:
    contraction = match.node("contraction")
    if reason := _obstacle(match, contraction):
        return Refusal(reason)
    scale, shift = _scale_and_shift(match)
    return _scaled(match, build, contraction, scale, shift)


def _into_biased_contraction(match: Match, build: Builder) -> Outcome:
    contraction, biased = match.node("contraction"), match.node("biased")
    offset = match.array("offset").astype(np.float64)
    rank = match.scope.type(biased.name).rank
    if offset.ndim != 1 or (biased.operator == "add" and rank != 2):
        return Refusal(f"what %{biased.name} adds is not one number per channel")
    if match.scope.uses(biased.name) > 1:
        return Refusal(f"%{biased.name} has other readers")
    if reason := _obstacle(match, contraction):
        return Refusal(reason)
    scale, shift = _scale_and_shift(match)
    return _scaled(match, build, contraction, scale, shift + offset * scale)


def _obstacle(match: Match, contraction: Node) -> str | None:
    """Why the scale cannot go into the weight."""
    position, axis = CONTRACTIONS[contraction.operator]
    name = contraction.operands[position]
    known = match.scope.constant(name)
    if known is None or known.data.array is None:
        return f"the weight %{name} is not a constant"
    if match.scope.uses(contraction.name) > 1:
        return f"%{contraction.name} has other readers"
    if contraction.operator == "linear" and match.scope.type(contraction.name).rank != 2:
        return "the channels of the linear layer are not the second axis"
    if axis == 1 and contraction.attribute("groups") != 1:
        return "the output channels of a grouped transposed convolution are not one axis of its weight"
    return None


def _scaled(
    match: Match,
    build: Builder,
    contraction: Node,
    scale: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
) -> str:
    position, axis = CONTRACTIONS[contraction.operator]
    known = match.scope.constant(contraction.operands[position])
    assert known is not None and known.data.array is not None
    weight = known.data.array.astype(np.float64) * _along(scale, axis, known.type.rank)
    operands = list(contraction.operands)
    operands[position] = build.constant(_stored(weight, known.type.dtype), "weight")
    product = build.node(contraction.operator, operands, dict(contraction.attributes))
    return build.node("bias_add", (product, build.constant(_stored(shift, known.type.dtype), "shift")))


def _to_affine(match: Match, build: Builder) -> Outcome:
    for name in STATISTICS:
        known = match.scope.constant(match[name])
        if known is None or known.data.array is None:
            return Refusal(f"%{match[name]} is not a constant")
    scale, shift = _scale_and_shift(match)
    kind = match.type("x")
    factor = build.constant(_stored(_along(scale, 0, kind.rank - 1), kind.dtype), "scale")
    scaled = build.node("mul", (match["x"], factor))
    return build.node("bias_add", (scaled, build.constant(_stored(shift, kind.dtype), "shift")))


def _along(values: npt.NDArray[np.float64], axis: int, rank: int) -> npt.NDArray[np.float64]:
    """Shaped to broadcast along one axis of a tensor of that rank."""
    return values.reshape([-1 if position == axis else 1 for position in range(rank)])


def _stored(values: npt.NDArray[np.float64], dtype: DType) -> Array:
    return values.astype(cast(Any, dtype.numpy))


REWRITES = (
    Rewrite("into_contraction", node("batch_norm", _FOLDABLE, *_KNOWN), _into_contraction, Exactness.REAL),
    Rewrite(
        "into_biased_contraction",
        node("batch_norm", node(("bias_add", "add"), _FOLDABLE, constant("offset"), capture="biased"), *_KNOWN),
        _into_biased_contraction,
        Exactness.REAL,
    ),
    Rewrite("to_affine", node("batch_norm", value("x"), *map(value, STATISTICS)), _to_affine, Exactness.REAL),
)
