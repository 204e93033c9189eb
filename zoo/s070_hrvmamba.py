"""S070 HRVMamba (Zhang et al. 2024): reference. The scan is a loop over the pixels of explicit paths, in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from numpy import ndarray as Array
from numpy.random import Generator

SAMPLES = [{"N": 2}, {"N": 3}]
Params = dict[str, torch.Tensor]


def at(p: Params, path: str) -> Params:
    return {k.removeprefix(path + "."): v for k, v in p.items() if k.startswith(path + ".")}


def linear(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{path}.weight"], p[f"{path}.bias"])


def norm(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{path}.weight"], p[f"{path}.bias"])


def conv(p: Params, path: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    w = p[f"{path}.weight"]
    return F.conv2d(x, w, p[f"{path}.bias"], stride, w.shape[-1] // 2, groups=groups)


def paths(h: int, w: int) -> list[list[tuple[int, int]]]:
    rows = [(i, j) for i in range(h) for j in range(w)]
    columns = [(i, j) for j in range(w) for i in range(h)]
    return [rows, columns, rows[::-1], columns[::-1]]


def ss2d(p: Params, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    for k, path in enumerate(paths(*x.shape[1:3])):
        a = -torch.exp(p["a_log"][k])
        state = torch.zeros((len(x), *a.shape), dtype=x.dtype)
        for i, j in path:
            u = x[:, i, j]
            delta = F.softplus(u @ p["step_down"][k].T @ p["step_up"][k].T + p["step_bias"][k])[..., None]
            state = torch.exp(delta * a) * state + delta * (u @ p["b"][k].T)[:, None] * u[..., None]
            y[:, i, j] += (state @ (u @ p["c"][k].T)[..., None])[..., 0] + p["skip"][k] * u
    return y


def deform(p: Params, path: str, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y = p[f"{path}.bias"].view(1, -1, 1, 1)
    for k in range(9):
        u, v = rows + k // 3 - 1 + offset[:, 2 * k], columns + k % 3 - 1 + offset[:, 2 * k + 1]
        grid = torch.stack([(2 * v + 1) / w - 1, (2 * u + 1) / h - 1], -1)
        tap = p[f"{path}.weight"][:, 0, k // 3, k % 3].view(-1, 1, 1)
        y = y + tap * mask[:, k : k + 1] * F.grid_sample(x, grid, align_corners=False)
    return y


def dvss(p: Params, x: torch.Tensor) -> torch.Tensor:
    c = x.shape[1]
    z = norm(p, "layer_norm.0", x.movedim(1, -1))
    u = linear(p, "input", z).movedim(-1, 1)
    u = F.silu(conv(p, "conv2d.0", u, groups=c) + conv(p, "conv2d.1", u, groups=c))
    s = norm(p, "layer_norm.1", ss2d(at(p, "ss2_d"), u.movedim(1, -1)))
    modulation = conv(p, "offset", u)
    d = deform(p, "deform_conv2d", u, modulation[:, :18], torch.sigmoid(modulation[:, 18:]))
    y = x.movedim(1, -1) + linear(p, "output", (s + d.movedim(1, -1)) * F.silu(linear(p, "gate", z)))
    y = y + linear(p, "linear.1", F.gelu(linear(p, "linear.0", norm(p, "layer_norm.2", y))))
    return y.movedim(-1, 1)


def stem(p: Params, i: int, x: torch.Tensor) -> torch.Tensor:
    q = at(p, f"batch_norm.{i}")
    y = conv(p, f"conv2d.{i}", x, 2)
    return F.relu(F.batch_norm(y, q["running_mean"], q["running_var"], q["weight"], q["bias"]))


def reference(p: dict[str, Array], image: Array) -> Array:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    high = stem(q, 0, torch.from_numpy(image))
    low = stem(q, 1, high)
    high, low = dvss(at(q, "high"), high), dvss(at(q, "low"), low)
    up = F.interpolate(conv(q, "conv2d.2", low), scale_factor=2, mode="bilinear")
    fused = F.relu(low + conv(q, "conv2d.3", high, 2))
    fused = F.interpolate(fused, scale_factor=2, mode="bilinear")
    return conv(q, "conv2d.4", torch.cat([F.relu(high + up), fused], 1)).numpy()


def parameters(rng: Generator, p: dict[str, Array]) -> dict[str, Array]:
    """Statistics of the batch norms that are not the initial ones."""
    return {k: rng.uniform(0.5, 1.5, v.shape) if k.endswith("running_var") else v for k, v in p.items()}
