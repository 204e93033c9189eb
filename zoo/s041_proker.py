"""S041 ProKeR (Bendou et al. 2025): reference.

f(x) = f_clip(x) + k(x, S) (K_SS + lambda I)^-1 (Y - f_clip(S)); Tip-Adapter: f_clip(x) + alpha k(x, S) Y.
On unit vectors exp(-beta (1 - x.s)) = exp(-beta |x - s|^2 / 2).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist

SAMPLES = [{"N": 2, "M": 8}, {"N": 5, "M": 12}]
Params = dict[str, np.ndarray]


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    m, d = shapes["support"]
    labels = np.arange(m) % 4
    centers = rng.standard_normal((4, d))
    support = centers[labels] + 0.5 * rng.standard_normal((m, d))
    x = centers[rng.integers(0, 4, shapes["x"][0])] + 0.5 * rng.standard_normal(shapes["x"])
    return {"x": x, "support": support, "labels": labels.astype(np.int32)}


def parts(p: Params, x: np.ndarray, support: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    x, support, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, support, p["head.clip.text"]))
    kernel = np.exp(-2 * cdist(x, support, "sqeuclidean"))
    gram = np.exp(-2 * cdist(support, support, "sqeuclidean"))
    return 3 * x @ text.T, 3 * support @ text.T, kernel, gram, np.eye(4)[labels]


def proker(p: Params, x: np.ndarray, support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    zero, zero_support, kernel, gram, y = parts(p, x, support, labels)
    return zero + kernel @ scipy.linalg.solve(gram + 0.3 * np.eye(len(y)), y - zero_support)


def tip_adapter(p: Params, x: np.ndarray, support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    zero, _, kernel, _, y = parts(p, x, support, labels)
    return zero + 1.5 * kernel @ y


REFERENCES = {"ProKeR": proker, "TipAdapter": tip_adapter}
reference = proker
