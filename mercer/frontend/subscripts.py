"""Subscripts: elements of lists, reads in index statements, slices of whole tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mercer.frontend import syntax
from mercer.frontend.arithmetic import as_expr, to_integer
from mercer.frontend.values import POISON, AnyValue, Poison, Static, Tensor, View, describe, simplified
from mercer.ir.index import Const, Read
from mercer.ir.integers import Computed, Dim, IntExpr, Var
from mercer.ir.spans import Span

if TYPE_CHECKING:
    from mercer.frontend.evaluator import Evaluator


def subscript(ev: Evaluator, e: syntax.Subscript) -> AnyValue:
    """`value[…]`: an element of a list, a read in an index statement, a slice of a whole tensor."""
    bound = ev.frame.scope.get(e.value.name) if isinstance(e.value, syntax.Name) else None
    value = bound if isinstance(bound, Tensor) else ev.evaluate(e.value)
    if isinstance(value, Poison):
        return POISON
    if isinstance(value, tuple):
        return _list_item(ev, e, value)
    if isinstance(value, Tensor | View) and ev.frame.loop is not None:
        return _read(ev, e, value)
    if isinstance(value, Tensor):
        return _slice(ev, e, value)
    ev.fail("type-mismatch", f"only tensors and lists have elements; found {describe(value)}", e.value.span)


def _list_item(ev: Evaluator, e: syntax.Subscript, value: tuple[AnyValue, ...]) -> AnyValue:
    if len(e.items) != 1 or isinstance(e.items[0], syntax.Slice | syntax.Ellipsis_):
        ev.fail("unsupported", "an element of a list is taken by one number", e.span)
    position = ev.integer(e.items[0], "the position in a list")
    if not position.is_constant or not -len(value) <= position.value < len(value):
        ev.fail("out-of-range", f"position {position} of a list of {len(value)}", e.span)
    return value[position.value]


def _read(ev: Evaluator, e: syntax.Subscript, base: Tensor | View) -> AnyValue:
    tensor, prefix = (base, ()) if isinstance(base, Tensor) else (base.tensor, base.prefix)
    shape = tensor.type.shape[len(prefix) :]
    explicit = sum(not isinstance(item, syntax.Ellipsis_) for item in e.items)
    ellipses = len(e.items) - explicit
    if explicit > len(shape) or (ellipses and explicit == len(shape) + 1):
        ev.fail("rank-mismatch", f"`{tensor.name}` has {len(shape)} axes; {explicit} indices are given", e.span)
    indices = list(prefix)
    position = len(prefix)
    for item in e.items:
        if isinstance(item, syntax.Slice):
            ev.fail("unsupported", "a slice cannot stand in an index statement", item.span)
        if isinstance(item, syntax.Ellipsis_):
            found = _ellipsis_indices(ev, item, tensor, position, len(shape) - explicit, ellipses)
            indices += found
            position += len(found)
            continue
        with ev.operands(item.span):
            indices.append(to_integer(ev.evaluate(item)))
        position += 1
    if len(indices) < tensor.type.rank:
        if e.pad is not None:
            ev.fail("unsupported", "a part of a tensor takes no pad value", e.span)
        return View(tensor, tuple(indices), () if isinstance(base, Tensor) else base.maps)
    pad = None
    if e.pad is not None:
        with ev.operands(e.pad.span):
            filled = as_expr(ev.evaluate(e.pad), tensor.type.dtype)
        if not isinstance(filled, Const):
            ev.fail("not-static", "the pad value must be known at compile time", e.pad.span)
        if filled.dtype is not tensor.type.dtype:
            ev.fail(
                "dtype-mismatch", f"the pad value is {filled.dtype}; `{tensor.name}` is {tensor.type.dtype}", e.pad.span
            )
        pad = filled
    else:
        _check_range(ev, e, tensor, indices)
    value: AnyValue = Read(tensor.name, tuple(indices), tensor.type.dtype, pad)
    for function in () if isinstance(base, Tensor) else base.maps:
        value = ev.apply_to_number(function, value, e)
    return value


def _check_range(ev: Evaluator, e: syntax.Subscript, tensor: Tensor, indices: list[IntExpr]) -> None:
    """Refuse a read that is out of range for certain values of its indices, where the sizes are known."""
    assert ev.frame.loop is not None
    for axis, (index, size) in enumerate(zip(indices, tensor.type.shape, strict=True)):
        bounds = bounds_of(index.substitute(_step_as_index(ev)), {**ev.frame.loop.extents, **ev.frame.scans})
        if bounds is None or not size.is_constant:
            continue
        low, high = bounds
        if low < 0 or high >= size.value:
            ev.fail(
                "out-of-range",
                f"`{tensor.name}` has {size} elements along axis {axis}; the index runs from {low} to {high}",
                e.span,
                hint="give a pad value, `[…; pad = 0]`, if the outside is to count as zero",
            )


def _step_as_index(ev: Evaluator) -> Callable[[Dim | Var | Computed], IntExpr | None]:
    """The step of a scan is a dimension to each step; over all steps it is an index that runs."""
    return lambda atom: IntExpr.var(atom.name) if isinstance(atom, Dim) and atom.name in ev.frame.scans else None


def _ellipsis_indices(
    ev: Evaluator, item: syntax.Ellipsis_, tensor: Tensor, position: int, remaining: int, ellipses: int
) -> list[IntExpr]:
    """Indices for the axes that `...` covers, aligned at the right; axes of extent 1 are broadcast."""
    assert ev.frame.loop is not None
    bound = ev.frame.loop.ellipses.get(item.name)
    if bound is None:
        ev.fail("unknown-name", f"`...{item.name}` does not stand on the left", item.span)
    count = len(bound) if ellipses > 1 else remaining
    if count > len(bound):
        message = f"`...{item.name}` covers {len(bound)} axes; `{tensor.name}` has {count} there"
        ev.fail("rank-mismatch", message, item.span)
    chosen = bound[len(bound) - count :]
    indices: list[IntExpr] = []
    for offset, index in enumerate(chosen):
        size = tensor.type.shape[position + offset]
        extent = ev.frame.loop.extents[str(index)]
        broadcast = size == IntExpr.constant(1) and extent != size
        indices.append(IntExpr.constant(0) if broadcast else index)
    return indices


def _slice(ev: Evaluator, e: syntax.Subscript, tensor: Tensor) -> AnyValue:
    """Whole-tensor subscript: a chain of `slice_axis` and `select`, with `none` for a new axis of extent 1."""
    if e.pad is not None:
        ev.fail("unsupported", "a pad value belongs to an index statement", e.span)
    result: AnyValue = tensor
    explicit = sum(not isinstance(i, syntax.Ellipsis_ | syntax.NoneLiteral) for i in e.items)
    if explicit > tensor.type.rank:
        ev.fail("rank-mismatch", f"{describe(tensor)} has {tensor.type.rank} axes; {explicit} are sliced", e.span)
    axis = 0
    for item in e.items:
        assert isinstance(result, Tensor)
        match item:
            case syntax.Ellipsis_():
                axis += tensor.type.rank - explicit
            case syntax.NoneLiteral():
                shape = result.type.shape
                new = (*shape[:axis], IntExpr.constant(1), *shape[axis:])
                result = ev.apply("reshape", (result,), {"shape": new}, e.span)
                axis += 1
            case syntax.Slice():
                result = _slice_axis(ev, item, result, axis, e.span)
                axis += 1
            case _:
                index, size = ev.integer(item, "an index"), result.type.shape[axis]
                if index.is_constant and index.value < 0:
                    index = index + size
                if index.is_constant and size.is_constant and not 0 <= index.value < size.value:
                    ev.fail("out-of-range", f"index {index} of an axis of {size}", item.span)
                result = ev.apply("select", (result,), {"axis": axis, "index": simplified(index)}, e.span)
    return result


def _slice_axis(ev: Evaluator, item: syntax.Slice, tensor: Tensor, axis: int, span: Span) -> AnyValue:
    size = tensor.type.shape[axis]

    def bound(e: syntax.Expression | None, default: IntExpr) -> IntExpr:
        if e is None:
            return default
        value = ev.integer(e, "the bound of a slice")
        if value.is_constant and value.value < 0:
            value = value + size
        if (value - size).is_constant and (value - size).value > 0:
            ev.fail("out-of-range", f"slice bound {value} of an axis of {size}", e.span)
        return value

    start, stop = bound(item.start, IntExpr.constant(0)), bound(item.stop, size)
    step = ev.integer(item.step, "the step of a slice") if item.step else IntExpr.constant(1)
    if not step.is_constant or step.value <= 0:
        ev.fail("out-of-range", f"the step of a slice is positive; found {step}", span)
    if (stop - start).is_constant and (stop - start).value < 0:
        ev.fail("out-of-range", f"the slice {start}:{stop} is empty backwards", span)
    if start == IntExpr.constant(0) and stop == size and step.value == 1:
        return tensor
    bounds: dict[str, Static] = {"axis": axis, "start": simplified(start), "stop": simplified(stop), "step": step.value}
    return ev.apply("slice_axis", (tensor,), bounds, span)


def bounds_of(index: IntExpr, extents: dict[str, IntExpr]) -> tuple[int, int] | None:
    """Least and greatest value of an affine index over its loops, or None when a size is not known."""
    low = high = 0
    for monomial, coefficient in index.terms:
        if not monomial:
            low, high = low + coefficient, high + coefficient
            continue
        extent = extents.get(str(monomial[0])) if len(monomial) == 1 else None
        if extent is None or not extent.is_constant or extent.value <= 0:
            return None
        reach = coefficient * (extent.value - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high
