"""Kernel expansions with constant centers and weights, as the approximating passes read and build them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mercer.ir.graph import KernelValue
from mercer.ir.library import Library
from mercer.ir.types import DType
from mercer.passes.factorize.approximation import Matrix, compute, known_array, solved, stored
from mercer.passes.patterns import Match, node, value
from mercer.passes.rewrite import Builder, Refusal

EXPANSION = node("kernel_machine", value("x"), value("centers"), value("weight"))
RANK_TOLERANCE = 1e-10
"""Eigenvalues of a Gram matrix below this part of the largest count as zero."""
NEGATIVE_TOLERANCE = 1e-6
"""The same for negative eigenvalues, before a kernel counts as indefinite."""


@dataclass(frozen=True)
class Expansion:
    """f(x) = sum over m of weight[o, m] kernel(x, centers[m])."""

    x: str
    centers: Matrix
    weight: Matrix
    kernel: KernelValue
    dtype: DType
    library: Library

    @staticmethod
    def of(match: Match, library: Library) -> Expansion | Refusal:
        """What EXPANSION has matched."""
        centers, weight = known_array(match, "centers"), known_array(match, "weight")
        if isinstance(centers, Refusal):
            return centers
        if isinstance(weight, Refusal):
            return weight
        kernel = match.root.attribute("kernel")
        assert isinstance(kernel, KernelValue)
        return Expansion(match["x"], centers, weight, kernel, match.type("weight").dtype, library)

    def gram(self, left: Matrix, right: Matrix) -> Matrix:
        """kernel(left[i], right[j])"""
        return compute(self.library, "kernel_matrix", (left, right), {"kernel": self.kernel})

    def positive_gram(self) -> Matrix | Refusal:
        """The Gram matrix of the centers, when it is positive semidefinite."""
        gram = self.gram(self.centers, self.centers)
        values = np.linalg.eigvalsh(gram)
        if values[0] < -NEGATIVE_TOLERANCE * values[-1]:
            return Refusal(f"the Gram matrix of the centers has the negative eigenvalue {values[0]:.3g}")
        return gram

    def build(self, build: Builder, x: str, centers: Matrix, weight: Matrix) -> str:
        """A kernel machine with other centers and weights."""
        constants = (
            build.constant(stored(centers, self.dtype), "centers"),
            build.constant(stored(weight, self.dtype), "weight"),
        )
        return build.node("kernel_machine", (x, *constants), {"kernel": self.kernel})


def projected(weight: Matrix, gram: Matrix, kept: Sequence[int]) -> Matrix:
    """Weights [o, kept] of the closest expansion over the kept centers, in the norm of the kernel's Hilbert space.

    The orthogonal projection of f = sum of weight[m] k(c[m], .) is weight K[:, kept] K[kept, kept]^+.
    """
    inner = gram[np.ix_(kept, kept)]
    return solved(inner, gram[kept] @ weight.T, RANK_TOLERANCE).T


def distance(weight: Matrix, other: Matrix, gram: Matrix, kept: Sequence[int]) -> float:
    """The norm of the difference of two expansions in the kernel's Hilbert space; `other` is over the kept centers."""
    rest = weight.copy()
    rest[:, kept] -= other
    return float(np.sqrt(max(np.einsum("om,mn,on->", rest, gram, rest), 0.0)))
