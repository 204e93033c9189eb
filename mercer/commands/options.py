"""Arguments and options that commands of the command line share, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from mercer.compiler import Program
    from mercer.ir.types import Array

SpecFile = Annotated[Path, typer.Argument(metavar="FILE.mer", help="the model's text")]
ArtifactFile = Annotated[Path, typer.Argument(metavar="OUT.mrc", help="a compiled artifact")]
Model = Annotated[str | None, typer.Option(help="which model, when the file has several")]
Attributes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="an attribute of the model")]
Target = Annotated[str, typer.Option("--target", "-t", help="cpu, cpu:avx2, cuda:sm_90, torch, fpga:ecp5-85k")]
Weights = Annotated[Path | None, typer.Option("--weights", "-w", metavar="W.safetensors", help="trained weights")]
VerifyEach = Annotated[
    bool, typer.Option("--verify-each", help="check the IR and every claim of exactness after each pass")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Sizes = Annotated[list[str] | None, typer.Option("--set", metavar="DIM=SIZE", help="a symbolic dim")]
Database = Annotated[
    Path | None,
    typer.Option("--database", metavar="FILE", help="what was tuned; a file in your cache folder unless given"),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all physical cores unless given")]


def wrong(message: str, hint: str | None = None) -> Exception:
    from mercer.compiler import UsageError

    return UsageError(message, hint)


def read_model(file: Path, model: str | None, attributes: Sequence[str] | None) -> Program:
    from mercer.compiler import parse

    return parse(file, model, **dict(map(_attribute, attributes or ())))


def _attribute(text: str) -> tuple[str, Any]:
    """`name=value`, where the value is a number, true, false, none, a list of these, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise wrong(f"`--set {text}` is not NAME=VALUE", "for example --set width=32")
    try:
        found = json.loads("null" if value == "none" else value)
    except json.JSONDecodeError:
        return name, value
    return name, tuple(cast("list[Any]", found)) if isinstance(found, list) else found


def read_sizes(texts: Sequence[str] | None) -> dict[str, int]:
    """Sizes of symbolic dims from DIM=SIZE. Raises UsageError."""
    try:
        return {name: int(value) for name, value in (text.split("=") for text in texts or ())}
    except ValueError:
        raise wrong("the size of a dim is not a whole number", "--set L=128") from None


def read_weights(path: Path | None) -> dict[str, Array] | None:
    from mercer.compiler import load_weights

    return None if path is None else load_weights(path)
