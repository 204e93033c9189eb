"""Convolutions whose weight is exactly a product become chains of smaller ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import ClassVar

import numpy as np

from mercer.passes.factorize.approximation import Matrix, operations
from mercer.passes.factorize.contractions import exact_factors, quiet
from mercer.passes.factorize.convolutions import Convolution, Geometry, convolution
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class Separable(RewritePass):
    """A convolution whose weight is an outer product becomes two: along some axes, then along the others.

    Tried are, within every group of channels: some spatial axes before the others (a Gaussian blur of k x k takes 2 k
    multiply-adds per element), pointwise before depthwise (blueprint separable, rank of W[o, :, window] for every
    output), and depthwise before pointwise (rank of W[:, c, window] for every input). A weight counts as a product of
    at most `rank` terms when these leave no more than the rounding of its element type. The cheapest wins; nearly
    separable weights are for `one_way`. Needs a Graph after `bind` and `fold`. Class: real; factors are found in f64
    and rounded once.
    """

    name: ClassVar[str] = "separable"
    source: ClassVar[str] = "Rigamonti et al. 2013, Learning separable filters; Haase and Amthor 2020, BSConv"
    rank: int = 1

    def rewrites(self) -> Sequence[Rewrite]:
        return (quiet(Rewrite("separate", convolution(), self._separate, Exactness.REAL)),)

    def _separate(self, match: Match, build: Builder) -> Outcome:
        if prod(match.type("weight").shape[2:], start=match.type("weight").shape[2]).value == 1:
            return None
        found = Convolution.of(match)
        if isinstance(found, Refusal):
            return found
        chains: list[Chain] = []
        error = 1.0
        for split in _splits(found, self.rank):
            if isinstance(split, tuple):
                chains.append(split)
            else:
                error = min(error, split)
        if not chains:
            return Refusal(f"no split of the weight has rank {self.rank}: the nearest leaves {error:.1e} of it")
        before = operations((match.root,), match.scope.type, build.library, {})
        costs: list[int] = []
        for chain in chains:
            trial = Builder(build.library, {found.x: match.type("x")}, set(), "trial", match.root.span)
            _build(found, chain, trial)
            costs.append(operations(trial.nodes, trial.type, build.library, {}))
        best = min(range(len(chains)), key=costs.__getitem__)
        if costs[best] >= before:
            return Refusal(f"{costs[best]:,} operations would take the place of {before:,}")
        return _build(found, chains[best], build)


Chain = tuple[tuple[Matrix, Geometry, int], ...]
"""Weights of convolutions that follow each other, with how they move and their groups."""


def _build(found: Convolution, chain: Chain, build: Builder) -> str:
    y = found.x
    for weight, geometry, groups in chain:
        y = found.build(build, y, weight, geometry, groups)
    return y


def _splits(found: Convolution, rank: int) -> Iterator[Chain | float]:
    """Every exact chain, and of every inexact one the part of the weight that it leaves."""
    long = [axis for axis, k in enumerate(found.window) if k > 1]
    for count in range(1, len(long)):
        for axes in combinations(long, count):
            yield _by_axes(found, axes, rank)
    if found.weight.shape[1] > 1:
        yield _pointwise_first(found, rank)
        yield _depthwise_first(found, rank)


def _by_axes(found: Convolution, first: Sequence[int], rank: int) -> Chain | float:
    """W[o, c, i, j] = sum over r of H[o, r, j] V[r, c, i], where i stands for the axes that come first."""
    second = [axis for axis in range(len(found.window)) if axis not in first]
    groups = np.split(found.weight, found.groups)
    out, channels = groups[0].shape[:2]
    order = (1, *(axis + 2 for axis in first), 0, *(axis + 2 for axis in second))
    rows = channels * prod(found.window[axis] for axis in first)
    pairs = _all_factors([group.transpose(order).reshape(rows, -1) for group in groups], rank, found)
    if not isinstance(pairs, list):
        return pairs
    windows = [[k if axis in axes else 1 for axis, k in enumerate(found.window)] for axes in (first, second)]
    begin = [left.T.reshape(-1, channels, *windows[0]) for left, _ in pairs]
    end = [np.moveaxis(right.reshape(-1, out, *windows[1]), 0, 1) for _, right in pairs]
    return (
        (np.concatenate(begin), found.geometry.only(*first), found.groups),
        (np.concatenate(end), found.geometry.only(*second), found.groups),
    )


def _pointwise_first(found: Convolution, rank: int) -> Chain | float:
    """W[o, c, i] = sum over r of D[o, r, i] P[o, r, c]."""
    out, channels = found.weight.shape[:2]
    pairs = _all_factors([each.reshape(channels, -1) for each in found.weight], rank, found)
    if not isinstance(pairs, list):
        return pairs
    ones = (1,) * len(found.window)
    points = np.concatenate([left.T.reshape(-1, channels, *ones) for left, _ in pairs])
    depth = np.stack([right.reshape(-1, *found.window) for _, right in pairs])
    return (points, found.geometry.only(), found.groups), (depth, found.geometry, out)


def _depthwise_first(found: Convolution, rank: int) -> Chain | float:
    """W[o, c, i] = sum over r of P[o, c, r] D[c, r, i]."""
    groups = np.split(found.weight, found.groups)
    out, channels = groups[0].shape[:2]
    matrices = [group[:, c].reshape(out, -1) for group in groups for c in range(channels)]
    pairs = _all_factors(matrices, rank, found)
    if not isinstance(pairs, list):
        return pairs
    ones = (1,) * len(found.window)
    depth = np.concatenate([right.reshape(-1, 1, *found.window) for _, right in pairs])
    lefts = np.concatenate([left for left, _ in pairs], axis=1)
    points = np.concatenate([part.reshape(out, -1, *ones) for part in np.split(lefts, found.groups, axis=1)])
    return (depth, found.geometry, found.groups * channels), (points, found.geometry.only(), found.groups)


def _all_factors(matrices: Sequence[Matrix], rank: int, found: Convolution) -> list[tuple[Matrix, Matrix]] | float:
    """Exact factors of every matrix, filled up with zeros to one rank; or what the worst leaves."""
    pairs = [exact_factors(matrix, rank, found.dtype) for matrix in matrices]
    errors = [pair for pair in pairs if not isinstance(pair, tuple)]
    exact = [pair for pair in pairs if isinstance(pair, tuple)]
    if errors:
        return max(errors)
    most = max(left.shape[1] for left, _ in exact)
    missing = [most - left.shape[1] for left, _ in exact]
    return [
        (np.pad(left, ((0, 0), (0, n))), np.pad(right, ((0, n), (0, 0))))
        for (left, right), n in zip(exact, missing, strict=True)
    ]
