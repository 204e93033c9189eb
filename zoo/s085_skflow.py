"""S085 SKFlow (Sun et al. 2022): reference. RAFT's loop in torch, written after its public description.

The windows of the correlation are read by grid_sample, the neighbours of the convex upsampling by unfold.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2, "H": 6, "W": 4}, {"N": 3, "H": 4, "W": 6}]
Params = dict[str, torch.Tensor]


def conv(p: Params, path: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    w = p[f"{path}.weight"]
    return F.conv2d(x, w, p.get(f"{path}.bias"), stride, w.shape[-1] // 2, groups=groups)


def encoder(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    for i in range(2):
        norm = f"{path}.instance_norm.{i}"
        x = conv(p, f"{path}.conv2d.{i}", x, 2)
        x = F.relu(F.instance_norm(x, weight=p[f"{norm}.weight"], bias=p[f"{norm}.bias"]))
    return conv(p, f"{path}.conv2d.2", x)


def super_kernel(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    def ffn(i: int, x: torch.Tensor) -> torch.Tensor:
        return conv(p, f"{path}.{i + 1}", F.gelu(conv(p, f"{path}.{i}", x)))

    x = F.gelu(x + ffn(0, x))
    for i in (2, 3):
        x = F.gelu(x + conv(p, f"{path}.{i}", x, groups=x.shape[1]))
    x = F.gelu(x + conv(p, f"{path}.4", x))
    return ffn(5, x)


def lookup(corr: torch.Tensor, flow: torch.Tensor, scale: int) -> torch.Tensor:
    n, h, w, k, m = corr.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    center = torch.stack([columns + flow[:, 0], rows + flow[:, 1]], -1).view(n * h * w, 1, 1, 2) / scale
    dy, dx = torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="ij")
    at = center + torch.stack([dx, dy], -1)
    grid = (2 * at + 1) / torch.tensor([m, k]) - 1
    window = F.grid_sample(corr.reshape(n * h * w, 1, k, m), grid, align_corners=False)
    return window.view(n, h, w, 9).movedim(-1, 1)


def reference(p: dict[str, Array], first: Array, second: Array) -> Array:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    f1, f2 = encoder(q, "encoder", one), encoder(q, "encoder", two)
    n, c, h, w = f1.shape
    corr = (f1.flatten(2).mT @ f2.flatten(2) / c**0.5).view(n, h, w, h, w)
    coarse = F.avg_pool2d(corr.view(n * h * w, 1, h, w), 2).view(n, h, w, h // 2, w // 2)
    hidden, context = encoder(q, "context", one).chunk(2, 1)
    hidden, context = torch.tanh(hidden), F.relu(context)
    flow = torch.zeros((n, 2, h, w), dtype=torch.float64)
    for _ in range(2):
        motion = torch.cat([lookup(corr, flow, 1), lookup(coarse, flow, 2)], 1)
        motion = super_kernel(q, "blocks.0.convs", motion)
        hidden = super_kernel(q, "blocks.1.convs", torch.cat([hidden, context, motion, flow], 1))
        flow = flow + F.conv2d(hidden, q["head_weight"], q["head_bias"], padding=1)
    mask = conv(q, "conv2d.1", F.relu(conv(q, "conv2d.0", hidden)))
    mask = mask.view(n, 1, 9, 4, 4, h, w).softmax(2)
    around = F.unfold(4 * flow, 3, padding=1).view(n, 2, 9, 1, 1, h, w)
    up = (mask * around).sum(2)
    return up.permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 4 * h, 4 * w).numpy()


def parameters(_rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    """Features and motion strong enough for the second image to count."""
    factors = {"encoder.conv2d.2.weight": 4, "blocks.0.convs.6.weight": 4, "head_weight": 0.2}
    return {k: factors.get(k, 1) * v for k, v in p.items()}
