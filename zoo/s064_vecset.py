"""S064 3DShape2VecSet (Zhang et al. 2023): reference. Cross attention from sampled points, set decoder, latent ODE.

Point by point for sampling and embedding; attention by PyTorch; the ODE as the linear recursion in the denoised set.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [
    {"model": "Autoencoder", "N": 2, "P": 14, "Q": 5},
    {"model": "Autoencoder", "N": 3, "P": 20, "Q": 4},
    {"model": "Generator", "N": 2, "Q": 5},
    {"model": "Generator", "N": 3, "Q": 4},
]
LEVELS = [3.0, 1.0, 0.3, 0.1, 0.0]

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {k: rng.standard_normal(s) if k == "noise" else rng.uniform(-1, 1, s) for k, s in shapes.items()}


class Net:
    """Parameters below one path as tensors."""

    def __init__(self, p: Params, path: str = "") -> None:
        self.p, self.path = p, path

    def at(self, name: str) -> Net:
        return Net(self.p, f"{self.path}{name}.")

    def get(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.p[self.path + name])

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        bias = self.get(name + ".bias") if f"{self.path}{name}.bias" in self.p else None
        return F.linear(x, self.get(name + ".weight"), bias)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get(name + ".weight"), self.get(name + ".bias"))


def embed(net: Net, x: torch.Tensor) -> torch.Tensor:
    angles = x[..., None] * torch.pi * torch.tensor([1.0, 2.0, 4.0], dtype=x.dtype)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return net.linear("linear", torch.cat([x[..., None], waves], dim=-1).flatten(-2))


def farthest(points: np.ndarray, count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        distances = [min(float(((p - points[c]) ** 2).sum()) for c in chosen) for p in points]
        chosen.append(int(np.argmax(distances)))
    return chosen


def cross(net: Net, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    u = net.norm("context_norm", context)
    q, k, v = net.linear("query", net.norm("norm", x)), net.linear("key", u), net.linear("value", u)
    return net.linear("out", F.scaled_dot_product_attention(q, k, v))


def block(net: Net, x: torch.Tensor) -> torch.Tensor:
    width = x.shape[-1]
    attention = torch.nn.MultiheadAttention(width, 2, batch_first=True, dtype=torch.float64)
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    attention.load_state_dict({name: net.get("attention." + name) for name in names})
    u = net.norm("norm1", x)
    x = x + attention(u, u, u)[0].detach()
    return x + net.linear("down", F.gelu(net.linear("up", net.norm("norm2", x))))


def decode(net: Net, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    f = net.linear("lift", z)
    for i in range(2):
        f = block(net.at(f"blocks.{i}.self_block"), f)
    return net.linear("head", cross(net.at("interpolate"), embed(net.at("query"), x), f))[..., 0]


def autoencoder(p: Params, points: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    net = Net(p)
    embedded = embed(net.at("embed"), torch.from_numpy(points))
    asked = torch.stack([e[farthest(cloud, 6)] for e, cloud in zip(embedded, points, strict=True)])
    z = net.linear("mean", asked + cross(net.at("encode"), asked, embedded))
    return decode(net.at("decoder"), z, torch.from_numpy(x)).numpy(), z.numpy()


def denoise(net: Net, z: torch.Tensor, s: float) -> torch.Tensor:
    t = np.log(s) / 4 * np.pi
    features = torch.tensor([f(b * t) for b in (1, 2, 4) for f in (np.sin, np.cos)], dtype=torch.float64)
    h = z / np.hypot(s, 1) @ net.get("lift").T + F.silu(net.get("level") @ features)
    scores = (h @ net.get("query").T) @ (h @ net.get("key").T).mT / h.shape[-1] ** 0.5
    h = h + torch.softmax(scores, dim=-1) @ (h @ net.get("value").T)
    h = h + F.gelu(h @ net.get("up").T) @ net.get("down").T
    return z / (s**2 + 1) + s / np.hypot(s, 1) * (h @ net.get("out").T)


def generator(p: Params, noise: np.ndarray, x: np.ndarray) -> np.ndarray:
    net, z = Net(p), LEVELS[0] * torch.from_numpy(noise)
    for s, following in itertools.pairwise(LEVELS):
        z = following / s * z + (1 - following / s) * denoise(net.at("sampler"), z, s)
    return decode(net.at("decoder"), z, torch.from_numpy(x)).numpy()


REFERENCES = {"Autoencoder": autoencoder, "Generator": generator}
