"""S014 Discrete key-value bottleneck (Traeuble et al. 2023): reference.

y = mean of the values whose keys are nearest to R_c z; nearest keys by scipy's KD-tree.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2, "H": 4, "W": 4}, {"N": 3, "H": 5, "W": 3}]


def conv_norm(p: dict[str, Array], i: int, x: Tensor, **options: int) -> Tensor:
    t = {name: torch.from_numpy(value) for name, value in p.items()}
    x = F.conv2d(x, t[f"conv2d.{i}.weight"], t[f"conv2d.{i}.bias"], **options)
    norm = [t[f"batch_norm.{i}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *norm, eps=1e-5)


def reference(p: dict[str, Array], x: Array) -> tuple[Array, Array]:
    h = F.relu(conv_norm(p, 0, torch.from_numpy(x), stride=2, padding=1))
    h = conv_norm(p, 1, h).numpy()
    tokens = h.reshape(len(h), h.shape[1], -1).transpose(0, 2, 1)
    projection, keys, values = (p[f"key_value_bottleneck.{part}"] for part in ("projection", "key", "value"))
    heads = range(len(keys))
    codes = np.stack([cKDTree(keys[c]).query(tokens @ projection[c].T)[1] for c in heads], axis=-1)
    y = sum(values[c][codes[..., c]].mean(axis=1) for c in heads) / len(keys)
    return y, codes
