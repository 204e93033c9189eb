"""Copies of the source of a stencil, with the border around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis
from mercer.ir.integers import ZERO, IntExpr

ROW, COLUMN = "row#", "column#"
"""A place in the source (loop indices)."""


def over_rows(
    scope: Scope,
    rows: Along,
    first: TirExpr,
    band: tuple[int, int],
    inside: Callable[[Scope, TirExpr], None],
    border: Callable[[TirExpr], None],
) -> None:
    """For every row of a `band`, (rows, elements of one), that begins with the window of row `first` of the result:
    `inside(scope, start)` for those of the source, `border(start)` for others; `start` is their place in the band."""
    count, pitch = band
    with T.serial(int64(0), int64(count)) as t:
        row = T.bind(first * int64(rows.stride) - int64(rows.before) + t)
        start = T.bind(t * int64(pitch))
        with T.If(tirx.And(row >= int64(0), row < int64(rows.size))):
            with T.Then():
                inside(scope.inside([Axis(ROW, IntExpr.constant(rows.size))], [row]), start)
            with T.Else():
                border(start)


def fill_line(scope: Scope, windows: Windows, buffer: Any, place: tuple[int, int], first: TirExpr, lanes: int) -> None:
    """The source from the window of result `first` on, with its border, into (start, size) of a buffer."""
    along, (begin, size) = windows.columns, place
    source, outside = windows.element(ZERO, IntExpr.var(COLUMN)), scope.value(windows.outside)
    axis = Axis(COLUMN, IntExpr.constant(along.size))
    shift = T.bind(int64(along.before) - first)
    low = T.bind(T.max(shift, int64(0)))
    high = T.bind(T.min(shift + int64(along.size), int64(size)))
    with T.If(tirx.Or(low > int64(0), high < int64(size))):
        with T.Then():
            fill(buffer, int64(begin), 0, size, outside, lanes)
    whole = T.bind(T.max(T.truncdiv(high - low, int64(lanes)), int64(0)))
    with T.serial(int64(0), whole) as block:
        to = T.bind(low + block * int64(lanes))
        inside = scope.vector(COLUMN, T.bind(to - shift), lanes, (ZERO, axis.extent - 1))
        T.buffer_store(buffer, vm.broadcast(inside.value(source), lanes), [blocks.at(to + int64(begin), lanes)])
    with T.serial(low + whole * int64(lanes), T.max(high, low)) as to:
        inside = scope.inside([axis], [T.bind(to - shift)])
        T.buffer_store(buffer, inside.value(source), [to + int64(begin)])


def fill(buffer: Any, start: TirExpr, low: int, end: int, value: TirExpr, lanes: int) -> None:
    """Elements from `low` to `end`, rounded outwards to whole vectors."""
    first, last = low // lanes, -(-end // lanes)
    vector = vm.broadcast(value, lanes)
    if low >= end:
        return
    if last - first <= 4:
        for k in range(first, last):
            T.buffer_store(buffer, vector, [blocks.at(start + int64(k * lanes), lanes)])
        return
    with T.serial(int64(first), int64(last)) as k:
        T.buffer_store(buffer, vector, [blocks.at(start + k * int64(lanes), lanes)])


def vectors(scope: Scope, size: int, columns: tuple[int, int], lanes: int, body: Callable[[Scope], None]) -> None:
    """`body` for all `columns` (first, end) of a row of `size`; the last vector may overlap the one before."""
    low, high = columns
    while lanes > max(1, high - low):
        lanes //= 2
    limits = ZERO, IntExpr.constant(size - 1)
    whole = max(0, high - low) // lanes
    with T.serial(int64(0), int64(whole)) as block:
        body(scope.vector(COLUMN, T.bind(block * int64(lanes) + int64(low)), lanes, limits))
    if (high - low) > whole * lanes:
        body(scope.vector(COLUMN, int64(high - lanes), lanes, limits))
