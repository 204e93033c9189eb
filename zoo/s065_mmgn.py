"""S065 MMGN (Luo et al. 2024): reference. A multiplicative Gabor network modulated by one latent vector per frame.

Point by point and from the output backwards: `carry` maps what is added at a layer to the field, so that f(x, t) is the
sum of carry . (V_l z_t + b_l) over the layers, linear in each layer's latent term, plus carry . g_1(x).
"""

from __future__ import annotations

import numpy as np

SAMPLES = [{"N": 2, "P": 7}, {"N": 3, "P": 5}]
DEPTH = 3

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"x": rng.uniform(-1, 1, shapes["x"]), "frame": rng.permutation(5)[: shapes["frame"][0]]}


def gabor(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    frequency, phase, center, gamma = (p[f"{name}.{k}"] for k in ("frequency", "phase", "center", "gamma"))
    return np.array(
        [
            np.exp(-gamma[m] / 2 * ((x - center[m]) ** 2).sum()) * np.sin(frequency[m] @ x + phase[m])
            for m in range(len(gamma))
        ]
    )


def reference(p: Params, x: np.ndarray, frame: np.ndarray) -> np.ndarray:
    y = np.empty((*x.shape[:2], 1))
    for n, points in enumerate(x):
        z = p["embedding.weight"][frame[n]]
        for i, point in enumerate(points):
            carry, value = p["out.weight"][0], p["out.bias"][0]
            for layer in range(DEPTH - 1, 0, -1):
                b = f"layers.{layer}."
                carry = carry * gabor(p, b + "gabor_filter", point)
                value += carry @ (p[b + "modulation.weight"] @ z + p[b + "space.bias"])
                carry = carry @ p[b + "space.weight"]
            y[n, i, 0] = value + carry @ gabor(p, "gabor_filter", point)
    return y
