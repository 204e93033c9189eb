"""S011 Real NVP (Dinh et al. 2017): reference.

The flow in torch with boolean masks, log |det dz/dx| from the Jacobian that autograd gives; the sampler solves the
couplings backward, and its images must map to the given z.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 2, "W": 3}, {"N": 3, "H": 3, "W": 2}]
Params = dict[str, Tensor]


def fixed(kind: str, flip: bool, shape: torch.Size) -> Tensor:
    """Which elements of an image [C, H, W] a coupling leaves alone."""
    c, h, w = np.indices(shape)
    keep = (h + w) % 2 == 0 if kind == "checkerboard" else c < shape[0] // 2
    return torch.from_numpy(keep != flip)


def coupling(p: Params, name: str, x: Tensor, kind: str, flip: bool, inverse: bool) -> Tensor:
    keep = fixed(kind, flip, x.shape)
    h = torch.where(keep, x, 0.0)[None]
    for part, pad in (("first", 1), ("second", 0)):
        h = F.relu(F.conv2d(h, p[f"{name}.{part}.weight"], p[f"{name}.{part}.bias"], padding=pad))
    s, t = F.conv2d(h, p[f"{name}.last.weight"], p[f"{name}.last.bias"], padding=1)[0].chunk(2)
    s = p[f"{name}.scale"] * torch.tanh(s)
    return torch.where(keep, x, (x - t) / torch.exp(s) if inverse else x * torch.exp(s) + t)


def couplings(p: Params, name: str, x: Tensor, kind: str, inverse: bool = False) -> Tensor:
    for i in (2, 1, 0) if inverse else (0, 1, 2):
        x = coupling(p, f"{name}.c{i}", x, kind, i == 1, inverse)
    return x


def encode(p: Params, x: Tensor) -> Tensor:
    """One image [1, 2H, 2W] to z [4, H, W]: the late half, then the early one."""
    h = F.pixel_unshuffle(couplings(p, "fine", x, "checkerboard"), 2)
    h = couplings(p, "squeezed", h, "channel")
    return torch.cat([couplings(p, "coarse", h[:2], "checkerboard"), h[2:]])


def tensors(p: dict[str, Array]) -> Params:
    return {name: torch.from_numpy(value) for name, value in p.items()}


def density(p: dict[str, Array], x: Array) -> tuple[Array, Array, Array]:
    t = tensors(p)
    codes, logs = [], []
    for image in torch.from_numpy(x):
        z = encode(t, image)
        jacobian = torch.autograd.functional.jacobian(lambda v: encode(t, v), image)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        codes.append(z)
        logs.append(prior + torch.linalg.slogdet(jacobian.reshape(z.numel(), z.numel())).logabsdet)
    z = torch.stack(codes).numpy()
    return z[:, 2:], z[:, :2], torch.stack(logs).numpy()


def sampler(p: dict[str, Array], early: Array, late: Array) -> Array:
    t = tensors(p)
    images = []
    for a, b in zip(torch.from_numpy(early), torch.from_numpy(late), strict=True):
        h = torch.cat([couplings(t, "coarse", b, "checkerboard", inverse=True), a])
        h = F.pixel_shuffle(couplings(t, "squeezed", h, "channel", inverse=True), 2)
        image = couplings(t, "fine", h, "checkerboard", inverse=True)
        assert torch.allclose(encode(t, image), torch.cat([b, a]))
        images.append(image)
    return torch.stack(images).numpy()


REFERENCES = {"Density": density, "Sampler": sampler}
