"""S038 PolyCom (Zhuo et al. 2024): reference.

PolyReLU(x) = sum_i a_i ReLU(x)^i; PolyNorm(x) = a_0 + sum_i a_i x^i / rms(x^i), in a pre-norm decoder.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SAMPLES = [{"N": 2, "L": 8}, {"N": 3, "L": 5}]
HEADS = 2


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 20, shapes["tokens"]).astype(np.int32)}


def poly_relu(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.polynomial.polynomial.polyval(x.clamp(min=0).numpy(), a.numpy()))


def poly_norm(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    y = a[0].expand_as(x)
    for i in range(1, len(a)):
        power = torch.stack([x] * i).prod(0)
        y = y + a[i] * power / (torch.linalg.vector_norm(power, dim=-1, keepdim=True) ** 2 / x.shape[-1] + 1e-6).sqrt()
    return y


def block(p: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    d = x.shape[-1]
    h = F.rms_norm(x, (d,), p[f"{name}.attention_norm.weight"], 1.1920928955078125e-07)
    qkv = (h @ p[f"{name}.attention.in_proj_weight"].T).unflatten(-1, (3, HEADS, d // HEADS))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + h @ p[f"{name}.attention.out_proj.weight"].T
    h = F.rms_norm(x, (d,), p[f"{name}.ffn_norm.weight"], 1.1920928955078125e-07) @ p[f"{name}.up.weight"].T
    h = poly_norm(h, p[f"{name}.poly_norm.a"]) if name == "norm_block" else poly_relu(h, p[f"{name}.poly_re_lu.a"])
    return x + h @ p[f"{name}.down.weight"].T


def reference(p: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    h = q["embedding.weight"][torch.from_numpy(tokens).long()]
    h = block(q, "norm_block", block(q, "relu_block", h))
    h = F.rms_norm(h, h.shape[-1:], q["norm.weight"], 1.1920928955078125e-07)
    return (h @ q["head.weight"].T).numpy()
