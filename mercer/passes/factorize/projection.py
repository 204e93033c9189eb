"""Kernel machines on randomly projected inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, one_of, stored
from mercer.passes.factorize.kernel_machines import EXPANSION, Expansion
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

MATRICES = ("orthogonal", "normal", "sign")
KERNELS = (
    *("gaussian", "matern12", "matern32", "matern52", "inverse_multiquadric", "rational_quadratic"),
    *("polynomial", "arc_cosine"),
)
"""Kernels of distances or dot products alone, which a projection nearly keeps."""


@dataclass(frozen=True)
class Projection(Approximation):
    """`kernel_machine` on x[n, d] with centers C becomes one on x P^T with centers C P^T, where P is [dim, d].

    Distances and dot products are kept up to a part of about sqrt(8 log(m)/dim) (Johnson and Lindenstrauss 1984), so
    that kernels of these alone are nearly kept. P is drawn with `seed`: orthonormal rows times sqrt(d/dim) (Dasgupta
    and Gupta 2003), independent normal numbers, or independent signs (Achlioptas 2003), both over sqrt(dim). With m
    centers, dim (d + m) multiply-adds per row take the place of d m. Class: approx, measured; `orthogonal` keeps every
    distance at dim = d.
    """

    name: ClassVar[str] = "projection"
    source: ClassVar[str] = "Johnson and Lindenstrauss 1984, Extensions of Lipschitz mappings into a Hilbert space"
    dim: int = 32
    matrix: str = "orthogonal"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self, "matrix", MATRICES)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("johnson_lindenstrauss", EXPANSION, self._project, Exactness.APPROX),)

    def _project(self, match: Match, build: Builder) -> Outcome:
        found = Expansion.of(match, build.library)
        if isinstance(found, Refusal):
            return found
        if found.kernel.name not in KERNELS:
            return Refusal(f"the kernel {found.kernel.name} is not known to depend on distances or dot products alone")
        given = found.centers.shape[1]
        if not 1 <= self.dim <= given:
            return Refusal(f"{self.dim} dimensions are not between 1 and the {given} of the input")
        matrix = stored(projection(self.matrix, self.dim, given, self.seed), found.dtype)
        x = build.node("linear", (found.x, build.constant(matrix, "projection")))
        return found.build(build, x, found.centers @ matrix.astype(np.float64).T, found.weight)


def projection(matrix: str, rows: int, columns: int, seed: int) -> Matrix:
    """A random matrix [rows, columns] that keeps squared norms in the mean."""
    random = np.random.default_rng(seed)
    if matrix == "sign":
        return random.choice([-1.0, 1.0], (rows, columns)) / np.sqrt(rows)
    normal = random.standard_normal((rows, columns))
    if matrix == "normal":
        return normal / np.sqrt(rows)
    return np.linalg.qr(normal.T)[0].T * np.sqrt(columns / rows)
