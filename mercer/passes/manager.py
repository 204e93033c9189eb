"""Passes, their string form, and the manager that runs a list of them."""

from __future__ import annotations

import enum
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar, TypeAlias

from mercer.ir.graph import Graph, Node
from mercer.ir.library import Library
from mercer.ir.lower import lower
from mercer.ir.nests import Nests, Origin, Statement, defined
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array
from mercer.passes.calibration import Calibration, relative_error
from mercer.passes.exactness import ExactnessError, check_claim
from mercer.passes.ledger import Cost, Exactness, Ledger, LedgerEntry
from mercer.passes.rewrite import Rewrite, RewriteStatistics, apply_rewrites
from mercer.runtime.errors import MercerError, nearest

Program: TypeAlias = Graph | Nests


class PipelineError(MercerError):
    """A pipeline that cannot be read or does not fit the program."""


class Level(enum.Enum):
    """Which level of the IR a pass works on."""

    GRAPH = "graph"
    NESTS = "nests"
    BOTH = "both"


@dataclass(frozen=True)
class PassReport:
    """What one pass did; `size` is the number of nodes or statements."""

    name: str
    seconds: float
    size_before: int
    size_after: int
    rewrites: Mapping[str, RewriteStatistics]

    @property
    def hits(self) -> int:
        return sum(statistics.hits for statistics in self.rewrites.values())


@dataclass
class PassContext:
    """What passes share: the operators, the ledger, the weights, and who is told about progress.

    `data` are inputs of the model by name, a batch of what it will see: approximations are measured and fitted on them.
    `ranges` of values were found in training, by the names of their buffers; `quantize` takes them in place of data.
    `features` are those of the CPU that will run it, as LLVM calls them.
    `dump` gets (step number, pass name, program text) after every pass, `progress` (passes done, all passes, next
    pass). With `verify_each`, the IR verifier and the exactness verifier run after every pass.
    """

    library: Library
    ledger: Ledger = field(default_factory=Ledger)
    weights: Mapping[str, Array] | None = None
    data: Mapping[str, Array] | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None
    features: frozenset[str] = frozenset()
    verify_each: bool = False
    dump: Callable[[int, str, str], None] | None = None
    progress: Callable[[int, int, str], None] | None = None
    reports: list[PassReport] = field(default_factory=list[PassReport])
    statistics: dict[str, RewriteStatistics] = field(default_factory=dict[str, RewriteStatistics])
    """Of the pass that runs."""

    def record(self, entry: LedgerEntry, seconds: float = 0.0) -> None:
        """Write an entry into the ledger and count it."""
        self.ledger.add(entry)
        statistics = self.statistics.setdefault(entry.rewrite, RewriteStatistics())
        statistics.seconds += seconds
        if entry.fired:
            statistics.hits += 1
        else:
            statistics.refused += 1

    def record_statement(
        self,
        pass_name: str,
        rewrite: str,
        statement: Statement,
        exactness: Exactness,
        reason: str | None = None,
        costs: tuple[Cost, Cost] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """`record` for a statement, named by its last origin; with a `reason` the rewrite was refused."""
        name = defined(statement)[0].name
        origin = statement.origins[-1] if statement.origins else Origin("statement", name, NOWHERE)
        before, after = costs or (None, None)
        entry = LedgerEntry(
            pass_name,
            rewrite,
            name,
            origin.operator,
            origin.span,
            exactness,
            reason is None,
            reason,
            None,
            before,
            after,
        )
        self.record(entry, seconds)


@dataclass(frozen=True)
class Pass:
    """A step of compilation: fields are its options, the docstring of a subclass is its contract.

    A subclass implements `on_graph`, `on_nests` or both, as its `level` says.
    """

    name: ClassVar[str]
    level: ClassVar[Level]
    source: ClassVar[str] = ""
    """The paper that the pass comes from."""

    def apply(self, program: Program, context: PassContext) -> Program:
        """The program after the pass; the one that is given stays as it is."""
        return self.on_graph(program, context) if isinstance(program, Graph) else self.on_nests(program, context)

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        raise NotImplementedError(f"{self.name} does not work on a graph")

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        raise NotImplementedError(f"{self.name} does not work on nests")

    def __str__(self) -> str:
        """As a pipeline writes it, with the options that differ from their defaults."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        options = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given]
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass on a Graph that is a list of rewrites, applied until nothing changes."""

    level: ClassVar[Level] = Level.GRAPH

    def rewrites(self) -> Sequence[Rewrite]:
        raise NotImplementedError

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        def check(rewrite: Rewrite, root: Node, before: Graph, after: Graph) -> None:
            lowered = lower(before, context.library), lower(after, context.library)
            try:
                check_claim(*lowered, rewrite.exactness, rewrite.bound)
            except ExactnessError as error:
                claim = f"{self.name}: the rewrite {rewrite.name} is not {rewrite.exactness.value} at %{root.name}"
                raise ExactnessError(f"{claim} ({root.span}): {error.message}") from error

        verifier = check if context.verify_each else None
        outcome = apply_rewrites(graph, self.rewrites(), context.library, self.name, verifier)
        context.statistics.update(outcome.statistics)
        for entry in outcome.entries:
            context.ledger.add(entry)
        if outcome.exhausted:
            context.ledger.warn(self.name, graph.name, "stopped before a fixpoint: two rewrites may undo each other")
        return outcome.graph


@dataclass(frozen=True)
class Lower(Pass):
    """Named operators to loop nests.

    Needs a Graph, gives Nests. Class: bit, since the definition of an operator is its meaning.
    """

    name: ClassVar[str] = "lower"
    level: ClassVar[Level] = Level.GRAPH

    def apply(self, program: Program, context: PassContext) -> Nests:
        assert isinstance(program, Graph)
        return lower(program, context.library)


# --- running ----------------------------------------------------------------------------------------------------------


def run_passes(program: Program, passes: Sequence[Pass], context: PassContext) -> Program:
    """Apply the passes in order; reports are added to `context.reports`.

    Raises PipelineError when a pass does not fit the level of the program, what a pass raises, and with
    `context.verify_each` VerificationError or ExactnessError for a pass that breaks the IR or its own claim.
    """
    check_levels(program, passes)
    for step, each in enumerate(passes, start=1):
        if context.progress is not None:
            context.progress(step - 1, len(passes), each.name)
        program = _run_pass(program, each, context)
        if context.dump is not None:
            context.dump(step, each.name, program_text(program))
    if context.progress is not None:
        context.progress(len(passes), len(passes), "")
    return program


def _run_pass(program: Program, each: Pass, context: PassContext) -> Program:
    first_entry = len(context.ledger)
    context.statistics = {}
    start = time.perf_counter()
    result = each.apply(program, context)
    seconds = time.perf_counter() - start
    report = PassReport(each.name, seconds, _size(program), _size(result), context.statistics)
    context.reports.append(report)
    if context.verify_each:
        _verify(each, program, result, context, context.ledger.entries[first_entry:])
    return result


def _size(program: Program) -> int:
    return len(program.nodes) if isinstance(program, Graph) else len(program.statements)


def _verify(each: Pass, before: Program, after: Program, context: PassContext, entries: Iterable[LedgerEntry]) -> None:
    """The IR verifier, and the exactness verifier with the weakest claim of the pass."""
    from mercer.ir.verify import verify

    verify(after, context.library)
    fired = [entry for entry in entries if entry.fired]
    claim = Exactness.weakest(entry.exactness for entry in fired)
    bound = sum(entry.error or 0.0 for entry in fired) if claim is Exactness.APPROX else None
    if any(entry.measured for entry in fired):
        _verify_measured(each, before, after, context, fired)
        return
    left, right = (lower(p, context.library) if isinstance(p, Graph) else p for p in (before, after))
    if not fired and left == right:
        return
    if any(constant.data.array is None for constant in (*left.constants, *right.constants)):
        context.ledger.warn(each.name, left.name, "exactness not verified: the data of a constant is not loaded")
        return
    try:
        compared = check_claim(left, right, claim, bound, context.weights, slack=1 + len(fired))
    except ExactnessError as error:
        raise ExactnessError(f"the pass {each.name} is not {claim.value}: {error.message}") from error
    if not compared:
        context.ledger.warn(each.name, left.name, "exactness not verified: no sample could be evaluated")


def _verify_measured(
    each: Pass, before: Program, after: Program, context: PassContext, fired: Iterable[LedgerEntry]
) -> None:
    """Errors that were measured hold on the data that they were measured on, one after the other."""
    assert isinstance(before, Graph) and isinstance(after, Graph)
    calibration = Calibration(before, context.library, context.data, context.weights).judge
    found = relative_error(calibration.outputs(before), calibration.outputs(after))
    bound = math.prod(1.0 + (entry.error or 0.0) for entry in fired) - 1.0
    if found > bound * (1.0 + MEASURED_TOLERANCE) + MEASURED_TOLERANCE:
        raise ExactnessError(f"the pass {each.name} is off by {found:.3g} on its data, more than its {bound:.3g}")


MEASURED_TOLERANCE = 1e-6
"""Of measured errors, which count the rounding of new constants too."""


def program_text(program: Program) -> str:
    """The program as IR text."""
    from mercer.ir.text import print_graph, print_nests

    return print_graph(program) if isinstance(program, Graph) else print_nests(program)


# --- pipelines as text ------------------------------------------------------------------------------------------------


def check_levels(program: Program, passes: Iterable[Pass]) -> None:
    """Raise PipelineError when a pass would meet the other level of the IR."""
    level = Level.GRAPH if isinstance(program, Graph) else Level.NESTS
    for each in passes:
        if each.level not in (level, Level.BOTH):
            hint = "put it before `lower`" if level is Level.NESTS else "put `lower` before it"
            raise PipelineError(f"the pass `{each.name}` works on {each.level.value}, but meets {level.value}", hint)
        if isinstance(each, Lower):
            level = Level.NESTS


_ITEM = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?P<end>,|$)")


def parse_pipeline(text: str, available: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """Read `fold,fuse{max_ops=8}`.

    Raises PipelineError that names the nearest pass or option for one that does not exist.
    """
    passes: list[Pass] = []
    position = 0
    while position < len(text.rstrip()):
        found = _ITEM.match(text, position)
        if found is None:
            raise PipelineError(
                f"cannot read the pipeline at `{text[position:].strip()}`", "write 'fold,fuse{max_ops=8}'"
            )
        passes.append(_make(found["name"].replace("-", "_"), found["options"] or "", available))
        position = found.end()
    return tuple(passes)


def _make(name: str, options: str, available: Mapping[str, type[Pass]]) -> Pass:
    if name not in available:
        near = nearest(name, available)
        raise PipelineError(f"there is no pass `{name}`", f"did you mean `{near}`?" if near else _listed(available))
    kind = available[name]
    known = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    given: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in options.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in known:
            near = nearest(key, known)
            hint = f"did you mean `{near}`?" if near else _listed(known)
            raise PipelineError(f"the pass `{name}` has no option `{key}`", hint)
        given[key] = _option(name, key, value if equals else "true", known[key])
    return kind(**given)


def _option(name: str, key: str, text: str, default: object) -> object:
    """The value in the type of the option's default."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text]
        return kind(text)  # pyright: ignore[reportCallIssue]
    except (KeyError, ValueError):
        message = f"the option `{key}` of the pass `{name}` is {kind.__name__}, not `{text}`"
        raise PipelineError(message, f"its default is {default}") from None


def _listed(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"there are: {listed}" if listed else "there are none"
