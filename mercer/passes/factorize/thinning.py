"""Kernel machines over fewer of their own centers, chosen for the function that they represent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, one_of
from mercer.passes.factorize.kernel_machines import EXPANSION, RANK_TOLERANCE, Expansion, projected
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

METHODS = ("greedy", "halving")
FAILURE = 0.5
"""The probability delta of kernel halving, which the size of its thresholds depends on."""


@dataclass(frozen=True)
class Thinning(Approximation):
    """`kernel_machine` over m centers becomes one over at most `count` of them.

    `greedy` adds the center that reduces the error most in the Hilbert space of the kernel (orthogonal least squares;
    Chen et al. 1991; kernel matching pursuit; Vincent and Bengio 2002). `halving` keeps one of every two centers, with
    twice its weight, until `count` are left; which one is decided by a random walk with `seed` that balances itself.
    Then each is exchanged for the center that serves best in its place (kernel thinning; Dwivedi and Mackey 2021,
    2022); the points of the paper are the terms weight[m] k(c[m], .) here. With `refit` the weights become those of the
    closest expansion over the kept centers. The kernel must be positive. Multiply-adds fall by the factor count/m.
    Class: approx, measured; with `refit` exact where the kept centers span the function.
    """

    name: ClassVar[str] = "thinning"
    source: ClassVar[str] = "Dwivedi and Mackey 2022, Generalized kernel thinning"
    count: int = 64
    method: str = "greedy"
    refit: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self, "method", METHODS)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("fewer_centers", EXPANSION, self._thin, Exactness.APPROX),)

    def _thin(self, match: Match, build: Builder) -> Outcome:
        found = Expansion.of(match, build.library)
        if isinstance(found, Refusal):
            return found
        total = len(found.centers)
        if not 1 <= self.count < total:
            return Refusal(f"{self.count} centers are not between 1 and {total - 1}; there are {total}")
        if self.method == "greedy" and not self.refit:
            return Refusal("greedy selection fits the weights: it has none without refit")
        gram = found.positive_gram()
        if isinstance(gram, Refusal):
            return gram
        if self.method == "greedy":
            kept = greedy(found.weight, gram, self.count)
        else:
            kept = halving(found.weight.T @ found.weight * gram, self.count, np.random.default_rng(self.seed))
        weight = projected(found.weight, gram, kept) if self.refit else found.weight[:, kept] * (total / len(kept))
        return found.build(build, found.x, found.centers[kept], weight)


def greedy(weight: Matrix, gram: Matrix, count: int) -> list[int]:
    """The centers that bring the projection of f closest to f, one after the other.

    `left` is what the chosen ones leave of the Gram matrix; adding center j reduces the squared error by
    |left[j] weight^T|**2 / left[j, j].
    """
    left = gram.copy()
    smallest = RANK_TOLERANCE * float(np.diag(gram).max())
    chosen: list[int] = []
    while len(chosen) < count:
        diagonal = np.diag(left)
        free = diagonal > smallest
        gain = np.where(free, np.sum((left @ weight.T) ** 2, axis=1) / np.where(free, diagonal, 1.0), 0.0)
        best = int(np.argmax(gain))
        if gain[best] <= 0.0:
            break
        left = left - np.outer(left[:, best], left[best]) / left[best, best]
        chosen.append(best)
    return sorted(chosen) or [0]


def halving(inner: Matrix, count: int, random: np.random.Generator) -> list[int]:
    """At most `count` of the points with these inner products, whose mean stays close to that of all.

    Dwivedi and Mackey 2021: rounds of halving (algorithm 1a), each of which passes over pairs of points, keeps one of
    the two, and prefers the one that moves the sum of (kept - dropped) towards zero; then one round of exchanges for
    the point that brings the means closest (algorithm 1b).
    """
    kept = list(range(len(inner)))
    while len(kept) > count:
        kept = _half(inner, kept, random)
    mean = inner.mean(axis=1)
    for position, point in enumerate(kept):
        others = inner[:, kept].sum(axis=1) - inner[:, point]
        cost = np.diag(inner) / len(kept) + 2.0 * (others / len(kept) - mean)
        cost[kept[:position] + kept[position + 1 :]] = np.inf
        kept[position] = int(np.argmin(cost))
    return sorted(kept)


def _half(inner: Matrix, points: list[int], random: np.random.Generator) -> list[int]:
    pairs = list(zip(points[::2], points[1::2], strict=False))
    kept: list[int] = []
    balance = np.zeros(len(inner))
    variance = 0.0
    for first, second in pairs:
        size = max(float(inner[first, first] + inner[second, second] - 2.0 * inner[first, second]), 0.0)
        drift = float(balance[first] - balance[second])
        threshold = max(math.sqrt(size * variance * 2.0 * math.log(2.0 * len(pairs) / FAILURE)), size)
        if size > 0.0:
            variance += size * max(1.0 + (size - 2.0 * threshold) * variance / threshold**2, 0.0)
        keeps_first = random.random() < min(1.0, max(0.0, 0.5 * (1.0 - drift / threshold))) if threshold else True
        chosen, dropped = (first, second) if keeps_first else (second, first)
        kept.append(chosen)
        balance += inner[:, chosen] - inner[:, dropped]
    return kept
