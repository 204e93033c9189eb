"""S074 KiloNeuS (Esposito et al. 2022): reference. Ray by ray: many steps of sphere tracing, normal by autograd."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 6}, {"N": 11}]
Params = dict[str, torch.Tensor]


def code(x: torch.Tensor) -> torch.Tensor:
    angles = torch.outer(torch.pi * 2.0 ** torch.arange(2, dtype=x.dtype), x).flatten()
    return torch.cat([torch.sin(angles), torch.cos(angles)])


def cell(x: torch.Tensor) -> int:
    i, j, k = (((x + 1) * 2).floor().clamp(0, 3)).long().tolist()
    return 16 * i + 4 * j + k


def net(p: Params, c: int, first: int, h: torch.Tensor) -> torch.Tensor:
    h = F.softplus(p[f"w{first}"][c] @ h + p[f"b{first}"][c])
    return p[f"w{first + 1}"][c] @ h + p[f"b{first + 1}"][c]


def distance(p: Params, x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x) - 0.6 + 0.05 * torch.tanh(net(p, cell(x), 1, code(x))[0])


def march(p: Params, origin: torch.Tensor, direction: torch.Tensor) -> float:
    t = 0.0
    for _ in range(200):
        t += float(distance(p, origin + t * direction))
    return t


def reference(p: dict[str, Array], origin: Array, direction: Array) -> tuple[Array, Array, Array]:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    rays = []
    for o, d in zip(torch.from_numpy(origin), torch.from_numpy(direction), strict=True):
        t = march(q, o, d)
        x = (o + t * d).requires_grad_()
        (slope,) = torch.autograd.grad(distance(q, x), x)
        normal = slope / torch.linalg.vector_norm(slope)
        x = x.detach()
        colour = torch.sigmoid(net(q, cell(x), 3, torch.cat([code(x), normal, d])))
        rays.append((colour.numpy(), t, normal.numpy()))
    colours, depths, normals = (np.array(part) for part in zip(*rays, strict=True))
    return colours, depths, normals


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Rays from a sphere of radius 2 to points near the center."""
    origin = rng.standard_normal(shapes["origin"])
    origin *= 2 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = rng.uniform(-0.15, 0.15, origin.shape) - origin
    return {"origin": origin, "direction": direction / np.linalg.norm(direction, axis=1, keepdims=True)}
