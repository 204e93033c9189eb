"""The IR after every pass, as numbered files in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from mercer.runtime.errors import MercerError


def made(folder: str | os.PathLike[str]) -> Path:
    """The folder, which is there afterwards. Raises MercerError."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MercerError(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def dump(folder: Path, step: int, name: str, text: str) -> None:
    """Write one file; the first step removes those of another run."""
    number = len(list(folder.glob("[0-9][0-9]_*.mir"))) if step else 0
    if not step:
        for old in folder.glob("[0-9][0-9]_*.mir"):
            old.unlink()
    (folder / f"{number:02d}_{name}.mir").write_text(text, encoding="utf-8")
