"""S026 Miras (Behrouz et al. 2025): reference. Memories W that take a gradient step on an attentional bias per token.

One head of one sequence at a time; the gradients of the biases come from autograd: |Wk - v|_p^p, the Huber loss of the
length, and half the squared length.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 5}]
HEADS = 2
Params = dict[str, torch.Tensor]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 10, shapes["tokens"]).astype(np.int32)}


def bias(kind: str, error: torch.Tensor, delta: torch.Tensor | None) -> torch.Tensor:
    if kind == "moneta":
        return (error.abs() ** 3).sum()
    length = torch.linalg.vector_norm(error)
    if kind == "memora" or float(length.detach()) <= float(delta):
        return length**2 / 2
    return delta * length - delta**2 / 2


def weight_of(kind: str, a: torch.Tensor) -> torch.Tensor:
    return a / torch.linalg.vector_norm(a, 4) ** 2 if kind == "moneta" else a


def read(
    kind: str,
    a: torch.Tensor,
    delta: torch.Tensor | None,
    steps: list[tuple[torch.Tensor, ...]],
) -> torch.Tensor:
    """steps: per token q, k, v [d], alpha and eta; the outputs [l, d]."""
    rows: list[torch.Tensor] = []
    for q, k, v, alpha, eta in steps:
        w = weight_of(kind, a).clone().requires_grad_()
        (slope,) = torch.autograd.grad(bias(kind, w @ k - v, delta), w)
        a = F.softmax(alpha * torch.log(a) - eta * slope, 1) if kind == "memora" else alpha * a - eta * slope
        rows.append(weight_of(kind, a) @ q)
    return torch.stack(rows)


def norm(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], p[f"{name}.weight"], 1.1920928955078125e-07)


def linear(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def memory(p: Params, kind: str, x: torch.Tensor) -> torch.Tensor:
    m = f"{kind}.memory"
    q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in linear(p, f"{m}.qkv", x).chunk(3, -1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    alpha, eta = torch.sigmoid(linear(p, f"{m}.rates", x)).chunk(2, -1)
    alpha, eta = 0.8 + 0.2 * alpha, 0.5 * eta
    y = torch.zeros_like(q)
    for n in range(len(x)):
        for h in range(HEADS):
            start = p[f"{m}.start"][h]
            delta = p[f"{m}.delta"][h] if kind == "yaad" else None
            steps = list(zip(q[n, :, h], k[n, :, h], v[n, :, h], alpha[n, :, h], eta[n, :, h], strict=True))
            y[n, :, h] = read(kind, F.softmax(start, 1) if kind == "memora" else start, delta, steps)
    return linear(p, f"{m}.out", norm(p, f"{m}.norm", y.flatten(2)) * F.silu(linear(p, f"{m}.gate", x)))


def reference(p: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = q["embedding.weight"][torch.from_numpy(tokens).long()]
    for kind in ("moneta", "yaad", "memora"):
        h = h + memory(q, kind, norm(q, f"{kind}.norm1", h))
        h = h + linear(q, f"{kind}.down", F.silu(linear(q, f"{kind}.up", norm(q, f"{kind}.norm2", h))))
    return linear(q, "head", norm(q, "norm", h)).numpy()
