"""Places in a user's text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of text; lines and columns count from 1."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def to(self, end: Span) -> Span:
        """The span from the start of this one to the end of `end`."""
        return Span(self.file, self.line, self.column, end.end_line, end.end_column)


NOWHERE = Span("<none>", 0, 0, 0, 0)
