"""S001 Implicit attention of S6 (Zimerman, Ali and Wolf 2024): reference.

The recurrence token by token; the matrix of the mixer by torch.autograd: the derivative of its output by its input
while everything that depends on data (delta, B, C, gates, sigmoid factors) is held.
"""

from __future__ import annotations

import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "L": 7}, {"N": 3, "L": 10}]
RANK, STATES = 2, 4
Params = dict[str, Tensor]


def rms_norm(p: Params, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(dim=-1, keepdim=True) + 2.0**-23) * p[f"{name}.weight"]


def mamba(p: Params, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence [L, D]: the output and the matrix [C, L, L] of the mixer."""
    u, z = (x @ p[f"{name}.in_proj.weight"].T).chunk(2, dim=-1)
    weight, bias = p[f"{name}.conv_weight"], p[f"{name}.conv_bias"]
    length, channels = u.shape
    a = -torch.exp(p[f"{name}.a_log"])

    def convolve(signal: Tensor) -> Tensor:
        padded = F.pad(signal.T[None], (weight.shape[1] - 1, 0))
        return F.conv1d(padded, weight[:, None], groups=channels)[0].T

    pre = convolve(u) + bias
    v = F.silu(pre)
    dt, b, c = (v @ p[f"{name}.x_proj.weight"].T).split([RANK, STATES, STATES], dim=-1)
    delta = F.softplus(dt @ p[f"{name}.dt_proj.weight"].T + p[f"{name}.dt_proj.bias"])

    def recur(signal: Tensor) -> Tensor:
        h = torch.zeros(channels, STATES, dtype=signal.dtype)
        rows = []
        for t in range(length):
            h = torch.exp(delta[t][:, None] * a) * h + delta[t][:, None] * b[t] * signal[t][:, None]
            rows.append(h @ c[t] + p[f"{name}.skip"] * signal[t])
        return torch.stack(rows) * F.silu(z)

    def mixer(signal: Tensor) -> Tensor:
        return recur(torch.sigmoid(pre) * convolve(signal))

    jacobian = torch.autograd.functional.jacobian(mixer, u)
    matrix = torch.einsum("icjc->cij", jacobian)
    return recur(v) @ p[f"{name}.out_proj.weight"].T, matrix


def stack(p: dict[str, Array], x: Array) -> tuple[Array, Array]:
    t = {name.removeprefix("net."): torch.from_numpy(value) for name, value in p.items()}
    outputs, matrices = [], []
    for sequence in torch.from_numpy(x):
        h = F.linear(sequence, t["embed.weight"], t["embed.bias"])
        h = h + mamba(t, "mamba_a", rms_norm(t, "norm_a", h))[0]
        y, matrix = mamba(t, "mamba_b", rms_norm(t, "norm_b", h))
        outputs.append(F.linear(h + y, t["head.weight"], t["head.bias"]))
        matrices.append(matrix)
    return torch.stack(outputs).numpy(), torch.stack(matrices).numpy()


def sequence(p: dict[str, Array], x: Array) -> Array:
    return stack(p, x)[0]


def attention(p: dict[str, Array], x: Array) -> Array:
    return stack(p, x)[1]


REFERENCES = {"Recurrent": sequence, "Materialized": sequence, "Attention": attention}
