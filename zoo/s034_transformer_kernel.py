"""S034 transformer kernels (Chowdhury et al. 2021): reference. phi(q) (phi(K)^T V) / (phi(q) phi(K)^T 1).

Quadratic form: the kernel matrix of every pair is made explicitly, for the trigonometric features as
mean_w cos(w (q - k)); Hadamard matrices come from scipy.linalg.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "L": 6}, {"N": 3, "L": 9}]
HEADS = 2
Params = dict[str, torch.Tensor]


def parameters(rng: np.random.Generator, p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A permutation and signs for FastFood, and small FastFood frequencies, so that the kernel stays positive."""
    name = "third.attention.fast_food."
    d = len(p[name + "order"])
    drawn = {name + "order": rng.permutation(d).astype(np.int32), name + "signs": rng.choice([-1.0, 1.0], d)}
    return {**p, **drawn, name + "g": 0.3 * p[name + "g"]}


def frequencies(p: Params, name: str) -> torch.Tensor:
    """Rows of frequencies, [m, d]."""
    if f"{name}.mixture.noise" in p:
        name += ".mixture"
        w = p[f"{name}.center"][:, None] + p[f"{name}.deviation"][:, None] * p[f"{name}.noise"]
        return w.flatten(0, 1)
    name += ".fast_food"
    d = len(p[f"{name}.b"])
    h = torch.from_numpy(scipy.linalg.hadamard(d).astype(np.float64))
    permute = torch.eye(d, dtype=h.dtype)[p[f"{name}.order"].long()]
    chain = [torch.diag(p[f"{name}.s"]), h, torch.diag(p[f"{name}.g"]), permute]
    return torch.linalg.multi_dot([*chain, h, torch.diag(p[f"{name}.b"] * p[f"{name}.signs"])]) / (2 * d**0.5)


def kernel(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, positive: bool) -> torch.Tensor:
    """Kernel matrix [..., l, s] of q [..., l, d] and k [..., s, d]."""
    if positive:
        joint = (q[..., :, None, :] + k[..., None, :, :]) @ w.T
        lengths = (q**2).sum(-1)[..., :, None] + (k**2).sum(-1)[..., None, :]
        return torch.exp(joint - lengths[..., None] / 2).mean(-1)
    return torch.cos((q[..., :, None, :] - k[..., None, :, :]) @ w.T).mean(-1)


def encoder(p: Params, name: str, x: torch.Tensor, positive: bool = False) -> torch.Tensor:
    d = x.shape[-1]
    qkv = (x @ p[f"{name}.attention.qkv.weight"].T).unflatten(-1, (3, HEADS, d // HEADS))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    matrix = kernel(0.7 * q, 0.7 * k, frequencies(p, f"{name}.attention"), positive)
    y = (matrix @ v / (1e-4 + matrix.sum(-1, keepdim=True))).transpose(1, 2).flatten(2)
    x = x + F.linear(y, p[f"{name}.attention.out.weight"], p[f"{name}.attention.out.bias"])
    x = F.layer_norm(x, (d,), p[f"{name}.norm1.weight"], p[f"{name}.norm1.bias"])
    h = F.gelu(F.linear(x, p[f"{name}.up.weight"], p[f"{name}.up.bias"]))
    x = x + F.linear(h, p[f"{name}.down.weight"], p[f"{name}.down.bias"])
    return F.layer_norm(x, (d,), p[f"{name}.norm2.weight"], p[f"{name}.norm2.bias"])


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = F.linear(torch.from_numpy(x), q["embed.weight"], q["embed.bias"])
    h = encoder(q, "third", encoder(q, "second", encoder(q, "first", h), True))
    return F.linear(h.mean(1), q["head.weight"], q["head.bias"]).numpy()
