"""S049 SOFT (Lu et al. 2021, 2024): reference. S^ = P^T D^-1/2 A^+ D^-1/2 P with A^+ by numpy.linalg.pinv, S^ whole."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist

SAMPLES = [{"N": 2}, {"N": 3}]

Params = dict[str, np.ndarray]


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p.get(name + ".bias", 0.0)


def norm(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    weight, bias = torch.from_numpy(p[name + ".weight"]), torch.from_numpy(p[name + ".bias"])
    return F.layer_norm(torch.from_numpy(x), weight.shape, weight, bias).numpy()


def parameters(rng: np.random.Generator, p: Params) -> Params:
    """Queries and bottleneck tokens apart from each other, so that A is well conditioned."""
    apart = {k: 4 * v for k, v in p.items() if k.endswith("query.weight")}
    return {**p, **apart, **{k: rng.normal(0, 0.4, v.shape) for k, v in p.items() if k.endswith("pool.weight")}}


def similarity(p: Params, name: str, q: np.ndarray) -> np.ndarray:
    """The whole 64 x 64 matrix of one image of 8 x 8 tokens; 2 x 2 bottleneck tokens from 4 x 4 windows."""
    d = q.shape[1]
    windows = q.reshape(2, 4, 2, 4, d)
    pooled = np.einsum("aibjd,dij->abd", windows, p[name + ".weight"][:, 0]).reshape(4, d) + p[name + ".bias"]
    p, a = (np.exp(-cdist(pooled, b, "sqeuclidean") / (2 * np.sqrt(d))) for b in (q, pooled))
    scale = np.diag(a.sum(1) ** -0.5)
    return p.T @ scale @ np.linalg.pinv(a) @ scale @ p


def reference(p: Params, x: np.ndarray) -> np.ndarray:
    weight, bias = (torch.from_numpy(p[f"embed.{k}"]) for k in ("weight", "bias"))
    h = F.conv2d(torch.from_numpy(x), weight, bias, stride=2).flatten(2).transpose(1, 2).numpy()
    for i in range(2):
        b = f"blocks.{i}.soft_block."
        u = norm(p, b + "norm1", h)
        q, v = dense(p, b + "attention.query", u), dense(p, b + "attention.value", u)
        y = np.stack([similarity(p, b + "attention.pool", s) @ t for s, t in zip(q, v, strict=True)])
        h = h + dense(p, b + "attention.out", y)
        u = torch.from_numpy(dense(p, b + "up", norm(p, b + "norm2", h)))
        h = h + dense(p, b + "down", F.gelu(u).numpy())
    return dense(p, "head", norm(p, "norm", h).mean(1))
