"""S037 PHNN (Grassucci, Zhang and Comminiello 2021): reference. W = sum_i A_i (x) F_i; y = conv(x, W) + b.

The weight is never made: x is split into n parts, each F_i convolves every part, and A_i mixes the results.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 5, "W": 3}]


def conv(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    a, f = p[f"{name}.a"], p[f"{name}.f"]
    n = a.shape[0]
    parts = x.chunk(n, 1)
    out: list[torch.Tensor] = []
    for row in range(n):
        terms = [
            a[i, row, b] * F.conv2d(parts[b], f[i], stride=stride, padding=f.shape[-1] // 2)
            for i in range(n)
            for b in range(n)
        ]
        out.append(torch.stack(terms).sum(0))
    return torch.cat(out, 1) + p[f"{name}.bias"].view(1, -1, 1, 1)


def norm(p: dict[str, torch.Tensor], b: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, p[b + ".running_mean"], p[b + ".running_var"], p[b + ".weight"], p[b + ".bias"])


def block(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    y = F.relu(norm(p, f"{name}.batch_norm.0", conv(p, f"{name}.ph_conv2d.0", x, stride)))
    y = norm(p, f"{name}.batch_norm.1", conv(p, f"{name}.ph_conv2d.1", y))
    if stride != 1:
        x = norm(p, f"{name}.batch_norm.2", conv(p, f"{name}.ph_conv2d.2", x, stride))
    return F.relu(y + x)


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = F.relu(norm(q, "batch_norm", conv(q, "ph_conv2d", torch.from_numpy(x))))
    h = block(q, "block.1", block(q, "block.0", h), 2).mean((2, 3))
    a, f = q["ph_linear.a"], q["ph_linear.f"]
    weight = sum(torch.kron(a[i], f[i]) for i in range(a.shape[0]))
    return F.linear(h, weight, q["ph_linear.bias"]).numpy()
