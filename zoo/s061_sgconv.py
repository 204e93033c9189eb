"""S061 SGConv (Li et al. 2022): reference. k = concat_i(alpha^i upsample(w_i))/Z, y = k * x over the past."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve

SAMPLES = [{"N": 2}, {"N": 3}]

Params = dict[str, np.ndarray]


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def kernel(w: np.ndarray) -> np.ndarray:
    """[c, l] from the scales [s, c, d]."""
    scales = torch.from_numpy(w)
    parts = [scales[:1]]
    for i in range(1, len(w)):
        parts.append(0.5**i * F.interpolate(scales[i : i + 1], scale_factor=2 ** (i - 1), mode="linear"))
    k = torch.cat(parts, dim=-1)[0].numpy()
    return k / np.linalg.norm(k, axis=1, keepdims=True)


def reference(p: Params, x: np.ndarray) -> np.ndarray:
    h = dense(p, "encoder", x)
    for i in range(2):
        b = f"blocks.{i}."
        weight, bias = (torch.from_numpy(p[b + "layer_norm." + k]) for k in ("weight", "bias"))
        u = F.layer_norm(torch.from_numpy(h), weight.shape, weight, bias).numpy().swapaxes(1, 2)
        k = kernel(p[b + "sg_conv.kernel.w"])
        y = fftconvolve(u, k[None], axes=-1)[..., : u.shape[-1]] + p[b + "sg_conv.skip"] * u
        h = h + dense(p, b + "mix", F.gelu(torch.from_numpy(y)).numpy().swapaxes(1, 2))
    return dense(p, "decoder", h.mean(1))
