"""Kernel machines as linear functions of random features of a few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, compute, stored
from mercer.passes.factorize.kernel_machines import EXPANSION, Expansion
from mercer.passes.factorize.random_features import SPECTRA
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class SigmaDelta(Approximation):
    """`kernel_machine` becomes `count` random Fourier features of `bits` bits, condensed to count/block sums.

    With features z(x) = cos(W x + phase), their Sigma-Delta codes q(x) and the sums V of blocks of `block` features,
    k(x, y) is nearly (Vq(x)) . (Vq(y)), so that f(x) = W k(x, C) is nearly (W Vq(C)) Vq(x), and W Vq(C) is computed
    now. Frequencies come from the spectral density of a stationary kernel, phases are uniform and independent, so that
    products of different features of a block vanish in the mean; both are drawn with `seed`. The error of the codes
    falls as 1/sqrt(block), that of the features as sqrt(block/count). Class: approx, measured.
    """

    name: ClassVar[str] = "sigma_delta"
    source: ClassVar[str] = "Zhang et al. 2021, Sigma-Delta and distributed noise-shaping quantization of features"
    count: int = 512
    bits: int = 1
    block: int = 8
    seed: int = 0

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("sigma_delta", EXPANSION, self._replace, Exactness.APPROX),)

    def _replace(self, match: Match, build: Builder) -> Outcome:
        found = Expansion.of(match, build.library)
        if isinstance(found, Refusal):
            return found
        if not 1 <= self.bits <= 7:
            return Refusal(f"codes have 1 to 7 bits, not {self.bits}")
        if self.block < 1 or self.count < 1 or self.count % self.block:
            return Refusal(f"{self.count} features do not divide into blocks of {self.block}")
        if found.kernel.name not in SPECTRA:
            return Refusal(f"the random features of the kernel {found.kernel.name} are not known")
        random = np.random.default_rng(self.seed)
        normal = random.standard_normal((self.count, found.centers.shape[1]))
        frequency = stored(SPECTRA[found.kernel.name](found.kernel, normal, random), found.dtype)
        phase = stored(random.uniform(0.0, 2.0 * math.pi, self.count), found.dtype)
        attributes = {"block": self.block, "bits": self.bits}
        constants = build.constant(frequency, "frequency"), build.constant(phase, "phase")
        mapped = build.node("sigma_delta_features", (found.x, *constants), attributes)
        known = compute(build.library, "sigma_delta_features", (found.centers, frequency, phase), attributes)
        return build.node("linear", (mapped, build.constant(stored(found.weight @ known, found.dtype), "weight")))
