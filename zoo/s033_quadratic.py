"""S033 quadratic networks (Fan et al. 2021): reference. sigma((w_r.x + b_r)(w_g.x + b_g) + w_b.(x*x) + c).

Every neuron is a quadratic form: with z = [x, 1] the pre-activation is z^T Q z, Q built from the six parameters; the
convolution does this on unfolded windows.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 5, "W": 3}]


def quadratic(p: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    """x: [..., d]; the quadratic forms of all neurons, [..., out]."""
    flat = {k: p[f"{name}.{k}"].flatten(1) for k in ("weight_r", "weight_g", "weight_b")}
    r = torch.cat([flat["weight_r"], p[f"{name}.bias_r"][:, None]], 1)
    g = torch.cat([flat["weight_g"], p[f"{name}.bias_g"][:, None]], 1)
    form = torch.einsum("oi,oj->oij", r, g)
    form = form + torch.diag_embed(torch.cat([flat["weight_b"], p[f"{name}.c"][:, None]], 1))
    z = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    return torch.einsum("...i,oij,...j->...o", z, form, z)


def conv(p: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)
    return quadratic(p, name, windows.permute(0, 2, 3, 1, 4, 5).flatten(3)).permute(0, 3, 1, 2)


def norm(p: dict[str, torch.Tensor], b: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, p[b + ".running_mean"], p[b + ".running_var"], p[b + ".weight"], p[b + ".bias"])


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = F.relu(norm(q, "batch_norm.0", conv(q, "quadratic_conv2d.0", torch.from_numpy(x))))
    y = F.relu(norm(q, "block.batch_norm.0", conv(q, "block.quadratic_conv2d.0", h)))
    h = F.relu(h + norm(q, "block.batch_norm.1", conv(q, "block.quadratic_conv2d.1", y)))
    h = F.relu(norm(q, "batch_norm.1", conv(q, "quadratic_conv2d.1", F.max_pool2d(h, 2), 2))).mean((2, 3))
    return quadratic(q, "quadratic_linear.1", F.relu(quadratic(q, "quadratic_linear.0", h))).numpy()
