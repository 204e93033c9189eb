"""S015 DCNv4 (Xiong et al. 2024): reference.

y_g(p) = sum_k m_gk(p) x_g(p + p_k + dp_gk(p)); torch.nn.functional.grid_sample reads every group at every tap.
"""

from __future__ import annotations

import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 8, "W": 10}, {"N": 3, "H": 11, "W": 8}]
GROUPS = 2
Params = dict[str, Tensor]


def linear(p: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def layer_norm(p: Params, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-5)


def dcn(p: Params, name: str, x: Tensor) -> Tensor:
    h, w = x.shape[1:3]
    branch = linear(p, f"{name}.offset_mask", x).chunk(GROUPS, dim=-1)
    value = linear(p, f"{name}.value", x).movedim(-1, 1).chunk(GROUPS, dim=1)
    rows = torch.arange(h, dtype=torch.float64)[:, None]
    columns = torch.arange(w, dtype=torch.float64)[None, :]
    groups = []
    for part, image in zip(branch, value, strict=True):
        y = torch.zeros_like(image)
        for tap in range(9):
            u = rows + tap // 3 - 1 + part[..., 2 * tap]
            v = columns + tap % 3 - 1 + part[..., 2 * tap + 1]
            grid = torch.stack([(2 * v + 1) / w - 1, (2 * u + 1) / h - 1], dim=-1)
            y = y + part[..., 18 + tap].unsqueeze(1) * F.grid_sample(image, grid, align_corners=False)
        groups.append(y)
    return linear(p, f"{name}.out", torch.cat(groups, dim=1).movedim(1, -1))


def reference(p: dict[str, Array], x: Array) -> Array:
    t = {name: torch.from_numpy(value) for name, value in p.items()}
    h = F.conv2d(torch.from_numpy(x), t["stem.weight"], t["stem.bias"], stride=2, padding=1).movedim(1, -1)
    h = layer_norm(t, "layer_norm.0", h)
    for i in range(2):
        b = f"blocks.{i}.block"
        y = layer_norm(t, f"{b}.layer_norm.0", dcn(t, f"{b}.dc_nv4", h))
        h = h + y * t[f"{b}.layer_scale.0.scale"]
        y = linear(t, f"{b}.linear.1", F.gelu(linear(t, f"{b}.linear.0", h)))
        h = h + layer_norm(t, f"{b}.layer_norm.1", y) * t[f"{b}.layer_scale.1.scale"]
    return linear(t, "head", layer_norm(t, "layer_norm.1", h).mean(dim=(1, 2))).numpy()
