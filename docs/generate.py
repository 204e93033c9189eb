"""The pages that repeat what the code says: `docs/operators.md` and `docs/diagnostics.md`.

`pytest tests/test_docs.py` fails when they are out of date, and writes them with `--update-golden`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mercer.commands.operators import Entry, describe, facts
from mercer.frontend.diagnostics import DIAGNOSTICS
from mercer.frontend.library import default_library

KINDS = {"layer": "layers", "op": "operators", "kernel": "kernel functions", "fn": "functions"}


def operators_page() -> str:
    """All that is known of every definition of the standard library, by file."""
    entries = [describe(name) for name in default_library().names()]
    counts = ", ".join(f"{sum(e.kind == kind for e in entries)} {title}" for kind, title in KINDS.items())
    rows = [
        "# Operators, layers and kernels",
        "",
        f"{counts}, all written in the language. `mercer ops NAME` prints a definition and what stands here.",
        "",
        "Below a signature stand the statements that compute something. An *example* is a use that the signature",
        "suggests; what is said of exactness and of backends holds for it, alone and before any pass. `torch` is the",
        "call, or what its generated code is made of; `tvm` are the families of schedules and the primitives in order.",
        "",
        "<!-- written by docs/generate.py from mercer/stdlib/ -->",
    ]
    for family in sorted({e.family for e in entries}):
        rows += ["", f"## {family.replace('_', ' ').capitalize()}"]
        for kind in KINDS:
            for entry in (e for e in entries if (e.family, e.kind) == (family, kind)):
                rows += ["", *section(entry)]
    return "\n".join(rows) + "\n"


def section(entry: Entry) -> list[str]:
    code = {"example", *entry.backends}
    rows = [
        (title, f"`{text}`" if title in code else escaped(text)) for title, text in facts(entry) if title != "family"
    ]
    return [
        f"### `{entry.name}`",
        "",
        escaped(entry.doc),
        "",
        "```mer",
        entry.signature,
        *(f"  {line}" for line in entry.formula),
        "```",
        "",
        *(f"* {title}: {text}" for title, text in rows),
    ]


def escaped(text: str) -> str:
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


PAGES: dict[str, Callable[[], str]] = {"docs/operators.md": operators_page, "docs/diagnostics.md": diagnostics_page}
