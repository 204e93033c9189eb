"""The errors of Mercer: one class above all of them, each a single clear line and at most one hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MercerError(Exception):
    """Base of every error that Mercer raises on purpose.

    `message` says what is wrong in one line; `hint`, when there is one, says what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ArtifactError(MercerError):
    """An artifact that cannot be read, written, trusted or run on this machine."""


class InputError(MercerError):
    """Arguments of a call that do not fit the signature of the executable."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate spelled most like `name`, or None when none is close; letter case does not count."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[matches[0]] if matches else None


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
