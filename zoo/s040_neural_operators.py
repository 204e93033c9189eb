"""S040 neural operators (Berner et al. 2025): reference. Integrals by quadrature over sampled points.

Quadrature by numpy.trapezoid, the periodic convolution and the spectral layer by matrices and numpy.fft.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf

SAMPLES = [{"N": 2, "M": 12, "P": 5}, {"N": 3, "M": 9, "P": 8}]
Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    made = {k: np.sort(rng.uniform(0, 1, shapes[k]), axis=1) for k in ("x", "y")}
    return {"u": rng.standard_normal(shapes["u"]), **made}


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def linear(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def integral(p: Params, name: str, u: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    out = np.zeros((len(u), y.shape[1], len(p[f"{name}.last"])))
    for n in range(len(u)):
        for i, target in enumerate(y[n]):
            pairs = np.stack([x[n], np.full_like(x[n], target)], 1)
            kappa = np.sin(pairs @ p[f"{name}.first"].T + p[f"{name}.phase"]) @ p[f"{name}.last"].swapaxes(1, 2)
            values = np.einsum("omc,mc->om", kappa, u[n]) * (np.abs(x[n] - target) <= 0.3)
            out[n, i] = np.trapezoid(values, x[n], axis=1)
    return out


def attention(qkv: np.ndarray, x: np.ndarray) -> np.ndarray:
    q, k, v = np.split(qkv, 3, axis=2)
    s = np.exp(np.einsum("npd,nmd->npm", q, k) / np.sqrt(q.shape[2]))
    top = np.trapezoid(s[..., None] * v[:, None], x[:, None, :, None], axis=2)
    return top / np.trapezoid(s, x[:, None], axis=2)[..., None]


def block(p: Params, name: str, u: np.ndarray) -> np.ndarray:
    g = u.shape[2]
    local = np.einsum("oc,ncg->nog", p[f"{name}.local.weight"][..., 0], u) + p[f"{name}.local.bias"][:, None]
    spectrum = np.fft.rfft(u)
    modes = p[f"{name}.re"].shape[2]
    mixed = np.zeros_like(spectrum)
    mixed[..., :modes] = np.einsum("cok,nck->nok", p[f"{name}.re"] + 1j * p[f"{name}.im"], spectrum[..., :modes])
    smooth = np.zeros_like(u)
    for shift in range(-int(0.2 * g), int(0.2 * g) + 1):
        t = shift / g
        kappa = sum(p[f"{name}.a"][..., k] * np.exp(-((t / 0.1 - (k - 2)) ** 2)) for k in range(5)) / g
        smooth += np.einsum("oc,ncg->nog", kappa, np.roll(u, -shift, axis=2))
    return gelu(local + np.fft.irfft(mixed, g) + smooth)


def reference(p: Params, u: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    h = linear(p, "lift", u)
    z = (h - h.mean(2, keepdims=True)) / np.sqrt(h.var(2, keepdims=True) + 1e-5)
    h = h + attention(linear(p, "qkv", z * p["norm.weight"] + p["norm.bias"]), x)
    nodes = np.tile((np.arange(16) + 0.5) / 16, (len(u), 1))
    z = integral(p, "encode", h, x, nodes).swapaxes(1, 2)
    z = block(p, "block2", block(p, "block1", z)).swapaxes(1, 2)
    return linear(p, "project", gelu(integral(p, "decode", z, nodes, y)))
