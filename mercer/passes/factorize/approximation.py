"""What all approximating passes share: each place is tried once, must get cheaper, and its error is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from mercer.ir import analysis
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import AttributeValue, Constant, Graph, Node, Value
from mercer.ir.library import Library
from mercer.ir.lower import lower
from mercer.ir.nests import defined
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.passes.calibration import SYMBOLIC_EXTENT, Calibration, relative_error
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import Level, Pass, PassContext, PipelineError
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Outcomes, Refusal, Rewrite, RewriteStatistics, apply_rewrites
from mercer.runtime.errors import nearest

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Approximation(Pass):
    """A pass that replaces operators by cheaper ones that are nearly the same.

    Every place is tried once, what a step has made is left alone, and a step must save operations. The ledger gets the
    error of each step: the largest relative L2 error that it causes in an output of the model, measured in f64 on the
    odd samples of `context.data` (standard normal inputs without data). A step whose error exceeds `max_error` is
    refused. Needs a Graph after `bind`. Class: approx.
    """

    level: ClassVar[Level] = Level.GRAPH
    max_error: float = field(default=math.inf, kw_only=True)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        """The list of rewrites; the samples that `calibration.halves` puts first may be fitted on."""
        raise NotImplementedError

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        calibration = Calibration(graph, context.library, context.data, context.weights)
        places = {node.name for node in graph.nodes}
        rewrites = [_once(rewrite, places, calibration) for rewrite in self.rewrites(calibration)]
        known: tuple[Array, ...] | None = None
        while True:
            start = time.perf_counter()
            outcome = apply_rewrites(graph, rewrites, context.library, self.name, max_hits=1)
            taken = next((entry for entry in outcome.entries if entry.fired), None)
            if taken is not None and taken.exactness is Exactness.APPROX:
                judge = calibration.judge
                known = judge.outputs(graph) if known is None else known
                changed = judge.outputs(outcome.graph)
                error = relative_error(known, changed)
                if error > self.max_error:
                    outcome = _refused(outcome, taken, graph, f"its error {error:.3g} exceeds max_error")
                else:
                    known = changed
                    measured = replace(taken, error=error, measured=True)
                    outcome.entries[outcome.entries.index(taken)] = measured
            for entry in outcome.entries:
                context.ledger.add(entry)
            _count(context, outcome, time.perf_counter() - start)
            if taken is None:
                break
            graph = outcome.graph
        if known is not None and not calibration.given:
            context.ledger.warn(self.name, graph.name, "no data given: errors are measured on standard normal inputs")
        return graph


def _refused(outcome: Outcomes, taken: LedgerEntry, graph: Graph, reason: str) -> Outcomes:
    """As if the step had not been taken."""
    entry = replace(taken, fired=False, reason=reason, cost_before=None, cost_after=None)
    return replace(outcome, graph=graph, entries=[*(e for e in outcome.entries if e is not taken), entry])


def _count(context: PassContext, outcome: Outcomes, seconds: float) -> None:
    for entry in outcome.entries:
        statistics = context.statistics.setdefault(entry.rewrite, RewriteStatistics())
        statistics.hits += entry.fired
        statistics.refused += not entry.fired
        statistics.seconds += seconds / len(outcome.entries)


def _once(rewrite: Rewrite, places: set[str], calibration: Calibration) -> Rewrite:
    """The rewrite where it saves operations, tried once for each of the places, which are names of nodes.

    A place where some rewrite fires is taken from the set.
    """
    refused: set[str] = set()

    def function(match: Match, build: Builder) -> Outcome:
        name = match.root.name
        if name not in places or name in refused:
            return None
        outcome = rewrite.function(match, build)
        if isinstance(outcome, str | tuple):
            gone = [node for node in match.nodes if node is match.root or match.scope.uses(node.name) == 1]
            before = operations(gone, match.scope.type, build.library, calibration.dims)
            after = operations(build.nodes, build.type, build.library, calibration.dims)
            if after >= before:
                outcome = Refusal(f"{after:,} operations would take the place of {before:,}")
        if isinstance(outcome, str | tuple):
            places.remove(name)
        else:
            refused.add(name)
        return outcome

    return replace(rewrite, function=function)


def operations(
    nodes: Iterable[Node], type_of: Callable[[str], TensorType], library: Library, dims: Mapping[str, int]
) -> int:
    """Scalar operations of nodes; dims that are not known count as SYMBOLIC_EXTENT."""
    total = 0
    for node in nodes:
        operands = [type_of(name) for name in node.operands]
        instance = library.instantiate(node.operator, operands, dict(node.attributes), node.span)
        types = dict(zip(instance.operands, operands, strict=True)) | {c.name: c.type for c in instance.constants}
        for statement in instance.statements:
            types |= {value.name: value.type for value in defined(statement)}
            cost = analysis.cost(statement, types)
            count = cost.flops + cost.transcendental
            total += int(count.evaluate(lambda a: dims.get(str(a), SYMBOLIC_EXTENT)))
    return total


# --- what passes ask of a match ---------------------------------------------------------------------------------------


def known_array(match: Match, capture: str) -> Matrix | Refusal:
    """The contents of a captured constant in f64; why there are none otherwise."""
    name = match[capture]
    found = match.scope.constant(name)
    if found is None or found.data.array is None:
        return Refusal(f"the {capture} %{name} is not a constant")
    if not found.type.dtype.is_float:
        return Refusal(f"the {capture} %{name} is {found.type.dtype}, not a float")
    array = array_of(found)
    return Refusal(f"the {capture} %{name} is not finite") if array is None else array


def array_of(constant: Constant) -> Matrix | None:
    """The contents in f64; None when they are not known, not real or not finite."""
    array = constant.data.array
    if array is None or not constant.type.dtype.is_float:
        return None
    values = array.astype(np.float64)
    return values if np.isfinite(values).all() else None


def stored(values: npt.NDArray[Any], dtype: DType) -> Array:
    """Rounded once, to the element type of the program."""
    return np.ascontiguousarray(values).astype(cast(Any, dtype.numpy))


def solved(matrix: Matrix, right: Matrix, tolerance: float) -> Matrix:
    """The least-squares solution of matrix X = right; singular values below that part of the largest count as zero."""
    return np.linalg.lstsq(matrix, right, rcond=tolerance)[0].astype(np.float64, copy=False)


def compute(
    library: Library,
    operator: str,
    operands: Sequence[npt.NDArray[Any]],
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Matrix:
    """An operator on arrays, by the reference in f64."""
    names = [f"operand{position}" for position in range(len(operands))]
    arrays = [np.asarray(operand, np.float64) for operand in operands]
    kinds = [TensorType.of(array) for array in arrays]
    given = library.normalize(operator, attributes or {})
    (result,) = library.instantiate(operator, kinds, dict(given), NOWHERE).results
    constants = tuple(Constant(n, k, Data(a)) for n, k, a in zip(names, kinds, arrays, strict=True))
    node = Node(operator, tuple(names), given, (Value("result", result),), NOWHERE)
    graph = Graph(operator, (), (), constants, (node,), ("result",))
    (array,) = evaluate(lower(graph, library), {}, {}, DType.F64)
    return array.astype(np.float64)


def one_of(each: Pass, option: str, allowed: Sequence[str]) -> None:
    """Raise PipelineError when an option has none of the allowed values."""
    given = getattr(each, option)
    if given not in allowed:
        near = nearest(given, allowed)
        hint = f"did you mean `{near}`?" if near else f"there are: {', '.join(allowed)}"
        raise PipelineError(f"the option `{option}` of the pass `{each.name}` cannot be `{given}`", hint)
