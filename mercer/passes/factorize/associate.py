"""Products of several matrices in the cheapest order, which makes attention without softmax linear in its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import ClassVar

from mercer.ir.graph import Node
from mercer.ir.integers import IntExpr
from mercer.passes.factorize.approximation import operations
from mercer.passes.factorize.contractions import quiet
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

PRODUCTS = ("matmul", "linear")


@dataclass(frozen=True)
class Associate(RewritePass):
    """A product of matrices is done in the order that takes the fewest multiply-adds.

    The order is found by dynamic programming over the chain (Godbole 1973), through factors of one element; products of
    constants alone count as nothing, since `fold` does them. (Q K^T) V becomes Q (K^T V), and the sum of the rows of
    Q K^T, its normalizer, becomes Q times the sum of K (Katharopoulos et al. 2020). An inner product that has other
    readers may stay, so its cost does not count as saved. A symbolic dim counts as `extent`. What stands between two
    products, such as a softmax or a causal mask, keeps them apart. Needs a Graph. Class: real.
    """

    name: ClassVar[str] = "associate"
    source: ClassVar[str] = "Katharopoulos et al. 2020, Transformers are RNNs; Godbole 1973, matrix-chain order"
    extent: int = 256

    def rewrites(self) -> Sequence[Rewrite]:
        products = any_node(*PRODUCTS, test=_of_matrices)
        return (
            quiet(Rewrite("reassociate", products, self._reassociate, Exactness.REAL)),
            Rewrite("sum_of_product", any_node("sum"), self._sum, Exactness.REAL),
        )

    def _reassociate(self, match: Match, build: Builder) -> Outcome:
        chain = Chain.of(match.root, match.scope, self.extent)
        if len(chain.factors) < 3:
            return next((Refusal(f"{operator} stands between the products") for operator in chain.between), None)
        best, order = chain.best()
        if best >= chain.cost:
            return Refusal(f"no order takes fewer than the {chain.cost:,} multiply-adds of this one")
        match.nodes += chain.inner
        result = chain.build(build, order)
        for operator, factor in chain.scales:
            result = build.node(operator, (result, factor))
        return result

    def _sum(self, match: Match, build: Builder) -> Outcome:
        summed = match.root.operands[0]
        feeder = match.scope.producer(summed)
        axis, keep = match.root.attribute("axis"), match.root.attribute("keepdim")
        if feeder is None or feeder.operator != "matmul" or not isinstance(axis, int):
            return None
        rank = match.scope.type(summed).rank
        axis = axis % rank - rank
        if axis not in (-1, -2):
            return None
        left, right = feeder.operands
        if axis == -1:
            right = build.node("sum", (right,), {"axis": -1, "keepdim": True})
        else:
            left = build.node("sum", (left,), {"axis": -2, "keepdim": True})
        result = build.node("matmul", (left, right))
        if keep is not True:
            result = build.node("squeeze", (result,), {"axis": axis})
        alone = match.scope.uses(summed) == 1
        sizes = dict.fromkeys(_dims(match.scope, (summed, *feeder.operands)), self.extent)
        gone = (match.root, feeder) if alone else (match.root,)
        before = operations(gone, match.scope.type, build.library, sizes)
        after = operations(build.nodes, build.type, build.library, sizes)
        if after >= before:
            return Refusal(f"{after:,} operations would take the place of {before:,}")
        match.nodes.append(feeder)
        return result


Order = tuple[int, "Order | None", "Order | None"]
"""Where a span is split in two, and how these are."""


@dataclass(frozen=True)
class Factor:
    """A matrix of a chain, [..., rows, columns]; `transposed` when the value is its transpose, as weights are."""

    name: str
    batch: tuple[int, ...]
    rows: int
    columns: int
    transposed: bool
    constant: bool


@dataclass(frozen=True)
class Chain:
    """The factors of nested products, in order, and the products below the root.

    `cost` are the multiply-adds of the products that go when the chain is done in another order; `scales` multiply or
    divide the result; `between` are the operators that keep other products apart from these.
    """

    factors: tuple[Factor, ...]
    inner: tuple[Node, ...]
    cost: int
    scales: tuple[tuple[str, str], ...]
    between: tuple[str, ...]

    @staticmethod
    def of(root: Node, scope: Scope, extent: int) -> Chain:
        """Symbolic dims count as `extent`."""
        inner: list[Node] = []
        scales: list[tuple[str, str]] = []
        between: list[str] = []

        def spread(node: Node, alone: bool) -> tuple[tuple[Factor, ...], int]:
            """The factors of a product, and the multiply-adds that it takes unless they are done anyway."""
            parts = [visit(operand, alone) for operand in node.operands]
            if node.operator == "linear":
                parts[1] = ((_factor(node.operands[1], scope, extent, transposed=True),), 0)
            factors = (*parts[0][0], *parts[1][0])
            own = 0 if all(f.constant for f in factors) else _multiply_adds(parts[0][0], parts[1][0])
            return factors, (own if alone else 0) + parts[0][1] + parts[1][1]

        def visit(name: str, alone: bool) -> tuple[tuple[Factor, ...], int]:
            feeder = scope.producer(name)
            alone = alone and scope.uses(name) == 1
            passed: list[Node] = []
            found: list[tuple[str, str]] = []
            while feeder is not None and (scale := _scale(feeder, scope)) is not None:
                operand, factor = scale
                passed.append(feeder)
                found.append((feeder.operator, factor))
                alone = alone and scope.uses(operand) == 1
                feeder = scope.producer(operand)
            if feeder is not None and feeder.operator in PRODUCTS and _of_matrices(feeder, scope):
                inner.extend((*passed, feeder))
                scales.extend(found)
                return spread(feeder, alone)
            if (origin := scope.producer(name)) is not None:
                feeders = (scope.producer(operand) for operand in origin.operands)
                if any(each is not None and each.operator in PRODUCTS for each in feeders):
                    between.append(origin.operator)
            return (_factor(name, scope, extent),), 0

        factors, cost = spread(root, True)
        return Chain(factors, tuple(inner), cost, tuple(scales), tuple(between))

    def best(self) -> tuple[int, Order]:
        """The fewest multiply-adds, and the order that takes them."""

        @cache
        def span(first: int, last: int) -> tuple[int, Order | None]:
            if first == last:
                return 0, None
            options: list[tuple[int, Order]] = []
            for split in range(first, last):
                (left, left_order), (right, right_order) = span(first, split), span(split + 1, last)
                own = _multiply_adds(self.factors[first : split + 1], self.factors[split + 1 : last + 1])
                total = 0 if all(f.constant for f in self.factors[first : last + 1]) else own + left + right
                options.append((total, (split, left_order, right_order)))
            return min(options, key=lambda option: option[0])

        cost, order = span(0, len(self.factors) - 1)
        assert order is not None
        return cost, order

    def build(self, build: Builder, order: Order) -> str:
        """The product in another order."""

        def span(first: int, last: int, order: Order | None) -> str:
            if order is None:
                factor = self.factors[first]
                if not factor.transposed:
                    return factor.name
                return build.node("permute", (factor.name,), {"dims": (1, 0)})
            split, left_order, right_order = order
            left = span(first, split, left_order)
            if right_order is None and self.factors[last].transposed:
                return build.node("linear", (left, self.factors[last].name))
            return build.node("matmul", (left, span(split + 1, last, right_order)))

        return span(0, len(self.factors) - 1, order)


def _multiply_adds(left: Sequence[Factor], right: Sequence[Factor]) -> int:
    """Of the product of two products of factors."""
    batch: list[int] = []
    for factor in (*left, *right):
        sizes = (*(1,) * (len(batch) - len(factor.batch)), *factor.batch)
        batch = [1] * (len(sizes) - len(batch)) + batch
        batch = [max(pair) for pair in zip(batch, sizes, strict=True)]
    return prod(batch) * left[0].rows * right[0].rows * right[-1].columns


def _factor(name: str, scope: Scope, extent: int, transposed: bool = False) -> Factor:
    *batch, rows, columns = (int(dim.evaluate(lambda _: extent)) for dim in scope.type(name).shape)
    if transposed:
        rows, columns = columns, rows
    return Factor(name, tuple(batch), rows, columns, transposed, scope.constant(name) is not None)


def _of_matrices(node: Node, scope: Scope) -> bool:
    kinds = [scope.type(operand) for operand in node.operands]
    return all(kind.rank >= 2 and (kind.dtype.is_float or kind.dtype.is_complex) for kind in kinds)


def _scale(node: Node, scope: Scope) -> tuple[str, str] | None:
    """What a constant of one element multiplies or divides, and the constant."""
    pairs = {"mul": (node.operands, node.operands[::-1]), "div": (node.operands,)}.get(node.operator, ())
    for operand, factor in pairs:
        if scope.constant(factor) is None or scope.type(operand) != scope.type(node.name):
            continue
        if scope.type(factor).shape == (IntExpr.constant(1),) * scope.type(factor).rank:
            return operand, factor
    return None


def _dims(scope: Scope, names: Sequence[str]) -> set[str]:
    return {dim for name in names for extent in scope.type(name).shape for dim in extent.dims()}
