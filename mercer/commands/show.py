"""What the commands share: tables, JSON, progress bars, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from mercer.compiler import Progress

PIPE_WIDTH = 200


@dataclass
class Settings:
    """Options that stand before the command; `progress` is None when the terminal decides."""

    debug: bool = False
    progress: bool | None = None


settings = Settings()


def console(stream: TextIO, force_terminal: bool | None = None) -> Console:
    """A Rich console on `stream` that takes brackets as text and does not cut what goes to a pipe."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=stream, force_terminal=force_terminal, width=width, markup=False, highlight=False)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", to: TextIO | None = None
) -> None:
    """Print a table; a column whose name begins with `>` is set flush right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console(to or sys.stdout).print(table)


def show_json(value: Any) -> None:
    """Print JSON; numbers that JSON does not know (NaN, infinities) become null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False))


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if abs(value) < float("inf") else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def note(message: str, style: str | None = None) -> None:
    """One line to the person, on standard error."""
    console(sys.stderr).print(message, style=style, soft_wrap=True)


def size_text(count: int) -> str:
    """Bytes for people: `34.1 kB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def time_text(microseconds: float) -> str:
    """A time in a unit that suits it: `12.3 µs`, `4.56 ms`, `7.89 s`."""
    for limit, unit in ((1e3, "µs"), (1e6, "ms")):
        if microseconds < limit:
            return f"{microseconds / (limit / 1e3):.3g} {unit}"
    return f"{microseconds / 1e6:.3g} s"


@contextmanager
def progress_bar(title: str) -> Generator[Progress]:
    """A bar on standard error, shown on a terminal or when asked for, gone when the work is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeElapsedColumn

    shown = sys.stderr.isatty() if settings.progress is None else settings.progress
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    screen = console(sys.stderr, force_terminal=True if settings.progress else None)
    with Bar(*columns, console=screen, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title}: {what}" if what else title)

        yield report


def check_writable(path: Path) -> None:
    """Raise UsageError when `path` cannot be written, before long work is done for it."""
    from mercer.compiler import UsageError

    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist", f"mkdir -p {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder", "give the name of a file inside it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{path}: cannot be written: permission denied", f"check the folder {path.parent}")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill the file; it appears at `path` when all of it is there. Raises UsageError."""
    from mercer.compiler import UsageError

    check_writable(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}", f"check the folder {path.parent}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all. Raises UsageError."""
    write_whole(path, lambda file: file.write(text.encode()))
