"""The syntax tree, made from what the grammar recognizes; and the rules of syntax that a grammar cannot say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from lark import Token

from mercer.frontend import syntax
from mercer.frontend.diagnostics import DiagnosticBag, did_you_mean
from mercer.ir.spans import Span

DTYPES = ("f32", "f16", "bf16", "i8", "i4", "i16", "i32", "bool", "c64")

_TYPE_VARIABLE = re.compile(r"[A-Z][0-9]*")
_ESCAPES = {"\\n": "\n", "\\t": "\t", '\\"': '"', "\\\\": "\\"}
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")

Item: TypeAlias = "syntax.Expression | syntax.Slice | syntax.Ellipsis_"
Axes: TypeAlias = "tuple[syntax.AxisBinder | syntax.Ellipsis_, ...]"
Arguments: TypeAlias = "tuple[syntax.Expression | syntax.Keyword, ...]"


class _Block(NamedTuple):
    statements: tuple[syntax.Statement, ...]
    span: Span


class Builder:
    """Makes the nodes of `syntax` while Lark reduces; one method per rule of the grammar."""

    def __init__(self, parse_piece: Callable[[int, int], syntax.Expression | None]) -> None:
        """`parse_piece(start, end)` parses the expression in a range of the text; None after an error."""
        self.parse_piece = parse_piece

    def begin(self, text: str, file: str, bag: DiagnosticBag) -> None:
        """Set the text that is parsed next; its semantic slips go to `bag`."""
        self.text, self.file_name, self.bag = text, file, bag
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def at(self, token: Token) -> Span:
        return Span(self.file_name, token.line, token.column, token.end_line, token.end_column)  # pyright: ignore[reportArgumentType]

    def file(self, *items: syntax.Item) -> tuple[syntax.Item, ...]:
        return items

    def name(self, token: Token) -> syntax.Name:
        return syntax.Name(str(token), self.at(token))

    # items

    def use(self, word: Token, *names: syntax.Name) -> syntax.Use:
        return syntax.Use(".".join(name.name for name in names), self.at(word).to(names[-1].span))

    def definition(
        self,
        kind: Token,
        name: syntax.Name,
        parameters: tuple[syntax.Parameter, ...] | None,
        attributes: tuple[syntax.Attribute, ...] | None,
        results: tuple[syntax.TypeSyntax, ...] | None,
        body: _Block,
        properties: tuple[syntax.Property, ...] | None,
    ) -> syntax.Definition:
        parameters, attributes = parameters or (), attributes or ()
        self.unique([*parameters, *attributes], "parameter")
        if kind in ("op", "model"):
            for parameter in parameters:
                if parameter.type is None:
                    message = f"the tensor parameter `{parameter.name.name}` of {kind} `{name.name}` has no type"
                    hint = f"write `{parameter.name.name}: T[...]`, with its dimensions in the brackets"
                    self.bag.error("missing-type", message, parameter.span, hint=hint)
        span = self.at(kind).to(properties[-1].span if properties else body.span)
        return syntax.Definition(
            kind=kind.value,
            name=name,
            parameters=parameters,
            attributes=attributes,
            results=results or (),
            body=body.statements,
            properties=properties or (),
            doc=self.comment_above(span.line),
            source=self.text[self.offset(span.line, span.column) : self.offset(span.end_line, span.end_column)],
            span=span,
        )

    def parameters(self, *parameters: syntax.Parameter) -> tuple[syntax.Parameter, ...]:
        return parameters

    def parameter(self, name: syntax.Name, type_: syntax.TypeSyntax | None) -> syntax.Parameter:
        return syntax.Parameter(name, type_, name.span.to(type_.span) if type_ else name.span)

    def attributes(self, *attributes: syntax.Attribute) -> tuple[syntax.Attribute, ...]:
        return attributes

    def attribute(self, name: syntax.Name, default: syntax.Expression | None) -> syntax.Attribute:
        return syntax.Attribute(name, default, name.span.to(default.span) if default else name.span)

    def results(self, *types: syntax.TypeSyntax) -> tuple[syntax.TypeSyntax, ...]:
        return types

    def body(self, block: _Block) -> _Block:
        return block

    def expression_body(self, value: syntax.Expression) -> _Block:
        return _Block((syntax.Return((value,), value.span),), value.span)

    def properties(self, *properties: syntax.Property) -> tuple[syntax.Property, ...]:
        self.unique(properties, "property")
        return properties

    def property(self, name: syntax.Name, value: syntax.Expression | None) -> syntax.Property:
        return syntax.Property(name, value, name.span.to(value.span) if value else name.span)

    # types

    def tensor_type(self, dtype: Token, dims: tuple[Any, ...] | None, end: Token) -> syntax.TypeSyntax:
        name = dtype.value
        if name not in DTYPES and not _TYPE_VARIABLE.fullmatch(name):
            self.bag.error(
                "unknown-type",
                f"`{name}` is not a type",
                self.at(dtype),
                expected=", ".join(DTYPES) + ", or a type variable such as `T`",
                hint=did_you_mean(name, DTYPES),
            )
        return syntax.TypeSyntax(name, dims or (), self.at(dtype).to(self.at(end)))

    def dims(self, *dims: Any) -> tuple[Any, ...]:
        return dims

    def placed(self, name: syntax.Name, position: syntax.Expression) -> syntax.PlacedDim:
        return syntax.PlacedDim(name.name, position, name.span.to(position.span))

    def ellipsis(self, token: Token) -> syntax.Ellipsis_:
        return syntax.Ellipsis_(token[3:], self.at(token))

    # statements

    def block(self, opening: Token, *rest: Any) -> _Block:
        return _Block(tuple(rest[:-1]), self.at(opening).to(self.at(rest[-1])))

    def names(self, *names: syntax.Name) -> tuple[syntax.Name, ...]:
        self.unique(names, "result")
        return names

    def assign(self, names: tuple[syntax.Name, ...], value: syntax.Expression) -> syntax.Assign:
        return syntax.Assign(names, value, False, names[0].span.to(value.span))

    def let(self, word: Token, names: tuple[syntax.Name, ...], value: syntax.Expression) -> syntax.Assign:
        return syntax.Assign(names, value, True, self.at(word).to(value.span))

    def index_assign(self, target: syntax.Name, axes: Axes | None, value: syntax.Expression) -> syntax.IndexAssign:
        return syntax.IndexAssign(target, axes or (), value, False, target.span.to(value.span))

    def const(
        self, word: Token, target: syntax.Name, axes: Axes | None, value: syntax.Expression
    ) -> syntax.IndexAssign:
        return syntax.IndexAssign(target, axes or (), value, True, self.at(word).to(value.span))

    def axes(self, *axes: syntax.AxisBinder | syntax.Ellipsis_) -> Axes:
        return axes

    def axis(self, name: syntax.Name, _less: Token | None, extent: syntax.Expression | None) -> syntax.AxisBinder:
        return syntax.AxisBinder(name.name, extent, name.span.to(extent.span) if extent else name.span)

    def param(
        self, word: Token, name: syntax.Name, type_: syntax.TypeSyntax, initializer: syntax.Expression | None
    ) -> syntax.ParamDeclaration:
        span = self.at(word).to((initializer or type_).span)
        return syntax.ParamDeclaration(name, type_, initializer, word == "param", span)

    def return_values(self, word: Token, *values: syntax.Expression) -> syntax.Return:
        return syntax.Return(values, self.at(word).to(values[-1].span))

    def return_indexed(
        self, word: Token, target: syntax.Expression, value: syntax.Expression
    ) -> syntax.ReturnIndexed | syntax.Return:
        if not (isinstance(target, syntax.Subscript) and isinstance(target.value, syntax.Name) and not target.pad):
            hint = "write `return y[n, i] = ...` for a formula, `return value` for a value"
            self.bag.error(
                "syntax-error", "this cannot be returned by `=`", target.span, expected="`NAME[axes]`", hint=hint
            )
            return syntax.Return((value,), value.span)
        axes = tuple(self.axis_of(item) for item in target.items)
        statement = syntax.IndexAssign(target.value, axes, value, False, target.span.to(value.span))
        return syntax.ReturnIndexed(statement, self.at(word).to(value.span))

    def axis_of(
        self, item: syntax.Expression | syntax.Slice | syntax.Ellipsis_
    ) -> syntax.AxisBinder | syntax.Ellipsis_:
        match item:
            case syntax.Ellipsis_():
                return item
            case syntax.Name(name, span):
                return syntax.AxisBinder(name, None, span)
            case syntax.Binary("<", syntax.Name(name), extent, span):
                return syntax.AxisBinder(name, extent, span)
            case _:
                hint = "on the left of `=` stand index names; a shifted index belongs on the right"
                self.bag.error(
                    "syntax-error", "this is not an axis", item.span, expected="`i`, `i < extent` or `...`", hint=hint
                )
                return syntax.AxisBinder("_", None, item.span)

    def if_statement(
        self, word: Token, condition: syntax.Expression, then: _Block, otherwise: _Block | syntax.If | None
    ) -> syntax.If:
        other = otherwise.statements if isinstance(otherwise, _Block) else (otherwise,) if otherwise else ()
        return syntax.If(condition, then.statements, other, self.at(word).to((otherwise or then).span))

    def for_statement(
        self,
        word: Token,
        variable: syntax.Name,
        start: syntax.Expression,
        stop: syntax.Expression,
        instance: syntax.Name | None,
        body: _Block,
    ) -> syntax.For:
        return syntax.For(variable, start, stop, instance, body.statements, self.at(word).to(body.span))

    def require(self, word: Token, condition: syntax.Expression, message: Token) -> syntax.Require:
        return syntax.Require(condition, self.message(message), self.at(word).to(self.at(message)))

    def scan_statement(
        self, word: Token, step: syntax.Name, _less: Token, extent: syntax.Expression, body: _Block
    ) -> syntax.Scan:
        span = self.at(word).to(body.span)
        return syntax.Scan(step, extent, str(word) == "iterate", body.statements, span)

    def carry(self, word: Token, target: syntax.Name, axes: Axes | None, value: syntax.Expression) -> syntax.Carry:
        return syntax.Carry(self.index_assign(target, axes, value), self.at(word).to(value.span))

    def emit(self, word: Token, target: syntax.Name, axes: Axes | None, value: syntax.Expression) -> syntax.Emit:
        return syntax.Emit(self.index_assign(target, axes, value), self.at(word).to(value.span))

    def until(self, word: Token, condition: syntax.Expression) -> syntax.Until:
        return syntax.Until(condition, self.at(word).to(condition.span))

    # expressions

    def integer(self, token: Token) -> syntax.Number:
        if len(token) > 18:
            self.bag.error("out-of-range", "the number does not fit in 64 bits", self.at(token))
            return syntax.Number(0, self.at(token))
        return syntax.Number(int(token), self.at(token))

    def real(self, token: Token) -> syntax.Number:
        if math.isinf(float(token)):
            self.bag.error("out-of-range", "the number is too large for a float", self.at(token))
        return syntax.Number(float(token), self.at(token))

    def string(self, token: Token) -> syntax.String:
        return syntax.String(self.unescape(token[1:-1], self.at(token)), self.at(token))

    def boolean(self, token: Token) -> syntax.Boolean:
        return syntax.Boolean(token == "true", self.at(token))

    def none(self, token: Token) -> syntax.NoneLiteral:
        return syntax.NoneLiteral(self.at(token))

    def list_literal(self, start: Token, items: tuple[syntax.Expression, ...] | None, end: Token) -> syntax.ListLiteral:
        return syntax.ListLiteral(items or (), self.at(start).to(self.at(end)))

    def expressions(self, *items: syntax.Expression) -> tuple[syntax.Expression, ...]:
        return items

    def parenthesized(self, start: Token, value: syntax.Expression, end: Token) -> syntax.Expression:
        return replace(value, span=self.at(start).to(self.at(end)))

    def unary(self, operator: Token, operand: syntax.Expression) -> syntax.Unary:
        return syntax.Unary(operator.value, operand, self.at(operator).to(operand.span))

    def binary(self, left: syntax.Expression, operator: Token, right: syntax.Expression) -> syntax.Binary:
        return syntax.Binary(operator.value, left, right, left.span.to(right.span))

    def conditional(
        self, then: syntax.Expression, _if: Token, condition: syntax.Expression, otherwise: syntax.Expression
    ) -> syntax.Conditional:
        return syntax.Conditional(condition, then, otherwise, then.span.to(otherwise.span))

    def reduction(self, kind: Token, axes: Axes, body: syntax.Expression) -> syntax.Reduction:
        return syntax.Reduction(kind.value, axes, body, self.at(kind).to(body.span))

    def pipe(self, value: syntax.Expression, stage: syntax.Call) -> syntax.Pipe:
        return syntax.Pipe(value, stage, value.span.to(stage.span))

    def bare_stage(self, name: syntax.Name) -> syntax.Call:
        return syntax.Call(name, (), (), (), False, None, name.span)

    def named(self, value: syntax.Expression, instance: syntax.Name) -> syntax.Expression:
        span = value.span.to(instance.span)
        if isinstance(value, syntax.Call) and not value.instance:
            return replace(value, instance=instance, span=span)
        if isinstance(value, syntax.Subscript):
            return replace(value, value=self.named(value.value, instance), span=span)
        self.bag.error("syntax-error", "`as` names the call of a layer; this is not one", value.span, expected="a call")
        return value

    def subscript(
        self,
        value: syntax.Expression,
        items: tuple[Item, ...] | None,
        pad: syntax.Expression | None,
        end: Token,
    ) -> syntax.Subscript:
        return syntax.Subscript(value, items or (), pad, value.span.to(self.at(end)))

    def items(self, *items: Any) -> tuple[Any, ...]:
        return items

    def slice(
        self,
        start: syntax.Expression | None,
        colon: Token,
        stop: syntax.Expression | None,
        second: Token | None = None,
        step: syntax.Expression | None = None,
    ) -> syntax.Slice:
        places = [part.span for part in (start, stop, step) if part]
        places += [self.at(token) for token in (colon, second) if token]
        first = min(places, key=lambda span: (span.line, span.column))
        return syntax.Slice(start, stop, step, first.to(max(places, key=lambda span: (span.end_line, span.end_column))))

    def pad(self, word: syntax.Name, value: syntax.Expression) -> syntax.Expression:
        if word.name != "pad":
            self.bag.error("syntax-error", f"a subscript has no `{word.name}`", word.span, expected="`pad = value`")
        return value

    def call(self, callee: syntax.Name, arguments: Arguments | None, more: Arguments | None, end: Token) -> syntax.Call:
        split = more is not None
        before, after = arguments or (), more or ()
        keywords = [argument for argument in (*before, *after) if isinstance(argument, syntax.Keyword)]
        self.unique(keywords, "attribute")
        if split:
            for argument in before:
                if isinstance(argument, syntax.Keyword):
                    hint = f"tensors stand before the `;`; write `; {argument.name} = ...`"
                    self.bag.error("syntax-error", "an attribute stands before the `;`", argument.span, hint=hint)
        return syntax.Call(
            callee=callee,
            arguments=self.positional(before),
            attributes=self.positional(after),
            keywords=tuple(keywords),
            split=split,
            instance=None,
            span=callee.span.to(self.at(end)),
        )

    def arguments(self, *arguments: syntax.Expression | syntax.Keyword) -> Arguments:
        return arguments

    def more_arguments(self, arguments: Arguments | None) -> Arguments:
        return arguments or ()

    def keyword(self, name: syntax.Name, value: syntax.Expression) -> syntax.Keyword:
        return syntax.Keyword(name.name, value, name.span.to(value.span))

    # parts that the grammar does not say

    def positional(self, arguments: Arguments) -> tuple[syntax.Expression, ...]:
        keyword = False
        for argument in arguments:
            if isinstance(argument, syntax.Keyword):
                keyword = True
            elif keyword:
                hint = "write positional arguments first, then `name = value`"
                self.bag.error("syntax-error", "a positional argument follows one by name", argument.span, hint=hint)
        return tuple(argument for argument in arguments if not isinstance(argument, syntax.Keyword))

    def unique(self, named: Sequence[Any], what: str) -> None:
        seen: set[str] = set()
        for node in named:
            name: str = node.name if isinstance(node.name, str) else node.name.name
            if name in seen:
                self.bag.error("duplicate-name", f"the {what} `{name}` is given twice", node.span)
            seen.add(name)

    def offset(self, line: int, column: int) -> int:
        return self.line_starts[line - 1] + column - 1

    def comment_above(self, line: int) -> str:
        """The block of comment lines directly above a line, without their `#`."""
        rows: list[str] = []
        while line > 1:
            line -= 1
            row = self.text[self.line_starts[line - 1] : self.line_starts[line]].strip()
            if not row.startswith("#"):
                break
            rows.append(row[1:].removeprefix(" "))
        return "\n".join(reversed(rows))

    def unescape(self, text: str, span: Span) -> str:
        def character(match: re.Match[str]) -> str:
            if match[0] not in _ESCAPES:
                hint = 'known are `\\n`, `\\t`, `\\"` and `\\\\`'
                self.bag.error("syntax-error", f"`{match[0]}` is not an escape of a string", span, hint=hint)
            return _ESCAPES.get(match[0], match[0])

        return re.sub(r"\\.?", character, text)

    def message(self, token: Token) -> tuple[str | syntax.Expression, ...]:
        """A message's text and the expressions of its `{...}`, alternating as they come; `{{` and `}}` are braces."""
        start, end = (token.start_pos or 0) + 1, (token.end_pos or 0) - 1
        parts: list[str | syntax.Expression] = []
        for piece in _PIECE.finditer(self.text, start, end):
            if piece[1] is not None:
                value = self.parse_piece(*piece.span(1))
                parts.extend([value] if value else [])
                continue
            if piece[0] in ("{", "}"):
                message = f"the message has a `{piece[0]}` without its partner"
                hint = "an expression stands in `{ }`; a brace itself is written `{{` or `}}`"
                self.bag.error("syntax-error", message, self.at(token), hint=hint)
            text = piece[0][0] if piece[0] in ("{{", "}}") else self.unescape(piece[0], self.at(token))
            if parts and isinstance(last := parts[-1], str):
                parts[-1] = last + text
            else:
                parts.append(text)
        return tuple(parts)
