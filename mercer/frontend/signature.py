"""Matching the types in a signature with the types at a call: dimensions, element types, ellipses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass

from mercer.frontend import syntax
from mercer.frontend.arithmetic import OperandError, broadcast, show_shape
from mercer.frontend.evaluator import Evaluator
from mercer.frontend.frames import DTYPES
from mercer.frontend.values import describe, is_integer, simplified
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import DType, TensorType


def names_in(node: object) -> Iterator[str]:
    """Every name that an expression or a statement mentions."""
    if isinstance(node, syntax.Name):
        yield node.name
    elif isinstance(node, tuple):
        for item in node:  # type: ignore[reportUnknownVariableType]
            yield from names_in(item)  # type: ignore[reportUnknownArgumentType]
    elif is_dataclass(node) and not isinstance(node, Span):
        for entry in fields(node):
            yield from names_in(getattr(node, entry.name))


def bind_defaults(evaluator: Evaluator, attributes: Sequence[syntax.Attribute], last: bool) -> None:
    """Give attributes that are not set their defaults.

    A default that mentions a dimension waits for `last`, when the signature has been matched.
    """
    scope = evaluator.frame.scope
    for attribute in attributes:
        name = attribute.name.name
        if name in scope or attribute.default is None:
            continue
        waits = any(
            other not in scope
            and evaluator.library.definition(other) is None
            and other not in DTYPES
            and other not in ("pi", "inf")
            for other in names_in(attribute.default)
        )
        if last or not waits:
            scope[name] = evaluator.static(attribute.default, f"the default of `{name}`")


def type_of(evaluator: Evaluator, type_: syntax.TypeSyntax) -> TensorType:
    """The type that the syntax stands for, now that the names in it are bound."""
    dtype = DTYPES.get(type_.dtype) or evaluator.frame.types.get(type_.dtype)
    if dtype is None:
        evaluator.fail(
            "unknown-type",
            f"`{type_.dtype}` is not bound by the signature",
            type_.span,
            hint="name an element type, for example f32",
        )
    shape: list[IntExpr] = []
    for dim in type_.dims:
        if isinstance(dim, syntax.Ellipsis_):
            shape += evaluator.frame.ellipses.get(dim.name, ())
            continue
        if isinstance(dim, syntax.PlacedDim):
            evaluator.fail("unsupported", "`@` places an axis of an operator's operand", dim.span)
        size = evaluator.integer(dim, "a dimension")
        if size.is_constant and size.value < 0:
            evaluator.fail("out-of-range", f"a dimension of {size}", dim.span)
        shape.append(size)
    return TensorType(dtype, tuple(shape))


class Matcher:
    """Binds the dimension names of one signature in the evaluator's scope."""

    def __init__(self, evaluator: Evaluator, span: Span) -> None:
        self.evaluator = evaluator
        self.span = span
        self.sources: dict[str, str] = {}
        self.pending: list[tuple[str, int, syntax.Expression, IntExpr]] = []

    def match(self, name: str, type_: syntax.TypeSyntax, actual: TensorType, what: str = "") -> None:
        """Match one tensor; dimensions that are formulas wait for `finish`."""
        self._dtype(name, type_, actual.dtype)
        for item, axis, dims in self._aligned(name, type_, actual):
            if isinstance(item, syntax.Ellipsis_):
                self._ellipsis(name, item, dims)
            elif isinstance(item, syntax.PlacedDim):
                self._dim(name, axis, item.name, dims[0])
            elif isinstance(item, syntax.Name):
                self._dim(name, axis, item.name, dims[0])
            else:
                self.pending.append((name, axis, item, dims[0]))

    def finish(self) -> None:
        """Check the dimensions that are formulas."""
        for name, axis, formula, actual in self.pending:
            expected = self.evaluator.integer(formula, f"a dimension of `{name}`")
            if expected != actual:
                self._mismatch(name, axis, actual, expected, formula)
        self.pending.clear()

    def _dtype(self, name: str, type_: syntax.TypeSyntax, actual: DType) -> None:
        expected = DTYPES.get(type_.dtype) or self.evaluator.frame.types.setdefault(type_.dtype, actual)
        if expected is not actual:
            self.evaluator.fail(
                "dtype-mismatch",
                f"`{name}` is {actual}; {expected} expected",
                self.span,
                hint=f"convert with {expected}(…)",
            )

    def _aligned(
        self, name: str, type_: syntax.TypeSyntax, actual: TensorType
    ) -> Iterator[tuple[syntax.Expression | syntax.Ellipsis_ | syntax.PlacedDim, int, tuple[IntExpr, ...]]]:
        items = type_.dims
        fixed = sum(not isinstance(item, syntax.Ellipsis_) for item in items)
        if fixed > actual.rank or (fixed == len(items) and fixed != actual.rank):
            wanted = f"at least {fixed}" if fixed < len(items) else str(fixed)
            self.evaluator.fail(
                "rank-mismatch",
                f"`{name}` has {actual.rank} axes; {wanted} expected",
                self.span,
                expected=show_type(type_),
                found=str(actual),
            )
        position = 0
        for number, item in enumerate(items):
            if not isinstance(item, syntax.Ellipsis_):
                yield item, position, (actual.shape[position],)
                position += 1
                continue
            end = actual.rank - sum(not isinstance(i, syntax.Ellipsis_) for i in items[number:])
            if fixed < len(items) - 1 and item.name in self.evaluator.frame.ellipses:
                end = position + len(self.evaluator.frame.ellipses[item.name])
            for later in range(number + 1, len(items)):
                follower = items[later]
                if isinstance(follower, syntax.PlacedDim):
                    end = self._place(name, follower, actual.rank) - (later - number - 1)
                    break
                if isinstance(follower, syntax.Ellipsis_):
                    break
            if end < position:
                self.evaluator.fail("out-of-range", f"the axes of `{name}` do not stand in this order", self.span)
            yield item, position, actual.shape[position:end]
            position = end
        if position != actual.rank:
            self.evaluator.fail("rank-mismatch", f"`{name}` has {actual.rank} axes; {position} expected", self.span)

    def _place(self, name: str, item: syntax.PlacedDim, rank: int) -> int:
        value = self.evaluator.integer(item.position, "the position of an axis")
        if not value.is_constant or not -rank <= value.value < rank:
            hint = f"axes count from 0 to {rank - 1}, or from -{rank} to -1"
            self.evaluator.fail(
                "out-of-range", f"axis {value} of `{name}`, which has {rank} axes", self.span, hint=hint
            )
        return value.value % rank

    def _dim(self, name: str, axis: int, symbol: str, actual: IntExpr) -> None:
        scope = self.evaluator.frame.scope
        if symbol not in scope:
            scope[symbol] = simplified(actual)
            self.sources[symbol] = name
            return
        expected = scope[symbol]
        if not is_integer(expected):
            self.evaluator.fail(
                "type-mismatch", f"`{symbol}` is a dimension here; found {describe(expected)}", self.span
            )
        if IntExpr.of(expected) != actual:  # type: ignore[arg-type]
            self._mismatch(name, axis, actual, IntExpr.of(expected), None, symbol)  # type: ignore[arg-type]

    def _ellipsis(self, name: str, item: syntax.Ellipsis_, dims: tuple[IntExpr, ...]) -> None:
        ellipses = self.evaluator.frame.ellipses
        known = ellipses.get(item.name)
        if known is None:
            ellipses[item.name] = dims
            return
        try:
            if item.name and known != dims:
                raise OperandError(f"{show_shape(known)} and {show_shape(dims)} differ in `...{item.name}`")
            ellipses[item.name] = broadcast(known, dims)
        except OperandError as error:
            message = f"`{name}` does not fit the operands before it: {error.message}"
            shapes = {"expected": show_shape(known), "found": show_shape(dims)}
            self.evaluator.fail("shape-mismatch", message, self.span, **shapes)

    def _mismatch(
        self,
        name: str,
        axis: int,
        actual: IntExpr,
        expected: IntExpr,
        formula: syntax.Expression | None,
        symbol: str = "",
    ) -> None:
        scope = self.evaluator.frame.scope
        used = [n for n in dict.fromkeys(names_in(formula)) if is_integer(scope.get(n))] if formula else []
        values = ", ".join(
            f"{n} = {scope[n]}" + (f" from `{self.sources[n]}`" if n in self.sources else "") for n in used
        )
        text = f"{show(formula)} = {expected}" if formula and used else str(expected)
        source = f" from `{self.sources[symbol]}`" if symbol in self.sources else ""
        label = f"`{symbol}` = {text}{source}" if symbol else text
        self.evaluator.fail(
            "shape-mismatch",
            f"`{name}` has size {actual} along axis {axis}; {label} expected" + (f" ({values})" if values else ""),
            self.span,
        )


def show_type(type_: syntax.TypeSyntax) -> str:
    def item(dim: syntax.Expression | syntax.Ellipsis_ | syntax.PlacedDim) -> str:
        match dim:
            case syntax.Ellipsis_(name):
                return f"...{name}"
            case syntax.PlacedDim(name):
                return name
            case _:
                return show(dim)

    return f"{type_.dtype}[{', '.join(map(item, type_.dims))}]"


def show(e: syntax.Expression) -> str:
    """An expression of dimensions as text."""
    match e:
        case syntax.Name(name):
            return name
        case syntax.Number(value):
            return str(value)
        case syntax.Binary(operator, left, right):
            looser = [operator in "*/%" and isinstance(s, syntax.Binary) and s.operator in "+-" for s in (left, right)]
            sides = [f"({show(s)})" if loose else show(s) for s, loose in zip((left, right), looser, strict=True)]
            return f"{sides[0]} {operator} {sides[1]}" if operator in "+-" else f"{sides[0]}{operator}{sides[1]}"
        case syntax.Unary(operator, operand):
            return f"{operator}{show(operand)}"
        case syntax.Call(callee):
            return f"{callee.name}(…)"
        case syntax.Subscript(value, items):
            inner = ", ".join(show(i) for i in items if not isinstance(i, syntax.Slice | syntax.Ellipsis_))
            return f"{show(value)}[{inner}]"
        case _:
            return "…"
