"""Spectral convolutions on fewer modes."""

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
class Modes(Approximation):
    """A spectral convolution keeps the weights of the `modes` lowest frequencies of every axis, 0 to `modes` - 1.

    Of the rows of an image, which have frequencies of both signs, it keeps -`modes` to `modes` - 1. Higher frequencies
    of the output become 0, so that the squared error is the energy of the output in the dropped modes (Parseval), small
    for smooth functions (Li et al. 2021, section 4). `modes` = 0 drops those whose weights are all zero. Multiply-adds
    of the product fall by the share of modes. Class: approx, measured; real for `modes` = 0.
    """

    name: ClassVar[str] = "modes"
    source: ClassVar[str] = "Li et al. 2021, Fourier neural operator for parametric partial differential equations"
    modes: int = 0

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        exactness = Exactness.REAL if self.modes == 0 else Exactness.APPROX
        operands = value("x"), value("re"), value("im")
        return (
            Rewrite("low_modes", node("spectral_conv1d", *operands), self._truncate, exactness),
            Rewrite("low_modes_of_images", node("spectral_conv2d", *operands), self._truncate, exactness),
        )

    def _truncate(self, match: Match, build: Builder) -> Outcome:
        parts = known_array(match, "re"), known_array(match, "im")
        re, im = parts
        if isinstance(re, Refusal):
            return re
        if isinstance(im, Refusal):
            return im
        if self.modes < 0:
            return Refusal(f"{self.modes} modes are fewer than none")
        weight = re + 1j * im
        kept = _axes(weight.shape[2:], self.modes or _used(np.abs(weight).max(axis=(0, 1))))
        if all(len(places) == size for places, size in zip(kept, weight.shape[2:], strict=True)):
            return Refusal("every mode has a weight" if self.modes == 0 else f"there are no modes above {self.modes}")
        weight = weight[np.ix_(range(weight.shape[0]), range(weight.shape[1]), *kept)]
        dtype = match.type("re").dtype
        constants = (
            build.constant(stored(weight.real, dtype), "re"),
            build.constant(stored(weight.imag, dtype), "im"),
        )
        return build.node(match.root.operator, (match["x"], *constants), dict(match.root.attributes))


def _axes(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The places of the low frequencies on every axis: the last one has 0, 1, ..., the others negative ones as well."""
    *rows, last = sizes
    both = [[*range(min(count, size // 2)), *range(size - min(count, size // 2), size)] for size in rows]
    return [*both, list(range(min(count, last)))]


def _used(size: Matrix) -> int:
    """The fewest modes, at least 1, beyond which all weights are zero."""
    for count in range(1, max(size.shape) + 1):
        rest = size.copy()
        rest[np.ix_(*_axes(size.shape, count))] = 0.0
        if not rest.any():
            return count
    return max(size.shape)
