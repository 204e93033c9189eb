"""Operands brought into a form that vectors like: padded copies, repacked constants, repacked tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mercer.backends.tvm.analysis import bound, elements, free, is_computed, is_word, never_negative, stride
from mercer.backends.tvm.schedules.common import Problem, size, volume
from mercer.backends.tvm.schedules.normalize import all_axes, flat_reads, is_flat, position, ranges_of
from mercer.backends.tvm.schedules.tile import Tile
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Const, Expr, Read, Reduce, reads, transform
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import Data, TensorType

LARGEST_PADDING = 4
"""A padded copy may have this many times the elements of its tensor."""

REUSE = 8
"""A tensor is repacked at run time when every element is used at least this often."""


# --- padding ----------------------------------------------------------------------------------------------------------


def padded(problem: Problem) -> tuple[Problem, tuple[Nest, ...]]:
    """Redirect reads with pad to copies that are large enough to need no check."""
    types = dict(problem.types)
    copies: dict[str, Nest] = {}

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr.pad is None or is_flat(expr, types[expr.tensor]):
            return expr
        margins = _margins(expr, types[expr.tensor], problem)
        if margins is None:
            return expr
        name = f"{expr.tensor}.pad[{', '.join(f'{a}+{n}' for a, n in margins)}]={expr.pad}"
        if name not in types:
            copies[name] = _padded_copy(name, expr, margins, problem)
            types[name] = copies[name].type
        shifted = tuple(index + before for index, (before, _) in zip(expr.indices, margins, strict=True))
        return Read(name, shifted, expr.dtype)

    nest = replace(problem.nest, body=transform(problem.nest.body, change))
    new = [copy for name, copy in copies.items() if name not in problem.types]
    return replace(problem, nest=flat_reads(nest, types), types=types), tuple(new)


def _margins(read: Read, type: TensorType, problem: Problem) -> list[tuple[int, IntExpr]] | None:
    """For every dim: elements to put before it, and the new extent. None when it cannot be known or would be large."""
    ranges = ranges_of(all_axes(problem.nest))
    margins: list[tuple[int, IntExpr]] = []
    for index, extent in zip(read.indices, type.shape, strict=True):
        if never_negative(index, ranges) and never_negative(extent - 1 - index, ranges):
            margins.append((0, extent))
            continue
        low, high = bound(index, ranges, False), bound(index, ranges, True)
        if is_computed(index) or low is None or high is None or not (low.is_constant and high.is_constant):
            return None
        before = max(0, -low.value)
        margins.append((before, IntExpr.constant(high.value + before + 1)))
    copy = size(elements(extent for _, extent in margins))
    return margins if copy <= LARGEST_PADDING * max(1, size(elements(type.shape))) else None


def _padded_copy(name: str, read: Read, margins: Sequence[tuple[int, IntExpr]], problem: Problem) -> Nest:
    axes = tuple(Axis(f"d{i}", extent) for i, (_, extent) in enumerate(margins))
    indices = tuple(IntExpr.var(axis.name) - before for axis, (before, _) in zip(axes, margins, strict=True))
    type = TensorType(read.dtype, tuple(axis.extent for axis in axes))
    assert isinstance(read.pad, Const)
    return Nest(name, type, axes, Read(read.tensor, indices, read.dtype, read.pad), problem.nest.origins)


# --- repacking --------------------------------------------------------------------------------------------------------


def is_movable(read: Read, problem: Problem, e: Reduce) -> bool:
    """Whether a repacked copy of what the read uses can be made, and is worth making."""
    type = problem.types[read.tensor]
    if is_word(read, e) or read.pad is not None or (read.indices and not is_flat(read, type) and type.rank != 1):
        return False
    if any(is_computed(index) for index in read.indices):
        return False
    index = position(read, type)
    if any(not stride(index, name) for name in free(read)):
        return False
    if read.tensor in problem.constants:
        return grid(read, problem) is not None
    axes = _axes_of(read, problem)
    copied = volume(axes)
    work = volume(problem.nest.axes) * volume(e.axes)
    return copied <= 2 * size(elements(type.shape)) and work >= REUSE * copied


def repacked(
    problem: Problem, best: Tile, order: Sequence[str], reductions: Sequence[Reduce]
) -> tuple[Problem, tuple[Nest, ...], tuple[Constant, ...]]:
    """Redirect movable reads to copies whose last axis is the lane, before it the reduction in loop order.

    Constants are also repacked where no vectors are read from them, so that neighbours in a tile lie together.
    """
    inner = [axis.name for e in reductions for axis in e.axes]
    types = dict(problem.types)
    copies: dict[str, Nest] = {}
    constants: dict[str, Constant] = {}
    owner = {read: e for e in reductions for read in reads(e.body)}

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr not in owner or not is_movable(expr, problem, owner[expr]):
            return expr
        constant = problem.constants.get(expr.tensor)
        axes = {axis.name: axis for axis in _axes_of(expr, problem)}
        along = stride(position(expr, problem.types[expr.tensor]), best.lane)
        if not axes or (constant is None and along in (0, 1)):
            return expr
        tiled = [name for name in order if name in best.factors]
        outer = [name for name in order if name not in best.factors]
        names = [name for name in (*outer, *inner, *tiled, best.lane) if name in axes]
        new = tuple(axes[name] for name in names)
        name = f"{expr.tensor}.pack[{position(expr, problem.types[expr.tensor])} by {', '.join(map(str, new))}]"
        type = TensorType(expr.dtype, tuple(axis.extent for axis in new))
        if constant is not None:
            constants[name] = _repacked_constant(name, expr, new, problem)
        else:
            copies[name] = Nest(name, type, new, expr, problem.nest.origins)
        types[name] = type
        return Read(name, tuple(IntExpr.var(axis.name) for axis in new), expr.dtype)

    nest = replace(problem.nest, body=transform(problem.nest.body, change))
    nest = flat_reads(nest, types)
    return replace(problem, nest=nest, types=types), tuple(copies.values()), tuple(constants.values())


def _axes_of(read: Read, problem: Problem) -> tuple[Axis, ...]:
    return tuple(axis for axis in all_axes(problem.nest) if axis.name in free(read))


def grid(read: Read, problem: Problem) -> list[Axis] | None:
    """Axes of a constant read such that the constant, reshaped to their extents, is indexed by them in order."""
    index = position(read, problem.types[read.tensor])
    axes = sorted(_axes_of(read, problem), key=lambda axis: -(stride(index, axis.name) or 0))
    expected = 1
    for axis in reversed(axes):
        if not axis.extent.is_constant or (stride(index, axis.name) != expected and axis.extent.value != 1):
            return None
        expected *= axis.extent.value
    total = elements(problem.types[read.tensor].shape)
    offset = index - sum((IntExpr.var(a.name) * (stride(index, a.name) or 0) for a in axes), IntExpr.constant(0))
    complete = total.is_constant and total.value == expected and offset == IntExpr.constant(0)
    return axes if complete and problem.constants[read.tensor].data.array is not None else None


def _repacked_constant(name: str, read: Read, new: Sequence[Axis], problem: Problem) -> Constant:
    axes = grid(read, problem)
    array = problem.constants[read.tensor].data.array
    assert axes is not None and array is not None
    moved = array.reshape([axis.extent.value for axis in axes]).transpose([axes.index(axis) for axis in new])
    packed = np.ascontiguousarray(moved)
    return Constant(name, TensorType.of(packed), Data(packed))
