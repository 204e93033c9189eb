"""S006 CondConv (Yang et al. 2019): reference. y = act((sum_e alpha_e W_e) * x), one example at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 8, "W": 8}, {"N": 3, "H": 10, "W": 7}]


def batch_norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    parts = [p[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts, eps=1e-5)


def block(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    images = []
    for image in x:
        score = p[f"{name}.routing.weight"] @ image.mean(dim=(1, 2)) + p[f"{name}.routing.bias"]
        alpha = 1 / (1 + torch.exp(-score))
        y = image[None]
        for i, act in enumerate((F.silu, F.silu, lambda z: z)):
            weight = sum(alpha[e] * p[f"{name}.cond_conv2d.{i}.weight"][e] for e in range(len(alpha)))
            groups = y.shape[1] // weight.shape[1]
            y = act(batch_norm(p, f"{name}.batch_norm.{i}", F.conv2d(y, weight, padding="same", groups=groups)))
        images.append(image + y[0])
    return torch.stack(images)


def reference(p: dict[str, Array], x: Array) -> Array:
    t = {name.removeprefix("net."): torch.from_numpy(value) for name, value in p.items()}
    h = F.conv2d(torch.from_numpy(x), t["conv2d.weight"], t["conv2d.bias"], stride=2, padding=1)
    h = F.silu(batch_norm(t, "batch_norm", h))
    for i in range(2):
        h = block(t, f"blocks.{i}.cond_block", h)
    return F.linear(h.mean(dim=(2, 3)), t["linear.weight"], t["linear.bias"]).numpy()


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    return {name: rng.uniform(0.5, 1.5, v.shape) if name.endswith("running_var") else v for name, v in p.items()}
