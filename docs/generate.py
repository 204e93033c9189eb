"""The pages that repeat what the code says: `docs/library.md` and `docs/diagnostics.md`.

`pytest tests/test_docs.py` fails when they are out of date, and writes them with `--update-golden`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePath

from mercer.frontend.diagnostics import DIAGNOSTICS
from mercer.frontend.library import default_library
from mercer.frontend.syntax import Definition

KINDS = {"layer": "layers", "op": "operators", "kernel": "kernel functions", "fn": "functions"}


def library_page() -> str:
    """All definitions of the standard library by file, with the comment above each."""
    library = default_library()
    definitions = [d for name in library.names() if (d := library.definition(name)) is not None]
    counts = ", ".join(f"{sum(d.kind == kind for d in definitions)} {title}" for kind, title in KINDS.items())
    rows = [
        "# The standard library",
        "",
        f"{counts}, all written in the language. `mercer ops NAME` prints a definition.",
        "",
        "<!-- written by docs/generate.py from mercer/stdlib/ -->",
    ]
    for file in sorted({d.span.file for d in definitions}):
        inside = sorted((d for d in definitions if d.span.file == file), key=place)
        rows += ["", f"## {PurePath(file).stem.replace('_', ' ').capitalize()}", "", "| | |", "|---|---|"]
        rows += [f"| `{signature(d)}` | {cell(d.doc)} |" for d in inside]
    return "\n".join(rows) + "\n"


def place(definition: Definition) -> tuple[int, int]:
    return list(KINDS).index(definition.kind), definition.span.line


def signature(definition: Definition) -> str:
    """The definition up to its body, on one line."""
    depth = 0
    for end, character in enumerate(definition.source):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in "{=":
            return " ".join(definition.source[:end].split()).replace("|", "\\|")
    raise AssertionError(f"{definition.name.name} has no body")


def cell(text: str) -> str:
    return " ".join(re.sub(r"([|*_\\<])", r"\\\1", text).split())


def diagnostics_page() -> str:
    """Every name that an error in a text may have."""
    rows = [
        "# Diagnostics",
        "",
        "The names of errors in a text: `net.mer:3:7: error[shape-mismatch]: …`. Some [examples](language.md#errors).",
        "",
        "<!-- written by docs/generate.py from mercer/frontend/diagnostics.py -->",
        "",
        "| name | meaning |",
        "|---|---|",
    ]
    rows += [f"| `{name}` | {meaning.replace('|', '&#124;')} |" for name, meaning in DIAGNOSTICS.items()]
    return "\n".join(rows) + "\n"


PAGES: dict[str, Callable[[], str]] = {"docs/library.md": library_page, "docs/diagnostics.md": diagnostics_page}
