"""S021 Sparse transformers (Child et al. 2019): reference. The softmax runs over explicit sets of positions."""

from __future__ import annotations

import functools

import numpy as np
from numpy import ndarray as Array
from scipy.special import erf, softmax

SAMPLES = [{"N": 2, "L": 10}, {"N": 3, "L": 17}]
STRIDE = 4
HEADS = 4
Params = dict[str, Array]


def visible(kind: str, head: int, i: int) -> list[int]:
    local = head % 2 == 0
    if kind == "strided":
        return list(range(max(0, i - STRIDE), i + 1)) if local else list(range(i, -1, -STRIDE))
    if local:
        return list(range(i // STRIDE * STRIDE, i + 1))
    return sorted({*range(STRIDE - 1, i + 1, STRIDE), i})


def linear(p: Params, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(p: Params, name: str, x: Array) -> Array:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: Params, name: str, x: Array, kind: str) -> Array:
    """One sequence: [L, D]."""
    q, k, v = np.split(linear(p, f"{name}.qkv", x), 3, axis=-1)
    size = x.shape[1] // HEADS
    y = np.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            seen = visible(kind, head, i)
            weights = softmax(k[seen, part] @ q[i, part] / np.sqrt(size))
            y[i, part] = weights @ v[seen, part]
    return linear(p, f"{name}.out", y)


def transformer(p: Params, tokens: Array, kind: str) -> Array:
    p = {name.removeprefix("transformer."): value for name, value in p.items()}
    outputs = []
    for sequence in tokens.astype(int):
        x = np.stack([p["embedding.weight"][t] + p["place"][i % STRIDE] for i, t in enumerate(sequence)])
        for b in range(2):
            name = f"blocks.{b}"
            x = x + attention(p, f"{name}.sparse_attention", layer_norm(p, f"{name}.layer_norm.0", x), kind)
            h = linear(p, f"{name}.linear.0", layer_norm(p, f"{name}.layer_norm.1", x))
            x = x + linear(p, f"{name}.linear.1", h * (1 + erf(h / np.sqrt(2))) / 2)
        outputs.append(linear(p, "linear", layer_norm(p, "layer_norm", x)))
    return np.stack(outputs)


REFERENCES = {
    "Strided": functools.partial(transformer, kind="strided"),
    "Fixed": functools.partial(transformer, kind="fixed"),
}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"tokens": rng.integers(0, 11, shapes["tokens"]).astype(np.int32)}
