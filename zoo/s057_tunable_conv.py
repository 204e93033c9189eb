"""S057 Tunable convolutions (Maggioni et al. 2023): reference. y = sum_p lambda_p (K_p * x + b_p), conv by conv."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "H": 8, "W": 8}, {"N": 3, "H": 6, "W": 9}]

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal(shapes["x"]), "lambda": rng.uniform(0.2, 0.8, shapes["lambda"])}


def tunable(p: Params, name: str, x: torch.Tensor, weights: np.ndarray) -> torch.Tensor:
    kernels, biases = (torch.from_numpy(p[f"{name}.{k}"]) for k in ("kernels", "biases"))
    terms = [float(weights[i]) * F.conv2d(x, kernels[i], biases[i], padding="same") for i in range(len(weights))]
    return torch.stack(terms).sum(0)


def reference(p: Params, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    image = torch.from_numpy(x)
    h = F.relu(tunable(p, "head", image, weights))
    for i in range(2):
        block = f"blocks.{i}.residual_block.tunable_conv2d"
        h = h + tunable(p, block + ".1", F.relu(tunable(p, block + ".0", h, weights)), weights)
    return (image + tunable(p, "tail", h, weights)).numpy()
