"""What the exact passes read off convolutions, linear layers and constants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import ml_dtypes
import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.types import DType
from mercer.passes.factorize.approximation import Matrix
from mercer.passes.factorize.convolutions import SPATIAL, Geometry
from mercer.passes.patterns import Match, Scope
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

ROUNDINGS = 4
"""Of the largest element: what a factorization may leave when it counts as exact, in units of rounding."""


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


def per_channel(node: Node, axis: int, scope: Scope) -> tuple[str, Matrix] | None:
    """The operand of a binary operator that is not constant, and the constant as one number per channel."""
    kind = scope.type(node.name)
    channels = kind.shape[axis]
    for name, other in (node.operands, node.operands[::-1]):
        array = known(other, scope)
        if array is None or not channels.is_constant or scope.type(name) != kind:
            continue
        if node.operator == "bias_add":
            shape = (1, -1, *(1,) * (kind.rank - 2))
        else:
            shape = (*(1,) * (kind.rank - array.ndim), *array.shape)
        aligned = array.reshape(shape)
        if aligned.size == aligned.shape[axis]:
            return name, np.broadcast_to(aligned.reshape(-1), channels.value)
    return None


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


def exact_factors(matrix: Matrix, most: int, dtype: DType) -> tuple[Matrix, Matrix] | float:
    """Factors [m, r] and [r, n] of the least rank up to `most` that give an array of this element type again.

    What they leave must not be more than the rounding of the array; otherwise the result is the largest element that
    rank `most` leaves, relative to the largest element.
    """
    largest = float(np.abs(matrix).max(initial=0.0))
    if not largest:
        return np.zeros((len(matrix), 1)), np.zeros((1, matrix.shape[1]))
    scaled = matrix / largest
    allowed = ROUNDINGS * float(cast(Any, ml_dtypes.finfo(dtype.numpy)).eps)
    basis = _sketch(scaled, most)
    error = float(np.abs(scaled - basis @ (basis.T @ scaled)).max())
    if error > allowed:
        return error
    left, values, right = np.linalg.svd(basis.T @ scaled, full_matrices=False)
    for rank in range(1, min(most, len(values)) + 1):
        roots = np.sqrt(values[:rank])
        factors = basis @ left[:, :rank] * roots, roots[:, None] * right[:rank]
        error = float(np.abs(scaled - factors[0] @ factors[1]).max())
        if error <= allowed:
            return factors[0] * largest, factors[1]
    return error


def _sketch(matrix: Matrix, rank: int) -> Matrix:
    """Orthonormal columns that span those of the matrix if it has this rank (Halko et al. 2011, algorithm 4.1)."""
    count = rank + 8
    if min(matrix.shape) <= 2 * count:
        return np.eye(len(matrix)) if len(matrix) <= matrix.shape[1] else np.linalg.qr(matrix)[0]
    random = np.random.default_rng(0)
    return np.linalg.qr(matrix @ random.standard_normal((matrix.shape[1], count)))[0]


def quiet(rewrite: Rewrite) -> Rewrite:
    """The rewrite without refusals at places where it has fired, and at what it has made there."""
    fired: set[str] = set()

    def function(match: Match, build: Builder) -> Outcome:
        outcome = rewrite.function(match, build)
        name = match.root.name
        if isinstance(outcome, Refusal):
            return None if any(name == each or name.startswith(f"{each}.") for each in fired) else outcome
        if outcome is not None:
            fired.add(name)
        return outcome

    return replace(rewrite, function=function)
