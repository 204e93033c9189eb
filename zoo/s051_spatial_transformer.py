"""S051 Spatial transformers (Jaderberg et al. 2015): reference. The double sum over all pixels; splines by scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator

SAMPLES = [{"N": 2}, {"N": 3}]
AXIS = np.linspace(-1, 1, 16)
TARGETS = np.array([[x, y] for y in AXIS for x in AXIS])
"""The target positions (x, y), row by row."""

Params = dict[str, np.ndarray]


def layer(p: Params, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(p[name + ".weight"]), torch.from_numpy(p[name + ".bias"])


def localization(p: Params, x: torch.Tensor) -> np.ndarray:
    for i in range(2):
        x = F.relu(F.max_pool2d(F.conv2d(x, *layer(p, f"localization.conv2d.{i}"), padding=1), 2))
    h = F.relu(F.linear(x.flatten(1), *layer(p, "localization.linear.0")))
    return F.linear(h, *layer(p, "localization.linear.1")).numpy()


def affine(theta: np.ndarray) -> np.ndarray:
    matrix = np.eye(2, 3) + theta.reshape(2, 3)
    return TARGETS @ matrix[:, :2].T + matrix[:, 2]


def projective(theta: np.ndarray) -> np.ndarray:
    matrix = np.eye(3) + np.append(theta * [1, 1, 1, 1, 1, 1, 0.3, 0.3], 0).reshape(3, 3)
    lifted = np.column_stack([TARGETS, np.ones(len(TARGETS))]) @ matrix.T
    return lifted[:, :2] / lifted[:, 2:]


def spline(theta: np.ndarray) -> np.ndarray:
    control = np.array([[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)], float)
    return RBFInterpolator(control, control + theta.reshape(9, 2), kernel="thin_plate_spline", degree=1)(TARGETS)


def sample(image: np.ndarray, sources: np.ndarray) -> np.ndarray:
    u, v = ((sources.T + 1) / 2 * 15).reshape(2, 256, 1)
    pixels = np.arange(16)
    columns, rows = np.maximum(0, 1 - abs(u - pixels)), np.maximum(0, 1 - abs(v - pixels))
    return np.einsum("pn,pm,nm->p", rows, columns, image).reshape(16, 16)


def network(transform: Callable[[np.ndarray], np.ndarray]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def run(p: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        theta = localization(p, torch.from_numpy(x))
        v = np.stack([sample(image[0], transform(t)) for image, t in zip(x, theta, strict=True)])[:, None]
        h = F.relu(F.conv2d(torch.from_numpy(v), *layer(p, "classify.conv2d"), stride=2)).flatten(1)
        return F.linear(h, *layer(p, "classify.linear")).numpy(), v

    return run


REFERENCES = {"Affine": network(affine), "Projective": network(projective), "ThinPlateSpline": network(spline)}
