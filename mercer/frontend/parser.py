"""Text to syntax tree: `grammar.lark` read by Lark, each item of a file on its own so that all errors are shown."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from lark import Lark, Token, __version__ as lark_version
from lark.exceptions import UnexpectedInput
from lark.grammar import Rule
from lark.lexer import TerminalDef
from lark.utils import TextSlice

from mercer.frontend import slips, syntax
from mercer.frontend.builder import Builder
from mercer.frontend.diagnostics import SOURCES, DiagnosticBag
from mercer.runtime.cache import remembered

DEEPEST = 128
"""Levels of brackets and operators within each other that are followed, so that recursion over the tree is safe."""

_ITEM = re.compile(r"^(?P<kind>use|kernel|fn|op|layer|model)[ \t]+(?P<name>[A-Za-z_]\w*)", re.MULTILINE)


def parse(text: str, file: str = "<text>") -> syntax.File:
    """The syntax tree of a `.mer` file. Raises `CompileError` with every independent error of the text."""
    SOURCES.add(file, text)
    bag = DiagnosticBag()
    with _lock:
        items = _parser().file(text, file, bag)
    bag.raise_if_any()
    return syntax.File(file, text, items)


@dataclass(frozen=True, slots=True)
class Outline:
    """Where an item of a file stands, before anything of it is parsed."""

    kind: str
    name: str
    start: int
    end: int


def outline(text: str) -> tuple[Outline, ...]:
    """The items of a file that begin in column 1."""
    found = list(_ITEM.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return tuple(Outline(m["kind"], m["name"], m.start(), end) for m, end in zip(found, ends, strict=True))


def parse_item(text: str, file: str, item: Outline) -> syntax.Item:
    """One item of a file. Raises `CompileError`."""
    SOURCES.add(file, text)
    bag = DiagnosticBag()
    with _lock:
        (parsed,) = _parser().file(text, file, bag, (item.start, item.end)) or (None,)
    bag.raise_if_any()
    assert parsed is not None
    return parsed


_lock = threading.Lock()


@cache
def _parser() -> _Parser:
    return _Parser()


def _lark(postlex: _Layout, transformer: _Reductions) -> Lark:
    """The parser, with tables from the cache where they were made before: to make them takes a third of a second."""
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")

    def tables() -> str:
        lark = Lark(grammar, parser="lalr", start=["file", "expression"], postlex=postlex)
        data, memo = lark.memo_serialize([TerminalDef, Rule])
        return json.dumps([data | {"options": data["options"] | {"postlex": None}}, memo])

    found = _numbered(json.loads(remembered("grammar", (grammar, lark_version), tables)))
    load = cast("Any", Lark)._load_from_dict  # noqa: SLF001  as parsers of `lark.tools.standalone` do
    return load(*found, postlex=postlex, transformer=transformer)


def _numbered(value: Any) -> Any:
    """JSON with the numbers that were keys of objects as numbers again."""
    match value:
        case dict():
            items = cast("dict[str, Any]", value).items()
            return {int(key) if key.isdigit() else key: _numbered(item) for key, item in items}
        case list():
            return [_numbered(item) for item in cast("list[Any]", value)]
        case _:
            return value


class _Parser:
    """Lark's tables and the builder of the tree: made once, used by one text at a time."""

    def __init__(self) -> None:
        self.builder = Builder(self.expression)
        self.lark = _lark(_Layout(), _Reductions(self.builder))

    def file(
        self, text: str, file: str, bag: DiagnosticBag, span: tuple[int, int] | None = None
    ) -> tuple[syntax.Item, ...]:
        """The items of a file, or of a part of it; one in column 1 is parsed even when those before it are wrong."""
        self.text, self.name, self.bag = text, file, bag
        self.builder.begin(text, file, bag)
        starts = span or [0, *(match.start() for match in _ITEM.finditer(text) if match.start()), len(text)]
        items: list[syntax.Item] = []
        for start, end in pairwise(starts):
            items.extend(self.piece("file", start, end) or ())
        return tuple(items)

    def expression(self, start: int, end: int) -> syntax.Expression | None:
        return self.piece("expression", start, end)

    def piece(self, rule: str, start: int, end: int) -> Any:
        """What `rule` makes of a range of the text; None after an error."""
        try:
            return self.lark.parse(TextSlice(self.text, start, end), start=rule)
        except UnexpectedInput as error:
            slips.explain(error, self.lark, self.text, self.name, (start, end), self.bag)
        except _TooDeep as error:
            slips.too_deep(error.token, self.name, DEEPEST, self.bag)
        return None


class _Reductions:
    """Gives Lark the builder's methods, which take the parts of a rule as separate arguments."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def __getattr__(self, rule: str) -> Callable[[list[Any]], Any]:
        method = getattr(self.builder, rule)
        return lambda children: method(*children)


# --- line breaks and depth --------------------------------------------------------------------------------------------


class _TooDeep(Exception):
    def __init__(self, token: Token) -> None:
        super().__init__(token)
        self.token = token


_OPENING = {"LPAR", "LSQB", "LBRACE"}
_CLOSING = {"RPAR", "RSQB", "RBRACE"}
_OPERATORS = {"PIPE", "POWER", "TIMES", "PLUS", "MINUS", "LESS", "COMPARE", "AND", "OR", "NOT"}
_DEEPER = _OPERATORS | {"REDUCER", "IF", "_ELSE"}
_SEPARATING = {"COMMA", "SEMICOLON", "EQUAL", "COLON"}
_CONTINUING = _OPERATORS | _SEPARATING | _OPENING | {"ARROW", "RANGE", "AT", "DOT", "IF", "_ELSE", "_IN", "_REDUCED"}


class _Layout:
    """Drops the line breaks that end nothing, and refuses what is nested too deeply.

    `depth` counts the operators since the last separator within the innermost brackets, on top of the depth around
    them (`floor`): an upper bound of the depth of the tree.
    """

    always_accept = ("_NEWLINE", "RESERVED")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        previous = ""
        brackets: list[tuple[str, int, int]] = []  # what was opened, and the floor and depth to return to
        floor = depth = 0
        for token in stream:
            kind = token.type
            if kind == "_NEWLINE":
                if previous in _CONTINUING or (brackets and brackets[-1][0] != "LBRACE"):
                    continue
                depth = floor
            elif kind in _SEPARATING:
                depth = floor
            elif kind in _OPENING:
                depth += 1
                brackets.append(("REDUCER" if previous == "REDUCER" else kind, floor, depth))
                floor = depth
            elif kind in _CLOSING:
                if brackets:
                    opening, floor, depth = brackets.pop()
                    kind = "_REDUCED" if opening == "REDUCER" else kind
            elif kind in _DEEPER:
                depth += 1
            if depth > DEEPEST:
                raise _TooDeep(token)
            previous = kind
            yield token
