"""S076 MgNO (He, Liu and Xu 2024): reference. sigma(V-cycle(u) + B), the V-cycle written as a recursion over grids."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from numpy import ndarray as Array

SAMPLES = [{"N": 2}, {"N": 3}]


class Cycle:
    def __init__(self, p: dict[str, Array], path: str, mode: str) -> None:
        self.p = {k.removeprefix(path + "."): torch.from_numpy(v) for k, v in p.items() if k.startswith(path + ".")}
        self.mode = mode

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=self.mode), self.p[f"{name}.weight"], stride=stride)

    def prolong(self, step: int, x: torch.Tensor) -> torch.Tensor:
        wide = F.pad(x, (1, 1, 1, 1), mode=self.mode)
        y = F.conv_transpose2d(wide, self.p[f"up.{step}.prolong.weight"], stride=2)
        return y[..., 3:-3, 3:-3]

    def solve(self, f: torch.Tensor, level: int = 0) -> torch.Tensor:
        u = self.conv(f"down.{level}.s", f)
        if level == 2:
            return u
        coarse = self.conv(f"down.{level}.restrict", f - self.conv(f"down.{level}.a", u), 2)
        u = u + self.prolong(2 - level, self.solve(coarse, level + 1))
        name = f"up.{2 - level}.smooth"
        return u + self.conv(f"{name}.s", f - self.conv(f"{name}.a", u))


def net(mode: str) -> Callable[..., Array]:
    def reference(p: dict[str, Array], f: Array) -> Array:
        u = torch.from_numpy(f)
        for i in range(1):
            bias = torch.from_numpy(p[f"net.layers.{i}.bias"])
            u = F.gelu(Cycle(p, f"net.layers.{i}.v_cycle", mode).solve(u) + bias)
        return Cycle(p, "net.last", mode).solve(u).numpy()

    return reference


REFERENCES = {"Periodic": net("circular"), "Dirichlet": net("constant"), "Neumann": net("replicate")}
