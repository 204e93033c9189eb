"""S005 CKConv (Romero et al. 2022): reference.

y(t) = sum_c sum_{tau <= t} x_c(tau) psi_c(t - tau): np.convolve for even times, a double loop for others.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [
    {"model": "Static", "N": 2},
    {"model": "Static", "N": 3},
    {"model": "Spectral", "N": 2},
    {"model": "Spectral", "N": 3},
    {"model": "AnyLength", "N": 2, "L": 16},
    {"model": "AnyLength", "N": 3, "L": 21},
    {"model": "Irregular", "N": 2, "L": 9},
    {"model": "Irregular", "N": 3, "L": 12},
]
SPAN, OMEGA = 16, 6.0
Params = dict[str, Array]


def psi(p: Params, name: str, lag: float) -> Array:
    """The kernel [O, C] at one lag."""
    h = np.array([lag / SPAN])
    for i in range(2):
        h = np.sin(OMEGA * (p[f"{name}.sine.{i}.weight"] @ h + p[f"{name}.sine.{i}.bias"]))
    return (p[f"{name}.linear.weight"] @ h + p[f"{name}.linear.bias"]).reshape(6, -1)


def ck_conv(p: Params, name: str, x: Array, times: Array | None) -> Array:
    """One sequence [C, L] with its times [L], or even ones."""
    channels, length = x.shape
    y = np.tile(p[f"{name}.bias"][:, None], length)
    if times is None:
        kernel = np.stack([psi(p, f"{name}.psi", lag) for lag in range(length)], axis=-1)
        for o in range(len(y)):
            y[o] += sum(np.convolve(x[c], kernel[o, c])[:length] for c in range(channels))
        return y
    for i in range(length):
        for j in range(i + 1):
            y[:, i] += psi(p, f"{name}.psi", times[i] - times[j]) @ x[:, j]
    return y


def norm(p: Params, name: str, x: Array) -> Array:
    mean, var, weight, bias = (
        p[f"{name}.{part}"][:, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def reference(p: Params, x: Array, times: Array | None = None) -> Array:
    p = {name.removeprefix("net."): value for name, value in p.items()}
    rows = []
    for n, sequence in enumerate(x):
        h = p["conv1d.weight"][:, :, 0] @ sequence + p["conv1d.bias"][:, None]
        for i in range(2):
            y = h
            for j in range(2):
                block = f"blocks.{i}"
                y = ck_conv(p, f"{block}.ck_conv.{j}", y, None if times is None else times[n])
                y = np.maximum(norm(p, f"{block}.batch_norm.{j}", y), 0)
            h = h + y
        rows.append(p["linear.weight"] @ h[:, -1] + p["linear.bias"])
    return np.stack(rows)


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    values = {"x": rng.normal(size=shapes["x"])}
    if "times" in shapes:
        values["times"] = np.cumsum(rng.exponential(size=shapes["times"]), axis=1)
    return values
