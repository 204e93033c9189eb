"""Sums over windows: y[…, p, q] = f(sum[i, j] weight[…, i, j] * g(x[…, sy*p + dy*i - py, sx*q + dx*j - px]), …).

These are depthwise convolutions in one and two dimensions, with any stride and dilation, and sums of pools. What tells
them from other convolutions is that no index but those of the window is summed: one plane of the source gives one plane
of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mercer.backends.tvm.analysis import free, free_in_integer, is_computed, never_negative, stride
from mercer.backends.tvm.schedules.common import Problem
from mercer.backends.tvm.schedules.normalize import all_axes, is_flat, ranges_of, unique_names
from mercer.ir.index import Axis, Call, Const, Expr, Read, Reduce, Reducer, reads, substitute, transform, walk
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import DType

BAND = "band"
"""The axis of the bands of a plane."""


@dataclass(frozen=True)
class Along:
    """One dim of the window: element stride*output + dilation*t - before of `size` ones, where t is `tap` or, in a
    `flipped` window, counts it from its end. `tap` may be absent.
    """

    output: Axis
    tap: Axis | None
    stride: int
    dilation: int
    before: int
    size: int
    flipped: bool = False

    @property
    def taps(self) -> int:
        return self.tap.extent.value if self.tap is not None else 1

    @property
    def outputs(self) -> int:
        return self.output.extent.value

    @property
    def is_inside(self) -> bool:
        """Whether no window reaches beyond the source."""
        return self.before <= 0 and (self.outputs - 1) * self.stride + self.reach - self.before <= self.size

    @property
    def reach(self) -> int:
        """From the first to the last element of a window."""
        return (self.taps - 1) * self.dilation + 1


@dataclass(frozen=True)
class Windows:
    """`reduction` is the sum in `nest`, `source` its factor with the read of the window, `weights` its other factors.

    `rows` is None in one dimension. `outer` are the axes of the result around a plane.
    """

    nest: Nest
    reduction: Reduce
    source: Expr
    read: Read
    weights: tuple[Expr, ...]
    rows: Along | None
    columns: Along
    outer: tuple[Axis, ...]

    @property
    def taps(self) -> int:
        return self.columns.taps * (self.rows.taps if self.rows is not None else 1)

    @property
    def outputs(self) -> int:
        """Elements of a plane of the result."""
        return self.columns.outputs * (self.rows.outputs if self.rows is not None else 1)

    @property
    def rest(self) -> Expr:
        """What is done with the sum."""
        return transform(self.nest.body, lambda e: Const(0, e.dtype) if e == self.reduction else e)

    def units(self, bands: int) -> tuple[Axis, ...]:
        """Planes and bands of them, as convolutions go: pixels before channels, so that threads find much of the source
        in caches of their own."""
        return (*self.outer[:-1], Axis(BAND, IntExpr.constant(bands)), *self.outer[-1:])

    def element(self, row: IntExpr, column: IntExpr) -> Expr:
        """The source at a place in its plane."""
        known = self.at(row, column)
        return transform(self.source, lambda e: known if e == self.read else e)

    def at(self, row: IntExpr, column: IntExpr) -> Read:
        """What is read for the source at a place in its plane."""
        place = [row, column] if self.rows is not None else [column]
        return Read(self.read.tensor, (*self.read.indices[: -len(place)], *place), self.read.dtype)

    @property
    def outside(self) -> Expr:
        """The source beyond the border of its plane."""
        pad = self.read.pad if self.read.pad is not None else Const(0, self.read.dtype)
        return transform(self.source, lambda e: pad if e == self.read else e)


def find(problem: Problem) -> Windows | str:
    """The windows of a nest, or why it has none. Indices of the nest must not be flattened yet."""
    nest = unique_names(problem.nest)
    sums = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    if len(sums) != 1 or sums[0].reducer is not Reducer.SUM or sums[0].dtype not in (DType.F32, DType.I32):
        return "not one sum of f32 or i32"
    if nest.type.dtype is DType.BOOL or not nest.axes or not nest.axes[-1].extent.is_constant:
        return "no last axis of constant extent"
    (total,), lane = sums, nest.axes[-1]
    body = substitute(total.body, {axis.name: ZERO for axis in total.axes if axis.extent == ONE})
    factors = _factors(body)
    sources = [factor for factor in factors if lane.name in free(factor)]
    if len(sources) != 1:
        return f"{len(sources)} factors depend on {lane.name}"
    found = [e for e in dict.fromkeys(reads(sources[0])) if lane.name in free(e)]
    if len(found) != 1 or found[0].dtype is DType.BOOL:
        return f"{len(found)} reads along {lane.name}"
    return _windows(problem, nest, total, sources[0], found[0], [f for f in factors if f != sources[0]])


def _windows(
    problem: Problem, nest: Nest, total: Reduce, source: Expr, read: Read, weights: Sequence[Expr]
) -> Windows | str:
    shape = problem.types[read.tensor].shape
    if is_flat(read, problem.types[read.tensor]) or any(is_computed(index) for index in read.indices):
        return "positions that are no affine functions of indices"
    taps = {axis.name: axis for axis in total.axes if axis.extent != ONE}
    outputs = {axis.name: axis for axis in nest.axes}
    columns = _along(read.indices[-1], shape[-1], outputs, taps)
    if columns is None or columns.output != nest.axes[-1]:
        return f"the last index of %{read.tensor} does not move along {nest.axes[-1].name} alone"
    left = {name: axis for name, axis in taps.items() if columns.tap is None or name != columns.tap.name}
    rows = _along(read.indices[-2], shape[-2], outputs, left) if len(shape) > 1 else None
    if rows is not None and (rows.output == columns.output or (rows.tap is None and rows.is_inside)):
        rows = None
    if any(rows is None or rows.tap is None or name != rows.tap.name for name in left):
        return "sums over more than a window"
    inner = {columns.output.name, *taps, *([rows.output.name] if rows is not None else [])}
    around = read.indices[: -1 if rows is None else -2]
    outer = tuple(axis for axis in nest.axes if axis.name not in inner)
    constant = _replaced(source, read)
    if any(free_in_integer(index) & inner for index in around) or free(constant) & inner:
        return "the plane of a window depends on the place in it"
    if any(free(weight) & (inner - taps.keys()) for weight in weights):
        return "weights that depend on the place"
    ranges = ranges_of(all_axes(nest))
    for index, size in zip(around, shape, strict=False):
        if not (never_negative(index, ranges) and never_negative(size - 1 - index, ranges)):
            return "planes that may lie outside"
    if any(axis.name not in free(read) and axis.extent != ONE for axis in outer):
        return "several sums share a window"
    if source.dtype is not total.dtype or any(weight.dtype is not total.dtype for weight in weights):
        return "factors of another type than the sum"
    return Windows(nest, total, source, read, tuple(weights), rows, columns, outer)


def _factors(product: Expr) -> list[Expr]:
    if isinstance(product, Call) and product.function == "mul":
        return [factor for argument in product.arguments for factor in _factors(argument)]
    return [product]


def _replaced(source: Expr, read: Read) -> Expr:
    return transform(source, lambda e: Const(0, read.dtype) if e == read else e)


def _along(index: IntExpr, size: IntExpr, outputs: dict[str, Axis], taps: dict[str, Axis]) -> Along | None:
    """An index that is affine in one output axis and at most one axis of the sum."""
    names = free_in_integer(index)
    out = [outputs[name] for name in names if name in outputs]
    tap = [taps[name] for name in names if name in taps]
    if len(out) != 1 or len(tap) > 1 or not size.is_constant:
        return None
    steps = [stride(index, axis.name) for axis in (*out, *tap)]
    rest = index
    for axis, step in zip((*out, *tap), steps, strict=True):
        if not step or not axis.extent.is_constant or axis.extent.value < 1:
            return None
        rest = rest - IntExpr.var(axis.name) * step
    step, dilation = steps[0], steps[1] if tap else 1
    if not rest.is_constant or step is None or step < 1 or dilation is None:
        return None
    before = -rest.value
    if dilation < 0:
        before -= dilation * (tap[0].extent.value - 1)
    return Along(out[0], tap[0] if tap else None, step, abs(dilation), before, size.value, dilation < 0)
