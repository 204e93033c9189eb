"""Patterns over the nodes of a Graph, as data.

A pattern describes a node and, through its operands, the nodes that feed it:

    node("relu", node("relu", value("x")))
    node(("add", "sub"), value("x"), constant("zero", is_zero))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from mercer.ir.graph import Constant, Node
from mercer.ir.types import Array, TensorType

NodeTest: TypeAlias = "Callable[[Node, Scope], bool]"
ArrayTest: TypeAlias = "Callable[[Array], bool]"


class Scope(Protocol):
    """What is known about the graph around a node."""

    def producer(self, name: str) -> Node | None:
        """The node that gives a value; None for inputs, parameters and constants."""
        ...

    def constant(self, name: str) -> Constant | None: ...

    def type(self, name: str) -> TensorType: ...

    def uses(self, name: str) -> int:
        """How many operands and graph outputs name the value."""
        ...


@dataclass(frozen=True)
class ValuePattern:
    """Any value; the same capture twice must be the same value."""

    capture: str


@dataclass(frozen=True)
class ConstantPattern:
    """A constant whose data is present and passes `test`."""

    capture: str
    test: ArrayTest | None = None


@dataclass(frozen=True)
class NodePattern:
    """A node with one of `operators` (none given: any); `operands` None takes whatever operands it has.

    `single` wants all of its results to have one use in total: the matched node. `commutative` also tries the two
    operands the other way round.
    """

    operators: frozenset[str]
    operands: tuple[Pattern, ...] | None
    capture: str = ""
    single: bool = False
    commutative: bool = False
    test: NodeTest | None = None


Pattern: TypeAlias = ValuePattern | ConstantPattern | NodePattern


def value(capture: str) -> ValuePattern:
    return ValuePattern(capture)


def constant(capture: str, test: ArrayTest | None = None) -> ConstantPattern:
    return ConstantPattern(capture, test)


def node(
    operators: str | tuple[str, ...],
    *operands: Pattern,
    capture: str = "",
    single: bool = False,
    commutative: bool = False,
    test: NodeTest | None = None,
) -> NodePattern:
    """A node of these operators with exactly these operands."""
    names = (operators,) if isinstance(operators, str) else operators
    return NodePattern(frozenset(names), operands, capture, single, commutative, test)


def any_node(*operators: str, capture: str = "", single: bool = False, test: NodeTest | None = None) -> NodePattern:
    """A node of these operators (none given: of any) with any operands."""
    return NodePattern(frozenset(operators), None, capture, single, False, test)


@dataclass
class Match:
    """A place where a pattern fits: `match["x"]` is the name of the captured value."""

    root: Node
    scope: Scope
    values: dict[str, str] = field(default_factory=dict[str, str])
    captured: dict[str, Node] = field(default_factory=dict[str, Node])
    nodes: list[Node] = field(default_factory=list[Node])
    """Every matched node, the root first."""

    def __getitem__(self, capture: str) -> str:
        return self.values[capture]

    def node(self, capture: str) -> Node:
        return self.captured[capture]

    def type(self, capture: str) -> TensorType:
        return self.scope.type(self.values[capture])

    def array(self, capture: str) -> Array:
        """The contents of a captured constant."""
        found = self.scope.constant(self.values[capture])
        assert found is not None and found.data.array is not None
        return found.data.array


def match(pattern: NodePattern, root: Node, scope: Scope) -> Match | None:
    """Fit `pattern` to `root`; None when it does not fit."""
    found = Match(root, scope)
    return found if _node(pattern, root, found) else None


def _node(pattern: NodePattern, candidate: Node, found: Match) -> bool:
    if pattern.operators and candidate.operator not in pattern.operators:
        return False
    if pattern.test is not None and not pattern.test(candidate, found.scope):
        return False
    if pattern.operands is not None:
        if len(pattern.operands) != len(candidate.operands):
            return False
        orders = [candidate.operands]
        if pattern.commutative:
            orders.append(candidate.operands[::-1])
        if not any(_attempt(pattern.operands, order, found) for order in orders):
            return False
    if pattern.capture:
        found.captured[pattern.capture] = candidate
    found.nodes.insert(0, candidate)
    return True


def _attempt(patterns: tuple[Pattern, ...], names: tuple[str, ...], found: Match) -> bool:
    """Fit all operands, or leave the match as it was."""
    saved = dict(found.values), dict(found.captured), list(found.nodes)
    if all(_operand(p, name, found) for p, name in zip(patterns, names, strict=True)):
        return True
    found.values, found.captured, found.nodes = saved
    return False


def _operand(pattern: Pattern, name: str, found: Match) -> bool:
    match pattern:
        case ValuePattern(capture):
            return found.values.setdefault(capture, name) == name
        case ConstantPattern(capture, test):
            known = found.scope.constant(name)
            if known is None or known.data.array is None or (test is not None and not test(known.data.array)):
                return False
            return found.values.setdefault(capture, name) == name
        case NodePattern():
            feeder = found.scope.producer(name)
            if feeder is None or feeder.name != name:
                return False
            if pattern.single and sum(found.scope.uses(v.name) for v in feeder.results) != 1:
                return False
            return _node(pattern, feeder, found)
