"""Solves with a constant matrix become products with its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.factorize.approximation import Matrix, known_array, stored
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, node, value
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

SOLVES = ("solve", "solve_positive", "triangular_solve")


@dataclass(frozen=True)
class ConstantSolve(RewritePass):
    """`solve`, `solve_positive` or `triangular_solve` of a constant matrix becomes `matmul` with its inverse.

    The steps of a solve wait for each other, those of a product do not; and the inverse joins what else is constant in
    a chain of matrices. What a Gaussian process does per query, k(x, X) K^-1 k(X, x), has such a solve. Errors of both
    forms grow with the condition number (Higham 2002, section 14.1), so one above `max_condition` is refused, and so is
    a matrix without the property that the operator asks for. Needs a Graph after `bind` and `fold`. Class: real; the
    inverse is computed in f64 and rounded once.
    """

    name: ClassVar[str] = "constant_solve"
    source: ClassVar[str] = "Higham 2002, Accuracy and stability; Rasmussen and Williams 2006, Gaussian processes"
    max_condition: float = 1e4

    def rewrites(self) -> Sequence[Rewrite]:
        pattern = node(SOLVES, value("matrix"), value("right"))
        return (Rewrite("to_product", pattern, self._invert, Exactness.REAL),)

    def _invert(self, match: Match, build: Builder) -> Outcome:
        known = known_array(match, "matrix")
        if isinstance(known, Refusal):
            return known
        matrix = _used(match.root, known)
        if match.root.operator == "solve_positive" and np.linalg.eigvalsh(matrix).min() <= 0:
            return Refusal(f"%{match['matrix']} is not positive definite")
        condition = float(np.max(np.linalg.cond(matrix)))
        if not condition <= self.max_condition:
            return Refusal(f"the condition number of %{match['matrix']} is {condition:.1e}")
        inverse = stored(np.linalg.inv(matrix), match.type("matrix").dtype)
        return build.node("matmul", (build.constant(inverse, "inverse"), match["right"]))


def _used(solved: Node, matrix: Matrix) -> Matrix:
    """The matrix of the system: the operators for triangular and for symmetric ones read a lower triangle only."""
    if solved.operator == "solve":
        return matrix
    lower = np.tril(matrix)
    if solved.operator == "solve_positive":
        return lower + np.swapaxes(np.tril(matrix, -1), -1, -2)
    return np.swapaxes(lower, -1, -2) if solved.attribute("transposed") is True else lower
