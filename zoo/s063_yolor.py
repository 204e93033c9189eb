"""S063 YOLOR (Wang, Yeh and Liao 2021): reference. Implicit knowledge z joined by +, * and concatenation.

The implicit parts are folded by hand: additions and the extra channels into biases, products into scaled weights.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 2, "W": 3}]


def unit(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    w = p[f"{name}.conv2d.weight"]
    x = F.conv2d(x, w, p[f"{name}.conv2d.bias"], stride, w.shape[-1] // 2)
    b = f"{name}.batch_norm."
    return F.silu(F.batch_norm(x, p[b + "running_mean"], p[b + "running_var"], p[b + "weight"], p[b + "bias"]))


def factor(p: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return 1 + torch.einsum("r,rc->c", p[f"{name}.coefficient"], p[f"{name}.z"])


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    c2 = unit(q, "conv_si_lu.0", torch.from_numpy(x), 2)
    c3 = unit(q, "conv_si_lu.1", c2, 2)
    p3 = unit(q, "conv_si_lu.2", c3) + q["implicit_add.0.z"].view(1, -1, 1, 1)
    p2 = unit(q, "conv_si_lu.3", c2) + q["implicit_add.1.z"].view(1, -1, 1, 1)
    p2 = unit(q, "conv_si_lu.4", p2 + F.interpolate(p3, scale_factor=2, mode="nearest"))
    g = q["implicit_concat.linear.weight"] @ q["implicit_concat.z"][0] + q["implicit_concat.linear.bias"]
    w, s = q["conv2d.weight"][..., 0, 0], factor(q, "implicit_multiply.0")
    c = p2.shape[1]
    bias = q["conv2d.bias"] + w[:, c:] @ g
    boxes = torch.einsum("oc,nchw->nohw", s[:, None] * w[:, :c], p2) + (s * bias).view(1, -1, 1, 1)
    label = F.linear(p3.mean((2, 3)) * factor(q, "implicit_multiply.1"), q["linear.weight"], q["linear.bias"])
    return boxes.numpy(), label.numpy()
