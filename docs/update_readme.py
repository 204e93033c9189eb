"""Runs the demo and puts what it prints into README.md, as a picture and as text; `make readme`."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
PICTURE = "docs/images/demo.svg"
START, END = "<!-- demo:start -->", "<!-- demo:end -->"
WIDTH = 104
FORMAT = re.sub(r"@font-face {{.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""Rich's drawing without the font that it would fetch from the network."""


def with_run(readme: str, output: str) -> str:
    """The text of the README with another run of the demo."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    plain = Text.from_ansi(output).plain
    lines = "\n".join(line.rstrip() for line in plain.strip("\n").splitlines())
    picture = f"![The table at the end of make demo]({PICTURE})"
    return f"{before}{START}\n{picture}\n\n```text\n$ make demo\n{lines}\n```\n{END}{after}"


def picture(output: str) -> str:
    """The output as it looks in a terminal: an SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo\n"), Text.from_ansi(output.rstrip()), sep="")
    return console.export_svg(title="mercer demo", unique_id="demo", code_format=FORMAT)


def main() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mercer.cli", "demo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)},
    )
    readme = ROOT / "README.md"
    readme.write_text(with_run(readme.read_text(encoding="utf-8"), run.stdout), encoding="utf-8")
    (ROOT / PICTURE).parent.mkdir(exist_ok=True)
    (ROOT / PICTURE).write_text(picture(run.stdout), encoding="utf-8")
    print(run.stdout, end="")


if __name__ == "__main__":
    main()
