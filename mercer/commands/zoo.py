"""The zoo: systems from the literature, each a `.mer` file beside an independent reference in Python.

`zoo/s002_adapool.mer` is held to `zoo/s002_adapool.py`, which gives

* `SAMPLES`: values of the model's symbols, one dict per run; `model` and `attributes` may choose within the file;
* `reference(p, *inputs)`: the outputs in float64 from parameters by path and inputs, written from the formula;
* and, where the defaults do not fit, `inputs(rng, shapes)`, `parameters(rng, p)` and `REFERENCES` by model name.

A system works when the NumPy reference, the PyTorch module and the TVM binary all agree with its reference.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mercer.commands import backends
from mercer.commands.arrays import as_tuple
from mercer.commands.show import show_table
from mercer.compiler import Program, Progress, UsageError, parse, read_text
from mercer.frontend.parser import outline
from mercer.ir.types import Array
from mercer.runtime.errors import MercerError, nearest

TOLERANCE = 1e-4
"""Largest error that agreement allows, relative to the largest magnitude of the output: float32 against float64."""

NOISE = 0.1
"""Standard deviation of what is added to the initial values of trained parameters, so that no zero hides a mistake."""

BACKENDS = {"reference": backends.reference, "torch": backends.torch, "tvm": backends.cpu}


@dataclass
class Row:
    """What `mercer zoo` says of one system; errors are relative to the largest magnitude of the output.

    `kernels` is how many kernels its binaries have; `generic` says of those that no family took why it did not.
    """

    system: str
    title: str
    parses: bool = False
    errors: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    runs: int = 0
    kernels: int = 0
    generic: list[str] = field(default_factory=list[str])
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether every backend agrees with the independent reference on every sample."""
        whole = self.parses and not self.problem and self.runs >= 2
        return whole and set(self.errors) == set(BACKENDS) and all(e <= TOLERANCE for e in self.errors.values())

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "works": self.works}


@dataclass(frozen=True)
class System:
    """Two files: a spec and its independent reference."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.stem.partition("_")[0].upper()

    @functools.cached_property
    def title(self) -> str:
        """The first line of the spec, without the id: `# S002 AdaPool: ...`."""
        first = read_text(self.path).partition("\n")[0]
        return first.lstrip("# ").removeprefix(self.id).strip(" :.")

    @functools.cached_property
    def reference(self) -> ModuleType:
        path = self.path.with_suffix(".py")
        if not path.exists():
            raise UsageError(f"{self.path.name} has no reference beside it", f"write {path.name}")
        spec = importlib.util.spec_from_file_location(f"zoo_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(item.name for item in outline(read_text(self.path)) if item.kind == "model")

    def variants(self) -> Iterator[tuple[str, dict[str, Any], list[dict[str, int]]]]:
        """Model, attributes and the samples that share them: what is compiled once."""
        groups: dict[str, tuple[str, dict[str, Any], list[dict[str, int]]]] = {}
        for sample in self.reference.SAMPLES:
            dims = {name: value for name, value in sample.items() if name not in ("model", "attributes")}
            attributes: dict[str, Any] = sample.get("attributes", {})
            for model in [sample["model"]] if "model" in sample else self.models:
                groups.setdefault(f"{model} {attributes}", (model, attributes, []))[2].append(dims)
        yield from groups.values()


def systems(folder: Path) -> list[System]:
    """The systems of a folder, by id. Raises UsageError when there are none."""
    found = sorted(folder.glob("s[0-9]*.mer"))
    if not found:
        raise UsageError(f"there is no zoo in {folder}", "run `mercer zoo` in the root of the repository")
    return [System(path) for path in found]


def total(folder: Path) -> int:
    """How many systems the literature has: the rows of `systems.csv`."""
    with (folder / "systems.csv").open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def run(folder: Path, only: Sequence[str] = (), progress: Progress | None = None) -> list[Row]:
    """Check the systems of a folder, or those named. Raises UsageError for an unknown id."""
    found = systems(folder)
    known = {system.id: system for system in found}
    for name in only:
        if name.upper() not in known:
            near = nearest(name.upper(), known)
            raise UsageError(f"the zoo has no system {name}", f"did you mean {near}?" if near else "`mercer zoo`")
    chosen = [known[name.upper()] for name in only] or found
    rows: list[Row] = []
    for number, system in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen), system.id)
        rows.append(check(system))
    return rows


def check(system: System) -> Row:
    """Hold one system to its reference; what goes wrong is told in the row."""
    row = Row(system.id, system.title)
    start = time.perf_counter()
    try:
        for model, attributes, samples in system.variants():
            program = parse(system.path, model, **attributes)
            row.parses = True
            _check_model(system, program, samples, row)
        batches = [sample.get("N") for sample in system.reference.SAMPLES]
        if len({n for n in batches if n is not None}) < 2:
            row.problem = "the samples need two sizes of the batch N"
    except (MercerError, AssertionError, ArithmeticError, ValueError, TypeError, LookupError, RuntimeError) as error:
        row.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    row.seconds = time.perf_counter() - start
    return row


def _check_model(system: System, program: Program, samples: Sequence[Mapping[str, int]], row: Row) -> None:
    reference = getattr(system.reference, "REFERENCES", {}).get(program.name) or system.reference.reference
    rng = np.random.default_rng(0)
    p = _parameters(system, program, rng)
    weights = {name: value.astype(program.initial()[name].dtype) for name, value in p.items()}
    runners = {name: backend(program, weights) for name, backend in BACKENDS.items()}
    binary = runners["tvm"]
    assert isinstance(binary, backends.Binary)
    steps: Sequence[Mapping[str, str]] = binary.executable.artifact.manifest.entry["steps"]
    row.kernels += len(steps)
    row.generic += [f"{step['source']} ({step['detail']})" for step in steps if step["family"] == "generic"]
    for sample in samples:
        inputs = _inputs(system, program, sample, rng)
        expected = as_tuple(reference(p, *(_wide(x) for x in inputs)))
        for name, runner in runners.items():
            error = _error(runner(inputs), [np.asarray(y) for y in expected], program.graph.outputs)
            row.errors[name] = max(row.errors.get(name, 0.0), error)
        row.runs += 1


def _wide(array: Array) -> Array:
    """The same values in double precision."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _parameters(system: System, program: Program, rng: np.random.Generator) -> dict[str, Array]:
    """Float64 values that float32 holds exactly: the initial ones, moved a little where training would move them."""
    p: dict[str, Array] = {}
    for parameter, value in zip(program.parameters, program.initial().values(), strict=True):
        moved = parameter.trainable and value.dtype.kind == "f"
        p[parameter.name] = np.add(value, NOISE * rng.standard_normal(value.shape)) if moved else value
    if hasattr(system.reference, "parameters"):
        p = system.reference.parameters(rng, p)
    return {k: _wide(np.asarray(v, np.float32) if np.asarray(v).dtype.kind == "f" else v) for k, v in p.items()}


def _inputs(system: System, program: Program, sample: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    shapes: dict[str, tuple[int, ...]] = {}
    for value in program.graph.inputs:
        missing = sorted({d for size in value.type.shape for d in size.dims()} - set(sample))
        if missing:
            raise ValueError(f"the samples give no value to {', '.join(missing)}")
        shapes[value.name] = tuple(size.evaluate(lambda atom: sample[atom.name]) for size in value.type.shape)  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(system.reference, "inputs"):
        made = system.reference.inputs(rng, shapes)
    else:
        made = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return [np.asarray(made[v.name]).astype(v.type.dtype.numpy) for v in program.graph.inputs]


def _error(actual: Sequence[Array], expected: Sequence[Array], names: Sequence[str]) -> float:
    worst = 0.0
    for name, y, wanted in zip(names, actual, expected, strict=True):
        if y.shape != wanted.shape:
            raise ValueError(f"{name} has the shape {y.shape}; the reference gives {wanted.shape}")
        if not np.isfinite(wanted).all():
            raise ValueError(f"the reference gives values of {name} that are not finite")
        scale = float(np.max(np.abs(wanted), initial=0.0)) or 1.0
        difference = float(np.max(np.abs(np.subtract(y, wanted)), initial=0.0)) / scale
        worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def as_json(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {"systems": [row.as_json() for row in rows], "works": sum(row.works for row in rows), "total": total(folder)}


def show(rows: Sequence[Row], folder: Path) -> None:
    """Print one line per system and, below the table, what went wrong and how many of all systems work."""
    columns = (
        "system",
        "title",
        "parses",
        *(f">{name}" for name in BACKENDS),
        "works",
        ">runs",
        ">kernels",
        ">generic",
        ">seconds",
    )
    yes = {True: "yes", False: "no"}

    def error(row: Row, name: str) -> str:
        return f"{row.errors[name]:.1e}" if name in row.errors else "-"

    show_table(
        columns,
        [
            (
                r.system,
                r.title,
                yes[r.parses],
                *(error(r, b) for b in BACKENDS),
                yes[r.works],
                r.runs,
                r.kernels,
                len(r.generic) or "",
                f"{r.seconds:.1f}",
            )
            for r in rows
        ],
    )
    for row in rows:
        if row.problem:
            print(f"{row.system}: {row.problem}")
    for row in rows:
        for kernel in row.generic:
            print(f"{row.system} runs a kernel element by element: {kernel}")
    print(f"works on all backends: {sum(row.works for row in rows)} / {total(folder)}")
