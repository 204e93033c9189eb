"""S042 relative representations (Moschella et al. 2022): reference. r(x)_j = cos(E(x), E(a_j)) for anchors a_j."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist

SAMPLES = [{"N": 2, "H": 12, "W": 12}, {"N": 3, "H": 10, "W": 14}]


def encode(p: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    h = F.relu(F.conv2d(x, p[f"{name}.first"], stride=2, padding=1))
    h = F.relu(F.conv2d(h, p[f"{name}.second"], stride=2, padding=1))
    return F.adaptive_avg_pool2d(h, 1).flatten(1) @ p[f"{name}.head"].T + p[f"{name}.bias"]


def reference(p: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, ...]:
    q = {k: torch.from_numpy(v) for k, v in p.items()}
    relative: list[np.ndarray] = []
    for name in ("encoder_a", "encoder_b"):
        z, a = encode(q, name, torch.from_numpy(x)), encode(q, name, q["anchors"])
        relative.append(1 - cdist(z.numpy(), a.numpy(), "cosine"))
    logits: list[np.ndarray] = []
    for r in relative:
        h = (r - r.mean(1, keepdims=True)) / np.sqrt(r.var(1, keepdims=True) + 1e-5)
        h = h * p["decoder.layer_norm.weight"] + p["decoder.layer_norm.bias"]
        h = np.tanh(h @ p["decoder.linear.0.weight"].T + p["decoder.linear.0.bias"])
        logits.append(h @ p["decoder.linear.1.weight"].T + p["decoder.linear.1.bias"])
    return np.concatenate(logits), relative[0], relative[1]
