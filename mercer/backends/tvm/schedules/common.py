"""What all families share: the form of a schedule, costs, and the walk over outer loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from typing import TypeAlias, TypeVar

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Expr, Read, Reduce, children, dims
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import TensorType

TYPICAL = 64
"""What a symbolic dim is taken to be when costs are compared."""

SLOW_FUNCTIONS = frozenset(("exp", "expm1", "log", "log1p", "erf", "sigmoid", "sin", "cos", "tan", "tanh", "pow"))


Choice: TypeAlias = Mapping[str, str | int | bool | Sequence[int]]
"""What is chosen for a nest, as a small JSON value: the family and its factors."""

CHOICES = 32
"""Candidates of a nest at most, those that cost least."""

C = TypeVar("C")


@dataclass(frozen=True)
class Problem:
    """A nest to schedule, and what may be known about the tensors around it.

    A family takes the candidate `choice` where it is one of its own, else the one that costs least. With `once` it
    looks for one that computes no element twice.
    """

    nest: Nest
    types: Mapping[str, TensorType]
    constants: Mapping[str, Constant]
    target: Target
    choice: Choice | None = None
    once: bool = False


@dataclass(frozen=True)
class Options:
    """The candidates for a nest, from the least cost on, and the place of the one that is taken."""

    choices: tuple[Choice, ...] = ()
    taken: int = 0

    @property
    def choice(self) -> Choice | None:
        return self.choices[self.taken] if self.choices else None


@dataclass(frozen=True)
class Schedule:
    """How a nest is computed: `emit(scope, i)` writes the code of the outer iteration i of `count` independent ones.

    `before` are nests to compute first (padded or repacked copies), `constants` the repacked constants; both are read
    by `nest`, the form of the nest that `emit` implements. `cost` estimates one outer iteration in nanoseconds. The
    scope has `workspace` too, memory of static size that every thread has for itself. Where every element is computed
    `once`, it may take the place of one that nothing else reads.
    """

    family: str
    detail: str
    nest: Nest
    count: IntExpr
    cost: float
    emit: Callable[[Scope, TirExpr], None]
    before: tuple[Nest, ...] = ()
    constants: tuple[Constant, ...] = ()
    workspace: tuple[Operand, ...] = ()
    options: Options = Options()
    once: bool = False

    @property
    def dims(self) -> frozenset[str]:
        """The symbolic dims in the formula of the nest."""
        return dims(self.nest.body)


@dataclass(frozen=True)
class Refusal:
    """Why a family does not take a nest."""

    family: str
    reason: str


def pick(
    candidates: Iterable[C], cost: Callable[[C], float], choice: Callable[[C], Choice], wanted: Choice | None
) -> tuple[C, Options] | None:
    """The candidate of the choice `wanted`, else the one that costs least; None without candidates."""
    best = nsmallest(CHOICES, candidates, key=cost)
    if not best:
        return None
    choices = tuple(map(choice, best))
    taken = choices.index(wanted) if wanted is not None and wanted in choices else 0
    return best[taken], Options(choices, taken)


def size(value: IntExpr) -> int:
    """The number, with TYPICAL for every symbolic dim."""
    return int(value.evaluate(lambda _: TYPICAL))


@lru_cache(maxsize=1 << 12)
def bytes_of(type: TensorType) -> int:
    """Of a tensor, with TYPICAL for every symbolic dim."""
    return math.prod(map(size, type.shape)) * type.dtype.numpy.itemsize


def volume(axes: Sequence[Axis]) -> int:
    total = 1
    for axis in axes:
        total *= size(axis.extent)
    return total


@lru_cache(maxsize=1 << 14)
def operations(expr: Expr) -> float:
    """Rough number of scalar instructions for one value."""
    inner = sum(map(operations, children(expr)))
    match expr:
        case Reduce(_, axes):
            return volume(axes) * (inner + 1)
        case Call(name):
            return inner + (12 if name in SLOW_FUNCTIONS else 1)
        case Read(_, indices):
            return inner + (1 if expr.pad is None else 1 + 2 * len(indices))
        case _:
            return inner


OUTER_COST = 1000.0
"""Nanoseconds below which an outer iteration is made longer by taking inner loops into it."""

MANY = 64
"""Outer iterations from which on threads share them out evenly: fewer are not made longer by a whole axis."""


@dataclass(frozen=True)
class Units:
    """Loops over axes, of which the `outer` ones are independent iterations of so much `cost`. The first of the `inner`
    axes may be cut into `pieces`, which are outer iterations too, of equal length unless that would make them few."""

    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    cost: float
    pieces: int = 1

    @staticmethod
    def of(axes: Sequence[Axis], cost: float) -> Units:
        """For a body that costs `cost`."""
        at = len(axes)
        while at > 0 and cost < OUTER_COST and axes[at - 1].extent.is_constant:
            at -= 1
            extent, before = max(1, axes[at].extent.value), count(axes[:at])
            pieces = _pieces(extent, cost) if before.is_constant and before.value < MANY else 1
            cost *= extent / pieces
            if pieces > 1:
                return Units(tuple(axes[:at]), tuple(axes[at:]), cost, pieces)
        return Units(tuple(axes[:at]), tuple(axes[at:]), cost)

    @property
    def count(self) -> IntExpr:
        return count(self.outer) * self.pieces

    def run(self, scope: Scope, position: TirExpr, body: Callable[[Scope], None]) -> None:
        """The outer iteration at `position`."""
        if self.pieces == 1:
            loops(at_outer(scope, self.outer, position), self.inner, body)
            return
        cut, *rest = self.inner
        extent, pieces = int64(cut.extent.value), int64(self.pieces)
        piece = Axis(f"{cut.name}.piece", IntExpr.constant(self.pieces))
        unit = at_outer(scope, (*self.outer, piece), position)
        number = unit.indices[piece.name]
        start = T.bind(T.truncdiv(number * extent, pieces))
        with T.serial(start, T.truncdiv((number + int64(1)) * extent, pieces)) as k:
            loops(unit.inside([cut], [k]), rest, body)


def most_pieces(extent: int, cost: float) -> int:
    """Into how many equal pieces an axis can be cut, if its elements cost so much and no piece is to be too short."""
    return max((n for n in range(1, _most(extent, cost) + 1) if extent % n == 0), default=1)


def _pieces(extent: int, cost: float) -> int:
    """The same, or pieces that differ by an element where equal ones would be less than half as many."""
    equal, most = most_pieces(extent, cost), _most(extent, cost)
    return equal if 2 * equal >= most else most


def _most(extent: int, cost: float) -> int:
    return min(extent, int(cost * extent / OUTER_COST))


def count(axes: Sequence[Axis]) -> IntExpr:
    total = ONE
    for axis in axes:
        total = total * axis.extent
    return total


def ravel(scope: Scope, axes: Sequence[Axis]) -> TirExpr:
    """The number of an iteration of loops over `axes`, all of constant extent."""
    number = int64(0)
    for axis in axes:
        number = number * int64(axis.extent.value) + scope.indices[axis.name]
    return number


def unravel(scope: Scope, axes: Sequence[Axis], position: TirExpr) -> list[TirExpr]:
    """The index of every axis at a row-major position."""
    values: list[TirExpr] = []
    for axis in reversed(axes[1:]):
        extent = scope.integer(axis.extent)
        values.append(T.bind(T.truncmod(position, extent)))
        position = T.bind(T.truncdiv(position, extent))
    return [*([position] if axes else []), *reversed(values)]


def at_outer(scope: Scope, axes: Sequence[Axis], position: TirExpr) -> Scope:
    return scope.inside(axes, unravel(scope, axes, position))
