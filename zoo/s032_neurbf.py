"""S032 NeuRBF (Chen et al. 2023): reference. f(x) = sum over the nearest i of sin(m phi_i(x) + b) * w_i.

Neighbours from a k-d tree, phi from Mahalanobis distances, grids by torch.nn.functional.grid_sample.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import KDTree
from scipy.spatial.distance import mahalanobis

SAMPLES = [{"N": 5}, {"N": 20}]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"x": rng.uniform(0.01, 0.99, shapes["x"])}


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    centers, shapes, weight = p["rbf.centers"], p["rbf.shapes"], p["rbf.weight"]
    h = np.zeros((len(x), weight.shape[1]))
    for n, near in enumerate(KDTree(centers).query(x, 4)[1]):
        for i in near:
            phi = 1 / (1 + mahalanobis(x[n], centers[i], shapes[i] @ shapes[i].T) ** 2)
            h[n] += np.sin(p["rbf.frequency"] * phi + p["rbf.phase"]) * weight[i]
    grid = torch.from_numpy(2 * x - 1)[None, None]
    tables = [torch.from_numpy(p[f"grids.level.{i}.table"])[None] for i in range(3)]
    features = [F.grid_sample(t, grid, align_corners=True)[0, :, 0].T.numpy() for t in tables]
    h = np.concatenate([h, *features], 1)
    h = np.maximum(h @ p["linear.0.weight"].T + p["linear.0.bias"], 0)
    return h @ p["linear.1.weight"].T + p["linear.1.bias"]
