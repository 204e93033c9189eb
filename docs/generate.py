"""Writes the pages that repeat what the code says: `docs/library.md` and `docs/diagnostics.md`.

`pytest tests/test_docs.py --update-golden` writes them too; a test fails when they are out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mercer.frontend.diagnostics import DIAGNOSTICS
from mercer.frontend.library import default_library
from mercer.frontend.syntax import Definition

DOCS = Path(__file__).parent
KINDS = {"layer": "Layers", "op": "Operators", "kernel": "Kernel functions", "fn": "Functions"}


def library_page() -> str:
    """All definitions of the standard library by file, with the comment above each."""
    library = default_library()
    definitions = [d for name in library.names() if (d := library.definition(name)) is not None]
    files = sorted({d.span.file for d in definitions})
    counts = ", ".join(f"{sum(d.kind == k for d in definitions)} {t.lower()}" for k, t in KINDS.items())
    rows = [
        "# The standard library",
        "",
        f"Written by `docs/generate.py` from `mercer/stdlib/`: {counts}. The formula of each stands in its file.",
    ]
    for file in files:
        rows += ["", f"## {Path(file).stem.replace('_', ' ').capitalize()}", ""]
        rows += [
            f"`{Path('mercer', file)}`" if file != "stdlib/builtin.mer" else "Their shape rules stand in Python.",
            "",
        ]
        rows += ["| | |", "|---|---|"]
        rows += [
            f"| `{signature(d)}` | {cell(d.doc or '')} |" for d in sorted(definitions, key=rank) if d.span.file == file
        ]
    return "\n".join(rows) + "\n"


def rank(definition: Definition) -> tuple[int, int]:
    return list(KINDS).index(definition.kind), definition.span.line


def signature(definition: Definition) -> str:
    """The definition up to its body, on one line."""
    source = definition.source
    depth = 0
    for end, character in enumerate(source):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and (character == "{" or (character == "=" and source[end - 1] != "-")):
            return " ".join(source[:end].split()).replace("|", "\\|")
    return source


def cell(text: str) -> str:
    return " ".join(re.sub(r"([|*_\\])", r"\\\1", text).split())


def diagnostics_page() -> str:
    """Every name that an error in a text may have."""
    rows = [
        "# Diagnostics",
        "",
        "Written by `docs/generate.py` from the table in `mercer/frontend/diagnostics.py`. An error has one of these "
        "names, as in",
        "`net.mer:3:7: error[shape-mismatch]: …`; [language.md](language.md#errors) shows some.",
        "",
        "| name | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in DIAGNOSTICS.items()),
    ]
    return "\n".join(rows) + "\n"


PAGES: dict[str, Callable[[], str]] = {"docs/library.md": library_page, "docs/diagnostics.md": diagnostics_page}


def main() -> Iterator[str]:
    for name, page in PAGES.items():
        (DOCS.parent / name).write_text(page(), encoding="utf-8")
        yield name


if __name__ == "__main__":
    print(*main())
