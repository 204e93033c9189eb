"""Questions about programs: what depends on what, what it costs. Both levels alike.

Tensors are the vertices, an edge goes from what a step reads to what it assigns. NetworkX does the graph theory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from mercer.ir.graph import Graph, Node, Value
from mercer.ir.index import Call, Expr, Reduce, children
from mercer.ir.integers import ONE, ZERO, Computed, Dim, IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Scan, Statement, defined
from mercer.ir.types import TensorType
from mercer.runtime.errors import MercerError

Program: TypeAlias = Graph | Nests
Step: TypeAlias = Node | Statement


class CycleError(MercerError):
    """Steps that wait for each other."""


def steps(program: Program) -> tuple[Step, ...]:
    """The nodes of a graph, the statements of nests."""
    return program.nodes if isinstance(program, Graph) else program.statements


def operands(step: Step) -> tuple[str, ...]:
    """The tensors that a step reads, each once."""
    names = step.operands if isinstance(step, Node) else sorted(read_names(step))
    return tuple(dict.fromkeys(names))


def results(step: Step) -> tuple[Value, ...]:
    """The tensors that a step assigns."""
    return step.results if isinstance(step, Node) else defined(step)


def live(graph: Graph) -> Graph:
    """Without the nodes and constants that no output depends on; inputs and parameters stay, they are the signature."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(value.name in needed for value in node.results):
            needed.update(node.operands)
            kept.append(node)
    constants = tuple(constant for constant in graph.constants if constant.name in needed)
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)


def dependencies(program: Program) -> Any:
    """The `networkx.DiGraph` of the tensors, in order of definition."""
    import networkx as nx

    graph = cast(Any, nx.DiGraph())
    graph.add_nodes_from(program.types())
    for step in steps(program):
        graph.add_edges_from((name, value.name) for name in operands(step) for value in results(step))
    return graph


def users(program: Program) -> dict[str, tuple[Step, ...]]:
    """The steps that read each tensor, in order; being an output is no use."""
    found: dict[str, list[Step]] = {name: [] for name in program.types()}
    for step in steps(program):
        for name in operands(step):
            found[name].append(step)
    return {name: tuple(readers) for name, readers in found.items()}


def topological_order(program: Program) -> tuple[Step, ...]:
    """The steps so that each comes after what it reads, otherwise in the order they have.

    Raises CycleError when there is no such order.
    """
    import networkx as nx

    every = steps(program)
    maker = {value.name: number for number, step in enumerate(every) for value in results(step)}
    graph = cast(Any, nx.DiGraph())
    graph.add_nodes_from(range(len(every)))
    for number, step in enumerate(every):
        graph.add_edges_from((maker[name], number) for name in operands(step) if name in maker)
    try:
        order: list[int] = list(nx.lexicographical_topological_sort(graph))
    except nx.NetworkXUnfeasible:
        cycle: list[tuple[int, int]] = cast(Any, nx).find_cycle(graph)
        stuck = [f"%{results(every[number])[0].name}" for number, _ in cycle]
        raise CycleError(f"these tensors wait for each other: {', '.join(stuck)}") from None
    return tuple(every[number] for number in order)


def post_dominators(program: Program) -> dict[str, str | None]:
    """For each tensor the nearest one that every way from it to an output goes through, None when there is none.

    Tensors that no output depends on are left out. (Cooper, Harvey and Kennedy 2001, on the reversed graph.)
    """
    import networkx as nx

    graph = dependencies(program).reverse()
    graph.add_edges_from(("", name) for name in program.outputs)
    found = cast("dict[str, str | None]", nx.immediate_dominators(graph, "") if program.outputs else {})
    return {name: dominator or None for name, dominator in found.items() if name}


# --- costs ------------------------------------------------------------------------------------------------------------

TRANSCENDENTAL = frozenset(
    ("pow", "atan2", "exp", "expm1", "log", "log1p", "erf", "sigmoid")
    + ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")
)
"""Functions that take many instructions each."""


@dataclass(frozen=True)
class Cost:
    """Counts in terms of the symbolic dims.

    `flops` are scalar operations, a multiply-add is two; `transcendental` those of TRANSCENDENTAL, not in `flops`;
    `bytes` are moved when every tensor read and written moves once.
    """

    flops: IntExpr = ZERO
    transcendental: IntExpr = ZERO
    bytes: IntExpr = ZERO

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.transcendental + other.transcendental, self.bytes + other.bytes)

    def at(self, dims: Mapping[str, int]) -> Cost:
        """With numbers for dims; those not given stay."""

        def number(atom: Dim | Var | Computed) -> IntExpr | None:
            return IntExpr.constant(dims[atom.name]) if isinstance(atom, Dim) and atom.name in dims else None

        return Cost(*(count.substitute(number) for count in (self.flops, self.transcendental, self.bytes)))


def cost(statement: Statement, types: Mapping[str, TensorType]) -> Cost:
    """What one statement costs. `types` are those of the tensors it reads; index arithmetic is free."""
    values = [types[name] for name in operands(statement)] + [value.type for value in results(statement)]
    moved = sum((_product(type.shape) * type.dtype.numpy.itemsize for type in values), ZERO)
    if not isinstance(statement, Nest):
        return _repeated(statement.scan, moved) if statement.scan is not None else Cost(bytes=moved)
    per_element = {kind: _operations(statement.body, kind) for kind in (False, True)}
    count = _product(statement.type.shape)
    return Cost(count * per_element[False], count * per_element[True], moved)


def _repeated(scan: Scan, moved: IntExpr) -> Cost:
    """The operations of every step."""
    types = scan.body.types()
    step = sum((cost(statement, types) for statement in scan.body.statements), Cost())
    return Cost(step.flops * scan.extent, step.transcendental * scan.extent, moved)


def _operations(body: Expr, transcendental: bool) -> IntExpr:
    """Scalar operations of one kind for one element of a nest; shared parts count once."""
    seen: set[Expr] = set()

    def visit(expr: Expr) -> IntExpr:
        if expr in seen:
            return ZERO
        seen.add(expr)
        below = sum(map(visit, children(expr)), ZERO)
        match expr:
            case Call(function):
                return below + int((function in TRANSCENDENTAL) == transcendental)
            case Reduce(_, axes, _):
                return (below + int(not transcendental)) * _product(axis.extent for axis in axes)
            case _:
                return below

    return visit(body)


def _product(extents: Iterable[IntExpr]) -> IntExpr:
    return math.prod(extents, start=ONE)
