"""What the exact passes read off convolutions, linear layers and constants."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.passes.factorize.approximation import Matrix
from mercer.passes.factorize.convolutions import SPATIAL, Geometry
from mercer.passes.patterns import Scope


def known(name: str, scope: Scope) -> Matrix | None:
    """The contents of a floating-point constant in f64; None for other values and where they are not finite."""
    found = scope.constant(name)
    if found is None or found.data.array is None or not found.type.dtype.is_float:
        return None
    array = found.data.array.astype(np.float64)
    return array if np.isfinite(array).all() else None


def geometry_of(convolved: Node) -> Geometry:
    """How a convolution node moves."""
    axes = SPATIAL[convolved.operator]
    return Geometry(*(per_axis(convolved.attribute(name), axes) for name in ("stride", "pad", "dilation")))


def per_axis(attribute: AttributeValue, count: int) -> tuple[int, ...]:
    """One number for every one of `count` axes, or a list of them."""
    items = attribute if isinstance(attribute, tuple) else (attribute,) * count
    return tuple(item for item in items if isinstance(item, int))


def grouped(weight: Matrix, groups: int, fewer: int) -> Matrix:
    """weight[o, c/groups, window...] of a grouped convolution for `fewer` groups, a divisor, with zeros between."""
    share = groups // fewer
    outputs, channels = weight.shape[:2]
    wide = np.zeros((outputs, channels * share, *weight.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        start = group % share * channels
        wide[rows, start : start + channels] = weight[rows]
    return wide


def shared(nodes: Iterable[Node], scope: Scope) -> str | None:
    """Why these nodes would not go away with their only reader."""
    return next((f"%{node.name} has other readers" for node in nodes if scope.uses(node.name) > 1), None)
