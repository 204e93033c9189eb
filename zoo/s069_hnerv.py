"""S069 HNeRV (Chen et al. 2023): reference. ConvNeXt encoder, then conv -> pixel_shuffle -> GELU, in torch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [
    {"model": "HNeRV", "N": 2, "H": 2, "W": 1},
    {"model": "HNeRV", "N": 3, "H": 1, "W": 2},
    {"model": "Decode", "N": 2},
    {"model": "Decode", "N": 5},
]
Params = dict[str, torch.Tensor]


def conv(p: Params, path: str, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    w = p[f"{path}.weight"]
    return F.conv2d(x, w, p[f"{path}.bias"], stride, w.shape[-1] // 2 if stride == 1 else 0, groups=groups)


def norm(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    w, b = p[f"{path}.layer_norm.weight"], p[f"{path}.layer_norm.bias"]
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * w.view(-1, 1, 1) + b.view(-1, 1, 1)


def encode(p: Params, x: torch.Tensor) -> torch.Tensor:
    for i, stride in enumerate((4, 2, 2)):
        path = f"encoder.stages.{i}"
        x = norm(p, f"{path}.layer_norm2d", conv(p, f"{path}.conv2d", x, stride))
        path += ".conv_ne_xt"
        y = norm(p, f"{path}.layer_norm2d", conv(p, f"{path}.conv2d.0", x, groups=x.shape[1]))
        y = conv(p, f"{path}.conv2d.2", F.gelu(conv(p, f"{path}.conv2d.1", y)))
        x = x + p[f"{path}.gamma"].view(-1, 1, 1) * y
    return x


def decode(p: Params, x: torch.Tensor) -> Array:
    for i, stride in enumerate((2, 2, 4)):
        x = F.gelu(F.pixel_shuffle(conv(p, f"decoder.stages.{i}.conv2d", x), stride))
    return torch.sigmoid(conv(p, "decoder.conv2d", x)).numpy()


def tensors(p: dict[str, Array]) -> Params:
    return {k: torch.from_numpy(v) for k, v in p.items()}


def autoencode(p: dict[str, Array], frame: Array) -> Array:
    return decode(tensors(p), encode(tensors(p), torch.from_numpy(frame)))


def stored(p: dict[str, Array], frame: Array) -> Array:
    return decode(tensors(p), torch.from_numpy(p["embeddings"][frame].reshape(-1, 4, 2, 3)))


REFERENCES = {"HNeRV": autoencode, "Decode": stored}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    shape = shapes["frame"]
    return {"frame": rng.uniform(0, 1, shape) if len(shape) > 1 else rng.integers(0, 6, shape)}
