"""Convolutions as chains along one axis at a time, by the canonical polyadic decomposition of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix
from mercer.passes.factorize.convolutions import Convolution, convolution
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

TOLERANCE = 1e-9
"""Alternating least squares stop when the relative error falls by less."""
RIDGE = 1e-12
"""Of the mean diagonal of the normal equations, against columns that become parallel."""


@dataclass(frozen=True)
class CpConv(Approximation):
    """A convolution becomes c to `rank` channels pointwise, a depthwise one per spatial axis, `rank` to o pointwise.

    W[o, c, i, j] = sum over r of O[o, r] C[c, r] A[i, r] B[j, r] (Lebedev et al. 2015), found by at most `iterations`
    of alternating least squares. The best of `starts` runs is kept: the first begins with the leading singular vectors
    of the unfoldings, filled up with normal numbers of `seed`, the others with normal numbers. With a k x l window,
    rank (c + k + l + o) multiply-adds per output position take the place of k l c o. Class: approx, measured; the error
    falls with the rank and vanishes at that of the tensor, as far as alternating least squares find the optimum.
    """

    name: ClassVar[str] = "cp_conv"
    source: ClassVar[str] = (
        "Lebedev et al. 2015, Speeding-up convolutional neural networks using fine-tuned CP-decomposition"
    )
    rank: int = 16
    iterations: int = 300
    starts: int = 2
    seed: int = 0

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("canonical_polyadic", convolution(), self._factorize, Exactness.APPROX),)

    def _factorize(self, match: Match, build: Builder) -> Outcome:
        found = Convolution.of(match)
        if isinstance(found, Refusal):
            return found
        if found.groups != 1:
            return Refusal(f"the channels are in {found.groups} groups")
        if self.rank < 1:
            return Refusal(f"rank {self.rank} is below 1")
        out, channels, *window = cp(found.weight, self.rank, self.iterations, self.starts, self.seed)
        y = found.pointwise(build, found.x, channels.T)
        for axis, factor in enumerate(window):
            shape = [self.rank, 1, *(len(factor) if i == axis else 1 for i in range(len(window)))]
            y = found.build(build, y, factor.T.reshape(shape), found.geometry.only(axis), groups=self.rank)
        return found.pointwise(build, y, out)


def cp(tensor: Matrix, rank: int, iterations: int, starts: int = 1, seed: int = 0) -> list[Matrix]:
    """Factors [n_i, rank], one per axis, whose columns multiply and add up to a tensor (Kolda and Bader 2009, 3.4)."""
    runs = [_run(tensor, rank, iterations, np.random.default_rng((seed, start)), start) for start in range(starts)]
    return min(runs, key=lambda run: run[0])[1]


def _run(
    tensor: Matrix, rank: int, iterations: int, random: np.random.Generator, start: int
) -> tuple[float, list[Matrix]]:
    """The relative error, and the factors with their norms shared evenly."""
    axes = range(tensor.ndim)
    unfolded = [np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1) for axis in axes]
    factors = [_start(matrix, rank, random, leading=start == 0) for matrix in unfolded]
    scale = max(float(np.linalg.norm(tensor)), 1e-300)
    error = np.inf
    for _ in range(iterations):
        for axis in axes:
            others = [factors[other] for other in axes if other != axis]
            gram = reduce(np.multiply, (factor.T @ factor for factor in others))
            gram = gram + RIDGE * np.trace(gram) / rank * np.eye(rank)
            right = unfolded[axis] @ reduce(_khatri_rao, others)
            factors[axis] = np.linalg.lstsq(gram, right.T, rcond=None)[0].T
        factors = _balanced(factors)
        rest = unfolded[0] - factors[0] @ reduce(_khatri_rao, factors[1:]).T
        previous, error = error, float(np.linalg.norm(rest)) / scale
        if previous - error < TOLERANCE:
            break
    return error, factors


def _start(matrix: Matrix, rank: int, random: np.random.Generator, leading: bool) -> Matrix:
    """Leading left singular vectors, filled up with normal numbers, or normal numbers alone."""
    factor = random.standard_normal((matrix.shape[0], rank)) / np.sqrt(matrix.shape[0])
    if leading:
        vectors = np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
        factor[:, : vectors.shape[1]] = vectors
    return factor


def _khatri_rao(left: Matrix, right: Matrix) -> Matrix:
    """Column by column Kronecker product."""
    return (left[:, None, :] * right[None, :, :]).reshape(-1, left.shape[1])


def _balanced(factors: list[Matrix]) -> list[Matrix]:
    """Columns of the same norm in every factor."""
    norms = [np.maximum(np.linalg.norm(factor, axis=0), 1e-300) for factor in factors]
    shared = np.exp(sum(np.log(norm) for norm in norms) / len(norms))
    return [factor * (shared / norm) for factor, norm in zip(factors, norms, strict=True)]
