"""Normal form before scheduling: flat reads, unique names of reduction axes, neighbouring axes merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mercer.backends.tvm.analysis import Ranges, flatten, free_in_integer, in_bounds, is_computed, stride
from mercer.ir.index import Axis, Expr, Index, Read, Reduce, substitute, transform, walk
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import TensorType


def all_axes(nest: Nest) -> tuple[Axis, ...]:
    """Axes of the output, then those of every reduction."""
    inner = {axis: None for e in walk(nest.body) if isinstance(e, Reduce) for axis in e.axes}
    return (*nest.axes, *inner)


def ranges_of(axes: Sequence[Axis]) -> Ranges:
    return {axis.name: (ZERO, axis.extent - 1) for axis in axes}


def normalize(nest: Nest, types: Mapping[str, TensorType]) -> Nest:
    """The same nest: reads that need no check have one flat index, axes that always run together are one."""
    nest = unique_names(nest)
    nest = flat_reads(nest, types)
    nest = _merge_output(nest)
    return replace(nest, body=transform(nest.body, _merge_reduction))


def unique_names(nest: Nest) -> Nest:
    """Give every reduction axes of its own."""
    used = {axis.name for axis in nest.axes}

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Reduce):
            return expr
        names: dict[str, str] = {}
        for axis in expr.axes:
            name = axis.name
            while name in used:
                name += "'"
            used.add(name)
            names[axis.name] = name
        renamed = {old: IntExpr.var(new) for old, new in names.items() if old != new}
        axes = tuple(Axis(names[axis.name], axis.extent) for axis in expr.axes)
        return replace(expr, axes=axes, body=substitute(expr.body, renamed))

    return replace(nest, body=transform(nest.body, change))


def is_flat(read: Read, type: TensorType) -> bool:
    """Whether the read has the one row-major index that `flat_reads` gives."""
    return len(read.indices) == 1 and type.rank != 1


def position(read: Read, type: TensorType) -> IntExpr:
    """The row-major index of the element, pad left aside."""
    return read.indices[0] if is_flat(read, type) else flatten(read.indices, type)


def flat_reads(nest: Nest, types: Mapping[str, TensorType]) -> Nest:
    """Reads that surely stay inside get a single row-major index and no pad."""
    ranges = ranges_of(all_axes(nest))

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or is_flat(expr, types[expr.tensor]):
            return expr
        type = types[expr.tensor]
        trusted = expr.pad is None and not any(map(is_computed, expr.indices))
        if trusted or in_bounds(expr, type, ranges):
            return replace(expr, indices=(flatten(expr.indices, type),), pad=None)
        return expr

    return replace(nest, body=transform(nest.body, change))


def _integers(expr: Expr) -> set[IntExpr]:
    """Every integer expression that is evaluated for `expr`."""
    found: set[IntExpr] = set()
    for e in walk(expr):
        match e:
            case Index(value):
                found.add(value)
            case Read(_, indices):
                found.update(indices)
            case Reduce(_, axes):
                found.update(axis.extent for axis in axes)
            case _:
                pass
    return found


def _together(outer: Axis, inner: Axis, integers: set[IntExpr]) -> bool:
    """Whether the two always occur as outer * extent of inner + inner."""
    if not (outer.extent.is_constant and inner.extent.is_constant):
        return False
    for value in integers:
        if not free_in_integer(value) & {outer.name, inner.name}:
            continue
        far, near = stride(value, outer.name), stride(value, inner.name)
        if far is None or near is None or far != near * inner.extent.value:
            return False
    return True


def together(outer: Axis, inner: Axis, body: Expr) -> bool:
    """Whether the formula depends on the two axes only through their common row-major number."""
    return _together(outer, inner, _integers(body))


def merge(axes: Sequence[Axis], body: Expr) -> tuple[tuple[Axis, ...], Expr]:
    """Axes that always run together as one, and the body with its index."""
    merged = list(axes)
    integers = _integers(body)
    i = 0
    while i + 1 < len(merged):
        outer, inner = merged[i], merged[i + 1]
        if not _together(outer, inner, integers):
            i += 1
            continue
        axis = Axis(f"{outer.name}.{inner.name}", outer.extent * inner.extent)
        body = substitute(body, {outer.name: ZERO, inner.name: IntExpr.var(axis.name)})
        integers = _integers(body)
        merged[i : i + 2] = [axis]
        i = max(0, i - 1)
    return tuple(merged), body


def cut(nest: Nest, parts: Mapping[str, tuple[Axis, Axis]]) -> Nest:
    """The nest with two axes, an outer and an inner one, in place of each so named one."""
    axes = tuple(part for axis in nest.axes for part in parts.get(axis.name, (axis,)))
    indices = {
        n: IntExpr.var(outer.name) * inner.extent + IntExpr.var(inner.name) for n, (outer, inner) in parts.items()
    }
    type = TensorType(nest.type.dtype, tuple(axis.extent for axis in axes))
    return replace(nest, axes=axes, body=substitute(nest.body, indices), type=type)


def in_pieces(nest: Nest, axis: Axis, number: int) -> Nest:
    """The nest with one of its axes cut into so many equal pieces, for all threads."""
    piece = Axis(f"{axis.name}.piece", IntExpr.constant(number))
    return cut(nest, {axis.name: (piece, replace(axis, extent=axis.extent // number))})


def _merge_output(nest: Nest) -> Nest:
    axes, body = merge(nest.axes, nest.body)
    shape = tuple(axis.extent for axis in axes)
    return replace(nest, axes=axes, body=body, type=TensorType(nest.type.dtype, shape))


def _merge_reduction(expr: Expr) -> Expr:
    if not isinstance(expr, Reduce) or len(expr.axes) < 2:
        return expr
    axes, body = merge(expr.axes, expr.body)
    return replace(expr, axes=axes, body=body)
