"""S028 KAN convolutions (Drokin 2024): reference. y = conv(W_b, SiLU(x)) + conv(W_s, basis(norm(x))).

Bases one function at a time: scipy B-splines, numpy Chebyshev series, Gaussians; a convolution per basis function.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import BSpline

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 3, "W": 5}]
Params = dict[str, torch.Tensor]


def functions(kind: str, z: np.ndarray) -> list[np.ndarray]:
    if kind == "bspline":
        knots = [-2.0 + i for i in range(-3, 8)]
        splines = [BSpline.basis_element(knots[g : g + 5], extrapolate=False) for g in range(7)]
        return [np.nan_to_num(b(z)) for b in splines]
    if kind == "chebyshev":
        return [np.polynomial.chebyshev.chebval(np.tanh(z), np.eye(5)[k]) for k in range(5)]
    centers, step = np.linspace(-2, 2, 4, retstep=True)
    return [np.exp(-(((z - c) / step) ** 2)) for c in centers]


def conv(p: Params, name: str, x: torch.Tensor, pad: int = 0, groups: int = 1) -> torch.Tensor:
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), padding=pad, groups=groups)


def kan(p: Params, name: str, x: torch.Tensor, kind: str) -> torch.Tensor:
    z = F.instance_norm(x, weight=p[f"{name}.norm.weight"], bias=p[f"{name}.norm.bias"])
    basis = functions(kind, z.numpy())
    weight = p[f"{name}.basis.weight"]
    y = conv(p, f"{name}.base", F.silu(x), 1)
    for g, values in enumerate(basis):
        y = y + F.conv2d(torch.from_numpy(values), weight[:, g :: len(basis)], padding=1)
    return y


def modulation(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    q, context, gates = conv(p, f"{name}.project", x).split([x.shape[1], x.shape[1], 3], 1)
    contexts: list[torch.Tensor] = []
    for level in range(2):
        context = F.gelu(conv(p, f"{name}.focal.{level}.depthwise", context, level + 1, x.shape[1]))
        contexts.append(context)
    contexts.append(F.gelu(context.mean((2, 3), keepdim=True)).expand_as(context))
    total = torch.einsum("lnchw,nlhw->nchw", torch.stack(contexts), gates)
    return conv(p, f"{name}.out", q * conv(p, f"{name}.modulator", total))


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    skip = kan(q, "encode", torch.from_numpy(x), "bspline")
    h = conv(q, "middle.squeeze", F.max_pool2d(skip, 2))
    h = conv(q, "middle.expand", kan(q, "middle.kan", h, "chebyshev"))
    h = h + modulation(q, "focal", h)
    h = torch.cat([F.interpolate(h, scale_factor=2), skip], 1)
    return conv(q, "head", kan(q, "decode", h, "rbf")).numpy()
