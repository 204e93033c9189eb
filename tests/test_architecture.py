"""The shape of the house: who may import whom, what an import costs, how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mercer"
LONGEST_FILE = 500

# What the modules below a name may import of Mercer, besides each other. The longest name that fits decides.
FLOORS: dict[str, tuple[str, ...]] = {
    "mercer.version": (),
    "mercer.runtime": (),
    "mercer.ir": ("mercer.runtime.errors",),
    "mercer.frontend": ("mercer.ir", "mercer.runtime.errors", "mercer.runtime.cache"),
    "mercer.passes": ("mercer.ir", "mercer.runtime.errors"),
    "mercer.backends.torch": ("mercer.ir", "mercer.runtime"),
    "mercer.backends.tvm": ("mercer.ir", "mercer.runtime"),
    "mercer.compiler": (
        "mercer.version", "mercer.runtime", "mercer.ir", "mercer.frontend", "mercer.passes", "mercer.backends",
    ),
    "mercer": ("mercer",),
}  # fmt: skip
CEILING = ("mercer.cli", "mercer.commands")
"""The command line stands on top: nothing below imports these."""


def below(module: str, name: str) -> bool:
    """Whether `module` is `name` or lies in it."""
    return module == name or module.startswith(f"{name}.")


def room(module: str) -> str:
    """The entry of FLOORS that `module` belongs to."""
    return max((name for name in FLOORS if below(module, name)), key=len)


def is_top(module: str) -> bool:
    return any(below(module, name) for name in CEILING)


def imports(module: str, source: str) -> Iterator[str]:
    """Every module of Mercer that a source mentions in an import, at any depth, also for type checkers only."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(origin, names, level):
                package = module.split(".")[: -level if level else 0]
                found = [".".join((*package, *filter(None, [origin]), alias.name)) for alias in names]
            case ast.Call(ast.Name("import_module"), [ast.Constant(str() as name), *_]):
                found = [name]
            case _:
                continue
        yield from (name for name in found if below(name, "mercer"))


def violations(sources: Mapping[str, str]) -> list[str]:
    """The imports that go up or sideways, `module -> imported`."""
    return [
        f"{module} -> {target}"
        for module, source in sources.items()
        for target in imports(module, source)
        if not is_top(module)
        and (is_top(target) or not any(below(target, name) for name in (room(module), *FLOORS[room(module)])))
    ]


def modules() -> dict[str, str]:
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in PACKAGE.rglob("*.py")}


def test_imports_go_down() -> None:
    assert violations(modules()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mercer.runtime.session", "from mercer.ir.types import DType"),
        ("mercer.ir.graph", "import mercer.frontend.syntax"),
        ("mercer.ir.graph", "from mercer.runtime import session"),
        ("mercer.ir.graph", "from ..passes import fold"),
        ("mercer.backends.torch.__init__", "from ..tvm import target"),
        ("mercer.frontend.body", "def f():\n    from mercer.passes import fold"),
        ("mercer.passes.fold", "if TYPE_CHECKING:\n    from mercer.backends.tvm import target"),
        ("mercer.backends.tvm.build", "from mercer.backends.torch import code"),
        ("mercer.backends.torch", "from mercer.compiler import parse"),
        ("mercer.compiler", "from mercer import cli"),
        ("mercer.compiler", "from mercer.commands.show import console"),
        ("mercer.ir.types", "import_module('mercer.passes.fold')"),
    ],
)
def test_a_planted_import_is_caught(module: str, source: str) -> None:
    assert len(violations({module: source})) == 1


# --- what an import costs ---------------------------------------------------------------------------------------------

HEAVY = {"torch", "tvm", "tvm_ffi", "lark", "networkx", "scipy", "numpy", "sklearn", "typer", "rich"}


def loaded_by(statement: str) -> set[str]:
    """Names of all modules that a fresh Python loads for a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import mercer", HEAVY | {"mercer.compiler", "mercer.runtime"}),
        ("import mercer.cli", HEAVY - {"typer", "rich"}),
        ("import mercer.compiler", {"torch", "tvm", "tvm_ffi", "typer", "rich"}),
        ("import mercer; mercer.load", {"torch", "tvm", "lark", "mercer.compiler", "mercer.frontend", "mercer.passes"}),
    ],
)
def test_import_leaves_out(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent


def test_what_is_loaded_is_seen() -> None:
    assert {"mercer.frontend.parser", "lark", "numpy"} <= loaded_by("import mercer.compiler")


def processor_seconds(*command: str) -> float:
    """What a run of Python costs, whatever else the machine does meanwhile: the least of several."""

    def once() -> float:
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


def test_import_is_quick() -> None:
    assert processor_seconds("-c", "import mercer") < 0.2


def test_help_is_quick() -> None:
    assert processor_seconds("-m", "mercer.cli", "--help") < 0.5


# --- files ------------------------------------------------------------------------------------------------------------

TEXTS = {".py", ".mer", ".mir", ".lark", ".md", ".toml", ".txt", ".yaml", ".svg", ".sh", ""}
MACHINE = re.compile(r"(?<![\w.:/])/(?:work|root|home|opt|tmp/probe)/\w")


def files() -> list[Path]:
    """What the repository holds and is about to hold."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    paths = [ROOT / name for name in names] or [p for p in ROOT.rglob("*") if ".venv" not in p.parts]
    return [p for p in paths if p.is_file() and p.suffix in TEXTS]


def too_long(lengths: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{name}: {length} lines" for name, length in lengths if length > LONGEST_FILE]


def test_no_file_is_too_long() -> None:
    sources = [p for p in PACKAGE.rglob("*") if p.suffix in {".py", ".mer", ".lark"}]
    assert len(sources) > 50
    assert too_long((str(p.relative_to(ROOT)), len(p.read_text().splitlines())) for p in sources) == []
    assert too_long([("planted.py", LONGEST_FILE + 1)])


def test_no_file_knows_a_machine() -> None:
    found = [f"{p.relative_to(ROOT)}: {m[0]}…" for p in files() for m in MACHINE.finditer(p.read_text(errors="ignore"))]
    assert found == []
    assert MACHINE.search("open('" + "/home" + "/someone/x.npz')")


def test_the_lock_covers_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    names = {name.lower().replace("_", "-"): version for name, version in locked.items()}
    for requirement in [
        *project["dependencies"],
        *project["optional-dependencies"]["demo"],
        *project["optional-dependencies"]["dev"],
    ]:
        name, relation, version = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(?:(==|>=)(.*))?", requirement).groups()
        if name != "mercer":
            found = names[name.lower().replace("_", "-")]
            assert relation == ">=" or found == version
