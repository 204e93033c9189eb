"""Kernel machines as linear functions of random features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.ir.graph import KernelValue
from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, compute, one_of, stored
from mercer.passes.factorize.couplings import COUPLINGS, normal_rows
from mercer.passes.factorize.kernel_machines import EXPANSION, Expansion
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

FEATURES = ("fourier", "positive")


@dataclass(frozen=True)
class RandomFeatures(Approximation):
    """`kernel_machine` becomes `count` random features of x and a linear layer.

    k(x, y) is the mean of products z(x) . z(y) of random features, so that f(x) = W k(x, C) is nearly (W z(C)) z(x),
    and W z(C) is computed now. Stationary kernels have the features cos(w . x), sin(w . x) with w from the spectral
    density (Rahimi and Recht 2007; pairs as in Sutherland and Schneider 2015), arc-cosine kernels max(w . x, 0)**order
    (Cho and Saul 2009). `features = positive` takes exp(w . u - |u|**2) with u = sqrt(2 gamma) x for the Gaussian
    kernel (Choromanski et al. 2021). The vectors w are `iid`, `orthogonal` or `simplex` (`couplings.normal_rows`),
    drawn with `seed`. For m centers, multiply-adds fall by about the factor count/m. Class: approx, measured; the error
    falls as 1/sqrt(count).
    """

    name: ClassVar[str] = "random_features"
    source: ClassVar[str] = "Rahimi and Recht 2007, Random features for large-scale kernel machines"
    count: int = 64
    coupling: str = "orthogonal"
    features: str = "fourier"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self, "coupling", COUPLINGS)
        one_of(self, "features", FEATURES)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        return (Rewrite("random_features", EXPANSION, self._replace, Exactness.APPROX),)

    def _replace(self, match: Match, build: Builder) -> Outcome:
        found = Expansion.of(match, build.library)
        if isinstance(found, Refusal):
            return found
        if self.count < 2 or self.count % 2:
            return Refusal(f"{self.count} features are not pairs")
        dim = found.centers.shape[1]
        if self.coupling == "simplex" and dim < 2:
            return Refusal("a simplex needs at least 2 dimensions")
        random = np.random.default_rng(self.seed)
        kernel = found.kernel
        if kernel.name == "arc_cosine":
            return self._rectified(found, build, random)
        if self.features == "positive":
            return self._positive(found, build, random)
        if kernel.name not in SPECTRA:
            return Refusal(f"the random features of the kernel {kernel.name} are not known")
        if kernel.name == "laplace" and self.coupling != "iid":
            return Refusal(f"the kernel laplace is not isotropic: its frequencies cannot be {self.coupling}")
        normal = normal_rows(self.coupling, self.count // 2, dim, random)
        frequency = SPECTRA[kernel.name](kernel, normal, random)
        frequency = stored(np.concatenate([frequency, frequency]), found.dtype)
        phase = stored(np.repeat([0.0, -0.5 * math.pi], self.count // 2), found.dtype)
        constants = build.constant(frequency, "frequency"), build.constant(phase, "phase")
        mapped = build.node("random_fourier_features", (found.x, *constants))
        known = compute(build.library, "random_fourier_features", (found.centers, frequency, phase))
        return _combined(found, build, mapped, known)

    def _rectified(self, found: Expansion, build: Builder, random: np.random.Generator) -> Outcome:
        """sqrt(2/count) max(w . x, 0)**order"""
        order = _attribute(found.kernel, "order", 1)
        if order not in (1, 2):
            return Refusal(f"the features of an arc-cosine kernel of order {order:g} are not continuous")
        normal = stored(normal_rows(self.coupling, self.count, found.centers.shape[1], random), found.dtype)
        mapped = build.node("relu", (build.node("linear", (found.x, build.constant(normal, "frequency"))),))
        known = np.maximum(found.centers @ normal.astype(np.float64).T, 0.0)
        if order == 2:
            mapped, known = build.node("square", (mapped,)), known**2
        return _combined(found, build, mapped, known * (2.0 / self.count))

    def _positive(self, found: Expansion, build: Builder, random: np.random.Generator) -> Outcome:
        """exp(w . u - |u|**2)/sqrt(count)"""
        if found.kernel.name != "gaussian":
            return Refusal(f"positive features are those of the Gaussian kernel, not of {found.kernel.name}")
        gamma = _attribute(found.kernel, "gamma", 1.0)
        normal = normal_rows(self.coupling, self.count, found.centers.shape[1], random) * math.sqrt(2.0 * gamma)
        frequency = stored(normal, found.dtype)
        length = stored(np.full((1, found.centers.shape[1]), 2.0 * gamma), found.dtype)
        projected = build.node("linear", (found.x, build.constant(frequency, "frequency")))
        squares = build.node("square", (found.x,))
        squared = build.node("linear", (squares, build.constant(length, "length")))
        mapped = build.node("exp", (build.node("sub", (projected, squared)),))
        lengths = np.sum(found.centers**2, axis=1, keepdims=True) * 2.0 * gamma
        known = np.exp(found.centers @ frequency.astype(np.float64).T - lengths)
        return _combined(found, build, mapped, known / self.count)


def _combined(found: Expansion, build: Builder, mapped: str, known: Matrix) -> str:
    """The linear layer on the features: weight z(C)."""
    return build.node("linear", (mapped, build.constant(stored(found.weight @ known, found.dtype), "weight")))


# --- spectral densities -----------------------------------------------------------------------------------------------


def _gaussian(kernel: KernelValue, normal: Matrix, _: np.random.Generator) -> Matrix:
    return normal * math.sqrt(2.0 * _attribute(kernel, "gamma", 1.0))


def _laplace(kernel: KernelValue, normal: Matrix, random: np.random.Generator) -> Matrix:
    return random.standard_cauchy(normal.shape) * _attribute(kernel, "gamma", 1.0)


def _matern(order: float) -> Callable[[KernelValue, Matrix, np.random.Generator], Matrix]:
    """A multivariate t distribution with 2 nu degrees of freedom (Rasmussen and Williams 2006, equation 4.15)."""

    def spectrum(kernel: KernelValue, normal: Matrix, random: np.random.Generator) -> Matrix:
        freedom = random.chisquare(2.0 * order, (len(normal), 1))
        return normal * np.sqrt(2.0 * order / freedom) / _attribute(kernel, "length", 1.0)

    return spectrum


def _rational_quadratic(kernel: KernelValue, normal: Matrix, random: np.random.Generator) -> Matrix:
    """A mixture of Gaussian kernels whose precision has a gamma distribution (Rasmussen and Williams 2006, 4.2.1)."""
    alpha = _attribute(kernel, "alpha", 1.0)
    precision = random.gamma(alpha, 1.0 / alpha, (len(normal), 1))
    return normal * np.sqrt(precision) / _attribute(kernel, "length", 1.0)


def _inverse_multiquadric(kernel: KernelValue, normal: Matrix, random: np.random.Generator) -> Matrix:
    """The rational quadratic kernel of alpha = 1/2 and length = 1/epsilon."""
    return normal * np.sqrt(random.chisquare(1, (len(normal), 1))) * _attribute(kernel, "epsilon", 1.0)


SPECTRA: dict[str, Callable[[KernelValue, Matrix, np.random.Generator], Matrix]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "matern12": _matern(0.5),
    "matern32": _matern(1.5),
    "matern52": _matern(2.5),
    "rational_quadratic": _rational_quadratic,
    "inverse_multiquadric": _inverse_multiquadric,
}
"""Frequencies of a kernel of the standard library, made from rows of normal numbers."""


def _attribute(kernel: KernelValue, name: str, default: float) -> float:
    value = dict(kernel.attributes).get(name, default)
    assert isinstance(value, int | float)
    return float(value)
