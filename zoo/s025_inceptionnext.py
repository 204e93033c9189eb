"""S025 InceptionNeXt (Yu et al. 2023): reference. y = [x_id, DW_3x3(x_hw), DW_1x11(x_w), DW_11x1(x_h)].

The whole token mixer is one depth-wise convolution with an 11 x 11 window in which most weights are zero.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 3, "W": 5}]


def mixer(p: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    c = x.shape[1]
    g = c // 8
    weight = torch.zeros(c, 1, 11, 11, dtype=x.dtype)
    bias = torch.zeros(c, dtype=x.dtype)
    weight[: c - 3 * g, 0, 5, 5] = 1
    weight[c - 3 * g : c - 2 * g, :, 4:7, 4:7] = p[f"{name}.dwconv_hw.weight"]
    weight[c - 2 * g : c - g, :, 5:6, :] = p[f"{name}.dwconv_w.weight"]
    weight[c - g :, :, :, 5:6] = p[f"{name}.dwconv_h.weight"]
    bias[c - 3 * g :] = torch.cat([p[f"{name}.dwconv_{b}.bias"] for b in ("hw", "w", "h")])
    return F.conv2d(x, weight, bias, padding=5, groups=c)


def norm(p: dict[str, torch.Tensor], b: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, p[b + ".running_mean"], p[b + ".running_var"], p[b + ".weight"], p[b + ".bias"])


def block(p: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    y = norm(p, name + ".norm", mixer(p, name + ".token_mixer", x)).movedim(1, -1)
    y = F.gelu(F.linear(y, p[name + ".fc1.weight"][..., 0, 0], p[name + ".fc1.bias"]))
    y = F.linear(y, p[name + ".fc2.weight"][..., 0, 0], p[name + ".fc2.bias"])
    return x + (p[name + ".gamma"] * y).movedim(-1, 1)


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = norm(q, "stem_norm", F.conv2d(torch.from_numpy(x), q["stem.weight"], q["stem.bias"], 4))
    h = block(q, "stage1.1.block", block(q, "stage1.0.block", h))
    h = F.conv2d(norm(q, "down_norm", h), q["down.weight"], q["down.bias"], 2)
    h = block(q, "stage2", h).mean((2, 3))
    h = F.gelu(F.linear(h, q["fc1.weight"], q["fc1.bias"]))
    h = F.layer_norm(h, h.shape[-1:], q["norm.weight"], q["norm.bias"], 1e-6)
    return F.linear(h, q["fc2.weight"], q["fc2.bias"]).numpy()
