"""Rows that are numbered by one index instead of two: (y, x) of an image as the number of a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mercer.backends.tvm.analysis import is_computed
from mercer.backends.tvm.schedules.normalize import flat_reads, together
from mercer.ir.index import Axis, Expr, Read, reads, substitute, transform, variables
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import TensorType


def merged(members: Sequence[Nest], at: int, types: Mapping[str, TensorType]) -> tuple[Nest, ...] | None:
    """The nests of a group with their axes `at` and `at` + 1 as one; None where one of them tells the two apart.

    Members read each other at their own rows, so that there the two indices become one. Other tensors are read by the
    position in memory where it depends on the two.
    """
    own = {member.target for member in members}
    found = [_merged(member, at, own, types) for member in members]
    complete = tuple(nest for nest in found if nest is not None)
    return complete if len(complete) == len(found) else None


def _merged(nest: Nest, at: int, own: set[str], types: Mapping[str, TensorType]) -> Nest | None:
    outer, inner = nest.axes[at : at + 2]
    if not (outer.extent.is_constant and inner.extent.is_constant):
        return None
    names = {outer.name, inner.name}
    others = [read for read in dict.fromkeys(reads(nest.body)) if read.tensor not in own and names & variables(read)]
    if any(read.pad is not None or any(map(is_computed, read.indices)) for read in others):
        return None
    flat = {read: _flat(read, nest, types) for read in others}
    row = IntExpr.var(outer.name) * inner.extent + IntExpr.var(inner.name)

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read):
            return expr
        if expr.tensor in own:
            return replace(expr, indices=(*expr.indices[:at], row, *expr.indices[at + 2 :]))
        return flat.get(expr, expr)

    body = transform(nest.body, change)
    if not together(outer, inner, body):
        return None
    axis = Axis(f"{outer.name}.{inner.name}", outer.extent * inner.extent)
    axes = (*nest.axes[:at], axis, *nest.axes[at + 2 :])
    type = TensorType(nest.type.dtype, tuple(each.extent for each in axes))
    body = substitute(body, {outer.name: ZERO, inner.name: IntExpr.var(axis.name)})
    return replace(nest, type=type, axes=axes, body=body)


def _flat(read: Read, nest: Nest, types: Mapping[str, TensorType]) -> Expr:
    return flat_reads(replace(nest, body=read), types).body
