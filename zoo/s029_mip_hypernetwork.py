"""S029 MIP hypernetworks (Gonzalez Ortiz et al. 2023): reference. theta = theta_0 + h([cos(pi p/2), sin(pi p/2)]).

The primary network is a torch module that receives theta through torch.nn.utils.vector_to_parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

SAMPLES = [{"N": 2, "H": 6, "W": 6}, {"N": 3, "H": 7, "W": 8}]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    made = {"x": rng.standard_normal(shapes["x"])}
    return {**made, "p": rng.uniform(0, 1, shapes["p"])} if "p" in shapes else made


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((-2, -1))


def conditioned(p: dict[str, np.ndarray], x: np.ndarray, hyper: np.ndarray) -> np.ndarray:
    q = {k.removeprefix("net.hyper."): torch.from_numpy(v) for k, v in p.items()}
    turns = torch.exp(0.5j * torch.pi * torch.from_numpy(hyper))
    h = torch.cat([turns.real, turns.imag], 1)
    for i in range(2):
        h = nn.functional.leaky_relu(nn.functional.linear(h, q[f"linear.{i}.weight"], q[f"linear.{i}.bias"]))
    theta = q["theta0"] + q["last.weight"] @ h[0] + q["last.bias"]
    act = nn.LeakyReLU()
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), act, nn.Conv2d(4, 4, 3, 1, 1), act, Mean(), nn.Linear(4, 3)).double()
    nn.utils.vector_to_parameters(theta, net.parameters())
    with torch.no_grad():
        return net(torch.from_numpy(x)).numpy()


def fixed(p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return conditioned(p, x, np.array([[0.25, 0.8]]))


REFERENCES = {"Conditioned": conditioned, "Fixed": fixed}
reference = conditioned
