"""S012 Generalized divisive normalization (Balle, Laparra and Simoncelli 2016): reference.

y_i = z_i / (beta_i + sum_j gamma_ij |z_j|^alpha_ij)^eps_i, with channels last and matrix products.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 3, "W": 2}, {"N": 3, "H": 2, "W": 5}]
Params = dict[str, Array]


def pooled(p: Params, z: Array) -> Array:
    """The denominators for z: [pixels, C]."""
    out = np.empty_like(z)
    for i in range(z.shape[1]):
        power = p["gamma"][i] ** 2 * np.abs(z) ** p["alpha"][i]
        out[:, i] = (p["beta"][i] ** 2 + power.sum(axis=1)) ** p["eps"][i]
    return out


def analysis(p: Params, x: Array) -> tuple[Array, Array]:
    weight = p["conv2d.weight"]
    n, _, h, w = x.shape
    blocks = x.reshape(n, 3, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 12)
    z = blocks @ weight.reshape(6, 12).T + p["conv2d.bias"]
    y = z / pooled(p, z)
    inverted = y
    for _ in range(3):
        inverted = y * pooled(p, inverted)
    shape = (n, h // 2, w // 2, 6)
    return y.reshape(shape).transpose(0, 3, 1, 2), inverted.reshape(shape).transpose(0, 3, 1, 2)


def codec(p: Params, x: Array) -> Array:
    t = {name: torch.from_numpy(value) for name, value in p.items()}

    def gdn(i: int, x: Tensor) -> Tensor:
        gamma, beta = t[f"gdn.{i}.gamma"] ** 2, t[f"gdn.{i}.beta"] ** 2
        scale = torch.sqrt(beta + torch.einsum("nchw,dc->nhwd", x**2, gamma)).movedim(-1, 1)
        return x / scale if i < 2 else x * scale

    h = torch.from_numpy(x)
    for i in range(2):
        h = gdn(i, F.conv2d(h, t[f"conv2d.{i}.weight"], t[f"conv2d.{i}.bias"], stride=2))
    for i in range(2):
        name = f"conv_transpose2d.{i}"
        h = F.conv_transpose2d(gdn(2 + i, h), t[f"{name}.weight"], t[f"{name}.bias"], stride=2)
    return h.numpy()


REFERENCES = {"Analysis": analysis, "Codec": codec}
