"""S050 GP-HM (Fang et al. 2024): reference. The whole Kronecker product, and the Laplacian by automatic derivatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

SAMPLES = [{"N": 2}, {"N": 7}]
GRID = torch.linspace(0, 1, 8, dtype=torch.float64)

Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"x": rng.uniform(0, 1, shapes["x"])}


def gaussian(r: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    return torch.exp(-(r**2) / (2 * length**2))


def matern(r: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    s = 5**0.5 * r.abs() / length
    return (1 + s + s**2 / 3) * torch.exp(-s)


def process(family: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., tuple[np.ndarray, ...]]:
    def covariance(p: Params, axis: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        weight, frequency, length = (
            torch.from_numpy(p[f"field.axis.{axis}.{k}"]) for k in ("log_weight", "frequency", "log_length")
        )
        t = (a[:, None] - b)[..., None]
        return (weight.exp() * family(t, length.exp()) * torch.cos(2 * torch.pi * frequency * t)).sum(-1)

    def run(p: Params, x: np.ndarray) -> tuple[np.ndarray, ...]:
        grams = [covariance(p, i, GRID, GRID) + 0.001 * torch.eye(8, dtype=torch.float64) for i in range(2)]
        alpha = torch.linalg.solve(torch.kron(*grams), torch.from_numpy(p["field.values"]).reshape(64))

        def u(points: torch.Tensor) -> torch.Tensor:
            k1, k2 = (covariance(p, i, points[:, i], GRID) for i in range(2))
            return torch.einsum("na,nb->nab", k1, k2).reshape(-1, 64) @ alpha

        points = torch.from_numpy(x).requires_grad_()
        value = u(points)
        (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
        second = [torch.autograd.grad(slope[:, i].sum(), points, retain_graph=True)[0][:, i] for i in range(2)]
        return value.detach().numpy(), (second[0] + second[1]).numpy()

    return run


REFERENCES = {"Gaussian": process(gaussian), "Matern": process(matern)}
