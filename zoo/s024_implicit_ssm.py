"""S024 implicit SSM (Schoene et al. 2025): reference. z_t = f(z_t, Lambda(z_t, x_t) h_{t-1} + u(z_t, x_t), x_t).

A non-linear RNN: at every token scipy.optimize.root solves for z_t; both modes are held to it.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import root
from scipy.special import expit

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 5}]
Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    return {"tokens": rng.integers(0, 10, shapes["tokens"]).astype(np.int32)}


def implicit(p: Params, x: np.ndarray) -> np.ndarray:
    """One sequence, x: [l, d]."""
    w = {k.removeprefix("lm.implicit.ssm."): v for k, v in p.items()}
    h, y = np.zeros(len(w["gate_b"])), np.zeros_like(x)

    def state(z: np.ndarray, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        decay = expit(w["gate_z"] @ z + w["gate_x"] @ x + w["gate_b"])
        return decay * h + (1 - decay) * (w["input_z"] @ z + w["input_x"] @ x)

    def residual(z: np.ndarray, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        return np.tanh(w["out_z"] @ z + w["out_h"] @ state(z, x, h) + w["out_x"] @ x) - z

    for t, row in enumerate(x):
        solution = root(residual, np.zeros_like(h), args=(row, h), tol=1e-12)
        assert solution.success, solution.message
        y[t] = solution.x
        h = state(y[t], row, h)
    return y


def norm(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 2.0**-23) * p[f"lm.{name}.weight"]


def linear(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"lm.{name}.weight"].T + p.get(f"lm.{name}.bias", 0)


def reference(p: Params, tokens: np.ndarray) -> np.ndarray:
    h = p["lm.embedding.weight"][tokens]
    h = h + linear(p, "mix", np.stack([implicit(p, row) for row in norm(p, "norm1", h)]))
    u = linear(p, "up", norm(p, "norm2", h))
    h = h + linear(p, "down", u * expit(u))
    return linear(p, "head", norm(p, "norm", h))
