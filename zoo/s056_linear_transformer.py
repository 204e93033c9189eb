"""S056 Linear transformers (Katharopoulos et al. 2020): reference. o_i = sum_j phi(q_i).phi(k_j) v_j / the same of 1.

The attention matrix of every head is formed whole. The step continues a prefix whose keys and values are folded into
the state that it is given.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [
    {"model": "Bidirectional", "N": 2, "L": 6},
    {"model": "Bidirectional", "N": 3, "L": 4},
    {"model": "Parallel", "N": 2, "L": 6},
    {"model": "Parallel", "N": 3, "L": 9},
    {"model": "Recurrent", "N": 2, "L": 6},
    {"model": "Recurrent", "N": 3, "L": 9},
    {"model": "Step", "N": 2},
    {"model": "Step", "N": 3},
]

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Sums of features are positive."""
    return {k: rng.uniform(0.5, 3, s) if k == "mass" else rng.standard_normal(s) for k, s in shapes.items()}


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def norm(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    weight, bias = torch.from_numpy(p[name + ".weight"]), torch.from_numpy(p[name + ".bias"])
    return F.layer_norm(torch.from_numpy(x), weight.shape, weight, bias).numpy()


def feature(x: np.ndarray) -> np.ndarray:
    return F.elu(torch.from_numpy(x)).numpy() + 1


def feed_forward(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    u = F.gelu(torch.from_numpy(dense(p, name + ".up", norm(p, name + ".layer_norm", x)))).numpy()
    return x + dense(p, name + ".down", u)


def transformer(p: Params, x: np.ndarray, causal: bool) -> np.ndarray:
    for i in range(2):
        b = f"net.blocks.{i}."
        u = norm(p, b + "layer_norm", x)
        q, k, v = (
            np.stack(np.split(dense(p, f"{b}attention.{name}", u), 2, axis=-1)) for name in ("query", "key", "value")
        )
        scores = feature(q) @ feature(k).swapaxes(-1, -2)
        scores = np.tril(scores) if causal else scores
        o = scores / scores.sum(-1, keepdims=True) @ v
        x = feed_forward(p, b + "feed_forward", x + dense(p, b + "attention.out", np.concatenate(list(o), axis=-1)))
    return x


def bidirectional(p: Params, x: np.ndarray) -> np.ndarray:
    return transformer(p, x, False)


def causal(p: Params, x: np.ndarray) -> np.ndarray:
    return transformer(p, x, True)


def step(p: Params, x: np.ndarray, state: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u = norm(p, "layer_norm", x)
    state, mass, o = state.copy(), mass.copy(), np.empty_like(x)
    for n in range(len(x)):
        q, k, v = (dense(p, f"attention.{name}", u[n]).reshape(2, 4) for name in ("query", "key", "value"))
        for h in range(2):
            state[n, h] += np.outer(feature(k[h]), v[h])
            mass[n, h] += feature(k[h])
            o[n, 4 * h : 4 * h + 4] = feature(q[h]) @ state[n, h] / (feature(q[h]) @ mass[n, h])
    return feed_forward(p, "feed_forward", x + dense(p, "attention.out", o)), state, mass


REFERENCES = {"Bidirectional": bidirectional, "Parallel": causal, "Recurrent": causal, "Step": step}
