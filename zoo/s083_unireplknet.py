"""S083 UniRepLKNet (Zhang et al. 2024): reference. The dilated branches are run one by one, as in training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2, "H": 16, "W": 20}, {"N": 3, "H": 24, "W": 12}]
BRANCHES = [(13, 1), (5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]
Params = dict[str, torch.Tensor]


def at(p: Params, path: str) -> Params:
    return {k.removeprefix(path + "."): v for k, v in p.items() if k.startswith(path + ".")}


def norm(q: Params, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, q["running_mean"], q["running_var"], q["weight"], q["bias"])


def grn(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    g = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + beta + x


def block(p: Params, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    for i, (k, r) in enumerate(BRANCHES):
        q = at(p, f"dilated_block.branches.{i}")
        y = y + norm(q, F.conv2d(x, q["kernel_weight"], padding=(k - 1) * r // 2, dilation=r, groups=x.shape[1]))
    y = norm(at(p, "batch_norm"), y)
    se = at(p, "squeeze_excite.linear")
    s = F.relu(F.linear(y.mean((2, 3)), se["0.weight"], se["0.bias"]))
    y = y * torch.sigmoid(F.linear(s, se["1.weight"], se["1.bias"]))[:, :, None, None]
    ff = at(p, "feed_forward")
    z = F.gelu(F.linear(y.movedim(1, -1), ff["linear.0.weight"], ff["linear.0.bias"]))
    z = F.linear(grn(z, ff["gamma"], ff["beta"]), ff["linear.1.weight"])
    return x + p["gamma"].view(-1, 1, 1) * norm(at(ff, "batch_norm"), z.movedim(-1, 1))


def reference(p: dict[str, Array], image: Array) -> Array:
    q = at({k: torch.from_numpy(v) for k, v in p.items()}, "net")
    x = torch.from_numpy(image)
    for i in range(2):
        x = F.conv2d(x, q[f"conv2d.{i}.weight"], q[f"conv2d.{i}.bias"], stride=2, padding=1)
        x = norm(at(q, f"batch_norm.{i}"), x)
        x = block(at(q, f"block.{i}"), F.gelu(x) if i == 0 else x)
    x = x.mean((2, 3))
    x = F.layer_norm(x, x.shape[1:], q["layer_norm.weight"], q["layer_norm.bias"])
    return F.linear(x, q["linear.weight"], q["linear.bias"]).numpy()


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    """Statistics of the batch norms that are not the initial ones, and branches that count."""
    draw = {"running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5), "gamma": (1.0, 2.0)}
    drawn = {k: rng.uniform(*draw[k.split(".")[-1]], v.shape) for k, v in p.items() if k.split(".")[-1] in draw}
    return {k: drawn.get(k, 4 * v if k.endswith("kernel_weight") else v) for k, v in p.items()}
