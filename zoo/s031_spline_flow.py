"""S031 Neural Spline Flows (Durkan et al. 2019): reference. Monotonic rational-quadratic couplings.

One spline at a time: the rational function is that of the paper, its derivative comes from autograd, and the inverse is
found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2}, {"N": 7}]
BOUND, BINS = 3.0, 5
Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    """Some of them in the tails."""
    return {name: 1.8 * rng.standard_normal(shape) for name, shape in shapes.items()}


def spline(t: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The spline of 3*BINS - 1 numbers, as a function of one number."""
    corner = torch.zeros(1, dtype=t.dtype)
    x = 2 * BOUND * torch.cat([corner, torch.cumsum(F.softmax(t[:BINS], 0), 0)]) - BOUND
    y = 2 * BOUND * torch.cat([corner, torch.cumsum(F.softmax(t[BINS : 2 * BINS], 0), 0)]) - BOUND
    d = torch.cat([corner + 1, F.softplus(t[2 * BINS :]), corner + 1])

    def value(v: torch.Tensor) -> torch.Tensor:
        if abs(float(v.detach())) > BOUND:
            return 1 * v
        k = min(max(int(torch.searchsorted(x, v.detach(), right=True)) - 1, 0), BINS - 1)
        rise = y[k + 1] - y[k]
        s = rise / (x[k + 1] - x[k])
        xi = (v - x[k]) / (x[k + 1] - x[k])
        mixed = xi * (1 - xi)
        return y[k] + rise * (s * xi**2 + d[k] * mixed) / (s + (d[k + 1] + d[k] - 2 * s) * mixed)

    return value


def splines(p: Params, i: int, condition: np.ndarray) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    q = {k: torch.from_numpy(v) for k, v in p.items() if k.startswith(f"flow.{i}.step.")}
    w0, b0, w1, b1 = (q[f"flow.{i}.step.linear.{j}.{kind}"] for j in range(2) for kind in ("weight", "bias"))
    t = w1 @ F.relu(w0 @ torch.from_numpy(condition) + b0) + b1
    return [spline(row) for row in t.view(len(condition), 3 * BINS - 1)]


def density(p: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z, logp = x.copy(), np.zeros(len(x))
    for n, row in enumerate(z):
        for i in range(3):
            for j, f in enumerate(splines(p, i, row[:2])):
                v = torch.tensor(row[2 + j], requires_grad=True)
                y = f(v)
                (slope,) = torch.autograd.grad(y, v)
                row[2 + j] = float(y.detach())
                logp[n] += math.log(float(slope))
            row[:] = row[::-1].copy()
        logp[n] += -0.5 * float(row @ row) - 2 * math.log(2 * math.pi)
    return z, logp


def invert(f: Callable[[torch.Tensor], torch.Tensor], y: float) -> float:
    if abs(y) > BOUND:
        return y
    low, high = -BOUND, BOUND
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(f(torch.tensor(middle, dtype=torch.float64))) < y else (low, middle)
    return (low + high) / 2


def sample(p: Params, z: np.ndarray) -> np.ndarray:
    x = z.copy()
    for row in x:
        for i in range(3):
            row[:] = row[::-1].copy()
            row[2:] = [invert(f, v) for f, v in zip(splines(p, i, row[:2]), row[2:].tolist(), strict=True)]
    return x


REFERENCES = {"Density": density, "Sample": sample}
reference = density
