"""Sums of products of several factors, in the order that takes fewest operations."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np

from mercer.ir.evaluate import evaluate_statement
from mercer.ir.index import (
    Axis,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    dims,
    parts,
    reads,
    transform,
    variables,
)
from mercer.ir.integers import Computed, IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import elements, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.running_sums import factors_of, product_of

MOST_FACTORS = 6

STORED = 8.0
"""Multiply-adds in the time that one element takes to be stored and read again."""

TYPICAL = 64
"""What a symbolic dim is taken to be when orders are compared."""


@dataclass(frozen=True)
class OrderProducts(Pass):
    """Factors of a sum are multiplied, and summed, before they meet those that have other indices.

    Needs Nests, gives Nests. In sum[a, b] w[u, a] c[a, b] x[n, u, a] z[n, b] the product of c and z, summed over b,
    does not depend on u. An index that a factor sees through a function of few values only, such as w[u, degree(b)],
    becomes one of those values, and the sum over the others goes to the other factors. Orders are compared by their
    multiply-adds and by the elements between them, constants being free; all orders of up to six factors are looked
    at. Constants that are read at a function of indices become tables of what is read. Fires where at least the part
    `saving` is saved and no more than `max_growth` times the elements around are stored. Class: real; tables bit.
    """

    name: ClassVar[str] = "order_products"
    level: ClassVar[Level] = Level.NESTS
    source: ClassVar[str] = "Smith and Gray 2018, opt_einsum"
    saving: float = 0.3
    max_growth: int = 4

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        constants = {constant.name for constant in nests.constants}
        statements: list[Statement] = []
        for statement in nests.statements:
            if not isinstance(statement, Nest):
                statements.append(statement)
                continue
            for new in self._ordered(statement, types, constants, context):
                tables = _tabulated(new, types, constants)
                if len(tables) > 1:
                    context.record_statement(self.name, "tabulate", new, Exactness.BIT)
                for made in tables:
                    statements.append(made)
                    types[made.target] = made.type
        return replace(nests, statements=tuple(statements))

    def _ordered(
        self, nest: Nest, types: Mapping[str, TensorType], constants: set[str], context: PassContext
    ) -> list[Nest]:
        """The nest, after those of what it multiplies first."""
        start = time.perf_counter()
        found = _sum(nest, constants)
        if found is None:
            return [nest]
        shapes = [nest.type.shape, *(types[name].shape for name in {read.tensor for read in reads(nest.body)})]
        around = sum(math.prod(map(_size, shape)) for shape in shapes)
        before = _volume(found, found.loops) * max(1, len(found.factors) - 1)
        after, chosen, plan = min(
            (best for each in (found, *_grouped(found)) if (best := _best(each, self.max_growth * around)) is not None),
            key=lambda best: best[0],
            default=(math.inf, found, ()),
        )
        seconds = time.perf_counter() - start
        if not plan:
            return [nest]
        reason = None
        if after > (1 - self.saving) * before:
            reason = f"another order would take {after:.3g} multiply-adds for {before:.3g}"
        new = [] if reason else _built(nest, chosen, plan, types)
        known = {**types, **{each.target: each.type for each in new}}
        costs = None if reason else (statement_cost(nest, types), _cost(new, known))
        context.record_statement(self.name, "multiply_first", nest, Exactness.REAL, reason, costs, seconds)
        return new or [nest]


def _size(value: IntExpr) -> int:
    return int(value.evaluate(lambda _: TYPICAL))


def _cost(statements: Sequence[Statement], types: Mapping[str, TensorType]) -> Cost:
    return sum((statement_cost(statement, types) for statement in statements), Cost(0, 0))


# --- what is looked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Factor:
    value: Expr
    names: frozenset[str]
    constant: bool


@dataclass(frozen=True)
class _Product:
    """`sum` over `inner` of the factors, in a nest over `outer`."""

    sum: Reduce
    factors: tuple[_Factor, ...]
    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]

    @property
    def loops(self) -> dict[str, int]:
        return {axis.name: _size(axis.extent) for axis in (*self.outer, *self.inner)}

    @property
    def order(self) -> tuple[Axis, ...]:
        """Rows, what is summed, and the last axis of the nest, along which vectors lie."""
        return (*self.outer[:-1], *self.inner, *self.outer[-1:])


def _sum(nest: Nest, constants: set[str]) -> _Product | None:
    """The only sum of a nest, of at least three factors, read without padding and at indices known beforehand."""
    sums = [e for e in parts(nest.body) if isinstance(e, Reduce)]
    if len(sums) != 1 or sums[0].reducer is not Reducer.SUM or sums[0].dtype is not DType.F32:
        return None
    (e,) = sums
    names = [axis.name for axis in (*nest.axes, *e.axes)]
    every = factors_of(e.body)
    if not 3 <= len(every) <= MOST_FACTORS or len(set(names)) < len(names):
        return None
    if any(not axis.extent.is_constant for axis in e.axes) or dims(e.body) or not nest.axes:
        return None
    if any(read.pad is not None or not _is_static(read) for read in reads(e.body)):
        return None
    factors: list[_Factor] = []
    for factor in every:
        constant = {read.tensor for read in reads(factor)} <= constants
        factors.append(_Factor(factor, variables(factor), constant))
    return _Product(e, tuple(factors), nest.axes, e.axes)


def _is_static(read: Read) -> bool:
    return not any(any(True for _ in reads(e)) for e in _computed(read))


def _computed(read: Read) -> list[Expr]:
    return [atom.value for index in read.indices for atom in index.atoms() if isinstance(atom, Computed)]


def _volume(found: _Product, names: Iterable[str]) -> float:
    loops = found.loops
    return float(math.prod(loops[name] for name in names))


# --- functions of an index --------------------------------------------------------------------------------------------


def _grouped(found: _Product) -> Iterator[_Product]:
    """The same sum where some of the functions of an index are indices of their own."""
    candidates: dict[str, tuple[IntExpr, int]] = {}
    for axis in found.inner:
        for factor in found.factors:
            for index in (index for read in reads(factor.value) for index in read.indices):
                few = _values(index, axis) if isinstance(index.single, Computed) else None
                if few is not None:
                    candidates.setdefault(axis.name, (index, few))
    for count in range(1, len(candidates) + 1):
        for names in itertools.combinations(candidates, count):
            grouped: _Product | None = found
            for name in names:
                grouped = None if grouped is None else _with_group(grouped, name, *candidates[name])
            if grouped is not None and len(grouped.factors) <= MOST_FACTORS:
                yield grouped


def _values(index: IntExpr, axis: Axis) -> int | None:
    """How many values, from 0 on, an integer function of one index has, where they are at most half of its extent."""
    if variables(Index(index)) != frozenset((axis.name,)):
        return None
    table = Nest("values", TensorType(DType.I32, (axis.extent,)), (axis,), Index(index), ())
    (values,) = evaluate_statement(table, {})
    few = int(np.max(values)) + 1
    return few if int(np.min(values)) >= 0 and 2 * few <= axis.extent.value else None


def _with_group(found: _Product, name: str, index: IntExpr, few: int) -> _Product | None:
    """Where(index == group) is a factor, and what saw the index through the function sees the group."""
    group = Axis(f"{name}.group", IntExpr.constant(few))
    new: list[_Factor] = []
    for factor in found.factors:
        changed = transform(factor.value, lambda e: _with_index(e, index, IntExpr.var(group.name)))
        names = variables(changed)
        if changed != factor.value and name in names:
            return None
        new.append(replace(factor, value=changed, names=names))
    same = call("eq", Index(index), Index(IntExpr.var(group.name)))
    belongs = call("where", same, Const(1.0, DType.F32), Const(0.0, DType.F32))
    new.append(_Factor(belongs, frozenset((name, group.name)), True))
    return replace(found, factors=tuple(new), inner=(*found.inner, group))


def _with_index(e: Expr, old: IntExpr, new: IntExpr) -> Expr:
    if not isinstance(e, Read):
        return e
    return replace(e, indices=tuple(new if index == old else index for index in e.indices))


# --- orders -----------------------------------------------------------------------------------------------------------

_Pair: TypeAlias = "tuple[int, int]"
"""Two factors, by their numbers in the list in which their product has been put last."""

_Plan: TypeAlias = "tuple[float, _Product, tuple[_Pair, ...]]"


def _best(found: _Product, most: float) -> _Plan | None:
    """The fewest multiply-adds and the pairs that are multiplied first; `most` elements are stored for each."""
    outer = frozenset(axis.name for axis in found.outer)

    def search(factors: tuple[tuple[frozenset[str], bool], ...]) -> tuple[float, tuple[_Pair, ...]]:
        every = outer.union(*(names for names, _ in factors))
        best: tuple[float, tuple[_Pair, ...]] = _volume(found, every) * max(1, len(factors) - 1), ()
        if len(factors) == 2:
            return best
        for i, j in itertools.combinations(range(len(factors)), 2):
            rest = tuple(factor for k, factor in enumerate(factors) if k not in (i, j))
            needed = outer.union(*(names for names, _ in rest))
            both = factors[i][0] | factors[j][0]
            constant = factors[i][1] and factors[j][1]
            if _volume(found, both & needed) > most:
                continue
            own = 0.0 if constant else _volume(found, both) + STORED * _volume(found, both & needed)
            after, pairs = search((*rest, (both & needed, constant)))
            if own + after < best[0]:
                best = own + after, ((i, j), *pairs)
        return best

    cost, pairs = search(tuple((factor.names, factor.constant) for factor in found.factors))
    return (cost, found, pairs) if pairs else None


def _built(nest: Nest, found: _Product, pairs: Sequence[_Pair], types: Mapping[str, TensorType]) -> list[Nest]:
    outer = frozenset(axis.name for axis in found.outer)
    made: list[Nest] = []
    factors = list(found.factors)
    for i, j in pairs:
        first, second = factors[i], factors[j]
        factors = [factor for k, factor in enumerate(factors) if k not in (i, j)]
        needed = outer.union(*(factor.names for factor in factors))
        both = first.names | second.names
        axes = tuple(axis for axis in found.order if axis.name in both & needed)
        summed = tuple(axis for axis in found.inner if axis.name in both - needed)
        body: Expr = product_of((first.value, second.value))
        body = Reduce(Reducer.SUM, summed, body) if summed else body
        name = next(n for k in itertools.count(len(made)) if (n := f"{nest.target}.product{k or ''}") not in types)
        type = TensorType(DType.F32, tuple(axis.extent for axis in axes))
        made.append(Nest(name, type, axes, body, nest.origins))
        read = Read(name, tuple(IntExpr.var(axis.name) for axis in axes), DType.F32)
        factors.append(_Factor(read, both & needed, first.constant and second.constant))
    names = frozenset[str]().union(*(factor.names for factor in factors))
    summed = tuple(axis for axis in found.inner if axis.name in names)
    total: Expr = product_of([factor.value for factor in factors])
    total = Reduce(Reducer.SUM, summed, total) if summed else total
    body = transform(nest.body, lambda e: total if e == found.sum else e)
    return [*made, replace(nest, body=body)]


# --- tables -----------------------------------------------------------------------------------------------------------


LARGEST_TABLE, TABLE_GROWTH = 1 << 18, 16
"""Elements of a table, and how many times those of the constant it may have."""


def _tabulated(nest: Nest, types: Mapping[str, TensorType], constants: set[str]) -> list[Nest]:
    """The nest, after tables of constants that it reads at functions of its indices."""
    axes = {axis.name: axis for axis in nest.axes}
    axes |= {axis.name: axis for e in parts(nest.body) if isinstance(e, Reduce) for axis in e.axes}
    made: dict[Read, Nest] = {}
    for read in dict.fromkeys(reads(nest.body)):
        computed = _computed(read)
        if read.tensor not in constants or read.pad is not None or not computed or not _is_static(read):
            continue
        mine = tuple(axis for name, axis in axes.items() if name in variables(read))
        if dims(read) or not all(axis.extent.is_constant for axis in mine):
            continue
        many = math.prod(axis.extent.value for axis in mine)
        if many > min(LARGEST_TABLE, TABLE_GROWTH * elements(types[read.tensor].shape)):
            continue
        type = TensorType(read.dtype, tuple(axis.extent for axis in mine))
        made[read] = Nest(f"{nest.target}.table{len(made) or ''}", type, mine, read, nest.origins)
    new = {
        read: Read(table.target, tuple(IntExpr.var(axis.name) for axis in table.axes), read.dtype)
        for read, table in made.items()
    }
    if not new:
        return [nest]
    return [
        *made.values(),
        replace(nest, body=transform(nest.body, lambda e: new.get(e, e) if isinstance(e, Read) else e)),
    ]
