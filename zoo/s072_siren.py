"""S072 SIREN (Sitzmann et al. 2020): reference. The derivatives come from torch.autograd, point by point."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from torch.func import hessian, jacrev

SAMPLES = [
    {"model": "SIRENField", "N": 3},
    {"model": "SIRENField", "N": 5},
    {"model": "HyperSIREN", "N": 2, "P": 6},
    {"model": "HyperSIREN", "N": 3, "P": 4},
]


def field(p: dict[str, Array], x: Array) -> tuple[Array, Array, Array]:
    q = {k: torch.from_numpy(v) for k, v in p.items()}

    def phi(h: torch.Tensor) -> torch.Tensor:
        for i in range(3):
            h = torch.sin(30 * (q[f"sine_jet.{i}.weight"] @ h + q[f"sine_jet.{i}.bias"]))
        return q["linear_jet.weight"] @ h + q["linear_jet.bias"]

    points = [torch.from_numpy(point) for point in x]
    value = torch.stack([phi(point) for point in points])
    gradient = torch.stack([jacrev(phi)(point).T for point in points])
    laplacian = torch.stack([torch.einsum("okk->o", hessian(phi)(point)) for point in points])
    return value.numpy(), gradient.numpy(), laplacian.numpy()


def hyper(p: dict[str, Array], x: Array, code: Array) -> Array:
    scenes = []
    for points, c in zip(x, code, strict=True):
        z = np.maximum(p["linear.weight"] @ c + p["linear.bias"], 0)
        h = points.T
        for i, scale in enumerate((0.5, 0.05, 1.0)):
            path = f"dyn_linear.{i}"
            b = p[f"{path}.bias.weight"] @ z + p[f"{path}.bias.bias"]
            w = (p[f"{path}.weight.weight"] @ z + p[f"{path}.weight.bias"]).reshape(len(b), -1)
            h = scale * w @ h + b[:, None]
            h = np.sin(30 * h) if i < 2 else h
        scenes.append(h.T)
    return np.array(scenes)


REFERENCES = {"SIRENField": field, "HyperSIREN": hyper}


def parameters(rng: np.random.Generator, p: dict[str, Array]) -> dict[str, Array]:
    """The initialization of the paper, without the noise of trained parameters, which omega would multiply by 30."""
    shapes = {k: v.shape for k, v in p.items()}
    for k, shape in shapes.items():
        if k.startswith("sine_jet"):
            bound = 0.5 if ".0.weight" in k else np.sqrt(6 / 12) / 30 if "weight" in k else 0.3
            p[k] = rng.uniform(-bound, bound, shape)
    return p


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {k: rng.uniform(-1, 1, s) for k, s in shapes.items()}
