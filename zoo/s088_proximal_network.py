"""S088 Learned proximal networks (Fang, Buchanan and Sulam 2024): reference. f = grad psi by hand, in two modes.

The gradient is written out with transposed convolutions and sigmoids; the blur is a sum of rolled images and its
inverse a dense linear system.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2}, {"N": 3}]


def prox(p: dict[str, Array], y: Array) -> Array:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    x, w2 = torch.from_numpy(y), q["w2"].clamp(min=0)
    u1 = F.conv2d(x, q["h1"], q["b1"], padding=1)
    u2 = F.conv2d(F.softplus(u1), w2, q["b2"], 2, 1) + F.conv2d(x, q["h2"], None, 2, 1)
    d2 = q["w"].clamp(min=0).view(-1, 1, 1) * torch.sigmoid(u2)
    d1 = F.conv_transpose2d(d2, w2, None, 2, 1, 1) * torch.sigmoid(u1)
    f = 0.3 * x + F.conv_transpose2d(d2, q["h2"], None, 2, 1, 1) + F.conv_transpose2d(d1, q["h1"], padding=1)
    return f.numpy()


def blur_matrix() -> Array:
    r = np.minimum(np.arange(12), 12 - np.arange(12))
    bell = np.exp(-(r[:, None] ** 2 + r**2) / (2 * 1.2**2))
    bell /= bell.sum()
    return np.array([np.roll(bell, (i, j), (0, 1)).ravel() for i in range(12) for j in range(12)])


def deblur(p: dict[str, Array], b: Array) -> Array:
    a = blur_matrix()
    system = a.T @ a + 0.5 * np.eye(144)
    z, v = b, np.zeros_like(b)
    for _ in range(2):
        right = b.reshape(-1, 144) @ a + 0.5 * (z - v).reshape(-1, 144)
        x = np.linalg.solve(system, right.T).T.reshape(b.shape)
        z = prox(p, x + v)
        v = v + x - z
    return z


REFERENCES = {"Proximal": prox, "Deblur": deblur}
