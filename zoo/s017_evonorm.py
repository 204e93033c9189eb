"""S017 EvoNorm (Liu et al. 2020): reference.

B0: gamma x / max(sqrt(var_batch), v x + sqrt(var_instance)) + beta; S0: gamma x sigmoid(v x) / sqrt(var_group) + beta.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 8, "W": 8}, {"N": 3, "H": 9, "W": 7}]


def evonorm(p: dict[str, Tensor], name: str, x: Tensor, kind: str) -> Tensor:
    v, gamma, beta = (p[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("v", "gamma", "beta"))
    n, c = x.shape[:2]
    if kind == "s0":
        variance = x.view(n, 4, -1).var(dim=2, unbiased=False).repeat_interleave(c // 4, dim=1)[..., None, None]
        return F.silu(v * x) / v * gamma / torch.sqrt(variance + 1e-5) + beta
    batch = p[f"{name}.running_var"] if kind == "running" else x.var(dim=(0, 2, 3), unbiased=False)
    instance = x.var(dim=(2, 3), unbiased=False, keepdim=True)
    first = torch.sqrt(batch + 1e-5).view(1, -1, 1, 1).expand_as(x)
    return gamma * x / torch.maximum(first, v * x + torch.sqrt(instance + 1e-5)) + beta


def resnet(p: dict[str, Array], x: Array, kind: str) -> Array:
    t = {name.removeprefix("res_net."): torch.from_numpy(value) for name, value in p.items()}
    h = F.conv2d(torch.from_numpy(x), t["conv2d.weight"], t["conv2d.bias"], padding=1)
    for i in range(2):
        y = h
        for j in range(2):
            y = evonorm(t, f"blocks.{i}.evo_norm.{j}", y, kind)
            y = F.conv2d(y, t[f"blocks.{i}.conv2d.{j}.weight"], padding=1)
        h = h + y
    h = evonorm(t, "evo_norm", h, kind)
    return F.linear(h.mean(dim=(2, 3)), t["linear.weight"], t["linear.bias"]).numpy()


REFERENCES = {
    "BatchStatistics": functools.partial(resnet, kind="batch"),
    "RunningStatistics": functools.partial(resnet, kind="running"),
    "SampleStatistics": functools.partial(resnet, kind="s0"),
}


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    return {name: rng.uniform(0.5, 1.5, v.shape) if name.endswith("running_var") else v for name, v in p.items()}
