"""Errors in a user's text: what they are called, how they are collected, how they are shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mercer.ir.spans import Span
from mercer.runtime.errors import MercerError, nearest

DIAGNOSTICS: dict[str, str] = {
    # the text
    "syntax-error": "The text does not follow the grammar.",
    "unclosed-bracket": "A `(`, `[` or `{` has no partner.",
    "unterminated-string": 'A string has no closing `"` on its line.',
    "unknown-character": "A character that the language does not use.",
    "reserved-word": "A word kept for a later version of the language.",
    "nesting-too-deep": "An expression or block is nested deeper than the compiler follows.",
    "missing-type": "A tensor parameter of an `op` or a `model` has no type.",
    "unknown-type": "The name before `[` in a type is neither a dtype nor a type variable.",
    "duplicate-name": "One name is given twice where it must be unique.",
    "file-not-found": "A `use` names a file that cannot be read.",
    # names and calls
    "unknown-name": "Nothing of this name is defined here.",
    "unknown-attribute": "The called operator or layer has no such attribute.",
    "missing-argument": "A tensor or a required attribute is not given.",
    "extra-argument": "More arguments are given than the definition takes.",
    "wrong-attribute": "An attribute has a value that the definition does not accept.",
    "recursion": "A definition or file uses itself, directly or through others.",
    "no-model": "The file has no `model`, or not the one asked for.",
    # types and shapes
    "type-mismatch": "A value of another sort was expected: tensor, scalar, kernel, string, list.",
    "dtype-mismatch": "The element types of tensors disagree.",
    "complex-number": "A complex number stands where a real one is needed, such as in a comparison.",
    "shape-mismatch": "The dimensions of tensors disagree.",
    "rank-mismatch": "A tensor has another number of axes than expected.",
    "unknown-dim": "A dimension cannot be worked out from the types.",
    "unknown-extent": "An index has no range: it names no dimension and says no `< extent`.",
    "out-of-range": "An index or a static value lies outside what is allowed.",
    "domain-error": "A formula has no value there: a negative logarithm, a division by zero, a singular matrix.",
    "require-failed": "A `require` of the called definition does not hold.",
    "not-static": "A value must be known at compile time and is not.",
    "not-differentiable": "A gradient is asked of something that has none.",
    "missing-return": "A body ends without `return`, or returns the wrong number of results.",
    "unsupported": "The construct is part of the language, but not in this place.",
}
"""Every name a diagnostic may have, with one line for the documentation."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error at one place; `lines` are the source lines of the span, so that it can be shown without the file."""

    name: str
    message: str
    span: Span
    lines: tuple[str, ...] = ()
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in DIAGNOSTICS:
            raise ValueError(f"`{self.name}` is not in the table of diagnostics")


class CompileError(MercerError):
    """The user's text is wrong: `diagnostics`, in the order of the text, is never empty."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(render_all(self.diagnostics))

    def __reduce__(self) -> tuple[type[CompileError], tuple[tuple[Diagnostic, ...]]]:
        return type(self), (self.diagnostics,)


@dataclass(slots=True)
class SourceMap:
    """Texts by file name, to show any span later."""

    texts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def add(self, file: str, text: str) -> None:
        """Register the text of `file`; a later text of the same name replaces it."""
        self.texts[file] = text.split("\n")

    def lines(self, span: Span) -> tuple[str, ...]:
        """The source lines from the first to the last of `span`; empty for an unknown file."""
        known = self.texts.get(span.file, [])
        return tuple(line.rstrip("\r") for line in known[max(span.line - 1, 0) : max(span.end_line, span.line)])


SOURCES = SourceMap()
"""The texts parsed so far."""


@dataclass(slots=True)
class DiagnosticBag:
    """Collects errors, so that all independent ones are shown at once."""

    sources: SourceMap = field(default_factory=lambda: SOURCES)
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])

    def __bool__(self) -> bool:
        return bool(self.diagnostics)

    def error(
        self,
        name: str,
        message: str,
        span: Span,
        *,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
        notes: Sequence[str] = (),
    ) -> Diagnostic:
        """Add one error; the same error at the same place is kept once."""
        diagnostic = Diagnostic(name, message, span, self.sources.lines(span), expected, found, hint, tuple(notes))
        if diagnostic not in self.diagnostics:
            self.diagnostics.append(diagnostic)
        return diagnostic

    def raise_if_any(self) -> None:
        """Raise a `CompileError` with everything collected, in the order of the text."""
        if self.diagnostics:
            raise CompileError(sorted(self.diagnostics, key=lambda d: (d.span.file, d.span.line, d.span.column)))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The hint for a misspelled name, or None when nothing known is near."""
    near = nearest(name, known)
    return f"did you mean `{near}`?" if near else None


# --- showing ----------------------------------------------------------------------------------------------------------

_RED, _BLUE, _BOLD, _PLAIN = "\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"
_WIDEST = 120


def render(diagnostic: Diagnostic, color: bool = False) -> str:
    """The error as text: where and what, the source line with a caret, then expected, found, hint and notes."""
    red, blue, bold, plain = (_RED, _BLUE, _BOLD, _PLAIN) if color else ("", "", "", "")
    span = diagnostic.span
    rows = [f"{bold}{span}: {red}error[{diagnostic.name}]{plain}{bold}: {diagnostic.message}{plain}"]
    if diagnostic.lines:
        line, caret = _underline(diagnostic.lines[0], span)
        number = f"{span.line:>3}"
        rows.append(f"{blue}{number} |{plain} {line}".rstrip())
        rows.append(f"{blue}{' ' * len(number)} |{plain} {red}{caret}{plain}")
    for label, value in (("expected", diagnostic.expected), ("found", diagnostic.found), ("hint", diagnostic.hint)):
        if value is not None:
            rows.append(f"  {blue}{label}{plain}: {value}")
    rows.extend(f"  {blue}note{plain}: {note}" for note in diagnostic.notes)
    return "\n".join(rows)


def render_all(diagnostics: Sequence[Diagnostic], color: bool = False) -> str:
    """All errors, and their number when there are several."""
    blocks = [render(diagnostic, color) for diagnostic in diagnostics]
    if len(blocks) > 1:
        blocks.append(f"{len(blocks)} errors")
    return "\n\n".join(blocks)


def _underline(line: str, span: Span) -> tuple[str, str]:
    """The part of a line to show, and the carets below it; a span of several lines is marked to the line's end."""
    start = min(span.column - 1, len(line))
    end = span.end_column - 1 if span.end_line == span.line else len(line)
    left = max(0, start - _WIDEST // 2) if len(line) > _WIDEST else 0
    right = left + _WIDEST
    end = min(max(end, start + 1), max(right, start + 1))
    prefix = "…" if left else ""
    suffix = "…" if right < len(line) else ""
    pad = " " * len(prefix) + "".join("\t" if c == "\t" else " " * _width(c) for c in line[left:start])
    carets = "^" * max(1, sum(_width(c) for c in line[start:end]))
    return prefix + line[left:right] + suffix, pad + carets


def _width(character: str) -> int:
    """Columns a character takes in a terminal."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
