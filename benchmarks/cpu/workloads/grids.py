"""Fields on hashed grids of many resolutions."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Array, Input, Weights, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

POINTS, LEVELS, ROWS, FEATURES, BASE, GROWTH = 65_536, 16, 1 << 16, 2, 16, 1.5
PRIMES = (1, 2654435761 - 2**32, 805459861)
"""In 32 bits, where products wrap around."""


def _plain(w: Weights, x: Tensor) -> Tensor:
    """Level by level, the eight vertices around each point at once; rows as in Muller et al. 2022."""
    x = x.clamp(0, 1)
    corners = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.int32)
    features: list[Tensor] = []
    for level in range(LEVELS):
        cells = math.floor(BASE * GROWTH**level)
        u = x * cells
        cell = u.floor().clamp_max(cells - 1)
        a = (u - cell).unsqueeze(1)
        share = torch.where(corners.bool(), a, 1 - a).prod(-1)
        vertex = cell.int().unsqueeze(1) + corners
        if (cells + 1) ** 3 <= ROWS:
            row = vertex[..., 0] + (cells + 1) * (vertex[..., 1] + (cells + 1) * vertex[..., 2])
        else:
            parts = (vertex * torch.tensor(PRIMES, dtype=torch.int32)).unbind(-1)
            row = (parts[0] ^ parts[1] ^ parts[2]) & (ROWS - 1)
        found = F.embedding(row, w["grid.table"][level])
        features.append((found * share.unsqueeze(-1)).sum(1))
    h = torch.cat(features, -1)
    h = F.relu(F.linear(h, w["net.linear.0.weight"], w["net.linear.0.bias"]))
    h = F.relu(F.linear(h, w["net.linear.1.weight"], w["net.linear.1.bias"]))
    return F.linear(h, w["net.linear.2.weight"], w["net.linear.2.bias"])


def _table() -> Mapping[str, Array]:
    """As large as after training, so that a wrong row shows in the result."""
    return {"grid.table": np.random.default_rng(3).standard_normal((LEVELS, ROWS, FEATURES))}


WORKLOADS = (
    Workload(
        name="hash-grid",
        family="neural field",
        title=f"hash grid field, {POINTS} points in 3-D, {LEVELS} levels of {ROWS} rows",
        source=f"""model Net(x: f32[{POINTS}, 3]) -> f32[{POINTS}, 3] {{
  h = HashGrid(x; levels = {LEVELS}, size = {ROWS}, features = {FEATURES}, base = {BASE}, growth = {GROWTH}) as grid
  return MLP(h; 3, hidden = 64, depth = 2) as net
}}""",
        inputs=(Input((POINTS, 3), between=(0.0, 1.0)),),
        forms={"plain": _plain},
        values=_table,
        tolerance=2e-3,  # the finest grid has 7006 cells: a place in a cell keeps 11 bits
        flops=2.0 * POINTS * (LEVELS * 8 * FEATURES + 32 * 64 + 64 * 64 + 64 * 3),
    ),
)
