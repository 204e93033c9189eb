"""S003 Attention as an RNN (Feng et al. 2024): reference.

o_k = softmax over i <= k of q . k_i, times v, prefix by prefix; the streaming step with sums that carry no maximum.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from scipy.special import erf, softmax

SAMPLES = [
    {"model": "Recurrent", "N": 2, "L": 9},
    {"model": "Recurrent", "N": 3, "L": 14},
    {"model": "PrefixScan", "N": 2, "L": 19},
    {"model": "PrefixScan", "N": 3, "L": 32},
    {"model": "Direct", "N": 2, "L": 9},
    {"model": "Direct", "N": 3, "L": 14},
    {"model": "Step", "N": 2},
    {"model": "Step", "N": 3},
]
HEADS = 2
Params = dict[str, Array]


def linear(p: Params, name: str, x: Array) -> Array:
    return x @ p[f"net.{name}.weight"].T + p[f"net.{name}.bias"]


def layer_norm(p: Params, name: str, x: Array) -> Array:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return x * p[f"net.{name}.weight"] + p[f"net.{name}.bias"]


def leaves(p: Params, block: str, h: Array) -> list[tuple[Array, Array]]:
    """For every head the scores [..., L] and the values [..., L, E] of tokens [..., L, D]."""
    h = layer_norm(p, f"{block}.layer_norm", h)
    query = p[f"net.{block}.leaves.query"][:, 0]
    keys = np.split(linear(p, f"{block}.leaves.key", h), HEADS, axis=-1)
    values = np.split(linear(p, f"{block}.leaves.value", h), HEADS, axis=-1)
    return [(k @ q / np.sqrt(len(q)), v) for k, q, v in zip(keys, query, values, strict=True)]


def feed_forward(p: Params, block: str, h: Array) -> Array:
    name = f"{block}.feed_forward"
    y = linear(p, f"{name}.linear.0", layer_norm(p, f"{name}.layer_norm", h))
    return h + linear(p, f"{name}.linear.1", y * (1 + erf(y / np.sqrt(2))) / 2)


def whole(p: Params, x: Array) -> Array:
    h = linear(p, "embed", x)
    for i in range(2):
        block = f"blocks.{i}"
        heads = []
        for s, v in leaves(p, block, h):
            steps = range(1, x.shape[1] + 1)
            heads.append(
                np.stack([np.einsum("nl,nle->ne", softmax(s[:, :k], axis=1), v[:, :k]) for k in steps], axis=1)
            )
        h = feed_forward(p, block, h + linear(p, f"{block}.out", np.concatenate(heads, axis=-1)))
    return linear(p, "head", h)


def step(p: Params, x: Array, m: Array, u: Array, w: Array) -> tuple[Array, ...]:
    m, u, w = m.copy(), u.copy(), w.copy()
    h = linear(p, "embed", x)
    for i in range(2):
        block = f"blocks.{i}"
        heads = []
        for a, (s, v) in enumerate(leaves(p, block, h)):
            total = u[:, i, a] * np.exp(m[:, i, a]) + np.exp(s)
            weighted = w[:, i, a] * np.exp(m[:, i, a])[:, None] + np.exp(s)[:, None] * v
            heads.append(weighted / total[:, None])
            m[:, i, a] = np.maximum(m[:, i, a], s)
            u[:, i, a] = total / np.exp(m[:, i, a])
            w[:, i, a] = weighted / np.exp(m[:, i, a])[:, None]
        h = feed_forward(p, block, h + linear(p, f"{block}.out", np.concatenate(heads, axis=-1)))
    return linear(p, "head", h), m, u, w


REFERENCES = {"Recurrent": whole, "PrefixScan": whole, "Direct": whole, "Step": step}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if "u" in values:
        values["u"] = rng.uniform(1, 3, shapes["u"])
    return values
