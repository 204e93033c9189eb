"""Weights with structure are applied as their factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from mercer.ir.graph import AttributeValue
from mercer.ir.types import DType, TensorType
from mercer.passes.factorize.approximation import Matrix, known_array, operations, stored
from mercer.passes.factorize.contractions import exact_factors, quiet
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, node, value
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class Structured(RewritePass):
    """A linear layer whose weight is exactly a sum of few Kronecker products, or of low rank by blocks, keeps factors.

    W = sum over t of A_t (x) B_t takes two small contractions; the factors come from the singular vectors of the
    rearranged weight, at most `terms` of them (Van Loan and Pitsianis 1993). Of a grid of at most `blocks` x `blocks`
    blocks every one is zero, of a rank up to `rank`, or dense; one block alone is a matrix of low rank (Lee et al.
    2024, GBLR). Of the forms that do at most `growth` times the operations the one with the fewest stored numbers wins:
    a hypercomplex layer (Zhang et al. 2021, PHM) saves numbers, not operations, and needs a growth above 1. A weight
    counts as structured when what remains is no more than the rounding of its element type. Needs a Graph after `bind`
    and `fold`. Class: real; factors are found in f64 and rounded once.
    """

    name: ClassVar[str] = "structured"
    source: ClassVar[str] = (
        "Van Loan and Pitsianis 1993, Kronecker products; Zhang et al. 2021, PHM; Lee et al. 2024, GBLR"
    )
    terms: int = 4
    blocks: int = 8
    rank: int = 32
    growth: float = 1.0

    def rewrites(self) -> Sequence[Rewrite]:
        pattern = node(("linear", "matmul"), value("x"), value("weight"))
        return (quiet(Rewrite("keep_structure", pattern, self._factorize, Exactness.REAL)),)

    def _factorize(self, match: Match, build: Builder) -> Outcome:
        kind = match.type("x")
        weight = known_array(match, "weight")
        if match.scope.constant(match["weight"]) is None and match.root.operator == "matmul":
            return None
        if isinstance(weight, Refusal):
            return weight
        if weight.ndim != 2 or not weight.any():
            return None
        weight = weight if match.root.operator == "linear" else weight.T
        before = operations((match.root,), match.scope.type, build.library, {})
        forms = [form for form in self._forms(weight, kind.dtype) if form.numbers < weight.size]
        if not forms:
            terms = f"{self.terms} Kronecker products" if self.terms > 1 else "a Kronecker product"
            return Refusal(f"the weight is not a sum of at most {terms}, and no grid of blocks has low rank")
        costs: list[int] = []
        for form in forms:
            trial = Builder(build.library, {match["x"]: kind}, set(), "trial", match.root.span)
            form.build(trial, match["x"], kind.dtype)
            costs.append(operations(trial.nodes, trial.type, build.library, {}))
        allowed = [i for i, cost in enumerate(costs) if cost <= self.growth * before]
        if not allowed:
            return Refusal(f"factors would take {min(costs):,} operations in place of {before:,}")
        best = min(allowed, key=lambda i: (forms[i].numbers, costs[i]))
        return forms[best].build(build, match["x"], kind.dtype)

    def _forms(self, weight: Matrix, dtype: DType) -> Iterator[Kronecker | Blocks]:
        rows, columns = weight.shape
        for o in _divisors(rows):
            for d in _divisors(columns):
                if 1 < o * d < rows * columns:
                    found = kronecker(weight, o, d, self.terms, dtype)
                    if found is not None:
                        yield found
                        yield Kronecker(found.outer, found.inner, outer_first=True)
        for p in _divisors(rows):
            for q in _divisors(columns):
                if max(p, q) <= self.blocks:
                    yield blocks(weight, p, q, self.rank, dtype)


@dataclass(frozen=True)
class Kronecker:
    """W[(i, k), (j, l)] = sum over t of outer[t, i, j] * inner[t, k, l]."""

    outer: Matrix
    inner: Matrix
    outer_first: bool = False

    @property
    def numbers(self) -> int:
        return self.outer.size + self.inner.size

    def build(self, build: Builder, x: str, dtype: DType) -> str:
        """From x[..., (j, l)] the sum over l with `inner`, then over (t, j) with `outer`; or the other way round."""
        count, o1, d1 = self.outer.shape
        o2, d2 = self.inner.shape[1:]
        batch = _sizes(build.type(x))[:-1]
        axes = tuple(range(len(batch)))
        a, b, c = (len(batch) + i for i in range(3))
        y = build.node("reshape", (x,), {"shape": (*batch, d1, d2)})
        if self.outer_first:
            y = build.node("permute", (y,), {"dims": (*axes, b, a)})
            first, second, kept, made, left, right = self.outer, self.inner, d2, o1, d2, o2
        else:
            first, second, kept, made, left, right = self.inner, self.outer, d1, o2, d1, o1
        flat = build.constant(stored(first.reshape(count * made, -1), dtype), "first")
        y = build.node("linear", (y, flat))  # [..., kept, (t, made)]
        y = build.node("reshape", (y,), {"shape": (*batch, kept, count, made)})
        y = build.node("permute", (y,), {"dims": (*axes, c, b, a)})  # [..., made, t, kept]
        y = build.node("reshape", (y,), {"shape": (*batch, made, count * left)})
        flat = build.constant(stored(second.transpose(1, 0, 2).reshape(right, -1), dtype), "second")
        y = build.node("linear", (y, flat))  # [..., made, right]
        if not self.outer_first:
            y = build.node("permute", (y,), {"dims": (*axes, b, a)})
        return build.node("reshape", (y,), {"shape": (*batch, o1 * o2)})


def kronecker(weight: Matrix, rows: int, columns: int, terms: int, dtype: DType) -> Kronecker | None:
    """Outer factors of that many rows and columns; None when the weight is not such a sum."""
    o2, d2 = weight.shape[0] // rows, weight.shape[1] // columns
    arranged = weight.reshape(rows, o2, columns, d2).transpose(0, 2, 1, 3).reshape(rows * columns, o2 * d2)
    most = min(terms, (weight.size - 1) // (rows * columns + o2 * d2))
    found = exact_factors(arranged, most, dtype) if most else 1.0
    if not isinstance(found, tuple):
        return None
    left, right = found
    return Kronecker(left.T.reshape(-1, rows, columns), right.reshape(-1, o2, d2))


Block = tuple[Matrix, Matrix | None] | None
"""The factors [o, r] and [r, d] of a block, a dense block [o, d] alone, or None for zeros."""


@dataclass(frozen=True)
class Blocks:
    """A grid of blocks of equal size [o, d], row by row."""

    grid: tuple[tuple[Block, ...], ...]
    shape: tuple[int, int]

    @property
    def numbers(self) -> int:
        parts = (part for row in self.grid for block in row if block is not None for part in block if part is not None)
        return sum(part.size for part in parts)

    def build(self, build: Builder, x: str, dtype: DType) -> str:
        """What the right factors make of every part of x, then the left factors of every row of blocks."""
        pieces = [[""] * len(row) for row in self.grid]
        for column in range(len(self.grid[0])):
            blocks = [row[column] for row in self.grid]
            if all(block is None for block in blocks):
                continue
            part = _part(build, x, column * self.shape[1], (column + 1) * self.shape[1])
            rights = {i: block[1] for i, block in enumerate(blocks) if block is not None and block[1] is not None}
            narrow, start = "", 0
            if rights:
                stacked = build.constant(stored(np.concatenate(list(rights.values())), dtype), "right")
                narrow = build.node("linear", (part, stacked))
            for i, block in enumerate(blocks):
                pieces[i][column] = part if block is not None else ""
                if i in rights:
                    pieces[i][column] = _part(build, narrow, start, start + len(rights[i]))
                    start += len(rights[i])
        rows = [self._row(build, x, i, row, dtype) for i, row in enumerate(pieces)]
        return reduce(lambda a, b: build.node("concat", (a, b), {"axis": -1}), rows)

    def _row(self, build: Builder, x: str, i: int, pieces: Sequence[str], dtype: DType) -> str:
        lefts = [block[0] for block in self.grid[i] if block is not None]
        names = [piece for piece in pieces if piece]
        if not lefts:
            lefts, names = [np.zeros((self.shape[0], 1))], [_part(build, x, 0, 1)]
        read = reduce(lambda a, b: build.node("concat", (a, b), {"axis": -1}), names)
        left = build.constant(stored(np.concatenate(lefts, axis=1), dtype), "left")
        return build.node("linear", (read, left))


def blocks(weight: Matrix, rows: int, columns: int, rank: int, dtype: DType) -> Blocks:
    """The weight as a grid of that many rows and columns of blocks, each as cheap as it can be."""
    o, d = weight.shape[0] // rows, weight.shape[1] // columns

    def block(part: Matrix) -> Block:
        if not part.any():
            return None
        most = min(rank, (o * d - 1) // (o + d))
        found = exact_factors(part, most, dtype) if most else 1.0
        return found if isinstance(found, tuple) else (part, None)

    parts = weight.reshape(rows, o, columns, d).transpose(0, 2, 1, 3)
    return Blocks(tuple(tuple(map(block, row)) for row in parts), (o, d))


def _part(build: Builder, x: str, start: int, stop: int) -> str:
    """x[..., start:stop]."""
    if (start, stop) == (0, build.type(x).shape[-1].value):
        return x
    return build.node("slice_axis", (x,), {"axis": -1, "start": start, "stop": stop, "step": 1})


def _sizes(kind: TensorType) -> tuple[AttributeValue, ...]:
    return tuple(dim.value if dim.is_constant else dim for dim in kind.shape)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
