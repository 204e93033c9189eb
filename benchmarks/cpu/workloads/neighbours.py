"""Attention to the places around each place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Array, Input, Weights, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SIDE, WINDOW, HEADS, WIDTH = 56, 7, 2, 32
SHAPE = f"f32[1, {HEADS}, {SIDE}, {SIDE}, {WIDTH}]"


def _gathered(w: Weights, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The window around each place, moved inwards at the border (Hassani et al. 2023)."""
    del w
    start = (torch.arange(SIDE) - WINDOW // 2).clamp(0, SIDE - WINDOW)
    near = start.unsqueeze(1) + torch.arange(WINDOW)
    rows, columns = near[:, None, :, None], near[None, :, None, :]
    k, v = (x[:, :, rows, columns].flatten(4, 5) for x in (k, v))
    p = ((q.unsqueeze(4) @ k.transpose(-1, -2)) * WIDTH**-0.5).softmax(-1)
    return (p @ v).squeeze(4)


def _dense(w: Weights, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All places, of which most are masked."""
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=w["mask"].bool())
    return y.unflatten(2, (SIDE, SIDE))


def _mask(w: Mapping[str, Array]) -> dict[str, Array]:
    del w
    near = np.zeros((SIDE, SIDE))
    for i, first in enumerate(np.clip(np.arange(SIDE) - WINDOW // 2, 0, SIDE - WINDOW)):
        near[i, first : first + WINDOW] = 1
    return {"mask": np.kron(near, near)}


WORKLOADS = (
    Workload(
        name="neighbourhood-attention",
        family="attention",
        title=f"neighbourhood attention {SIDE}² k={WINDOW}, {HEADS} heads of {WIDTH}",
        source=f"""fn window_start(i, size; window) = min(max(i - window/2, 0), size - window)
op neighbourhood_attention(q: T[n, g, h, w, d], k: T[n, g, h, w, d], v: T[n, g, h, w, e];
                           window) -> T[n, g, h, w, e] {{
  let area = window*window
  let factor = 1.0/sqrt(d)
  let bottom = h
  let right = w
  scores[n, g, h, w, t < area] = factor * (sum[d] q[n, g, h, w, d] * k[n, g,
    window_start(h, bottom; window = window) + t/window, window_start(w, right; window = window) + t % window, d])
  p = softmax(scores; axis = -1)
  return y[n, g, h, w, e] = sum[t < area] p[n, g, h, w, t] * v[n, g,
    window_start(h, bottom; window = window) + t/window, window_start(w, right; window = window) + t % window, e]
}}
model Net(q: {SHAPE}, k: {SHAPE}, v: {SHAPE}) -> {SHAPE} {{ return neighbourhood_attention(q, k, v; {WINDOW}) }}""",
        inputs=(Input((1, HEADS, SIDE, SIDE, WIDTH)),) * 3,
        forms={"gathered": _gathered, "dense": _dense},
        derived=_mask,
        flops=4.0 * HEADS * SIDE**2 * WINDOW**2 * WIDTH,
    ),
)
