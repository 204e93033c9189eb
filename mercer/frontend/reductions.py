"""Reductions of index notation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mercer.frontend import syntax
from mercer.frontend.arithmetic import as_expr, binary, require_complex
from mercer.frontend.values import POISON, AnyValue, Poison, simplified
from mercer.ir.index import Axis, Expr, Read, Reduce, Reducer, transform, variables
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType

if TYPE_CHECKING:
    from mercer.frontend.evaluator import Evaluator


def reduction(ev: Evaluator, e: syntax.Reduction) -> AnyValue:
    """`sum[i < n] e` within an index statement."""
    loop = ev.frame.loop
    if loop is None:
        ev.fail(
            "unsupported",
            f"`{e.kind}[…]` stands in an index statement",
            e.span,
            hint=f"on whole tensors call `{e.kind}(x; axis)`",
        )
    indices, ellipses = dict(loop.indices), dict(loop.ellipses)
    axes = ev.axes(e.axes)
    value = ev.evaluate(e.body)
    loop.indices, loop.ellipses = indices, ellipses
    if isinstance(value, Poison):
        return POISON
    if e.kind in ("max", "min", "argmax", "argmin") and any(axis.extent == IntExpr.constant(0) for axis in axes):
        ev.fail("out-of-range", f"`{e.kind}` of nothing: an index has the extent 0", e.span)
    with ev.operands(e.body.span):
        body = _lifted(ev, as_expr(value, ev.frame.default))
        if body.dtype.is_complex:
            require_complex(e.kind)
    if e.kind in ("any", "all") and body.dtype is not DType.BOOL:
        ev.fail("type-mismatch", f"`{e.kind}` takes truth values; found {body.dtype}", e.body.span)
    if e.kind in ("argmax", "argmin") and len(axes) != 1:
        ev.fail("unsupported", f"`{e.kind}` runs over one index", e.span)
    if e.kind == "mean":
        count: AnyValue = IntExpr.constant(1)
        for axis in axes:
            count = IntExpr.of(count) * axis.extent  # type: ignore[arg-type]
        with ev.operands(e.span):
            return binary("/", Reduce(Reducer.SUM, axes, body), simplified(count), ev.frame.default)  # type: ignore[arg-type]
    return Reduce(Reducer(e.kind), axes, body)


def _lifted(ev: Evaluator, body: Expr) -> Expr:
    """Normal form: a reduction below another becomes a tensor of its own."""
    loop = ev.frame.loop
    assert loop is not None

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Reduce):
            return expr
        names = sorted(variables(expr), key=list(loop.extents).index)
        axes = tuple(Axis(name, loop.extents[name]) for name in names)
        tensor = ev.builder.emit(expr.reducer.value, axes, expr)
        return Read(tensor.name, tuple(IntExpr.var(name) for name in names), expr.dtype)

    return transform(body, change)
