"""The documents: what stands in them runs, and says what they say.

Blocks of a document are run in their order, in one folder that holds the examples:

* ```` ```mer ```` a program: parsed, elaborated, evaluated, and compared with PyTorch; a word after `mer` that ends in
  `.mer` also writes it to a file of this name. Without a model it is parsed only.
* ```` ```mer error ```` a wrong program; the block that follows holds its message.
* ```` ```python ```` is executed; all of a document share their names.
* ```` ```console ```` commands after `$ ` and what they print, where `…` stands for anything.
* ```` ```mir ```` IR text, which reads back as it is.

`pytest tests/test_docs.py --update-golden` writes the messages and what commands print.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

import mercer

ROOT = Path(__file__).parent.parent
GENERATED = ("docs/operators.md", "docs/diagnostics.md")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if str(path.relative_to(ROOT)) not in GENERATED
)


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after its fence, its text, and the lines of the document where the text stands."""

    info: tuple[str, ...]
    text: str
    first: int
    last: int


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document."""
    return [
        Block(tuple(token.info.split()), token.content, token.map[0] + 1, token.map[1] - 1)
        for token in MarkdownIt().parse(document)
        if token.type == "fence" and token.map is not None
    ]


def replaced(document: str, changes: dict[Block, str]) -> str:
    """The document with other texts in some blocks."""
    lines = document.splitlines(keepends=True)
    for block in sorted(changes, key=lambda b: -b.first):
        lines[block.first : block.last] = [changes[block]]
    return "".join(lines)


def random_inputs(program: mercer.Program) -> list[Any]:
    """Inputs that fit the signature; every symbolic dimension is 3."""
    generator = np.random.default_rng(0)

    def array(dtype: str, shape: tuple[int, ...]) -> Any:
        if dtype == "f32":
            return generator.standard_normal(shape, np.float32)
        return generator.integers(0, 2, shape).astype({"i32": np.int32, "i8": np.int8, "bool": np.bool_}[dtype])

    return [array(t.dtype, tuple(3 if isinstance(d, str) else d for d in t.shape)) for t in program.signature.inputs]


def run_program(text: str, name: str) -> None:
    """Parse a program; if it has models, evaluate each and compare with PyTorch."""
    models = re.findall(r"^model (\w+)", text, re.MULTILINE)
    if not models:
        mercer.parse_text(f"{text}\nmodel Nothing(x: f32[1]) -> f32[1] {{ return x }}", name)
    for model in models:
        program = mercer.parse_text(text, name, model)
        inputs = random_inputs(program)
        expected = program.evaluate(*inputs)
        for result, tensor in zip(expected, program.signature.outputs, strict=True):
            assert result.shape == tuple(3 if isinstance(d, str) else d for d in tensor.shape)
            assert np.isfinite(result).all()
        torch = pytest.importorskip("torch")
        found = program.torch().eval()(*map(torch.from_numpy, inputs))
        for result, other in zip(expected, found if isinstance(found, tuple) else (found,), strict=True):
            np.testing.assert_allclose(other.detach().numpy(), result, rtol=1e-4, atol=1e-5)


def message_of(text: str) -> str:
    with pytest.raises(mercer.CompileError) as caught:
        mercer.parse_text(text, "example.mer")
    return f"{caught.value}\n"


def same(shown: str, found: str) -> bool:
    """Whether what a document shows is what was found, up to what it leaves out."""
    pieces = map(re.escape, without_places(shown).split("…"))
    return re.fullmatch(".*".join(pieces), without_places(found), re.DOTALL) is not None


def without_places(text: str) -> str:
    """Without the lines of the standard library, which move when it grows."""
    return re.sub(r"(stdlib/\w+\.mer):\d+:\d+", r"\1", text)


def console(text: str, folder: Path) -> Iterator[str]:
    """The commands of a block, each followed by what it prints."""
    for command in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        program, *arguments = shlex.split(command)
        assert program == "mercer", "only `mercer` is run"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "110", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [sys.executable, "-m", "mercer.cli", *arguments],
            cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert run.returncode in (0, 2), run.stdout
        yield f"$ {command}\n" + "".join(f"{line.rstrip()}\n" for line in run.stdout.rstrip().splitlines())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document(
    document: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for example in (ROOT / "examples").glob("*.mer"):
        shutil.copy(example, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    found: dict[Block, str] = {}
    all_blocks = blocks(text)
    for number, block in enumerate(all_blocks):
        match block.info:
            case ("mer", "error"):
                found[all_blocks[number + 1]] = message_of(block.text)
            case ("mer", *name):
                if name:
                    Path(name[0]).write_text(block.text)
                run_program(block.text, name[0] if name else "example.mer")
            case ("python",):
                exec(compile("\n" * block.first + block.text, str(ROOT / document), "exec"), names)
            case ("console",):
                found[block] = "\n".join(console(block.text, tmp_path))
            case ("mir",):
                from mercer.compiler import parse_ir, print_ir

                found[block] = print_ir(parse_ir(block.text)[0])
            case ("text" | "sh" | "toml",):
                pass
            case _:
                pytest.fail(f"line {block.first}: no rule for a block of {' '.join(block.info) or 'nothing'}")
    changes = {block: output for block, output in found.items() if not same(block.text, output)}
    if request.config.getoption("--update-golden"):
        (ROOT / document).write_text(replaced(text, changes), encoding="utf-8")
        return
    for block, output in changes.items():
        assert block.text == output, f"line {block.first} of {document}"


def test_a_planted_fault_is_caught() -> None:
    with pytest.raises(mercer.CompileError):
        run_program("model Net(x: f32[N, 4]) -> f32[N, 3] { return relu(x) }", "planted.mer")
    with pytest.raises(pytest.fail.Exception):
        message_of("model Net(x: f32[N, 4]) -> f32[N, 4] { return relu(x) }")
    assert same("a…c\n", "a\nb\nc\n")
    assert not same("a…d\n", "a\nb\nc\n")


# --- links and generated pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [*DOCUMENTS, *GENERATED])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    tokens = MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))
    links = [str(child.attrs["href"]) for t in tokens for child in t.children or () if child.type == "link_open"]
    for target in (link.partition("#")[0] for link in links if "://" not in link):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:mercer|tests|docs|examples)/[\w./*-]+)`", text):
        assert list(ROOT.glob(name.rstrip("/"))), name


@pytest.mark.parametrize("page", GENERATED)
def test_generated_page(page: str, request: pytest.FixtureRequest) -> None:
    text = runpy.run_path(str(ROOT / "docs/generate.py"))["PAGES"][page]()
    if request.config.getoption("--update-golden"):
        (ROOT / page).write_text(text, encoding="utf-8")
    assert (ROOT / page).read_text(encoding="utf-8") == text


def test_a_run_of_the_demo_goes_into_the_readme() -> None:
    with_run = runpy.run_path(str(ROOT / "docs/update_readme.py"))["with_run"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    once = with_run(readme, "accuracy  98 %  \n")
    assert "$ make demo\naccuracy  98 %\n```" in once
    assert with_run(once, "accuracy  98 %") == once


def test_operators_page_has_every_definition() -> None:
    from mercer.frontend.library import default_library

    text = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == set(default_library().names())
    assert "* source: Dumoulin and Visin 2016\n" in sections["conv2d"]
    assert "* torch: `native: F.conv2d(x, weight)`\n" in sections["conv2d"]
    assert "* tvm cpu: `contraction`\n" in sections["matmul"]


# --- completeness -----------------------------------------------------------------------------------------------------


def test_language_names_every_construct() -> None:
    from mercer.frontend.builder import DTYPES
    from mercer.frontend.static_functions import STATIC_CONSTANTS, STATIC_FUNCTIONS
    from mercer.ir.index import FUNCTIONS
    from mercer.ir.initializers import INITIALIZERS

    text = (ROOT / "docs/language.md").read_text(encoding="utf-8")
    code = "\n".join([*(block.text for block in blocks(text)), *re.findall(r"`([^`\n]+)`", text)])
    grammar = (ROOT / "mercer/frontend/grammar.lark").read_text(encoding="utf-8")
    terminals = re.findall(r"^[A-Z_]+(?:\.\d)?: /\(?([a-z|]+)\)?(?:\\b|\(\?=)", grammar, re.MULTILINE)
    keywords = {word for group in terminals for word in group.split("|")}
    assert {"kernel", "require", "buffer", "else", "argmin"} <= keywords
    operators = {"add", "sub", "mul", "div", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "cast"}
    names = {*keywords, *DTYPES, *STATIC_FUNCTIONS, *STATIC_CONSTANTS, *INITIALIZERS, *(FUNCTIONS.keys() - operators)}
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()


def test_readme_names_every_command() -> None:
    from mercer.cli import app

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback is not None}
    assert set(re.findall(r"^\| `mercer (\w+)", text, re.MULTILINE)) == commands
