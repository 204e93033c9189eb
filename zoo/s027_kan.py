"""S027 KAN (Liu et al. 2024): reference. phi(x) = w_b SiLU(x) + w_s sum_g c_g B_g(x), B-splines of scipy."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline

SAMPLES = [{"N": 2}, {"N": 17}]
ORDER, LOW, HIGH = 3, -2.0, 2.0


def layer(p: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    coefficients = p[f"{name}.spline_weight"] * p[f"{name}.spline_scale"][..., None]
    outputs, inputs, count = coefficients.shape
    step = (HIGH - LOW) / (count - ORDER)
    knots = LOW + step * np.arange(-ORDER, count + 1)
    elements = [BSpline.basis_element(knots[g : g + ORDER + 2], extrapolate=False) for g in range(count)]
    y = np.zeros((len(x), outputs))
    for i in range(inputs):
        silu = x[:, i] / (1 + np.exp(-x[:, i]))
        basis = np.stack([np.nan_to_num(b(x[:, i])) for b in elements], 1)
        y += np.outer(silu, p[f"{name}.base_weight"][:, i]) + basis @ coefficients[:, i].T
    return y


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    h = layer(p, "kan_linear.1", layer(p, "kan_linear.0", x))
    a, b, c, d = np.moveaxis(p["symbolic_kan.affine"], -1, 0)
    return np.stack([(c * np.sin(a * row + b) + d).sum(1) for row in h])
