"""Rewrites as data, and the driver that applies them to a Graph until nothing changes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mercer.ir.graph import AttributeValue, Constant, Graph, Node, Value
from mercer.ir.library import Library
from mercer.ir.spans import Span
from mercer.ir.types import Array, Data, TensorType
from mercer.passes.cost import node_cost
from mercer.passes.ledger import Cost, Exactness, LedgerEntry
from mercer.passes.patterns import Match, NodePattern, match


@dataclass(frozen=True)
class Refusal:
    """A rewrite that fits but does not fire says why."""

    reason: str


Outcome: TypeAlias = "str | tuple[str, ...] | Refusal | None"
"""The values that take the place of the root's results; None when the rewrite does not apply after all."""


@dataclass(frozen=True)
class Rewrite:
    """Where `pattern` fits, `function` builds what replaces the root's results.

    `bound` is the relative L2 error of an APPROX rewrite.
    """

    name: str
    pattern: NodePattern
    function: Callable[[Match, Builder], Outcome]
    exactness: Exactness
    bound: float | None = None


class Builder:
    """Makes nodes and constants with fresh names and inferred types, all with the span of the rewritten node."""

    def __init__(
        self, library: Library, types: Mapping[str, TensorType], taken: set[str], name: str, span: Span
    ) -> None:
        self.library = library
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []
        self._types = types
        self._own: dict[str, TensorType] = {}
        self._taken = taken
        self._name = name
        self._span = span

    def type(self, name: str) -> TensorType:
        return self._own.get(name) or self._types[name]

    def node(
        self, operator: str, operands: Sequence[str], attributes: Mapping[str, AttributeValue] | None = None
    ) -> str:
        """A node with one result; raises the library's error when its operands or attributes do not fit."""
        (result,) = self.node_results(operator, operands, attributes)
        return result

    def node_results(
        self, operator: str, operands: Sequence[str], attributes: Mapping[str, AttributeValue] | None = None
    ) -> tuple[str, ...]:
        given = self.library.normalize(operator, attributes or {})
        kinds = [self.type(name) for name in operands]
        instance = self.library.instantiate(operator, kinds, dict(given), self._span)
        results = tuple(Value(self._fresh(operator), kind) for kind in instance.results)
        self._own |= {value.name: value.type for value in results}
        self.nodes.append(Node(operator, tuple(operands), given, results, self._span))
        return tuple(value.name for value in results)

    def constant(self, array: Array, hint: str = "constant") -> str:
        """A constant of the array's own shape and element type."""
        name = self._fresh(hint)
        kind = TensorType.of(array)
        self._own[name] = kind
        self.constants.append(Constant(name, kind, Data(array)))
        return name

    def _fresh(self, hint: str) -> str:
        base = name = f"{self._name}.{hint}"
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Step:
    """One application: the matched nodes in program order, what was built, and the values that take over."""

    rewrite: Rewrite
    root: Node
    matched: tuple[Node, ...]
    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...]
    results: tuple[str, ...]


Check: TypeAlias = Callable[[Rewrite, Node, Graph, Graph], None]


@dataclass
class RewriteStatistics:
    """How often a rewrite fired and was refused, and the time spent on it."""

    hits: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass
class Outcomes:
    """What the driver did: the new graph, ledger entries, statistics per rewrite, and whether the budget ran out."""

    graph: Graph
    entries: list[LedgerEntry] = field(default_factory=list[LedgerEntry])
    statistics: dict[str, RewriteStatistics] = field(default_factory=dict[str, RewriteStatistics])
    exhausted: bool = False


def apply_rewrites(
    graph: Graph,
    rewrites: Iterable[Rewrite],
    library: Library,
    pass_name: str,
    check: Check | None = None,
    max_hits: int | None = None,
) -> Outcomes:
    """Apply `rewrites` to a fixpoint, at most `max_hits` times (10 per node and 100 more when not given).

    Nodes are visited in program order; rewrites of a node's operator are tried in the order of the list, then those of
    any operator. What is built takes over the name of the result that it replaces. Nodes and constants that lose their
    last use go. `check` gets the rewrite, its root, and the two programs that the step claims to be equal, before the
    step is taken; it may raise.
    """
    driver = _Driver(graph, tuple(rewrites), library, pass_name, check)
    budget = 10 * len(graph.nodes) + 100 if max_hits is None else max_hits
    return driver.run(budget)


class _Driver:
    """State of one run; it is the `Scope` that patterns look at."""

    def __init__(
        self,
        graph: Graph,
        rewrites: tuple[Rewrite, ...],
        library: Library,
        pass_name: str,
        check: Check | None,
    ) -> None:
        self.graph = graph
        self.library = library
        self.pass_name = pass_name
        self.check = check
        self.statistics = {rewrite.name: RewriteStatistics() for rewrite in rewrites}
        self.entries: list[LedgerEntry] = []
        self.refusals: dict[tuple[str, str], LedgerEntry] = {}
        self.by_operator: dict[str, list[Rewrite]] = defaultdict(list)
        self.for_any = [r for r in rewrites if not r.pattern.operators]
        for rewrite in rewrites:
            for operator in rewrite.pattern.operators:
                self.by_operator[operator].append(rewrite)
        self.taken = {value.name for value in graph.values()}
        self.types = graph.types()
        self.constants = {c.name: c for c in graph.constants}
        self.producers: dict[str, Node] = {}
        self.counts: Counter[str] = Counter()

    # --- Scope --------------------------------------------------------------------------------------------------------

    def producer(self, name: str) -> Node | None:
        return self.producers.get(name)

    def constant(self, name: str) -> Constant | None:
        return self.constants.get(name)

    def type(self, name: str) -> TensorType:
        return self.types[name]

    def uses(self, name: str) -> int:
        return self.counts[name]

    # --- fixpoint -----------------------------------------------------------------------------------------------------

    def run(self, budget: int) -> Outcomes:
        nodes, outputs = list(self.graph.nodes), self.graph.outputs
        self.counts = Counter(name for node in nodes for name in node.operands) + Counter(outputs)
        unused_before = {c for c in self.constants if not self.counts[c]}
        while True:
            nodes, outputs, hits = self._sweep(nodes, outputs, budget)
            budget -= hits
            if not hits or budget <= 0:
                break
        kept = (c for c in self.constants.values() if self.counts[c.name] > 0 or c.name in unused_before)
        graph = replace(self.graph, constants=tuple(kept), nodes=tuple(nodes), outputs=outputs)
        entries = [*self.entries, *self.refusals.values()]
        return Outcomes(graph, entries, self.statistics, exhausted=budget <= 0)

    def _sweep(
        self, nodes: list[Node], outputs: tuple[str, ...], budget: int
    ) -> tuple[list[Node], tuple[str, ...], int]:
        """One pass over the nodes in program order."""
        self.producers = {}
        renamed: dict[str, str] = {}
        done: list[Node] = []
        hits = 0
        for node in nodes:
            if renamed and any(name in renamed for name in node.operands):
                node = replace(node, operands=tuple(renamed.get(name, name) for name in node.operands))
            step = self._try(node) if hits < budget else None
            if step is None:
                new = [node]
            else:
                hits += 1
                new = self._take(step, renamed)
            done += new
            self.producers |= {value.name: each for each in new for value in each.results}
        alive = [node for node in done if self.producers.get(node.name) is node]
        return alive, tuple(renamed.get(name, name) for name in outputs), hits

    def _try(self, node: Node) -> Step | None:
        for rewrite in (*self.by_operator.get(node.operator, ()), *self.for_any):
            statistics = self.statistics[rewrite.name]
            start = time.perf_counter()
            step = self._attempt(rewrite, node)
            statistics.seconds += time.perf_counter() - start
            if step is not None:
                return step
        return None

    def _attempt(self, rewrite: Rewrite, node: Node) -> Step | None:
        found = match(rewrite.pattern, node, self)
        if found is None:
            return None
        builder = Builder(self.library, self.types, self.taken, node.name, node.span)
        outcome = rewrite.function(found, builder)
        if outcome is None:
            return None
        if isinstance(outcome, Refusal):
            self._refuse(rewrite, node, outcome.reason)
            return None
        results = (outcome,) if isinstance(outcome, str) else outcome
        for old, new in zip(node.results, results, strict=True):
            if builder.type(new) != old.type:
                raise AssertionError(f"{rewrite.name} changes %{old.name} from {old.type} to {builder.type(new)}")
        ranks = {each.name: position for position, each in enumerate(self.producers.values())}
        matched = sorted(found.nodes, key=lambda each: ranks.get(each.name, len(ranks)))
        return self._named(Step(rewrite, node, tuple(matched), tuple(builder.nodes), tuple(builder.constants), results))

    @staticmethod
    def _named(step: Step) -> Step:
        """New values take over the names that they replace."""
        made = {v.name for node in step.nodes for v in node.results} | {c.name for c in step.constants}
        names = {new: old.name for new, old in zip(step.results, step.root.results, strict=True) if new in made}
        nodes = tuple(
            replace(
                node,
                operands=tuple(names.get(name, name) for name in node.operands),
                results=tuple(Value(names.get(v.name, v.name), v.type) for v in node.results),
            )
            for node in step.nodes
        )
        constants = tuple(replace(c, name=names.get(c.name, c.name)) for c in step.constants)
        return replace(step, nodes=nodes, constants=constants, results=tuple(names.get(n, n) for n in step.results))

    # --- taking a step ------------------------------------------------------------------------------------------------

    def _take(self, step: Step, renamed: dict[str, str]) -> list[Node]:
        """Record the step, keep the use counts right, and give the nodes that take the root's place."""
        if self.check is not None:
            self._submit(step)
        before = self._cost(step.matched)
        for constant in step.constants:
            self.constants[constant.name] = constant
            self.types[constant.name] = constant.type
        for node in step.nodes:
            self.types |= {value.name: value.type for value in node.results}
            self.counts.update(node.operands)
        for old, new in zip(step.root.results, step.results, strict=True):
            if new != old.name:
                renamed[old.name] = new
                self.counts[new] += self.counts.pop(old.name, 0)
        self.producers |= {value.name: each for each in step.nodes for value in each.results}
        removed = self._release(step.root)
        survivors = tuple(node for node in step.matched if node is not step.root and node.name not in removed)
        self._record(step, before, self._cost((*survivors, *step.nodes)))
        return list(step.nodes)

    def _release(self, root: Node) -> set[str]:
        """Drop the root's uses of its operands, and every node that becomes unused with it."""
        removed: set[str] = set()
        pending = [root]
        while pending:
            node = pending.pop()
            for name in node.operands:
                self.counts[name] -= 1
                feeder = self.producers.get(name)
                if feeder is None or any(self.counts[v.name] > 0 for v in feeder.results):
                    continue
                for value in feeder.results:
                    self.producers.pop(value.name, None)
                removed.add(feeder.name)
                pending.append(feeder)
        return removed

    def _submit(self, step: Step) -> None:
        """Show the check the matched nodes and what replaces them, as two programs with the same inputs."""
        assert self.check is not None
        made = {value.name for node in (*step.matched, *step.nodes) for value in node.results}
        named = [name for node in (*step.matched, *step.nodes) for name in node.operands] + list(step.results)
        fresh = {c.name: c for c in step.constants}
        free = [name for name in dict.fromkeys(named) if name not in made and name not in fresh]
        known = tuple(self.constants[name] for name in free if name in self.constants)
        inputs = tuple(Value(name, self.types[name]) for name in free if name not in self.constants)
        before = Graph(step.root.name, inputs, (), known, step.matched, tuple(v.name for v in step.root.results))
        kept = (node for node in step.matched if node is not step.root)
        constants = (*known, *step.constants)
        after = replace(before, constants=constants, nodes=(*kept, *step.nodes), outputs=step.results)
        self.check(step.rewrite, step.root, before, after)

    def _cost(self, nodes: Iterable[Node]) -> Cost:
        return sum((node_cost(node, self.types, self.library) for node in nodes), Cost(0, 0))

    def _record(self, step: Step, before: Cost, after: Cost) -> None:
        rewrite, root = step.rewrite, step.root
        self.statistics[rewrite.name].hits += 1
        self.refusals.pop((rewrite.name, root.name), None)
        self.entries.append(
            LedgerEntry(
                self.pass_name,
                rewrite.name,
                root.name,
                root.operator,
                root.span,
                rewrite.exactness,
                fired=True,
                error=rewrite.bound,
                cost_before=before,
                cost_after=after,
            )
        )

    def _refuse(self, rewrite: Rewrite, node: Node, reason: str) -> None:
        key = (rewrite.name, node.name)
        if key not in self.refusals:
            self.statistics[rewrite.name].refused += 1
        self.refusals[key] = LedgerEntry(
            self.pass_name,
            rewrite.name,
            node.name,
            node.operator,
            node.span,
            rewrite.exactness,
            fired=False,
            reason=reason,
        )
