"""Low-rank linear layers by the singular value decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, known_array, stored
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match, node, value
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class SvdLinear(Approximation):
    """`linear` with a constant weight W[o, d] becomes two of rank r: x V^T U^T with U[o, r] V[r, d] closest to W.

    r (o + d) multiply-adds per row take the place of o d. The truncated singular value decomposition is the best
    choice in the Frobenius norm, and leaves an error of sqrt(sum of s_i**2 for i > r) there (Eckart and Young 1936; for
    networks Denton et al. 2014). Class: approx, measured; exact when the weight has rank r.
    """

    name: ClassVar[str] = "svd_linear"
    source: ClassVar[str] = "Denton et al. 2014, Exploiting linear structure within convolutional networks"
    rank: int = 16

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        pattern = node("linear", value("x"), value("weight"))
        return (Rewrite("truncated_svd", pattern, self._factorize, Exactness.APPROX),)

    def _factorize(self, match: Match, build: Builder) -> Outcome:
        weight = known_array(match, "weight")
        if isinstance(weight, Refusal):
            return weight
        if not 1 <= self.rank <= min(weight.shape):
            return Refusal(f"rank {self.rank} is not between 1 and {min(weight.shape)}, the full rank")
        left, right = truncated_svd(weight, self.rank)
        dtype = match.type("weight").dtype
        inner = build.node("linear", (match["x"], build.constant(stored(right, dtype), "right")))
        return build.node("linear", (inner, build.constant(stored(left, dtype), "left")))


def truncated_svd(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """The closest product [m, rank] [rank, n] to a matrix [m, n], with the singular values shared evenly."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]
