"""S004 Fourier and Galerkin attention (Cao 2021): reference.

z = (Q~ K~^T) V / n or z = Q (K~^T V~) / n; both through the full n x n matrix here, head by head.
"""

from __future__ import annotations

import functools

import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "L": 9}, {"N": 3, "L": 14}]


def attention(p: dict[str, Tensor], name: str, x: Tensor, position: Tensor, kind: str, heads: int = 2) -> Tensor:
    q, k, v = (linear(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
    outputs = []
    for h in range(heads):
        head = {}
        for part, z in (("query", q), ("key", k), ("value", v)):
            size = z.shape[-1] // heads
            one = z[..., h * size : (h + 1) * size]
            if part == "key" or part == ("query" if kind == "fourier" else "value"):
                weight, bias = (p[f"{name}.{part}_norm.{end}"][h, 0] for end in ("weight", "bias"))
                one = F.layer_norm(one, (size,), weight, bias, eps=1e-5)
            head[part] = torch.cat([position, one], dim=-1)
        scores = torch.einsum("bld,bsd->bls", head["query"], head["key"])
        outputs.append(torch.einsum("bls,bse->ble", scores, head["value"]) / x.shape[1])
    return linear(p, f"{name}.out", torch.cat(outputs, dim=-1))


def linear(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])


def transformer(p: dict[str, Array], a: Array, kind: str) -> Array:
    t = {name.removeprefix("encoder."): torch.from_numpy(value) for name, value in p.items()}
    batch, length, _ = a.shape
    position = torch.linspace(0, 1, length, dtype=torch.float64)[None, :, None].expand(batch, length, 1)
    h = linear(t, "embed", torch.cat([torch.from_numpy(a), position], dim=-1))
    for i in range(2):
        h = h + attention(t, f"layers.{i}.attention", h, position, kind)
        h = h + linear(t, f"layers.{i}.contract", F.silu(linear(t, f"layers.{i}.expand", h)))
    return linear(t, "head", F.silu(linear(t, "linear", h))).numpy()


REFERENCES = {
    "FourierTransformer": functools.partial(transformer, kind="fourier"),
    "GalerkinTransformer": functools.partial(transformer, kind="galerkin"),
}
