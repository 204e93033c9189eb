"""The passes of the zoo: each factorizing pass on its example, before and after.

`zoo/passes/collapse.mer` is the example of the pass `collapse`. Its first lines say how to run it:

    # Collapse: what the example is, and why the pass fires on it.
    # passes: bind,fold,collapse       the pipeline, with the options of the pass
    # sizes: N = 64                    symbolic dims (16 when not given)
    # sample: x = uniform(-1, 1)       the distribution of an input (normal(0, 1) when not given)

Parameters are those of `Program.initial()`. The program before the first pass of that name is compared to the end of
the pipeline on the reference, in f64 (of a claim to keep all bits: as declared); every step is verified, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mercer.commands.show import show_table
from mercer.compiler import Program, Progress, UsageError, parse, read_text
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph
from mercer.ir.index import Call, Expr, Reduce, children
from mercer.ir.integers import IntExpr
from mercer.ir.lower import lower
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, DType, TensorType
from mercer.passes.calibration import SYMBOLIC_EXTENT, Calibration, relative_error
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Pass, PassContext, parse_pipeline, run_passes
from mercer.passes.pipeline import FACTORIZE, PASSES
from mercer.runtime.errors import MercerError, nearest

REAL_ERROR = 1e-6
"""Largest relative L2 error of rewrites that are exact but for the rounding of new f32 constants."""


@dataclass
class Row:
    """What one pass does to its example; `error` is relative L2, measured, `stated` what the ledger says of it."""

    name: str
    source: str
    example: str
    title: str = ""
    pipeline: str = ""
    exactness: str = ""
    fired: int = 0
    error: float | None = None
    stated: float | None = None
    multiply_adds: tuple[int, int] = (0, 0)
    operations: tuple[int, int] = (0, 0)
    problem: str = ""

    @property
    def ratio(self) -> float:
        """Multiply-adds before over after."""
        before, after = self.multiply_adds
        return before / after if after else float("inf")

    @property
    def works(self) -> bool:
        """Whether the pass fires and keeps its claim."""
        return not self.problem and self.fired > 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "works": self.works}


@dataclass(frozen=True)
class Example:
    """A `.mer` file with a header."""

    path: Path
    text: str

    @staticmethod
    def read(path: Path) -> Example:
        return Example(path, read_text(path))

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].lstrip("# ").strip()

    def header(self, key: str) -> Iterator[str]:
        """The values of every line `# key: value`."""
        return (value.strip() for value in re.findall(rf"^# {key}:(.*)$", self.text, re.MULTILINE))

    def passes(self) -> tuple[Pass, ...]:
        """Raises UsageError when the header has no pipeline, PipelineError when it cannot be read."""
        text = next(self.header("passes"), None)
        if text is None:
            raise UsageError(f"{self.path} does not say how to run it", "its header needs a line `# passes: bind,...`")
        return parse_pipeline(text, PASSES)

    def samples(self, program: Program) -> dict[str, Array]:
        """Inputs of the sizes and distributions that the header asks for."""
        sizes = {name: int(value) for name, value in self._assignments("sizes")}
        laws = {name: _law(value) for name, value in self._assignments("sample")}
        random = np.random.default_rng(0)
        return {
            value.name: _draw(value.type, sizes, laws.get(value.name, ("normal", 0.0, 1.0)), random)
            for value in program.graph.inputs
        }

    def _assignments(self, key: str) -> Iterator[tuple[str, str]]:
        for line in self.header(key):
            yield from re.findall(r"(\w+) *= *([\w.-]+(?:\([^)]*\))?)", line)


Law: TypeAlias = tuple[str, float, float]
"""`normal` with mean and deviation, or `uniform` with its ends."""


def _law(text: str) -> Law:
    found = re.fullmatch(r"(normal|uniform)\(([^,]+),([^,]+)\)", text)
    if found is None:
        raise UsageError(f"there is no distribution {text}", "normal(mean, deviation) or uniform(low, high)")
    return found[1], float(found[2]), float(found[3])


def _draw(kind: TensorType, sizes: Mapping[str, int], law: Law, random: np.random.Generator) -> Array:
    shape = [int(dim.evaluate(lambda atom: sizes.get(str(atom), SYMBOLIC_EXTENT))) for dim in kind.shape]
    if kind.dtype is DType.BOOL or kind.dtype.is_integer:
        return random.integers(0, 2, shape).astype(kind.dtype.numpy)
    name, first, second = law
    values = random.normal(first, second, shape) if name == "normal" else random.uniform(first, second, shape)
    return values.astype(kind.dtype.numpy)


def run(folder: Path = Path("zoo"), only: Sequence[str] = (), progress: Progress | None = None) -> list[Row]:
    """One row for each pass of FACTORIZE (or those named), in order, then for the other examples in `folder/passes`.

    Raises UsageError when there is no such folder or pass.
    """
    examples = folder / "passes"
    if not examples.is_dir():
        raise UsageError(f"there are no examples of passes in {examples}", "run it in the root of the repository")
    names = [each.name for each in FACTORIZE]
    names += sorted(path.stem for path in examples.glob("*.mer") if path.stem in PASSES and path.stem not in names)
    for name in only:
        if name not in names:
            near = nearest(name, names)
            raise UsageError(
                f"the zoo has no pass {name}", f"did you mean {near}?" if near else "`mercer zoo --passes`"
            )
    rows: list[Row] = []
    chosen = [name for name in names if not only or name in only]
    for number, name in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen), name)
        rows.append(measure(name, examples / f"{name}.mer"))
    return rows


def as_json(rows: Sequence[Row], _: Path) -> dict[str, Any]:
    """What `--json` prints."""
    return {"passes": [row.as_json() for row in rows]}


def measure(name: str, path: Path) -> Row:
    """Run the pass `name` on its example; what goes wrong is told in the row."""
    row = Row(name, PASSES[name].source, str(path))
    if not path.exists():
        row.problem = "there is no example"
        return row
    try:
        _measure(row, Example.read(path))
    except (MercerError, AssertionError, ArithmeticError, ValueError, TypeError, LookupError) as error:
        row.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return row


def _measure(row: Row, example: Example) -> None:
    passes = example.passes()
    row.title, row.pipeline = example.title, ",".join(map(str, passes))
    start = next((i for i, each in enumerate(passes) if each.name == row.name), None)
    if start is None:
        raise UsageError(f"{example.path} does not run the pass {row.name}")
    program = parse(example.path)
    inputs = example.samples(program)
    context = PassContext(program.library, weights=program.initial(), data=inputs, verify_each=True)
    first = run_passes(program.graph, passes[:start], context)
    already = len(context.ledger)
    last = run_passes(first, passes[start:], context)
    before, after = (lower(ir, program.library) if isinstance(ir, Graph) else ir for ir in (first, last))
    entries = [entry for entry in context.ledger.entries[already:] if entry.pass_name == row.name]
    fired = [entry for entry in entries if entry.fired]
    claim = Exactness.weakest(entry.exactness for entry in fired)
    row.fired, row.exactness = len(fired), claim.value
    if not fired:
        reasons = dict.fromkeys(entry.reason or "" for entry in entries)
        row.problem = "; ".join(reasons) or "nothing fits the pass"
        return
    whole = Calibration(program.graph, program.library, inputs, program.initial())
    judged = whole.judge.inputs if claim is Exactness.APPROX else inputs
    precision = None if claim is Exactness.BIT else DType.F64
    left, right = (evaluate(nests, judged, program.initial(), precision) for nests in (before, after))
    row.error = relative_error(left, right)
    row.stated = sum(entry.error or 0.0 for entry in fired) if claim is Exactness.APPROX else None
    row.multiply_adds = multiply_adds(before, whole.dims), multiply_adds(after, whole.dims)
    row.operations = operations(before, whole.dims), operations(after, whole.dims)
    allowed = {Exactness.BIT: 0.0, Exactness.REAL: REAL_ERROR}.get(claim, float("inf"))
    if row.error > allowed:
        row.problem = f"an error of {row.error:.1e} is more than {claim.value} allows"


def multiply_adds(nests: Nests, dims: Mapping[str, int]) -> int:
    """Multiplications, each with the addition that may follow; 4 for complex numbers."""

    def weight(part: Call | Reduce) -> int:
        return (4 if part.dtype.is_complex else 1) if isinstance(part, Call) and part.function == "mul" else 0

    return _total(nests, dims, weight)


def operations(nests: Nests, dims: Mapping[str, int]) -> int:
    """Scalar operations of every kind, the additions of sums included; exp and its like count as one."""
    return _total(nests, dims, lambda _: 1)


def _total(nests: Nests, dims: Mapping[str, int], weight: Callable[[Call | Reduce], int]) -> int:
    total = 0
    for statement in nests.statements:
        if isinstance(statement, Nest):
            total += _elements(statement.type.shape, dims) * _per_element(statement.body, dims, weight, set())
        elif statement.scan is not None:
            total += _value(statement.scan.extent, dims) * _total(statement.scan.body, dims, weight)
    return total


def _per_element(body: Expr, dims: Mapping[str, int], weight: Callable[[Call | Reduce], int], seen: set[Expr]) -> int:
    """Weighted operations for one element of a nest; shared parts count once."""
    if body in seen:
        return 0
    seen.add(body)
    below = sum(_per_element(child, dims, weight, seen) for child in children(body))
    match body:
        case Call():
            return below + weight(body)
        case Reduce(_, axes, _):
            return (below + weight(body)) * _elements((axis.extent for axis in axes), dims)
        case _:
            return below


def _elements(extents: Iterable[IntExpr], dims: Mapping[str, int]) -> int:
    return math.prod(_value(extent, dims) for extent in extents)


def _value(count: IntExpr, dims: Mapping[str, int]) -> int:
    return int(count.evaluate(lambda atom: dims.get(str(atom), SYMBOLIC_EXTENT)))


def show(rows: Sequence[Row], _: Path) -> None:
    """Print one line per pass and, below the table, what went wrong."""
    columns = ("pass", "source", "exactness", "example", ">error", ">multiply-adds", ">after", ">ratio", "works")

    def line(row: Row) -> tuple[object, ...]:
        error = "-" if row.error is None else f"{row.error:.1e}"
        before, after = row.multiply_adds
        counts = (f"{before:,}", f"{after:,}", f"{row.ratio:.2f}") if row.error is not None else ("-", "-", "-")
        return row.name, row.source, row.exactness, row.title, error, *counts, "yes" if row.works else "no"

    show_table(columns, map(line, rows))
    for row in rows:
        if row.problem:
            print(f"{row.name}: {row.problem}")
