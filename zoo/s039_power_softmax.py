"""S039 Power-Softmax (Zimerman et al. 2024): reference. P_ij = s_ij^p / (eps + sum_j s_ij^p), s = Q K^T / sqrt(d).

Goldschmidt's product (1 + e)(1 + e^2)(1 + e^4)... for 1/d with e = 1 - d/bound is the geometric series, summed here in
closed form: (1 - e^(2^steps))/d.
"""

from __future__ import annotations

import numpy as np

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 5}]
HEADS = 4
Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    return {"tokens": rng.integers(0, 20, shapes["tokens"]).astype(np.int32)}


def parameters(_: np.random.Generator, p: Params) -> Params:
    """Small enough for the ranges: variances below 3 and sums of powers below 8."""
    return {k: 0.7 * v if k.endswith(("embedding.weight", "qkv.weight")) else v for k, v in p.items()}


def inverse(d: np.ndarray, steps: int) -> np.ndarray:
    assert d.max() < 8, d.max()
    return (1 - (1 - d / 4) ** 2**steps) / d if steps else 1 / d


def inverse_sqrt(v: np.ndarray, steps: int) -> np.ndarray:
    """Newton: y_{t+1} = y_t (3 - v y_t^2)/2 from y_0 = 1."""
    if not steps:
        return v**-0.5
    assert v.max() < 3, v.max()
    y = np.ones_like(v)
    for _ in range(steps):
        y = y * (1.5 - v * y * y / 2)
    return y


def norm(p: Params, name: str, x: np.ndarray, steps: int) -> np.ndarray:
    factor = inverse_sqrt(x.var(-1) + 1e-5, steps)[..., None]
    return (x - x.mean(-1, keepdims=True)) * factor * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: Params, name: str, x: np.ndarray, steps: int) -> np.ndarray:
    _, length, d = x.shape
    width = d // HEADS
    q, k, v = np.split(x @ p[f"{name}.qkv.weight"].T, 3, axis=-1)
    y = np.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        for i in range(length):
            s = np.einsum("nd,njd->nj", q[:, i, part], k[:, : i + 1, part]) / width**0.5
            weight = s**4 * inverse(0.1 + (s**4).sum(1, keepdims=True), steps)
            y[:, i, part] = np.einsum("nj,njd->nd", weight, v[:, : i + 1, part])
    return y @ p[f"{name}.out.weight"].T


def decoder(p: Params, tokens: np.ndarray, steps: int) -> np.ndarray:
    h = p["lm.embedding.weight"][tokens]
    for i in range(2):
        b = f"lm.blocks.{i}."
        h = h + attention(p, b + "attention", norm(p, b + "norm1", h, steps), steps)
        u = norm(p, b + "norm2", h, steps) @ p[b + "up.weight"].T + p[b + "up.bias"]
        h = h + (0.5 * u + 0.25 * u**2) @ p[b + "down.weight"].T + p[b + "down.bias"]
    return norm(p, "lm.norm", h, steps) @ p["lm.head.weight"].T


def exact(p: Params, tokens: np.ndarray) -> np.ndarray:
    return decoder(p, tokens, 0)


def polynomial(p: Params, tokens: np.ndarray) -> np.ndarray:
    return decoder(p, tokens, 4)


REFERENCES = {"PowerSoftmaxLM": exact, "PolynomialLM": polynomial}
reference = exact
