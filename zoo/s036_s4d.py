"""S036 S4D (Gu et al. 2022): reference. x' = Lambda x + u, y = 2 Re(C x) + D u, by zero-order hold.

A real system of twice the size, discretized by scipy.signal.cont2discrete and simulated step by step.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.signal
from scipy.special import erf

SAMPLES = [
    {"model": "Convolution", "N": 2},
    {"model": "Convolution", "N": 3, "attributes": {"L": 21}},
    {"model": "Recurrence", "N": 2, "L": 16},
    {"model": "Recurrence", "N": 3, "L": 11},
]
Params = dict[str, np.ndarray]


def ssm(p: Params, name: str, u: np.ndarray) -> np.ndarray:
    """u: [n, l, h]."""
    y = np.zeros_like(u)
    for h in range(u.shape[2]):
        real, imag = -np.exp(p[f"{name}.log_a"][h]), p[f"{name}.b"][h]
        a = scipy.linalg.block_diag(*[[[r, -i], [i, r]] for r, i in zip(real, imag, strict=True)])
        b = np.tile([[1.0], [0.0]], (len(real), 1))
        c = 2 * np.stack([p[f"{name}.re"][h], -p[f"{name}.im"][h]], 1).reshape(1, -1)
        system = (a, b, c, np.zeros((1, 1)))
        ad, bd, *_ = scipy.signal.cont2discrete(system, np.exp(p[f"{name}.log_dt"][h]), "zoh")
        state = np.zeros((len(u), len(a)))
        for t in range(u.shape[1]):
            state = state @ ad.T + u[:, t, h : h + 1] @ bd.T
            y[:, t, h] = state @ c[0] + p[f"{name}.d"][h] * u[:, t, h]
    return y


def block(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    y = ssm(p, f"{name}.ssm", x)
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    value, gate = np.split(y @ p[f"{name}.mix.weight"].T + p[f"{name}.mix.bias"], 2, axis=2)
    z = x + value / (1 + np.exp(-gate))
    z = (z - z.mean(2, keepdims=True)) / np.sqrt(z.var(2, keepdims=True) + 1e-5)
    return z * p[f"{name}.norm.weight"] + p[f"{name}.norm.bias"]


def reference(p: Params, x: np.ndarray) -> np.ndarray:
    h = x @ p["embed.weight"].T + p["embed.bias"]
    h = block(p, "blocks.1.block", block(p, "blocks.0.block", h))
    return h.mean(1) @ p["head.weight"].T + p["head.bias"]
