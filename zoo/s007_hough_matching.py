"""S007 Convolutional Hough matching (Min, Kim and Cho 2021): reference.

C = relu(cos), a 6D convolution, max over scales, a 4D one and a center-pivot one, softmax over the target: each
convolution as a sum of shifted tensors, one per tap.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.special import expit, softmax
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 2, "W": 3}, {"N": 3, "H": 2, "W": 2}]
Params = dict[str, Array]
OFFSETS = [np.array(offset) for offset in itertools.product((-1, 0, 1), repeat=2)]


def shifted(x: Array, offset: tuple[int, ...]) -> Array:
    """y[i] = x[i + offset] over the last axes, zeros outside; offsets are -1, 0 or 1."""
    axes = len(offset)
    padded = np.pad(x, [(0, 0)] * (x.ndim - axes) + [(1, 1)] * axes)
    window = [slice(1 + o, 1 + o + size) for o, size in zip(offset, x.shape[-axes:], strict=True)]
    return padded[(..., *window)]


def kind(p: Array, q: Array) -> int:
    """The class of a tap: unordered squared lengths of both offsets, and that of their difference."""
    a, b = sorted([p @ p, q @ q])
    return int(27 * a + 9 * b + (p - q) @ (p - q))


def hough4d(x: Array, weight: Array) -> Array:
    return sum(weight[kind(p, q)] * shifted(x, (*p, *q)) for p in OFFSETS for q in OFFSETS)


def hough6d(x: Array, weight: Array) -> Array:
    y = np.zeros_like(x)
    for s, t in itertools.product((-1, 0, 1), repeat=2):
        for p in OFFSETS:
            for q in OFFSETS:
                y += weight[2 * abs(s) + abs(t), kind(p, q)] * shifted(x, (s, *p, t, *q))
    return y


def pyramid(p: Params, image: Array) -> Array:
    t = {name.removeprefix("pyramid."): torch.from_numpy(v) for name, v in p.items() if name.startswith("pyramid.")}

    def conv(i: int, x: torch.Tensor, **options: int) -> torch.Tensor:
        return F.conv2d(x, t[f"conv2d.{i}.weight"], t[f"conv2d.{i}.bias"], **options)

    f = conv(1, F.relu(conv(0, torch.from_numpy(image), stride=2, padding=1)), padding=1)
    coarse = F.interpolate(conv(2, F.avg_pool2d(f, 2)), scale_factor=2.0)
    return torch.stack([F.normalize(f), F.normalize(coarse)], dim=1).numpy()


def reference(p: Params, source: Array, target: Array) -> Array:
    a, b = pyramid(p, source), pyramid(p, target)
    correlation = np.maximum(np.einsum("nschw,ntcij->nshwtij", a, b), 0)
    votes = expit(hough6d(correlation, p["hough.six"]).max(axis=(1, 4)))
    x = expit(hough4d(votes, p["hough.four"]))
    y = np.zeros_like(x)
    for q in OFFSETS:
        row, column = q + 1
        y += p["hough.target"][row, column] * shifted(x, (0, 0, *q))
        y += p["hough.source"][row, column] * shifted(x, (*q, 0, 0))
    n, h, w, i, j = y.shape
    weights = softmax(8 * y.reshape(n, h, w, i * j), axis=-1).reshape(y.shape)
    rows, columns = ((2 * np.arange(size) + 1) / size - 1 for size in (i, j))
    return np.stack([weights.sum(axis=4) @ rows, weights.sum(axis=3) @ columns], axis=-1)
