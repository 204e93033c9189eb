"""Depthwise and long convolutions, each with a form by Fourier transforms whose sizes have small factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Input, Weights, Workload

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS, SIZE, LENGTH = 64, 56, 16384


def _depthwise2d(k: int, batch: int = 1) -> Workload:
    size = scipy.fft.next_fast_len(SIZE + k - 1, real=True)
    start = (k - 1) // 2

    def plain(w: Weights, x: Tensor) -> Tensor:
        return F.conv2d(x, w["weight"], padding=k // 2, groups=CHANNELS)

    def spectrum(w: Weights, x: Tensor) -> Tensor:
        y = torch.fft.irfft2(torch.fft.rfft2(x, s=(size, size)) * w["spectrum"], s=(size, size))
        return y[..., start : start + SIZE, start : start + SIZE]

    return Workload(
        name=f"depthwise-{k}" + (f"-b{batch}" if batch > 1 else ""),
        family="depthwise",
        title=f"depthwise {k}×{k} {CHANNELS}ch {SIZE}²",
        source=f"""model Net(x: f32[{batch}, {CHANNELS}, {SIZE}, {SIZE}]) -> f32[{batch}, {CHANNELS}, {SIZE}, {SIZE}] {{
  param weight: f32[{CHANNELS}, 1, {k}, {k}] = normal(0, {1 / k})
  return conv2d(x, weight; pad = {k // 2}, groups = {CHANNELS})
}}""",
        inputs=(Input((batch, CHANNELS, SIZE, SIZE)),),
        forms={"plain": plain, "fft": spectrum},
        derived=lambda w: {"spectrum": np.fft.rfft2(w["weight"][:, 0, ::-1, ::-1], (size, size))},
        images=True,
        bar=1.3 if k >= 13 else 1.0,
        quick=batch == 1 and k in (7, 31),
    )


def _depthwise1d(k: int, batch: int = 1) -> Workload:
    size = scipy.fft.next_fast_len(LENGTH + k - 1, real=True)

    def plain(w: Weights, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (k - 1, 0)), w["weight"].flip(-1).unsqueeze(1), groups=CHANNELS)

    def spectrum(w: Weights, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, n=size) * w["spectrum"], n=size)[..., :LENGTH]

    return Workload(
        name=f"depthwise1d-{k}" + (f"-b{batch}" if batch > 1 else ""),
        family="long convolution",
        title=f"causal depthwise 1-D K={k} {CHANNELS}ch L={LENGTH}",
        source=f"""op causal_conv(x: T[n, c, l], weight: T[c, k]) -> T[n, c, l] {{
  return y[n, c, l] = sum[k] weight[c, k] * x[n, c, l - k; pad = 0]
}}
model Net(x: f32[{batch}, {CHANNELS}, {LENGTH}]) -> f32[{batch}, {CHANNELS}, {LENGTH}] {{
  param weight: f32[{CHANNELS}, {k}] = normal(0, {k**-0.5})
  return causal_conv(x, weight)
}}""",
        inputs=(Input((batch, CHANNELS, LENGTH)),),
        forms={"plain": plain, "fft": spectrum},
        derived=lambda w: {"spectrum": np.fft.rfft(w["weight"], size)},
        reference="fft" if k > 256 else None,
        flops=2.0 * batch * CHANNELS * LENGTH * k,
        quick=k == 1024,
    )


WORKLOADS = (
    *(_depthwise2d(k) for k in (3, 5, 7, 13, 15, 31, 55)),
    *(_depthwise2d(k, 16) for k in (3, 7, 13, 31)),
    *(_depthwise1d(k) for k in (64, 256, 1024, 4096)),
)
