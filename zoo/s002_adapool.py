"""S002 AdaPool (Stergiou and Poppe 2021): reference.

out = beta * sum_i a_i softmax_i(DSC(mean, a_i)) + (1 - beta) * sum_i a_i softmax_i(a_i), loops over the regions.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from torch.nn.functional import conv2d, silu

SAMPLES = [{"N": 2}, {"N": 3}]


def softmax(z: Array, axis: int) -> Array:
    e = np.exp(z)
    return e / e.sum(axis=axis, keepdims=True)


def adapool(x: Array, beta: Array, k: int) -> tuple[Array, Array]:
    n, c, h, w = x.shape
    pooled, shares = np.zeros((n, c, h // k, w // k)), np.zeros_like(x)
    for b in range(n):
        for p in range(h // k):
            for q in range(w // k):
                window = (b, slice(None), slice(p * k, p * k + k), slice(q * k, q * k + k))
                a = x[window].reshape(c, k * k)
                m = a.mean(axis=1)
                dsc = np.array([2 * (m @ a[:, i]) / (m @ m + a[:, i] @ a[:, i] + 1e-6) for i in range(k * k)])
                s = beta[p, q] * softmax(dsc, 0)[None] + (1 - beta[p, q]) * softmax(a, 1)
                pooled[b, :, p, q] = (s * a).sum(axis=1)
                shares[window] = s.reshape(c, k, k)
    return pooled, shares


def conv(p: dict[str, Array], i: int, x: Array) -> torch.Tensor:
    weight, bias = (torch.from_numpy(p[f"conv2d.{i}.{part}"]) for part in ("weight", "bias"))
    return conv2d(torch.from_numpy(x), weight, bias, padding=1)


def reference(p: dict[str, Array], x: Array) -> tuple[Array, ...]:
    fine = silu(conv(p, 0, x)).numpy()
    coarse, shares = adapool(fine, np.clip(p["ada_pool.0.beta"], 0, 1), 2)
    coarse = silu(conv(p, 1, coarse)).numpy()
    top, _ = adapool(coarse, np.clip(p["ada_pool.1.beta"], 0, 1), 4)
    image = conv(p, 2, fine + shares * coarse.repeat(2, axis=2).repeat(2, axis=3)).numpy()
    return image, top.reshape(len(x), -1) @ p["linear.weight"].T + p["linear.bias"]


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    return {name: rng.uniform(0.1, 0.9, v.shape) if name.endswith("beta") else v for name, v in p.items()}
