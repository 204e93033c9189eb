"""S044 FactFormer (Li, Shu and Barati Farimani 2023): reference. z = V x_1 A^(1) x_2 A^(2), A = Q K^T / n, no softmax.

The full kernel of (HW)^2 numbers is formed as a Kronecker product; rotary positions are complex factors.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 6, "W": 5}, {"N": 3, "H": 4, "W": 7}]
HEADS, DIM = 2, 6
Params = dict[str, torch.Tensor]


def linear(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def norm(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])


def turn(x: torch.Tensor) -> torch.Tensor:
    """Standardize x [n, h, l, d] over l and turn the pair (i, i + d/2) of position t by 8 t/l * 100^(-2i/d)."""
    n, h, length, d = x.shape
    x = F.instance_norm(x.transpose(2, 3).reshape(n * h, d, length)).reshape(n, h, d, length).transpose(2, 3)
    z = torch.complex(x[..., : d // 2], x[..., d // 2 :])
    angle = torch.outer(8 * torch.arange(length) / length, 100.0 ** (-2 * torch.arange(d // 2, dtype=x.dtype) / d))
    z = z * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)


def axis_kernel(p: Params, name: str, u: torch.Tensor) -> torch.Tensor:
    g = norm(p, name + ".norm", linear(p, name + ".project", u.mean(2)))
    g = linear(p, name + ".out", F.gelu(linear(p, name + ".hidden", g)))
    q, k = (turn(linear(p, f"{name}.{s}", g).unflatten(-1, (HEADS, DIM)).transpose(1, 2)) for s in "qk")
    return q @ k.transpose(2, 3) / u.shape[1]


def block(p: Params, name: str, u: torch.Tensor) -> torch.Tensor:
    n, rows, columns, c = u.shape
    h = norm(p, name + ".attention.norm", u)
    a = axis_kernel(p, name + ".attention.rows", h)
    b = axis_kernel(p, name + ".attention.columns", h.transpose(1, 2))
    full = torch.einsum("nhpi,nhqj->nhpqij", a, b).flatten(4).flatten(2, 3)
    v = linear(p, name + ".attention.v", h).view(n, rows * columns, HEADS, c // HEADS).transpose(1, 2)
    z = (full @ v).transpose(1, 2).reshape(n, rows, columns, c)
    u = u + linear(p, name + ".attention.out", z)
    return u + linear(p, name + ".down", F.gelu(linear(p, name + ".up", norm(p, name + ".norm", u))))


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    u = linear(q, "lift2", F.gelu(linear(q, "lift", torch.from_numpy(x))))
    u = block(q, "blocks.1.block", block(q, "blocks.0.block", u))
    return linear(q, "lower2", F.gelu(linear(q, "lower", u))).numpy()
