"""S077 MG-TFNO (Kossaifi et al. 2024): reference. Patches by np.roll, the whole spectral weight materialized."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2}, {"N": 3}]


def patch(x: Array, t: int, s: int) -> Array:
    fine = np.roll(x, (2 - 8 * t, 2 - 8 * s), (1, 2))[:, :12, :12]
    wide = np.tile(np.roll(x, (8 - 8 * t, 8 - 8 * s), (1, 2)), (1, 2, 2))
    return np.concatenate([fine, wide[:, :24:2, :24:2]])


def tfno(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def conv(name: str, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(v, p[f"{name}.weight"], p[f"{name}.bias"])

    core = torch.complex(p["core_re"], p["core_im"])
    factors = (p[k].to(core.dtype) for k in ("layers", "inputs", "outputs", "rows", "columns"))
    weight = torch.einsum("abcde,la,ib,oc,kd,me->liokm", core, *factors)
    v = conv("lift", x)
    for i, r in enumerate(weight):
        s = torch.fft.rfft2(v)
        y = torch.zeros((len(v), r.shape[1], *s.shape[2:]), dtype=s.dtype)
        y[:, :, :3, :4] = torch.einsum("nikm,iokm->nokm", s[:, :, :3, :4], r[:, :, :3])
        y[:, :, -3:, :4] = torch.einsum("nikm,iokm->nokm", s[:, :, -3:, :4], r[:, :, 3:])
        v = v + F.gelu(torch.fft.irfft2(y, s=v.shape[2:]) + conv(f"skips.{i}.conv2d", v))
    return conv("conv2d.1", F.gelu(conv("conv2d.0", v)))


def reference(p: dict[str, Array], x: Array) -> Array:
    q = {k.removeprefix("tfno."): torch.from_numpy(v) for k, v in p.items()}
    result = np.zeros((len(x), 1, 16, 16))
    for t in range(2):
        for s in range(2):
            y = tfno(q, torch.from_numpy(np.stack([patch(image, t, s) for image in x]))).numpy()
            result[:, :, 8 * t : 8 * t + 8, 8 * s : 8 * s + 8] = y[:, :, 2:-2, 2:-2]
    return result
