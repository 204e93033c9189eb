"""S035 softmax attention as RNNs (Mongaras and Larson 2025): reference. y_t = [sum_n q^(n) . H_t^(n)/n!] / norm_t.

Each position attends over its own past with the weights sum_n (q.k)^n / n!, n <= 3; both modes are held to it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 4}]
HEADS = 2
Params = dict[str, torch.Tensor]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 12, shapes["tokens"]).astype(np.int32)}


def attention(p: Params, name: str, x: torch.Tensor, softmax: bool) -> torch.Tensor:
    n, length, width = x.shape
    d = width // HEADS
    qkv = F.linear(x, p[f"{name}.qkv.weight"]).view(n, length, 3, HEADS, d)
    y = torch.zeros(n, length, HEADS, d, dtype=x.dtype)
    for head in range(HEADS):
        for t in range(length):
            z = torch.einsum("nd,nsd->ns", qkv[:, t, 0, head], qkv[:, : t + 1, 1, head]) / (2 * math.sqrt(d))
            weight = torch.stack([z**i / math.factorial(i) for i in range(4)]).sum(0)
            if softmax:
                weight = weight / weight.sum(1, keepdim=True)
            y[:, t, head] = torch.einsum("ns,nse->ne", weight, qkv[:, : t + 1, 2, head])
    if not softmax:
        y = y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return F.linear(y.flatten(2), p[f"{name}.out.weight"])


def norm(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def reference(p: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    q = {k.removeprefix("lm."): torch.from_numpy(v) for k, v in p.items()}
    h = q["embedding.weight"][torch.from_numpy(tokens).long()]
    h = h + attention(q, "attention1", norm(q, "norm1", h), True)
    u = F.gelu(F.linear(norm(q, "norm2", h), q["up.weight"], q["up.bias"]))
    h = h + F.linear(u, q["down.weight"], q["down.bias"])
    h = h + attention(q, "attention2", norm(q, "norm3", h), False)
    return F.linear(norm(q, "norm", h), q["head.weight"]).numpy()
