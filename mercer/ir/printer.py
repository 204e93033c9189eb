"""IR to text. `text.lark` is the grammar; `reader.py` reads it back."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np

from mercer.ir.graph import AttributeValue, Constant, Graph, Initializer, KernelValue, Node, Parameter, Value
from mercer.ir.index import FUNCTIONS, Axis, Call, Const, Expr, Index, Read, Reduce, call, children
from mercer.ir.integers import Atom, Computed, Dim, Extremum, IntExpr, Quotient, Remainder, Var
from mercer.ir.nests import Nests, Origin, Primitive, Scan, Statement
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, DType, TensorType

VERSION = 1
INLINE = 16
"""Constants of at most this many numbers stand in the text; of larger ones the text has the digest."""

WIDTH = 120
SHARED = 8
"""A scalar expression of at least this many parts that is used more than once is written once, as `let $0 = ...`."""

RESERVED = frozenset(
    (
        *("and", "or", "not", "true", "false", "none", "inf", "nan", "let", "in"),
        *("scan", "repeats", "stacked", "until"),
    )
)

INFIX: dict[str, tuple[str, int]] = {
    "or": ("or", 1),
    "and": ("and", 2),
    "eq": ("==", 4),
    "ne": ("!=", 4),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "gt": (">", 4),
    "ge": (">=", 4),
    "add": ("+", 5),
    "sub": ("-", 5),
    "mul": ("*", 6),
    "div": ("/", 6),
    "floordiv": ("//", 6),
}
"""Sign and strength of the functions that are written between their arguments; all group to the left."""

_NOT, _COMPARISON, _NEGATION, _ATOM = 3, 4, 7, 8
_PLAIN_WORD = re.compile(r"[^\W\d]\w*(\.\w+)*")
_PLAIN_NAME = re.compile(r"[\w.]+")
_PLAIN_FILE = re.compile(r"[\w./+-]+")


# --- programs ---------------------------------------------------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    """The text of a graph; `parse_graph` gives an equal graph."""
    names = _Names(graph.parameters)
    lines = [f"mercer.graph {VERSION}", f"graph {_head(graph, names)} {{"]
    lines += _declarations(graph.parameters, graph.constants, names)
    lines += [f"  {_node(node, names)}" for node in graph.nodes]
    lines.append("}")
    if graph.definitions:
        lines += ["definitions {", *(f"| {line}" if line else "|" for line in graph.definitions.split("\n")), "}"]
    return "\n".join(lines) + "\n"


def print_nests(nests: Nests) -> str:
    """The text of a program of loop nests; `parse_nests` gives an equal program."""
    names = _Names(nests.parameters)
    lines = [f"mercer.nests {VERSION}", f"nests {_head(nests, names)} {{"]
    lines += _declarations(nests.parameters, nests.constants, names)
    lines += [f"  {_statement(statement, names)}" for statement in nests.statements]
    return "\n".join([*lines, "}"]) + "\n"


def print_node(node: Node, parameters: Iterable[Parameter] = ()) -> str:
    """One node as it stands in the text of its graph."""
    return _node(node, _Names(parameters))


def print_statement(statement: Statement, parameters: Iterable[Parameter] = ()) -> str:
    """One statement as it stands in the text of its program."""
    return _statement(statement, _Names(parameters))


class _Names:
    """How tensors are written: parameters as `@name`, everything else as `%name`."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = {parameter.name for parameter in parameters}

    def __call__(self, name: str) -> str:
        return ("@" if name in self.parameters else "%") + (name if _PLAIN_NAME.fullmatch(name) else f"`{name}`")

    def list(self, names: Iterable[str]) -> str:
        return ", ".join(map(self, names))

    def typed(self, values: Iterable[Value]) -> str:
        return ", ".join(f"{self(value.name)}: {type_text(value.type)}" for value in values)


def _head(program: Graph | Nests, names: _Names) -> str:
    return f"{_word(program.name)}({names.typed(program.inputs)}) -> ({names.list(program.outputs)})"


def _declarations(parameters: Iterable[Parameter], constants: Iterable[Constant], names: _Names) -> list[str]:
    lines: list[str] = []
    for p in parameters:
        keyword = "param" if p.trainable else "buffer"
        start = _applied(p.initializer)
        lines.append(f"  {keyword} {names(p.name)}: {type_text(p.type)} = {start}{_place(p.span)}")
    for c in constants:
        lines.append(f"  const {names(c.name)}: {type_text(c.type)} = {_data(c)}")
    return lines


def _node(node: Node | Primitive, names: _Names) -> str:
    targets, operator = (node.results, node.operator) if isinstance(node, Node) else (node.targets, node.name)
    operands = names.list(node.operands)
    attributes = _attributes(node.attributes)
    inner = f"{operands}; {attributes}" if attributes else operands
    place = _place(node.span) if isinstance(node, Node) else _origins(node.origins)
    return f"{names.typed(targets)} = {_word(operator)}({inner}){place}"


def _statement(statement: Statement, names: _Names) -> str:
    if isinstance(statement, Primitive):
        return _node(statement, names) if statement.scan is None else _scan(statement, statement.scan, names)
    element = str(statement.type.dtype)
    if statement.type.shape != tuple(axis.extent for axis in statement.axes):
        element = type_text(statement.type)
    head = f"{names(statement.target)}[{axes_text(statement.axes)}]: {element} ="
    writer = _Writer(names)
    lets = [f"let ${number} = {text}" for number, text in enumerate(writer.share(statement.body))]
    body = writer.text(statement.body)
    place = (f" by {statement.algorithm}" if statement.algorithm else "") + _origins(statement.origins)
    if lets:
        return "\n      ".join([head, *lets, f"in {body}{place}"])
    return f"{head} {body}{place}" if len(head) + len(body) < WIDTH else f"{head}\n      {body}{place}"


def _scan(statement: Primitive, scan: Scan, names: _Names) -> str:
    inner = _Names(())
    writer = _Writer(names)
    steps = f"{_word(scan.step)} < {writer.integer(scan.extent)}"
    operands, origins = names.list(statement.operands), _origins(statement.origins)
    head = f"{names.typed(statement.targets)} = scan({operands}) {steps}{origins}"
    body = scan.body
    stacked = f" stacked [{', '.join(map(str, scan.axes))}]" if scan.axes else ""
    until = " until" if scan.until else ""
    repeats = f"  repeats ({inner.typed(body.inputs)}) -> ({inner.list(body.outputs)}){stacked}{until} {{"
    lines = [head, repeats, *(f"  {_statement(s, inner)}" for s in body.statements), "}"]
    return "\n  ".join(line.replace("\n", "\n  ") for line in lines)


def _place(span: Span) -> str:
    return "" if span == NOWHERE else f"  @ {span_text(span)}"


def _origins(origins: tuple[Origin, ...]) -> str:
    def text(origin: Origin) -> str:
        where = "" if origin.span == NOWHERE else f" {span_text(origin.span)}"
        return f"{_word(origin.operator)} {_Names(())(origin.node)}{where}"

    return f"  @ {', '.join(map(text, origins))}" if origins else ""


def span_text(span: Span) -> str:
    """`digits.mer:4:7-4:30`"""
    file = span.file if _PLAIN_FILE.fullmatch(span.file) else json.dumps(span.file, ensure_ascii=False)
    return f"{file}:{span.line}:{span.column}-{span.end_line}:{span.end_column}"


def _word(name: str) -> str:
    return name if _PLAIN_WORD.fullmatch(name) and name not in RESERVED else f"`{name}`"


# --- attributes and constants -----------------------------------------------------------------------------------------


def _attributes(attributes: Iterable[tuple[str, AttributeValue]]) -> str:
    return ", ".join(f"{_word(key)} = {attribute_text(value)}" for key, value in attributes)


def _applied(value: KernelValue | Initializer) -> str:
    return f"{_word(value.name)}({_attributes(value.attributes)})"


def attribute_text(value: AttributeValue) -> str:
    """Numbers, truth values, strings, `none`, `[...]`, `<integer expression>` or `kernel(...)`."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case tuple():
            return f"[{', '.join(map(attribute_text, value))}]"
        case IntExpr():
            return f"<{integer_text(value)}>"
        case KernelValue():
            return _applied(value)
        case _:
            return repr(value)


def type_text(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(map(integer_text, type.shape))}]"


def _data(constant: Constant) -> str:
    array = constant.data.array
    if array is not None and array.size <= INLINE and constant.type.shape == TensorType.of(array).shape:
        text, again = array_text(array), None
        if array.dtype == constant.type.dtype.numpy:
            again = np.array(array_numbers(array), _parts(array).dtype).view(array.dtype).reshape(array.shape)
        if again is not None and again.tobytes() == array.tobytes():
            return text
    return f"sha256:{constant.data.digest}"


def _parts(array: Array) -> Array:
    """The numbers of an array in row-major order, a complex one as two."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.float32) if array.dtype == np.complex64 else flat


def array_numbers(array: Array) -> list[Any]:
    return cast(Any, _parts(array)).tolist()


def array_text(array: Array) -> str:
    return f"[{', '.join(attribute_text(number) for number in array_numbers(array))}]"


# --- integer expressions ----------------------------------------------------------------------------------------------


def integer_text(value: IntExpr, names: Mapping[Expr, str] | None = None, tensors: _Names | None = None) -> str:
    """As polynomials are written; `/` is the floor division, `{...}` a value computed at run time."""
    return _Writer(tensors or _Names(()), dict(names or {})).integer(value)


def axes_text(axes: Iterable[Axis]) -> str:
    return ", ".join(f"{_word(axis.name)} < {integer_text(axis.extent)}" for axis in axes)


class _Writer:
    """Scalar expressions of one statement; `names` are those that stand in `let`."""

    def __init__(self, tensors: _Names, names: dict[Expr, str] | None = None) -> None:
        self.tensors = tensors
        self.names = names or {}

    def integer(self, value: IntExpr) -> str:
        text = ""
        for monomial, coefficient in value.terms:
            size = abs(coefficient)
            product = coefficient != 1 or len(monomial) != 1
            factors = [str(size)] if size != 1 or not monomial else []
            factors += [self._atom(atom, product) for atom in monomial]
            sign = " - " if coefficient < 0 else " + "
            text += (sign if text else sign.strip(" +")) + "*".join(factors)
        return text or "0"

    def _atom(self, atom: Atom, product: bool) -> str:
        match atom:
            case Dim(name) | Var(name):
                return _word(name)
            case Computed(value):
                return f"{{{self.text(value)}}}"
            case Extremum(kind, left, right):
                return f"{kind}({self.integer(left)}, {self.integer(right)})"
            case Quotient(left, right) | Remainder(left, right):
                sign = "/" if isinstance(atom, Quotient) else "%"
                text = self._operand(left) + sign + self._operand(right)
                return f"({text})" if product else text

    def _operand(self, value: IntExpr) -> str:
        plain = isinstance(value.single, Dim | Var | Computed | Extremum) or (value.is_constant and value.value >= 0)
        return self.integer(value) if plain else f"({self.integer(value)})"

    # --- scalar expressions

    def share(self, body: Expr) -> list[str]:
        """Give names to large parts that are used more than once; their texts, each after those that it uses."""
        uses: Counter[Expr] = Counter()
        sizes: dict[Expr, int] = {}

        def visit(expr: Expr) -> int:
            uses[expr] += 1
            if expr not in sizes:
                sizes[expr] = 0
                sizes[expr] = 1 + sum(visit(child) for child in children(expr))
            return sizes[expr]

        visit(body)
        texts: list[str] = []
        for expr in sorted((e for e in sizes if uses[e] > 1 and sizes[e] >= SHARED), key=lambda e: sizes[e]):
            texts.append(self.text(expr))
            self.names[expr] = f"${len(texts) - 1}"
        return texts

    def text(self, expr: Expr, strength: int = 0) -> str:
        """The expression, in parentheses when it binds less than `strength`."""
        if expr in self.names:
            return self.names[expr]
        text, own = self._expression(expr)
        return f"({text})" if own < strength else text

    def _expression(self, expr: Expr) -> tuple[str, int]:
        match expr:
            case Const():
                text = literal_text(expr)
                return text, _NEGATION if text.startswith("-") else _ATOM
            case Index(value):
                atom = value.single
                return _word(atom.name) if isinstance(atom, Dim | Var) else f"[{self.integer(value)}]", _ATOM
            case Read(tensor, indices, _, pad):
                outside = f"; pad = {literal_text(pad)}" if pad is not None else ""
                return f"{self.tensors(tensor)}[{', '.join(map(self.integer, indices))}{outside}]", _ATOM
            case Reduce(reducer, axes, body):
                return f"{reducer.value}[{axes_text(axes)}]({self.text(body)})", _ATOM
            case Call():
                return self._call(expr)

    def _call(self, expr: Call) -> tuple[str, int]:
        name, arguments = expr.function, expr.arguments
        known = name in FUNCTIONS and name != "cast" and arguments
        if not known or expr.dtype is not call(name, *arguments).dtype:
            return f"{_word(name)}:{expr.dtype}({', '.join(map(self.text, arguments))})", _ATOM
        if name in INFIX and len(arguments) == 2:
            sign, strength = INFIX[name]
            left, right = arguments
            first = self.text(left, strength + (strength == _COMPARISON))
            return f"{first} {sign} {self.text(right, strength + 1)}", strength
        if name == "not" and len(arguments) == 1:
            return f"not {self.text(arguments[0], _NOT)}", _NOT
        if name == "neg" and len(arguments) == 1:
            inner = self.text(arguments[0], _NEGATION)
            literal = isinstance(arguments[0], Const) or inner.startswith("-")
            return f"-({inner})" if literal else f"-{inner}", _NEGATION
        return f"{_word(name)}({', '.join(map(self.text, arguments))})", _ATOM


def literal_text(constant: Const) -> str:
    """A number; its element type is written unless it is f32 with a point, i32 without, or a truth value."""
    number, dtype = cast(Any, constant.number), constant.dtype
    if isinstance(number, np.generic):
        number = cast(Any, number).item()
    if isinstance(number, bool):
        return ("true" if number else "false") if dtype is DType.BOOL else f"{int(number)}:{dtype}"
    if isinstance(number, complex):
        return f"({number.real!r}{number.imag:+}j)"
    usual = dtype is (DType.F32 if isinstance(number, float) else DType.I32) and math.isfinite(number)
    return repr(number) if usual else f"{number!r}:{dtype}"
