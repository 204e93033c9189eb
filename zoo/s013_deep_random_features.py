"""S013 Deep random features (Schroeder et al. 2023): reference.

f(x) = theta^T erf(W_L ... erf(W_1 x)); Omega_l = kappa_1^2 W Omega W^T + kappa_*^2 I with the Gaussian averages kappa
by Gauss-Hermite quadrature, kappa_1 = E[z phi(z)]/r (Stein's lemma).
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import erf

SAMPLES = [{"N": 2}, {"N": 5}]
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def average(values: Array) -> float:
    return float(WEIGHTS @ values / WEIGHTS.sum())


def reference(p: dict[str, Array], x: Array, omega: Array) -> tuple[Array, Array, Array]:
    r = np.trace(omega) / len(omega)
    for i in range(3):
        w = p[f"random_layer.{i}.weight"] / np.sqrt(x.shape[1])
        z = np.sqrt(r) * NODES
        first, power = average(z * erf(z)) / r, average(erf(z) ** 2)
        omega = first**2 * w @ omega @ w.T + (power - r * first**2) * np.eye(len(w))
        x, r = erf(x @ w.T), power
    theta = p["theta"]
    return x @ theta.T, omega, np.array([row @ omega @ row for row in theta])


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    root = rng.normal(size=shapes["omega"])
    omega = root @ root.T / len(root)
    return {"x": rng.multivariate_normal(np.zeros(len(root)), omega, shapes["x"][0]), "omega": omega}
