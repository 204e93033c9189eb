"""S030 neural ODEs (Chen et al. 2018): reference. dh/dt = f(h, t), d log p/dt = -tr(df/dz).

The adaptive model is held to scipy's DOP853 at a tolerance of 1e-11; the traces are those of full Jacobians.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.integrate import solve_ivp

SAMPLES = [
    {"model": "ODENet", "N": 2, "H": 3, "W": 4},
    {"model": "ODENet", "N": 3, "H": 4, "W": 2},
    {"model": "Adaptive", "N": 2},
    {"model": "Adaptive", "N": 7},
    {"model": "Flow", "N": 2},
    {"model": "Flow", "N": 5},
]
Params = dict[str, np.ndarray]
State = torch.Tensor


def rk4(f: Callable[[State, float], State], y: State, steps: int) -> State:
    dt = 1 / steps
    for i in range(steps):
        t = i * dt
        a = f(y, t)
        b = f(y + dt / 2 * a, t + dt / 2)
        c = f(y + dt / 2 * b, t + dt / 2)
        y = y + dt * (a / 6 + b / 3 + c / 3 + f(y + dt * c, t + dt) / 6)
    return y


def odenet(p: Params, x: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}

    def conv(h: State, t: float, weight: State) -> State:
        return F.conv2d(F.pad(h, (1, 1, 1, 1)), weight[:, :-1]) + t * F.conv2d(
            torch.ones_like(h[:, :1]), weight[:, -1:], padding=1
        )

    h = F.relu(F.conv2d(torch.from_numpy(x), q["stem.weight"], q["stem.bias"], 2, 1))
    h = rk4(lambda h, t: conv(torch.tanh(conv(h, t, q["ode.first"])), t, q["ode.second"]), h, 2)
    h = F.relu(F.group_norm(h, 2, q["norm.weight"], q["norm.bias"])).mean((2, 3))
    return F.linear(h, q["head.weight"], q["head.bias"]).numpy()


def adaptive(p: Params, x: np.ndarray) -> np.ndarray:
    h = x @ p["lift.weight"].T + p["lift.bias"]

    def f(t: float, y: np.ndarray) -> np.ndarray:
        z = y.reshape(h.shape) @ p["ode.first"].T + t * p["ode.rate"] + p["ode.bias"]
        return (np.tanh(z) @ p["ode.second"].T).ravel()

    end = solve_ivp(f, (0, 1), h.ravel(), method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
    return end.reshape(h.shape) @ p["head.weight"].T + p["head.bias"]


def flow(p: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w1, wt, b, w2 = (torch.from_numpy(p[f"cnf.ode.{k}"]) for k in ("first", "rate", "bias", "second"))

    def augmented(y: State, t: float) -> State:
        def f(z: State) -> State:
            return w2 @ torch.tanh(w1 @ z + t * wt + b)

        return torch.cat([f(y[:2]), torch.autograd.functional.jacobian(f, y[:2]).trace()[None]])

    ends = torch.stack([rk4(augmented, torch.cat([row, row[:1] * 0]), 2) for row in torch.from_numpy(x)])
    logp = ends[:, 2] - (ends[:, :2] ** 2).sum(1) / 2 - math.log(2 * math.pi)
    return ends[:, :2].numpy(), logp.numpy()


REFERENCES = {"ODENet": odenet, "Adaptive": adaptive, "Flow": flow}
reference = odenet
