"""S080 NUNO (Liu et al. 2023): reference. K-D tree -> grid by inverse distances -> FNO -> bilinear back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray as Array
from scipy.interpolate import RegularGridInterpolator

SAMPLES = [{"N": 2}, {"N": 3}]
AXIS = np.linspace(0, 1, 8)


def split(points: Array, members: Array, axis: int) -> list[Array]:
    if axis == 2:
        return [members]
    members = members[np.argsort(points[members, axis])]
    return [leaf for half in np.split(members, 2) for leaf in split(points, half, axis + 1)]


def fno(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def conv(name: str, v: torch.Tensor) -> torch.Tensor:
        return F.conv2d(v, p[f"{name}.weight"], p[f"{name}.bias"])

    v = conv("conv2d.0", x)
    for i in range(2):
        path = f"layers.{i}.spectral_conv2d"
        r = torch.complex(p[f"{path}.re"], p[f"{path}.im"])
        s = torch.fft.rfft2(v)
        y = torch.zeros((len(v), r.shape[1], *s.shape[2:]), dtype=s.dtype)
        for k, row in enumerate((0, 1, -2, -1)):
            y[:, :, row, :3] = torch.einsum("nij,ioj->noj", s[:, :, row, :3], r[:, :, k])
        v = F.gelu(conv(f"layers.{i}.conv2d", v) + torch.fft.irfft2(y, s=v.shape[2:]))
    return conv("conv2d.1", v)


def leaf_values(p: dict[str, torch.Tensor], points: Array, values: Array) -> Array:
    z = (points - points.min(0)) / np.ptp(points, axis=0)
    grid = np.array([[1 / (((z - (a, b)) ** 2).sum(1) + 1e-2) for b in AXIS] for a in AXIS])
    image = np.einsum("ijm,mc->cij", grid / grid.sum(-1, keepdims=True), values)
    y = fno(p, torch.from_numpy(image[None]))[0, 0].numpy()
    return RegularGridInterpolator((AXIS, AXIS), y)(np.clip(z, 0, 1))


def reference(p: dict[str, Array], point: Array, value: Array) -> Array:
    q = {k.removeprefix("fno."): torch.from_numpy(v) for k, v in p.items()}
    result = np.zeros((*value.shape[:2], 1))
    for n in range(len(point)):
        for leaf in split(point[n], np.arange(len(point[n])), 0):
            result[n, leaf, 0] = leaf_values(q, point[n][leaf], value[n][leaf])
    return result


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Points that crowd near a corner."""
    return {"point": rng.uniform(0, 1, shapes["point"]) ** 2, "value": rng.standard_normal(shapes["value"])}
