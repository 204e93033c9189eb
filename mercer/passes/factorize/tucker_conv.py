"""Convolutions between few channels, by the Tucker decomposition of the weight over its two channel axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix
from mercer.passes.factorize.convolutions import Convolution, convolution
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class TuckerConv(Approximation):
    """A convolution becomes three: c to `rank_in` channels pointwise, the window, `rank_out` to o channels pointwise.

    W[o, c, ...] = sum over r, s of U[o, r] G[r, s, ...] V[c, s] (Tucker-2; Kim et al. 2016). U and V start as the
    leading singular vectors of the two unfoldings (higher-order SVD; De Lathauwer et al. 2000a), whose squared error is
    at most the sum of the squared singular values left out; `iterations` of alternating improvement follow
    (higher-order orthogonal iteration; De Lathauwer et al. 2000b). With a window of k elements, rank_in c + k rank_in
    rank_out + rank_out o multiply-adds per output position take the place of k c o. A rank that is full leaves its side
    as it is (Tucker-1). Class: approx, measured; exact where the unfoldings have these ranks.
    """

    name: ClassVar[str] = "tucker_conv"
    source: ClassVar[str] = "Kim et al. 2016, Compression of deep CNNs for fast and low power mobile applications"
    rank_in: int = 8
    rank_out: int = 8
    iterations: int = 8

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("tucker2", convolution(), self._factorize, Exactness.APPROX),)

    def _factorize(self, match: Match, build: Builder) -> Outcome:
        found = Convolution.of(match)
        if isinstance(found, Refusal):
            return found
        if found.groups != 1:
            return Refusal(f"the channels are in {found.groups} groups")
        if self.rank_in < 1 or self.rank_out < 1:
            return Refusal(f"ranks {self.rank_in} and {self.rank_out} are not positive")
        out, channels = found.weight.shape[:2]
        if self.rank_in >= channels and self.rank_out >= out:
            return Refusal(f"ranks {self.rank_in} and {self.rank_out} are full for {channels} and {out} channels")
        flat = found.weight.reshape(out, channels, -1)
        left, core, right = tucker2(flat, min(self.rank_out, out), min(self.rank_in, channels), self.iterations)
        if self.rank_in >= channels:
            core, right = np.einsum("rsk,cs->rck", core, right), np.eye(channels)
        if self.rank_out >= out:
            core, left = np.einsum("rsk,or->osk", core, left), np.eye(out)
        y = found.x if self.rank_in >= channels else found.pointwise(build, found.x, right.T)
        y = found.build(build, y, core.reshape(*core.shape[:2], *found.window), found.geometry)
        return y if self.rank_out >= out else found.pointwise(build, y, left)


def tucker2(tensor: Matrix, first: int, second: int, iterations: int) -> tuple[Matrix, Matrix, Matrix]:
    """U[o, first], G[first, second, k] and V[c, second] of tensor[o, c, k]; U and V have orthonormal columns."""
    left, right = _leading(_unfold(tensor, 0), first), _leading(_unfold(tensor, 1), second)
    for _ in range(iterations):
        left = _leading(_unfold(np.einsum("ock,cs->osk", tensor, right), 0), first)
        right = _leading(_unfold(np.einsum("ock,or->rck", tensor, left), 1), second)
    return left, np.einsum("ock,or,cs->rsk", tensor, left, right), right


def _unfold(tensor: Matrix, axis: int) -> Matrix:
    """One axis as rows, the others as columns."""
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def _leading(matrix: Matrix, count: int) -> Matrix:
    """Left singular vectors [m, count] of the largest singular values; completed to a basis where there are fewer."""
    return np.linalg.svd(matrix, full_matrices=matrix.shape[0] > matrix.shape[1])[0][:, :count]
