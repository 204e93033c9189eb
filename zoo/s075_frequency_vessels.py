"""S075 Frequency-domain vessel U-Net (Wang et al. 2024): reference. The full complex FFT of torch over three axes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2}, {"N": 3}]
Params = dict[str, torch.Tensor]
AXES = (2, 3, 4)


def conv(p: Params, path: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    w = p[f"{path}.weight"]
    return F.conv3d(x, w, p.get(f"{path}.bias"), stride, w.shape[-1] // 2 if stride == 1 else 0)


def norm(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    return F.instance_norm(x, weight=p[f"{path}.weight"], bias=p[f"{path}.bias"])


def block(p: Params, path: str, x: torch.Tensor) -> torch.Tensor:
    w = torch.complex(p[f"{path}.global_filter.re"], p[f"{path}.global_filter.im"])
    y = torch.fft.irfftn(w * torch.fft.rfftn(x, dim=AXES), s=x.shape[2:], dim=AXES)
    return x + conv(p, f"{path}.conv3d", F.gelu(y))


def skip(decoder: torch.Tensor, encoder: torch.Tensor) -> torch.Tensor:
    grids = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) <= 0.25 for n in decoder.shape[2:]), indexing="ij")
    low = torch.from_numpy(np.logical_and.reduce(grids))
    mixed = torch.where(low, torch.fft.fftn(decoder, dim=AXES), torch.fft.fftn(encoder, dim=AXES))
    return torch.fft.ifftn(mixed, dim=AXES).real


def reference(p: dict[str, Array], volume: Array) -> Array:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    fine = block(q, "fourier_block.0", norm(q, "instance_norm.0", conv(q, "conv3d.0", torch.from_numpy(volume))))
    coarse = block(q, "fourier_block.1", norm(q, "instance_norm.1", conv(q, "conv3d.1", fine, 2)))
    up = F.interpolate(conv(q, "conv3d.2", coarse), scale_factor=2, mode="nearest")
    return conv(q, "conv3d.3", block(q, "fourier_block.2", skip(up, fine))).numpy()
