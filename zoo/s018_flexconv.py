"""S018 FlexConv (Romero et al. 2022): reference.

psi(p) = MAGNet(p) exp(-1/2 |(p - mu)/sigma|^2), evaluated point by point; y = x * psi by scipy.signal.correlate.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy import ndarray as Array
from scipy.signal import correlate
from scipy.stats import norm as gaussian

SAMPLES = [{"N": 2, "H": 8, "W": 8}, {"N": 3, "H": 9, "W": 11}]
Params = dict[str, Array]


def gabor(p: Params, name: str, point: Array) -> Array:
    gamma, center, weight, bias = (p[f"{name}.{part}"] for part in ("gamma", "center", "weight", "bias"))
    envelope = np.prod(np.exp(-0.5 * gamma**2 * (point - center) ** 2), axis=1)
    return envelope * np.sin(weight @ point + bias)


def magnet(p: Params, name: str, point: Array) -> Array:
    h = gabor(p, f"{name}.gabor_filter", point)
    for i in range(1, 3):
        layer = f"{name}.layers.{i}"
        h = (p[f"{layer}.linear.weight"] @ h + p[f"{layer}.linear.bias"]) * gabor(p, f"{layer}.gabor_filter", point)
    return p[f"{name}.last.weight"] @ h + p[f"{name}.last.bias"]


def flex_conv(p: Params, name: str, x: Array, rate: int) -> Array:
    batch, c, _, _ = x.shape
    axis = np.linspace(-1, 1, 4 * rate + 1)
    kernel = np.empty((c, c, len(axis), len(axis)))
    for i, u in enumerate(axis):
        for j, v in enumerate(axis):
            point = np.array([u, v])
            z = (point - p[f"{name}.mean"]) / p[f"{name}.deviation"]
            window = np.prod(gaussian.pdf(z) / gaussian.pdf(0.0))
            kernel[:, :, i, j] = magnet(p, f"{name}.kernel_net", point).reshape(c, c) * window / rate**2
    y = np.zeros_like(x)
    for n in range(batch):
        for o in range(c):
            y[n, o] = sum(correlate(x[n, i], kernel[o, i], mode="same", method="direct") for i in range(c))
    return y


def norm(p: Params, name: str, x: Array) -> Array:
    mean, var, weight, bias = (
        p[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def gelu(x: Array) -> Array:
    return x * gaussian.cdf(x)


def mix(p: Params, name: str, x: Array) -> Array:
    return np.einsum("oc,nchw->nohw", p[f"{name}.weight"][:, :, 0, 0], x) + p[f"{name}.bias"][:, None, None]


def network(p: Params, x: Array, rate: int) -> Array:
    p = {name.removeprefix("backbone."): value for name, value in p.items()}
    x = mix(p, "conv2d", x)
    for i in range(2):
        b = f"blocks.{i}.flex_block"
        y = gelu(norm(p, f"{b}.batch_norm.0", flex_conv(p, f"{b}.mag_net_conv2d", x, rate)))
        x = x + gelu(norm(p, f"{b}.batch_norm.1", mix(p, f"{b}.conv2d", y)))
    return x.mean(axis=(2, 3)) @ p["linear.weight"].T + p["linear.bias"]


REFERENCES = {
    "FlexNet": functools.partial(network, rate=1),
    "FlexNetSpectral": functools.partial(network, rate=1),
    "FlexNetDense": functools.partial(network, rate=2),
}
