"""S023 HyperZZW (Zhang 2024): reference. W' = Z . W(coordinates), y = Z * W', depth-wise.

All convolutions are direct: one grouped conv2d per sample whose filters are the kernels of that sample.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2}, {"N": 3, "attributes": {"H": 7, "W": 8}}]
Params = dict[str, torch.Tensor]


def hyper_kernel(p: Params, name: str, rows: int, columns: int) -> torch.Tensor:
    axes = [torch.linspace(-1, 1, size, dtype=torch.float64) for size in (rows, columns)]
    h = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    for i in range(2):
        h = torch.sin(4 * F.linear(h, p[f"{name}.slow.sine.{i}.weight"], p[f"{name}.slow.sine.{i}.bias"]))
    return F.linear(h, p[f"{name}.slow.linear.weight"], p[f"{name}.slow.linear.bias"]).permute(2, 0, 1)


def dynamic_conv(z: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    k, m = kernels.shape[2:]
    padded = F.pad(z, (m // 2, (m - 1) // 2, k // 2, (k - 1) // 2))
    return torch.cat([F.conv2d(row[None], w[:, None], groups=len(w)) for row, w in zip(padded, kernels, strict=True)])


def terminator(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    def norm(b: str, v: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(v, weight=p[f"{name}.{b}.weight"], bias=p[f"{name}.{b}.bias"])

    z = F.gelu(norm("norm", F.conv2d(x, p[f"{name}.project.weight"], p[f"{name}.project.bias"])))
    rows, columns = z.shape[2:]
    branches = [dynamic_conv(z, z * hyper_kernel(p, f"{name}.global.hyper_kernel", rows, columns) / rows)]
    for k in (3, 5):
        w = F.adaptive_avg_pool2d(z, k) * hyper_kernel(p, f"{name}.local{k}.hyper_kernel", k, k)
        branches.append(dynamic_conv(z, w))
    y = torch.cat(branches, 1)
    gate = torch.sigmoid(F.linear(y.mean((2, 3)), p[f"{name}.gate.weight"], p[f"{name}.gate.bias"]))
    y = torch.einsum("nchw,nc->nchw", norm("join", y), gate)
    return F.gelu(F.conv2d(y, p[f"{name}.bottleneck.weight"], p[f"{name}.bottleneck.bias"]))


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = F.conv2d(torch.from_numpy(x), q["stem.weight"], q["stem.bias"])
    h = terminator(q, "block2", terminator(q, "block1", h)).mean((2, 3))
    return F.linear(h, q["head.weight"], q["head.bias"]).numpy()
