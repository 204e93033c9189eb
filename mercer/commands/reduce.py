"""Shrink a graph while two ways of running it disagree, so that a person sees the one operator that is to blame.

Two moves, tried until none works: end the graph earlier (another value becomes the only output), and begin it later
(results of a node become inputs, with the contents that the reference gave them). Both keep a graph that fails in the
same way (the reduction of Zeller and Hildebrandt 2002, on nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mercer.commands import backends
from mercer.commands.backends import Arrays
from mercer.compiler import Program, UsageError, library_of
from mercer.ir.graph import Graph, Node, Value
from mercer.ir.initializers import initialize
from mercer.ir.types import Array, DType
from mercer.runtime.errors import nearest

Backend: TypeAlias = Callable[[Graph, Arrays, Arrays], tuple[Array, ...]]
"""Runs a graph on named inputs and weights; anything that it raises is a way to fail."""


@dataclass(frozen=True)
class Failure:
    """How two backends disagree: `kind` is `differs`, or the name of an exception."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Reduction:
    """The smallest graph found, the inputs that show the failure, and how many graphs were tried."""

    graph: Graph
    inputs: dict[str, Array]
    failure: Failure
    tried: int


# --- backends ---------------------------------------------------------------------------------------------------------


def _on(prepare: Callable[[Program, Arrays], backends.Runner]) -> Backend:
    def run(graph: Graph, inputs: Arrays, weights: Arrays) -> tuple[Array, ...]:
        return prepare(Program(graph, library_of(graph)), weights)([inputs[v.name] for v in graph.inputs])

    return run


run_reference = _on(backends.reference)
BACKENDS = {"reference": run_reference, "torch": _on(backends.torch), "cpu": _on(backends.cpu)}


def backend(name: str) -> Backend:
    """The backend of that name; raises UsageError."""
    if name not in BACKENDS:
        near = nearest(name, BACKENDS)
        raise UsageError(
            f"there is no backend `{name}`", f"did you mean `{near}`?" if near else f"one of {', '.join(BACKENDS)}"
        )
    return BACKENDS[name]


# --- the reduction ----------------------------------------------------------------------------------------------------


def reduce(
    graph: Graph,
    left: Backend,
    right: Backend,
    weights: Arrays | None = None,
    *,
    tolerance: float = 1e-4,
    size: int = 2,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Reduction | None:
    """The smallest graph on which `left` and `right` still disagree in the same way; None when they agree on `graph`.

    Symbolic dims take `size`; inputs are normal random numbers, parameters their initial values where `weights` has
    none. Values agree within `tolerance` times the largest value of the left. Raises UsageError when a constant has no
    contents.
    """
    for constant in graph.constants:
        if constant.data.array is None:
            raise UsageError(f"constant %{constant.name} has no contents", "give them with --weights W.safetensors")
    values = {p.name: (weights or {}).get(p.name, initialize(p, seed)) for p in graph.parameters}
    known = _random_inputs(graph, size, seed)
    tried = 0

    def failure(candidate: Graph) -> Failure | None:
        nonlocal tried
        tried += 1
        if progress is not None:
            progress(len(graph.nodes) - len(candidate.nodes), len(graph.nodes), f"{len(candidate.nodes)} nodes")
        inputs = {v.name: known[v.name] for v in candidate.inputs}
        held = {p.name: values[p.name] for p in candidate.parameters}
        return compare(candidate, left, right, inputs, held, tolerance)

    first = failure(graph)
    if first is None:
        return None
    known |= _intermediate(graph, known, values)
    best, found = graph, first
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in _smaller(best, frozenset(known)):
            outcome = failure(candidate)
            if outcome is not None and outcome.kind == first.kind:
                best, found, shrinking = candidate, outcome, True
                break
    return Reduction(best, {v.name: known[v.name] for v in best.inputs}, found, tried)


def compare(
    graph: Graph, left: Backend, right: Backend, inputs: Arrays, weights: Arrays, tolerance: float
) -> Failure | None:
    """How two backends disagree on a graph, None when they agree."""
    try:
        expected = left(graph, inputs, weights)
    except Exception as error:
        return Failure(f"left: {type(error).__name__}", _one_line(error))
    try:
        actual = right(graph, inputs, weights)
    except Exception as error:
        return Failure(f"right: {type(error).__name__}", _one_line(error))
    for name, a, b in zip(graph.outputs, expected, actual, strict=True):
        if a.shape != b.shape:
            return Failure("shape", f"%{name} has the shapes {list(a.shape)} and {list(b.shape)}")
        if not np.allclose(a, b, rtol=0, atol=tolerance * max(1.0, _largest(a)), equal_nan=True):
            difference = _largest(np.asarray(a, np.complex128) - np.asarray(b, np.complex128))
            return Failure("differs", f"%{name} differs by {difference:.3g}, largest value {_largest(a):.3g}")
    return None


def _smaller(graph: Graph, known: frozenset[str]) -> Iterator[Graph]:
    """Smaller graphs: first those that end earlier, then those that begin later, the greatest steps first."""
    results = [value.name for node in graph.nodes for value in node.results]
    for name in results:
        if graph.outputs != (name,):
            candidate = without_dead(replace(graph, outputs=(name,)))
            if _is_smaller(candidate, graph):
                yield candidate
    for node in reversed(graph.nodes):
        if all(value.name in known for value in node.results) and not {v.name for v in node.results} & {*graph.outputs}:
            yield without_dead(_cut(graph, node))
    for output in graph.outputs if len(graph.outputs) > 1 else ():
        yield without_dead(replace(graph, outputs=tuple(name for name in graph.outputs if name != output)))


def _is_smaller(candidate: Graph, graph: Graph) -> bool:
    return (len(candidate.nodes), len(candidate.outputs)) < (len(graph.nodes), len(graph.outputs))


def _cut(graph: Graph, node: Node) -> Graph:
    """The graph with the results of `node` as inputs."""
    nodes = tuple(other for other in graph.nodes if other is not node)
    return replace(graph, inputs=(*graph.inputs, *node.results), nodes=nodes)


def without_dead(graph: Graph) -> Graph:
    """Without nodes, inputs, parameters and constants that no output needs."""
    needed = set(graph.outputs)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed & {value.name for value in node.results}:
            nodes.append(node)
            needed |= set(node.operands)
    return replace(
        graph,
        inputs=tuple(v for v in graph.inputs if v.name in needed),
        parameters=tuple(p for p in graph.parameters if p.name in needed),
        constants=tuple(c for c in graph.constants if c.name in needed),
        nodes=tuple(reversed(nodes)),
    )


def _random_inputs(graph: Graph, size: int, seed: int) -> dict[str, Array]:
    generator = np.random.default_rng(seed)

    def draw(value: Value) -> Array:
        shape = [int(extent.evaluate(lambda _: size)) for extent in value.type.shape]
        dtype = value.type.dtype
        if dtype is DType.BOOL or dtype.is_integer:
            return generator.integers(0, 2, shape).astype(dtype.numpy)
        return generator.standard_normal(shape).astype(dtype.numpy)

    return {value.name: draw(value) for value in graph.inputs}


def _intermediate(graph: Graph, inputs: Arrays, weights: Arrays) -> dict[str, Array]:
    """What the reference gives for every value, or nothing when it cannot run the graph."""
    results = [value.name for node in graph.nodes for value in node.results]
    try:
        arrays = run_reference(replace(graph, outputs=tuple(results)), inputs, weights)
    except Exception:
        return {}
    return dict(zip(results, arrays, strict=True))


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))


def _one_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
