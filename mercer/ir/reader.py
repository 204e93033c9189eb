"""Text to IR. `text.lark` is the grammar; `printer.py` writes it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken

from mercer.ir.graph import AttributeValue, Constant, Graph, Initializer, KernelValue, Node, Parameter, Value
from mercer.ir.index import FUNCTIONS, Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, call
from mercer.ir.integers import Computed, IntExpr
from mercer.ir.nests import ALGORITHMS, Nest, Nests, Origin, Primitive, Scan, Statement
from mercer.ir.printer import VERSION
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.runtime.errors import MercerError, nearest

Branch: TypeAlias = "Tree[Token]"
Part: TypeAlias = "Tree[Token] | Token | None"


class TextError(MercerError):
    """The text is not IR: where, what was found and expected, and the line with a caret."""

    def __init__(self, message: str, span: Span, line: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.span = span
        self.line = line

    def __str__(self) -> str:
        caret = " " * (self.span.column - 1) + "^" * max(1, self.span.end_column - self.span.column)
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"{self.span}: {self.message}\n  {self.line}\n  {caret}{hint}"


def parse_graph(text: str, file: str = "<text>", weights: Mapping[str, Array] | None = None) -> Graph:
    """Read what `print_graph` writes.

    Constants that the text gives by digest take their contents from `weights`, by name, or stay without contents.
    Raises TextError where the text does not follow the grammar, a name is unknown or assigned twice, or the contents
    have another digest.
    """
    return _Reader(text, file, weights or {}).graph()


def parse_nests(text: str, file: str = "<text>", weights: Mapping[str, Array] | None = None) -> Nests:
    """Read what `print_nests` writes; errors and `weights` are those of `parse_graph`."""
    return _Reader(text, file, weights or {}).nests()


def parse_program(text: str, file: str = "<text>", weights: Mapping[str, Array] | None = None) -> Graph | Nests:
    """Read either level: the first word of the text tells which."""
    lines = (line.split("#")[0].split() for line in text.splitlines())
    first = next((words[0] for words in lines if words), "")
    reader = _Reader(text, file, weights or {})
    return reader.nests() if first == "mercer.nests" else reader.graph()


@cache
def _lark() -> Lark:
    grammar = Path(__file__).with_name("text.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start=["graph", "nests"], maybe_placeholders=True)


class _Reader:
    """One text; `types` are the tensors defined so far."""

    def __init__(self, text: str, file: str, weights: Mapping[str, Array]) -> None:
        self.text, self.file, self.weights = text, file, weights
        self.types: dict[str, TensorType] = {}

    # --- programs

    def graph(self) -> Graph:
        version, name, inputs, outputs, declarations, operations, definitions = self.tree("graph")
        self.check_version(version)
        return Graph(
            _plain(name),
            tuple(self.value(part) for part in _children(inputs)),
            tuple(self.parameter(p) for p in _children(declarations) if _kind(p) != "constant"),
            tuple(self.constant(p) for p in _children(declarations) if _kind(p) == "constant"),
            tuple(self.node(part) for part in _children(operations)),
            tuple(self.use(part) for part in _children(outputs)),
            "\n".join(_token(line)[2:] for line in _children(definitions)),
        )

    def nests(self) -> Nests:
        version, name, inputs, outputs, declarations, statements = self.tree("nests")
        self.check_version(version)
        return Nests(
            _plain(name),
            tuple(self.value(part) for part in _children(inputs)),
            tuple(self.parameter(p) for p in _children(declarations) if _kind(p) != "constant"),
            tuple(self.constant(p) for p in _children(declarations) if _kind(p) == "constant"),
            tuple(self.statement(part) for part in _children(statements)),
            tuple(self.use(part) for part in _children(outputs)),
        )

    def tree(self, level: str) -> list[Part]:
        try:
            return _slots(cast(Any, _lark()).parse(self.text, start=level))
        except UnexpectedInput as error:
            raise self.unexpected(error) from None

    def check_version(self, version: Part) -> None:
        if int(_token(version)) != VERSION:
            message = f"version {version} of the text is not known"
            raise self.error(_token(version), message, f"this Mercer reads version {VERSION}")

    # --- errors

    def error(self, token: Token, message: str, hint: str | None = None) -> TextError:
        line, column = token.line or 1, token.column or 1
        return self.error_at(line, column, column + max(1, len(token)), message, hint)

    def error_at(self, line: int, column: int, end: int, message: str, hint: str | None = None) -> TextError:
        rows = self.text.split("\n")
        return TextError(message, Span(self.file, line, column, line, end), rows[min(line, len(rows)) - 1], hint)

    def unexpected(self, error: Any) -> TextError:
        if type(error) is UnexpectedToken:
            token = cast(Token, error.token)
            names, found = error.accepts or error.expected, f"`{token}`"
            if token.type == "$END":
                rows = self.text.rstrip("\n").split("\n")
                end = len(rows[-1]) + 1
                return self.error_at(len(rows), end, end + 1, f"the text ends, expected {_expectation(set(names))}")
        else:
            word = re.compile(r"\w+|.", re.DOTALL).match(self.text, error.pos_in_stream)
            names, found = error.allowed or (), f"`{word[0] if word else ''}`"
        message = f"expected {_expectation(set(names))}, found {found}"
        return self.error_at(error.line, error.column, error.column + len(found) - 2, message)

    def use(self, part: Part) -> str:
        """A name that stands for a tensor that is defined."""
        token = _token(part)
        name = _plain(token)
        if name not in self.types:
            close = nearest(name, self.types)
            raise self.error(
                token, f"{token} is not defined before this line", f"did you mean %{close}?" if close else None
            )
        return name

    def define(self, part: Part, type: TensorType) -> Value:
        token = _token(part)
        value = Value(_plain(token), type)
        if value.name in self.types:
            raise self.error(token, f"{token} is assigned twice")
        self.types[value.name] = type
        return value

    # --- declarations

    def value(self, part: Part) -> Value:
        name, type = _children(part)
        return self.define(name, self.type(type))

    def type(self, part: Part) -> TensorType:
        dtype, *shape = _children(part)
        return TensorType(DType(_token(dtype)), tuple(_Scalars(self).integer(extent) for extent in shape))

    def parameter(self, part: Part) -> Parameter:
        name, type, start, place = _slots(part)
        value = self.define(name, self.type(type))
        initial = self.applied(start)
        span = self.span(_children(place)[0]) if place is not None else NOWHERE
        return Parameter(value.name, value.type, Initializer(*initial), _kind(part) == "parameter", span)

    def constant(self, part: Part) -> Constant:
        name, type, contents = _children(part)
        value = self.define(name, self.type(type))
        if isinstance(contents, Token):
            digest = contents.removeprefix("sha256:")
            array = self.weights.get(value.name)
            if array is not None and Data(array).digest != digest:
                raise self.error(_token(contents), f"the contents given for %{value.name} are {Data(array).digest}")
            return Constant(value.name, value.type, Data(array, digest))
        numbers = np.array([self.attribute(number) for number in _children(contents)])
        dtype = value.type.dtype
        shape = tuple(extent.value for extent in value.type.shape if extent.is_constant)
        if len(shape) != value.type.rank or len(numbers) != math.prod(shape) * (2 if dtype is DType.C64 else 1):
            raise self.error(_token(name), f"{value.type} cannot hold {len(numbers)} numbers")
        flat = numbers.astype(np.float32).view(np.complex64) if dtype is DType.C64 else numbers.astype(dtype.numpy)
        return Constant(value.name, value.type, Data(flat.reshape(shape)))

    def span(self, part: Part) -> Span:
        """`file:line:column-line:column`, the file in quotes when it is not a plain word."""
        text, line, middle, end_column = _token(part).rsplit(":", 3)
        column, end_line = middle.split("-")
        file = json.loads(text) if text.startswith('"') else text
        return Span(file, int(line), int(column), int(end_line), int(end_column))

    # --- statements

    def node(self, part: Part) -> Node:
        targets, operator, operands, attributes, place = _slots(part)
        if isinstance(place, Tree):
            raise self.error(_first(place), "a node of a graph has a place in the text, not origins")
        read = tuple(self.use(name) for name in _children(operands))
        span = self.span(place) if place is not None else NOWHERE
        results = tuple(self.value(value) for value in _children(targets))
        return Node(_plain(operator), read, self.attributes(attributes), results, span)

    def statement(self, part: Part) -> Statement:
        if _kind(part) == "nest":
            return self.nest(part)
        if _kind(part) == "scan":
            return self.scan(part)
        targets, operator, operands, attributes, place = _slots(part)
        if isinstance(place, Token):
            raise self.error(place, "a statement has origins: the operator, the node and its place in the text")
        read = tuple(self.use(name) for name in _children(operands))
        values = tuple(self.value(value) for value in _children(targets))
        return Primitive(_plain(operator), values, read, self.attributes(attributes), self.origins(place))

    def scan(self, part: Part) -> Primitive:
        targets, operands, step, extent, origins, inputs, outputs, stacked, until, statements = _slots(part)
        read = tuple(self.use(name) for name in _children(operands))
        count = _Scalars(self).integer(extent)
        around, self.types = self.types, {}
        body = Nests(
            "scan",
            tuple(self.value(part) for part in _children(inputs)),
            (),
            (),
            tuple(self.statement(part) for part in _children(statements)),
            tuple(self.use(part) for part in _children(outputs)),
        )
        self.types = around
        axes = tuple(int(_token(axis)) for axis in _children(stacked))
        scan = Scan(_plain(step), count, body, axes, until is not None)
        values = tuple(self.value(value) for value in _children(targets))
        return Primitive("scan", values, read, (), self.origins(origins), scan)

    def nest(self, part: Part) -> Nest:
        name, axes, element, lets, body, algorithm, origins = _slots(part)
        bound = frozenset(_plain(axis.children[0]) for axis in _branch(part).find_data("axis"))
        scalars = _Scalars(self, bound)
        loops = scalars.axes(axes)
        for let in _children(lets):
            local, value = _children(let)
            scalars.locals[_token(local)] = scalars.expression(value)
        (kind,) = _children(element)
        if isinstance(kind, Token):
            type = TensorType(DType(kind), tuple(axis.extent for axis in loops))
        else:
            type = self.type(kind)
        expression = scalars.expression(body)
        way = _plain(algorithm) if algorithm is not None else ""
        if way not in ALGORITHMS:
            raise self.error(
                _token(algorithm), f"no algorithm is named {way}; known: {', '.join(filter(None, ALGORITHMS))}"
            )
        return Nest(self.define(name, type).name, type, loops, expression, self.origins(origins), way)

    def origins(self, part: Part) -> tuple[Origin, ...]:
        found: list[Origin] = []
        for origin in _children(part):
            operator, node, place = _slots(origin)
            found.append(Origin(_plain(operator), _plain(node), self.span(place) if place is not None else NOWHERE))
        return tuple(found)

    # --- attributes

    def attributes(self, part: Part) -> tuple[tuple[str, AttributeValue], ...]:
        return tuple((_plain(key), self.attribute(value)) for key, value in map(_children, _children(part)))

    def applied(self, part: Part) -> tuple[str, tuple[tuple[str, AttributeValue], ...]]:
        name, attributes = _slots(part)
        return _plain(name), self.attributes(attributes)

    def attribute(self, part: Part) -> AttributeValue:
        inner = _children(part)
        match _kind(part):
            case "number":
                return _number(_token(inner[0]))
            case "negative_number":
                return -_number(_token(inner[0]))
            case "string":
                return str(json.loads(_token(inner[0])))
            case "list":
                return tuple(map(self.attribute, inner))
            case "dim":
                return _Scalars(self).integer(inner[0])
            case "applied":
                return KernelValue(*self.applied(part))
            case kind:
                return _WORDS[kind]


_WORDS: dict[str, float | bool | None] = {
    "infinity": math.inf,
    "negative_infinity": -math.inf,
    "not_a_number": math.nan,
    "true": True,
    "false": False,
    "none": None,
}


class _Scalars:
    """Integer and scalar expressions of one statement; the names in `bound` are loop indices, others are dims."""

    def __init__(self, reader: _Reader, bound: frozenset[str] = frozenset()) -> None:
        self.reader, self.bound = reader, bound
        self.locals: dict[str, Expr] = {}

    def axes(self, part: Part) -> tuple[Axis, ...]:
        return tuple(Axis(_plain(name), self.integer(extent)) for name, extent in map(_children, _children(part)))

    def variable(self, part: Part) -> IntExpr:
        name = _plain(part)
        return IntExpr.var(name) if name in self.bound else IntExpr.dim(name)

    def integer(self, part: Part) -> IntExpr:
        inner = _children(part)
        match _kind(part):
            case "whole":
                return IntExpr.constant(int(_token(inner[0])))
            case "variable":
                return self.variable(inner[0])
            case "computed":
                return IntExpr.atom(Computed(self.expression(inner[0])))
            case "minus":
                return -self.integer(inner[0])
            case "extremum":
                kind, left, right = inner
                if kind not in ("min", "max"):
                    raise self.reader.error(_token(kind), f"expected min or max, found `{kind}`")
                choose = IntExpr.minimum if kind == "min" else IntExpr.maximum
                return choose(self.integer(left), self.integer(right))
            case operator:
                left, right = map(self.integer, inner)
                try:
                    return _INTEGER_OPERATORS[operator](left, right)
                except ZeroDivisionError:
                    raise self.reader.error(_first(_branch(part)), "division by zero") from None

    def expression(self, part: Part) -> Expr:
        inner = _children(part)
        match _kind(part):
            case "literal":
                return self.literal(_token(inner[0]), 1)
            case "negative_literal":
                return self.literal(_token(inner[0]), -1)
            case "complex":
                return Const(complex(_token(inner[0])), DType.C64)
            case "true" | "false" as truth:
                return Const(truth == "true", DType.BOOL)
            case "name" | "index":
                return Index(self.variable(inner[0]) if _kind(part) == "name" else self.integer(inner[0]))
            case "local":
                if inner[0] not in self.locals:
                    raise self.reader.error(_token(inner[0]), f"{inner[0]} is not defined by a let before")
                return self.locals[_token(inner[0])]
            case "read":
                tensor, indices, pad = _slots(part)
                name = self.reader.use(tensor)
                outside = None if pad is None else self.expression(pad)
                assert outside is None or isinstance(outside, Const)
                dtype = self.reader.types[name].dtype
                return Read(name, tuple(map(self.integer, _children(indices))), dtype, outside)
            case "reduce":
                reducer, axes, body = inner
                known = [r.value for r in Reducer]
                if reducer not in known:
                    close = nearest(_token(reducer), known)
                    hint = f"did you mean {close}?" if close else None
                    raise self.reader.error(_token(reducer), f"no such reduction: {reducer}", hint)
                return Reduce(Reducer(_plain(reducer)), self.axes(axes), self.expression(body))
            case "call":
                return self.call(inner[0], None, inner[1])
            case "typed_call":
                return self.call(inner[0], DType(_token(inner[1])), inner[2])
            case function:
                return call(function, *map(self.expression, inner))

    def call(self, name: Part, dtype: DType | None, arguments: Part) -> Call:
        function = FUNCTIONS.get(_plain(name))
        if function is None:
            close = nearest(_plain(name), FUNCTIONS)
            hint = f"did you mean {close}?" if close else None
            raise self.reader.error(_token(name), f"no such function: {_plain(name)}", hint)
        values = tuple(map(self.expression, _children(arguments)))
        if len(values) != function.arity:
            message = f"{function.name} takes {function.arity} arguments, found {len(values)}"
            raise self.reader.error(_token(name), message)
        if function.name == "cast" and dtype is None:
            raise self.reader.error(_token(name), "cast needs an element type", "write cast:f32(...)")
        return call(function.name, *values, dtype=dtype)

    def literal(self, token: Token, sign: int) -> Const:
        number, _, suffix = token.partition(":")
        value = math.nan if number == "nan" else sign * _number(number)
        if suffix:
            return Const(value, DType(suffix))
        return Const(value, DType.I32 if isinstance(value, int) else DType.F32)


_INTEGER_OPERATORS = {
    "plus": IntExpr.__add__,
    "difference": IntExpr.__sub__,
    "times": IntExpr.__mul__,
    "quotient": IntExpr.__floordiv__,
    "remainder": IntExpr.__mod__,
}


# --- parts of the tree ------------------------------------------------------------------------------------------------


def _branch(part: Part) -> Branch:
    assert isinstance(part, Tree)
    return part


def _slots(part: Part) -> list[Part]:
    """The parts, None where an optional one is absent."""
    return list(_branch(part).children)


def _token(part: Part) -> Token:
    assert isinstance(part, Token)
    return part


def _kind(part: Part) -> str:
    return str(_branch(part).data)


def _children(part: Part) -> list[Part]:
    """The parts that are present; none when the part itself is absent."""
    return [] if part is None else [child for child in _slots(part) if child is not None]


def _first(tree: Branch) -> Token:
    return next(tree.scan_values(lambda value: isinstance(value, Token)))


def _plain(part: Part) -> str:
    """A word or name without its mark and quotes."""
    return str(_token(part)).lstrip("%@").strip("`")


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _expectation(terminals: set[str]) -> str:
    words = {_EXPECTED.get(name) or _pattern(name) for name in terminals}
    *most, last = sorted(words)
    return f"{', '.join(most)} or {last}" if most else last


def _pattern(name: str) -> str:
    found = [t.pattern.value for t in _lark().terminals if t.name == name]
    return f"`{found[0]}`" if found else name


_EXPECTED = {
    "WORD": "a name",
    "NAME": "a tensor (%name or @name)",
    "LOCAL": "a local ($0)",
    "INTEGER": "an integer",
    "NUMBER": "a number",
    "LITERAL": "a number",
    "COMPLEX": "a complex number",
    "DTYPE": "an element type",
    "STRING": "a string",
    "SPAN": "a place (file:line:column-line:column)",
    "DIGEST": "sha256:digest",
    "LINE": "a line that begins with `|`",
    "$END": "the end of the text",
}
