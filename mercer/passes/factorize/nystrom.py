"""Kernel machines over a few landmarks, by the Nystrom approximation."""

from __future__ import annotations

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

LANDMARKS = ("pivoted", "uniform")


@dataclass(frozen=True)
class Nystrom(Approximation):
    """`kernel_machine` over m centers C becomes one over `count` landmarks Z among them.

    k(x, C) is replaced by k(x, Z) K(Z, Z)^+ K(Z, C) (Williams and Seeger 2001), which is the orthogonal projection in
    the Hilbert space of the kernel, so that the kernel must be positive: weights become W K(C, Z) K(Z, Z)^+. Landmarks
    are the pivots of the Cholesky factorization of the Gram matrix, which depend on the kernel alone (Fine and
    Scheinberg 2001), or `uniform` draws with `seed`. Multiply-adds fall by the factor count/m. Class: approx, measured;
    exact where the Gram matrix has rank `count`.
    """

    name: ClassVar[str] = "nystrom"
    source: ClassVar[str] = "Williams and Seeger 2001, Using the Nystrom method to speed up kernel machines"
    count: int = 64
    landmarks: str = "pivoted"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self, "landmarks", LANDMARKS)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("landmarks", EXPANSION, self._approximate, Exactness.APPROX),)

    def _approximate(self, match: Match, build: Builder) -> Outcome:
        found = Expansion.of(match, build.library)
        if isinstance(found, Refusal):
            return found
        total = len(found.centers)
        if not 1 <= self.count < total:
            return Refusal(f"{self.count} landmarks are not between 1 and {total - 1}; there are {total} centers")
        gram = found.positive_gram()
        if isinstance(gram, Refusal):
            return gram
        if self.landmarks == "pivoted":
            chosen = pivots(gram, self.count)
        else:
            chosen = sorted(np.random.default_rng(self.seed).choice(total, self.count, replace=False).tolist())
        return found.build(build, found.x, found.centers[chosen], projected(found.weight, gram, chosen))


def pivots(gram: Matrix, count: int) -> list[int]:
    """Rows of a positive semidefinite matrix, each with the largest diagonal of what the ones before leave over.

    Fewer than `count` when nothing is left over.
    """
    diagonal = np.diag(gram).copy()
    columns = np.zeros((len(gram), 0))
    smallest = RANK_TOLERANCE * float(diagonal.max())
    chosen: list[int] = []
    while len(chosen) < count and diagonal.max() > smallest:
        pivot = int(np.argmax(diagonal))
        column = (gram[:, pivot] - columns @ columns[pivot]) / np.sqrt(diagonal[pivot])
        columns = np.column_stack([columns, column])
        diagonal = np.maximum(diagonal - column**2, 0.0)
        diagonal[[*chosen, pivot]] = 0.0
        chosen.append(pivot)
    return chosen
