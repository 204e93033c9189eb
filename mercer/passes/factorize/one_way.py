"""Two-dimensional convolutions as a vertical and a horizontal one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation
from mercer.passes.factorize.convolutions import Convolution, convolution
from mercer.passes.factorize.svd_linear import truncated_svd
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class OneWay(Approximation):
    """`conv2d` becomes a k x 1 convolution to `rank` channels, then a 1 x l convolution to the outputs.

    W[o, c, i, j] = sum over r of H[o, r, j] V[r, c, i] (Jaderberg et al. 2014, scheme 2). As a matrix of c k rows and
    o l columns this is a product of rank r, so that the truncated singular value decomposition is the best choice in
    the Frobenius norm (Tai et al. 2016, theorem 1). In a grouped convolution every group has its own `rank` channels; a
    depthwise kernel of rank 1 is separable. rank (c k + o l) multiply-adds per output position take the place of
    c o k l. Class: approx, measured; exact where the matrix has this rank.
    """

    name: ClassVar[str] = "one_way"
    source: ClassVar[str] = "Jaderberg et al. 2014, Speeding up convolutional neural networks with low rank expansions"
    rank: int = 8

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("vertical_horizontal", convolution("conv2d"), self._factorize, Exactness.APPROX),)

    def _factorize(self, match: Match, build: Builder) -> Outcome:
        found = Convolution.of(match)
        if isinstance(found, Refusal):
            return found
        groups = np.split(found.weight, found.groups)
        out, channels, rows, columns = groups[0].shape
        most = min(channels * rows, out * columns)
        if not 1 <= self.rank <= most:
            return Refusal(f"rank {self.rank} is not between 1 and {most}, the full rank")
        pairs = [truncated_svd(g.transpose(1, 2, 0, 3).reshape(channels * rows, -1), self.rank) for g in groups]
        vertical = [left.T.reshape(self.rank, channels, rows, 1) for left, _ in pairs]
        horizontal = [right.reshape(self.rank, out, columns).transpose(1, 0, 2)[:, :, None] for _, right in pairs]
        geometry = found.geometry
        y = found.build(build, found.x, np.concatenate(vertical), geometry.only(0), found.groups)
        return found.build(build, y, np.concatenate(horizontal), geometry.only(1), found.groups)
