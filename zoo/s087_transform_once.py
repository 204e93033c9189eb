"""S087 Transform Once (Poli et al. 2022): reference. DCT from scipy.fft, a net on the coefficients, inverse DCT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from numpy import ndarray as Array, pad
from scipy.fft import dctn, idctn

SAMPLES = [{"N": 2}, {"N": 3}]


def conv(p: dict[str, Array], path: str, x: torch.Tensor) -> torch.Tensor:
    w = torch.from_numpy(p[f"{path}.weight"])
    return F.conv2d(x, w, torch.from_numpy(p[f"{path}.bias"]), padding=w.shape[-1] // 2)


def block(p: dict[str, Array], path: str, a: torch.Tensor) -> torch.Tensor:
    return a + conv(p, f"{path}.conv2d.1", F.gelu(conv(p, f"{path}.conv2d.0", a)))


def t1(p: dict[str, Array], x: Array) -> Array:
    a = conv(p, "conv2d.0", torch.from_numpy(dctn(x, axes=(2, 3), norm="ortho")[:, :, :8, :8].copy()))
    for i in range(2):
        a = block(p, f"frequency_block.{i}", a)
    a = conv(p, "conv2d.1", a).numpy()
    return idctn(pad(a, ((0, 0), (0, 0), (0, 16), (0, 12))), axes=(2, 3), norm="ortho")


def spectrum(p: dict[str, Array], x: Array) -> Array:
    a = torch.from_numpy(dctn(x, axes=(2, 3), norm="ortho"))
    return idctn(block(p, "frequency_block", a).numpy(), axes=(2, 3), norm="ortho")


REFERENCES = {"T1": t1, "Spectrum": spectrum}
