"""S008 DAT++ (Xia et al. 2023): reference.

softmax(q k^T / sqrt(d) + B(R)) v with k and v of x read at p + s tanh(offset); torch's grid_sample, group by group.
"""

from __future__ import annotations

import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

SAMPLES = [{"N": 2}, {"N": 3}]
HEADS, GROUPS, STRIDE, RANGE = 4, 2, 2, 2.0
Params = dict[str, Tensor]


def conv(p: Params, name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), **options)


def channel_norm(p: Params, name: str, x: Tensor) -> Tensor:
    x = x - x.mean(dim=1, keepdim=True)
    x = x / torch.sqrt((x**2).mean(dim=1, keepdim=True) + 1e-5)
    return x * p[f"{name}.norm.weight"].view(-1, 1, 1) + p[f"{name}.norm.bias"].view(-1, 1, 1)


def cells(count: int) -> Tensor:
    return torch.tensor([(2 * i + 1) / count - 1 for i in range(count)], dtype=torch.float64)


def grid(rows: int, columns: int) -> Tensor:
    return torch.stack(torch.meshgrid(cells(rows), cells(columns), indexing="ij"), dim=-1)


def attention(p: Params, name: str, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    rows, columns = h // STRIDE, w // STRIDE
    size, width = c // GROUPS, c // HEADS
    q = conv(p, f"{name}.query", x)
    sampled, points = [], []
    for group in range(GROUPS):
        part = slice(group * size, (group + 1) * size)
        offset = conv(p, f"{name}.offset_spatial", q[:, part], stride=STRIDE, padding=1, groups=size)
        offset = conv(p, f"{name}.offset_point", F.gelu(channel_norm(p, f"{name}.offset_norm", offset)))
        point = torch.tanh(offset).movedim(1, -1) * torch.tensor([RANGE / rows, RANGE / columns]) + grid(rows, columns)
        sampled.append(F.grid_sample(x[:, part], point.flip(-1), align_corners=True))
        points.append(point.reshape(n, 1, rows * columns, 2))
    kv = torch.cat(sampled, dim=1)
    k, v = conv(p, f"{name}.key", kv).flatten(2), conv(p, f"{name}.value", kv).flatten(2)
    queries = grid(h, w).reshape(1, h * w, 1, 2)
    outputs = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        displacement = (queries - points[head // (HEADS // GROUPS)]) / 2
        table = p[f"{name}.table"][head].expand(n, 1, -1, -1)
        bias = F.grid_sample(table, displacement.flip(-1), align_corners=True)[:, 0]
        scores = torch.einsum("ndi,ndj->nij", q.flatten(2)[:, part], k[:, part]) / width**0.5
        outputs.append(torch.einsum("nij,ndj->ndi", torch.softmax(scores + bias, dim=-1), v[:, part]))
    return conv(p, f"{name}.out", torch.cat(outputs, dim=1).reshape(n, c, h, w))


def reference(p: dict[str, Array], x: Array) -> Array:
    t = {name: torch.from_numpy(value) for name, value in p.items()}
    h = channel_norm(t, "embed_norm", conv(t, "embed", torch.from_numpy(x), stride=2))
    for i in range(2):
        name = f"blocks.{i}"
        h = h + attention(t, f"{name}.deformable_attention", channel_norm(t, f"{name}.channel_norm.0", h))
        y = F.gelu(conv(t, f"{name}.conv2d.0", channel_norm(t, f"{name}.channel_norm.1", h)))
        h = h + conv(t, f"{name}.conv2d.1", y)
    pooled = channel_norm(t, "last_norm", h).mean(dim=(2, 3))
    return F.linear(pooled, t["head.weight"], t["head.bias"]).numpy()
