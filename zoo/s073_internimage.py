"""S073 InternImage (Wang et al. 2023): reference. Each tap of each group is one call of grid_sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2, "H": 2, "W": 3}, {"N": 3, "H": 2, "W": 1}]
Params = dict[str, torch.Tensor]


def linear(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{path}.weight"], p[f"{path}.bias"])


def norm(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{path}.weight"], p[f"{path}.bias"])


def conv(p: Params, path: str, x: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    y = F.conv2d(x.movedim(-1, 1), p[f"{path}.weight"], p[f"{path}.bias"], stride, 1, groups=groups)
    return y.movedim(1, -1)


def dcn(p: Params, path: str, x: torch.Tensor, groups: int) -> torch.Tensor:
    n, h, w, c = x.shape
    value = linear(p, f"{path}.input", x).movedim(-1, 1)
    z = F.gelu(norm(p, f"{path}.layer_norm", conv(p, f"{path}.conv2d", x, 1, c)))
    offset = linear(p, f"{path}.offset", z).view(n, h, w, groups, 9, 2)
    mask = linear(p, f"{path}.mask", z).view(n, h, w, groups, 9).softmax(-1)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y = torch.zeros_like(value)
    for g, part in enumerate(torch.arange(c).chunk(groups)):
        for k in range(9):
            u = rows + k // 3 - 1 + offset[..., g, k, 0]
            v = columns + k % 3 - 1 + offset[..., g, k, 1]
            grid = torch.stack([(2 * v + 1) / w - 1, (2 * u + 1) / h - 1], -1)
            sampled = F.grid_sample(value[:, part], grid, align_corners=False)
            y[:, part] += mask[:, None, :, :, g, k] * sampled
    return linear(p, f"{path}.output", y.movedim(1, -1))


def block(p: Params, path: str, x: torch.Tensor, groups: int) -> torch.Tensor:
    x = x + p[f"{path}.gamma1"] * dcn(p, f"{path}.dc_nv3", norm(p, f"{path}.layer_norm.0", x), groups)
    hidden = F.gelu(linear(p, f"{path}.linear.0", norm(p, f"{path}.layer_norm.1", x)))
    return x + p[f"{path}.gamma2"] * linear(p, f"{path}.linear.1", hidden)


def down(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return norm(p, f"{path}.layer_norm", conv(p, f"{path}.conv2d", x, 2))


def reference(p: dict[str, Array], image: Array) -> Array:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    x = down(q, "down.1", F.gelu(down(q, "down.0", torch.from_numpy(image))))
    x = block(q, "block.1", block(q, "block.0", x, 2), 2)
    x = block(q, "block.2", down(q, "down.2", x), 4)
    return linear(q, "linear", norm(q, "layer_norm", x.mean((1, 2)))).numpy()
