"""Squared distances between all pairs as a contraction."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.index import (
    Call,
    Const,
    Expr,
    Read,
    Reduce,
    Reducer,
    call,
    children,
    parts,
    transform,
    variables,
)
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import elements, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class Pairwise(Pass):
    """sum_k (x[n, k] - c[m, k])**2 becomes max(|x[n]|**2 + |c[m]|**2 - 2 sum_k x[n, k] c[m, k], 0).

    Needs Nests, gives Nests with two more of them for the norms. The contraction does one multiply-add per k in place
    of a subtraction and a multiply-add, and has a fast schedule; the norms pay from `min_extent` values of k on. Class:
    real. Where two points are close compared to their norms the difference cancels, so f16 and bf16 are refused: in
    f32 the absolute error is about 1e-7 times the squared norms.
    """

    name: ClassVar[str] = "pairwise"
    level: ClassVar[Level] = Level.NESTS
    min_extent: int = 16

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        statements: list[Statement] = []
        for statement in nests.statements:
            found = distances(statement.body) if isinstance(statement, Nest) else ()
            if not isinstance(statement, Nest) or not found:
                statements.append(statement)
                continue
            start = time.perf_counter()
            reason = next((reason for distance in found if (reason := self._obstacle(distance))), None)
            before = after = statement_cost(statement, types)
            new: list[Nest] = [statement]
            if reason is None:
                new = _expanded(statement, found, set(types))
                types |= {nest.target: nest.type for nest in new}
                after = sum((statement_cost(nest, types) for nest in new), Cost(0, 0))
            statements += new
            costs = None if reason else (before, after)
            seconds = time.perf_counter() - start
            context.record_statement(self.name, "expand_square", statement, Exactness.REAL, reason, costs, seconds)
        return replace(nests, statements=tuple(statements))

    def _obstacle(self, distance: Distance) -> str | None:
        dtype = distance.reduce.dtype
        if dtype in (DType.F16, DType.BF16):
            return f"{dtype} keeps too few bits for a difference of squared norms"
        count = [axis.extent for axis in distance.reduce.axes]
        if not all(extent.is_constant for extent in count):
            return f"the extent of {', '.join(map(str, distance.reduce.axes))} is not known"
        if elements(count) < self.min_extent:
            return f"{elements(count)} terms are too few to pay for the norms (min_extent = {self.min_extent})"
        return None


@dataclass(frozen=True)
class Distance:
    """A sum of squared differences of two reads that run over different outer indices."""

    reduce: Reduce
    left: Read
    right: Read


def distances(body: Expr) -> tuple[Distance, ...]:
    """Every pairwise squared distance in a body."""
    found = (_distance(expr) for expr in parts(body) if isinstance(expr, Reduce))
    return tuple(distance for distance in found if distance is not None)


def _distance(reduce: Reduce) -> Distance | None:
    difference = _squared(reduce.body)
    if reduce.reducer is not Reducer.SUM or not isinstance(difference, Call) or difference.function != "sub":
        return None
    left, right = difference.arguments
    if not (isinstance(left, Read) and isinstance(right, Read)) or children(left) or children(right):
        return None
    inner = {axis.name for axis in reduce.axes}
    own = variables(left) - inner, variables(right) - inner
    paired = bool(own[0] - own[1]) and bool(own[1] - own[0])
    return Distance(reduce, left, right) if paired and reduce.dtype.is_float else None


def _squared(body: Expr) -> Expr | None:
    """The base of a square, written as a power or as a product."""
    match body:
        case Call("pow", (base, Const(number))) if number == 2:
            return base
        case Call("mul", (left, right)) if left == right:
            return left
        case _:
            return None


def _expanded(nest: Nest, found: tuple[Distance, ...], taken: set[str]) -> list[Nest]:
    """The nests of the norms, then the nest itself with contractions."""
    new: list[Nest] = []
    replaced: dict[Expr, Expr] = {}
    for reduce, left, right in ((d.reduce, d.left, d.right) for d in found):
        norms: list[Expr] = []
        for read in (left, right):
            norm = _norm(nest, reduce, read, taken)
            new.append(norm)
            norms.append(Read(norm.target, tuple(IntExpr.var(axis.name) for axis in norm.axes), reduce.dtype))
        product = Reduce(Reducer.SUM, reduce.axes, call("mul", left, right))
        two = Const(2.0, reduce.dtype)
        expanded = call("sub", call("add", *norms), call("mul", two, product))
        replaced[reduce] = call("max", expanded, Const(0.0, reduce.dtype))
    return [*new, replace(nest, body=transform(nest.body, lambda expr: replaced.get(expr, expr)))]


def _norm(nest: Nest, reduce: Reduce, read: Read, taken: set[str]) -> Nest:
    """sum_k read**2 for every value of the outer indices that the read depends on."""
    axes = tuple(axis for axis in nest.axes if axis.name in variables(read))
    name, count = f"{nest.target}.norm", 1
    while name in taken:
        count += 1
        name = f"{nest.target}.norm{count}"
    taken.add(name)
    kind = TensorType(reduce.dtype, tuple(axis.extent for axis in axes))
    return Nest(name, kind, axes, Reduce(Reducer.SUM, reduce.axes, call("mul", read, read)), nest.origins)
