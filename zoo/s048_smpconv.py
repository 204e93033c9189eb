"""S048 SMPConv (Kim and Park 2023): reference. K(p) = mean over the points near p of w_i (1 - |p - p_i|_1/r_i)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [
    {"model": "SMPNet", "N": 2, "H": 8, "W": 9},
    {"model": "SMPNet", "N": 3, "H": 10, "W": 8},
    {"model": "IrregularSMPNet", "N": 2},
    {"model": "IrregularSMPNet", "N": 3},
]
SIZE = 7

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    made = {"x": rng.standard_normal(shapes["x"])}
    if "time" in shapes:
        made["time"] = np.sort(rng.uniform(-1, 1, shapes["time"]), axis=1)
    return made


def kernel_at(p: Params, name: str, position: np.ndarray) -> np.ndarray:
    """The kernel of every channel at one position."""
    total, near = np.zeros(len(p[name + ".weight"])), 0
    for i, (point, radius) in enumerate(zip(p[name + ".points"], p[name + ".radius"], strict=True)):
        distance = np.abs(position - point).sum()
        if distance < radius:
            total, near = total + p[name + ".weight"][:, i] * (1 - distance / radius), near + 1
    return total / near if near else total


def conv(p: Params, name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
    bias = p.get(name + ".bias")
    weight = torch.from_numpy(p[name + ".weight"])
    return F.conv2d(x, weight, None if bias is None else torch.from_numpy(bias), padding="same", **options)


def norm(p: Params, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(
        x, *(torch.from_numpy(p[f"{name}.{k}"]) for k in ("running_mean", "running_var", "weight", "bias"))
    )


def smp_net(p: Params, x: np.ndarray) -> np.ndarray:
    h = conv(p, "stem", torch.from_numpy(x))
    axis = np.linspace(-1, 1, SIZE)
    for i in range(2):
        b = f"blocks.{i}.smp_block."
        rows = [[kernel_at(p, b + "smp_conv2d", np.array([u, v])) for v in axis] for u in axis]
        kernel = torch.from_numpy(np.array(rows)).permute(2, 0, 1)[:, None]
        c = h.shape[1]
        large = F.conv2d(h, kernel, padding=SIZE // 2, groups=c)
        h = h + F.relu(norm(p, b + "batch_norm", large + conv(p, b + "small", h, groups=c)))
        h = h + norm(p, b + "norm2", conv(p, b + "down", F.gelu(conv(p, b + "up", h))))
    return h.mean((2, 3)).numpy() @ p["head.weight"].T + p["head.bias"]


def irregular(p: Params, x: np.ndarray, time: np.ndarray) -> np.ndarray:
    h = x @ p["stem.weight"].T + p["stem.bias"]
    y = np.zeros_like(h)
    for b in range(len(h)):
        for i, t in enumerate(time[b]):
            for j, s in enumerate(time[b]):
                y[b, i] += kernel_at(p, "irregular_smp_conv", np.array([t - s])) * h[b, j]
    h = h + np.maximum(y, 0) @ p["mix.weight"].T + p["mix.bias"]
    return h.mean(1) @ p["head.weight"].T + p["head.bias"]


REFERENCES = {"SMPNet": smp_net, "IrregularSMPNet": irregular}
