"""S046 Long convolutions (Fu et al. 2023): reference. y_t = sum_s squash(k)_s u_{t-s} + D u_t, a sum over the past."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2}, {"N": 3}]

Params = dict[str, np.ndarray]


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def reference(p: Params, x: np.ndarray) -> np.ndarray:
    h = dense(p, "encoder", x)
    for i in range(2):
        b = f"blocks.{i}.block."
        weight, bias = (torch.from_numpy(p[b + "layer_norm." + k]) for k in ("weight", "bias"))
        u = F.layer_norm(torch.from_numpy(h), weight.shape, weight, bias)
        k = F.softshrink(torch.from_numpy(p[b + "long_conv.kernel"]), 0.1).numpy()
        y = np.empty(u.shape)
        for n, channel in np.ndindex(len(h), len(k)):
            signal = u[n, :, channel].numpy()
            y[n, :, channel] = np.convolve(signal, k[channel])[: len(signal)] + p[b + "long_conv.d"][channel] * signal
        gate = torch.from_numpy(dense(p, b + "gate", F.gelu(torch.from_numpy(y)).numpy()))
        h = h + F.glu(gate).numpy()
    return dense(p, "decoder", h.mean(1))
