"""What is known of an operator, layer, kernel or function of the standard library, read off its definition.

`mercer ops NAME` and `docs/operators.md` both show what `describe` finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Any

from mercer.commands.instances import exactness, find_example, implementations
from mercer.compiler import UsageError
from mercer.frontend import syntax
from mercer.frontend.library import DefinitionLibrary, default_library
from mercer.ir.index import FUNCTIONS
from mercer.ir.spans import Span
from mercer.runtime.errors import nearest

_CITATION = re.compile(r"\(((?:[^()]*\b(?:1[89]|20)\d\d\b|DLMF|IEEE|[^()]*\btorch\.)[^()]*)\)")
"""A remark in brackets that names a year, a standard or a function of PyTorch."""


@dataclass(frozen=True)
class Entry:
    """What `describe` finds.

    `family` is the file of the library. `formula` are the statements that compute something, as written; a condition or
    a loop around one stands before it. `properties` are what a kernel declares. `uses` are the definitions that it
    calls. `example` is the use that `exactness` and `backends` speak of; None where none could be made up from the
    signature, and for layers and functions, which are computed as what they call and where they are called. `text` is
    the definition.
    """

    kind: str
    name: str
    family: str
    signature: str
    doc: str
    formula: tuple[str, ...]
    sources: tuple[str, ...]
    properties: tuple[str, ...]
    uses: tuple[str, ...]
    example: str | None
    exactness: tuple[str, ...]
    backends: Mapping[str, str]
    text: str

    def as_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def describe(name: str) -> Entry:
    """All that is known of a definition of the standard library. Raises UsageError."""
    library = default_library()
    definition = library.definition(name)
    if definition is None:
        near = nearest(name, library.names())
        raise UsageError(f"the library has no `{name}`", f"did you mean `{near}`?" if near else "mercer ops lists all")
    example = find_example(library, definition)
    return Entry(
        kind=definition.kind,
        name=name,
        family=PurePath(definition.span.file).stem,
        signature=signature(definition),
        doc=definition.doc,
        formula=tuple(_formula(definition)),
        sources=tuple(dict.fromkeys(_CITATION.findall(" ".join(definition.doc.split())))),
        properties=tuple(_property(definition, p) for p in definition.properties),
        uses=_uses(library, definition),
        example=None if example is None else str(example),
        exactness=() if example is None else exactness(library, example),
        backends={} if example is None else implementations(library, example),
        text=definition.source,
    )


def signature(definition: syntax.Definition) -> str:
    """The definition up to its body, on one line."""
    depth = 0
    for end, character in enumerate(definition.source):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in "{=":
            return " ".join(definition.source[:end].split())
    raise AssertionError(f"{definition.name.name} has no body")


def _property(definition: syntax.Definition, declared: syntax.Property) -> str:
    name = declared.name.name
    return name if declared.value is None else f"{name} = {_text(definition, declared.value.span)}"


# --- formula ----------------------------------------------------------------------------------------------------------


def _formula(definition: syntax.Definition) -> Iterator[str]:
    if not definition.is_primitive:
        yield from _statements(definition, definition.body, "")


def _statements(definition: syntax.Definition, body: Sequence[syntax.Statement], before: str) -> Iterator[str]:
    """The statements of a body that compute something; every `let` of a kernel or function does."""
    for statement in body:
        match statement:
            case syntax.Assign(let=True) if definition.kind not in ("kernel", "fn"):
                pass
            case syntax.Assign() | syntax.IndexAssign() | syntax.Carry() | syntax.Emit() | syntax.Until():
                yield before + _text(definition, statement.span)
            case syntax.ReturnIndexed(inner):
                yield before + _text(definition, inner.span)
            case syntax.Return(values) if not all(isinstance(value, syntax.Name) for value in values):
                yield before + ", ".join(_text(definition, value.span) for value in values)
            case syntax.If(condition, then, otherwise):
                yield from _statements(definition, then, f"{before}if {_text(definition, condition.span)}: ")
                yield from _statements(definition, otherwise, f"{before}else: ")
            case syntax.For(variable, start, stop, _, inner):
                reach = f"{_text(definition, start.span)}..{_text(definition, stop.span)}"
                yield from _statements(definition, inner, f"{before}for {variable.name} in {reach}: ")
            case syntax.Scan(step, extent, early, inner):
                word = "iterate" if early else "scan"
                extent_text = _text(definition, extent.span)
                yield from _statements(definition, inner, f"{before}{word} {step.name} < {extent_text}: ")
            case _:
                pass


def _text(definition: syntax.Definition, span: Span) -> str:
    """The part of the definition that `span` covers, on one line."""
    lines = definition.source.split("\n")[span.line - definition.span.line : span.end_line - definition.span.line + 1]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return " ".join(" ".join(lines).split())


# --- what it calls ----------------------------------------------------------------------------------------------------


def _uses(library: DefinitionLibrary, definition: syntax.Definition) -> tuple[str, ...]:
    called = dict.fromkeys(_called(definition.body))
    return tuple(name for name in called if name not in FUNCTIONS and library.definition(name) is not None)


def _called(node: object) -> Iterator[str]:
    if isinstance(node, syntax.Call):
        yield node.callee.name
    if isinstance(node, tuple):
        for item in node:  # type: ignore[reportUnknownVariableType]
            yield from _called(item)  # type: ignore[reportUnknownArgumentType]
    elif is_dataclass(node) and not isinstance(node, Span):
        for entry in fields(node):
            yield from _called(getattr(node, entry.name))


# --- on the terminal --------------------------------------------------------------------------------------------------


def facts(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is known besides the definition: titles and texts."""
    yield "family", entry.family
    if entry.sources:
        yield "source", "; ".join(entry.sources)
    if entry.properties:
        yield "properties", ", ".join(entry.properties)
    if entry.uses:
        yield "uses", ", ".join(entry.uses)
    if entry.example is not None:
        yield "example", entry.example
        yield "exactness", "; ".join(entry.exactness)
        yield from entry.backends.items()
    else:
        yield "backends", NO_EXAMPLE.get(entry.kind, "no example follows from the signature")


NO_EXAMPLE = {"layer": "computed as what it uses", "fn": "part of the operators that call it"}


def show_entry(entry: Entry) -> None:
    """Print the definition with its comment, then what is known of it."""
    print("".join(f"# {line}\n" for line in entry.doc.splitlines()) + entry.text)
    print()
    for title, text in facts(entry):
        print(f"{title:<11} {text}")
    for number, line in enumerate(entry.formula):
        print(f"{'' if number else 'formula':<11} {line}")
