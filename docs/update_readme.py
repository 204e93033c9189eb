"""Runs the demo and puts what it prints into README.md, between the marks; `make readme`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- demo:start -->", "<!-- demo:end -->"


def with_run(readme: str, output: str) -> str:
    """The text of the README with another run of the demo."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    lines = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
    return f"{before}{START}\n```text\n$ make demo\n{lines}\n```\n{END}{after}"


def main() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mercer.cli", "demo"], cwd=README.parent, stdout=subprocess.PIPE, text=True, check=True
    )
    README.write_text(with_run(README.read_text(encoding="utf-8"), run.stdout), encoding="utf-8")
    print(run.stdout, end="")


if __name__ == "__main__":
    main()
