"""S010 Deformable ConvNets v2 (Zhu et al. 2019): reference.

y(p) = sum_k w_k x(p + p_k + dp_k(p)) dm_k(p); fractional reads by scipy.ndimage.map_coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.ndimage import map_coordinates
from scipy.special import expit
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 8, "W": 9, "R": 2}, {"N": 3, "H": 10, "W": 8, "R": 3}]
Params = dict[str, Array]


def read(image: Array, u: Array, v: Array) -> Array:
    return map_coordinates(image, [u, v], order=1, mode="grid-constant", cval=0.0)


def conv(p: Params, name: str, x: Array) -> Array:
    weight, bias = (torch.from_numpy(p[f"{name}.{part}"]) for part in ("weight", "bias"))
    return F.conv2d(torch.from_numpy(x), weight, bias, padding="same").numpy()


def norm(p: Params, name: str, x: Array) -> Array:
    mean, var, weight, bias = (
        p[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def deform_conv(p: Params, name: str, x: Array, groups: int = 2) -> Array:
    weight, bias = p[f"{name}.main.weight"], p[f"{name}.main.bias"]
    branch = conv(p, f"{name}.branch", x)
    batch, channels, h, w = x.shape
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    y = np.zeros((batch, len(weight), h, w)) + bias[:, None, None]
    for n in range(batch):
        for c in range(channels):
            g = c // (channels // groups)
            for tap in range(9):
                t = 9 * g + tap
                u = rows + tap // 3 - 1 + branch[n, 2 * t]
                v = columns + tap % 3 - 1 + branch[n, 2 * t + 1]
                value = read(x[n, c], u, v) * expit(branch[n, 18 * groups + t])
                y[n] += weight[:, c, tap // 3, tap % 3][:, None, None] * value
    return y


def roi_pool(x: Array, box: Array, offset: Array, mask: Array) -> Array:
    """One image [C, H, W] and one box: [C, S, S]."""
    size = len(mask)
    height, width = box[2] - box[0], box[3] - box[1]
    y = np.zeros((len(x), size, size))
    for i in range(size):
        for j in range(size):
            for a in (0.25, 0.75):
                for b in (0.25, 0.75):
                    u = box[0] + height * (i + a) / size + offset[i, j, 0] * height
                    v = box[1] + width * (j + b) / size + offset[i, j, 1] * width
                    y[:, i, j] += [mask[i, j] * read(channel, np.array([u]), np.array([v]))[0] / 4 for channel in x]
    return y


def deform_roi_pool(p: Params, name: str, x: Array, box: Array, size: int = 3) -> Array:
    plain = roi_pool(x, box, np.zeros((size, size, 2)), np.ones((size, size))).ravel()
    hidden = np.maximum(p[f"{name}.linear.0.weight"] @ plain + p[f"{name}.linear.0.bias"], 0)
    branch = p[f"{name}.linear.1.weight"] @ hidden + p[f"{name}.linear.1.bias"]
    offset = 0.1 * branch[: 2 * size * size].reshape(size, size, 2)
    return roi_pool(x, box, offset, expit(branch[2 * size * size :]).reshape(size, size))


def reference(p: Params, x: Array, rois: Array) -> tuple[Array, Array]:
    x = np.maximum(norm(p, "batch_norm", conv(p, "conv2d", x)), 0)
    b = "deform_bottleneck"
    y = np.maximum(norm(p, f"{b}.batch_norm.0", conv(p, f"{b}.conv2d.0", x)), 0)
    y = np.maximum(norm(p, f"{b}.batch_norm.1", deform_conv(p, f"{b}.modulated_deform_conv2d", y)), 0)
    x = np.maximum(x + norm(p, f"{b}.batch_norm.2", conv(p, f"{b}.conv2d.1", y)), 0)
    pooled = [
        [deform_roi_pool(p, "deform_ro_i_pool", image, box).ravel() for box in boxes]
        for image, boxes in zip(x, rois, strict=True)
    ]
    return np.array(pooled) @ p["classes.weight"].T + p["classes.bias"], x


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    n, r, _ = shapes["rois"]
    corner, size = rng.uniform(0, 3, (n, r, 2)), rng.uniform(3, 6, (n, r, 2))
    return {"x": rng.normal(size=shapes["x"]), "rois": np.concatenate([corner, corner + size], axis=-1)}
