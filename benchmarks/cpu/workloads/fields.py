"""Functions of points: neural fields, kernel machines, random features, learned splines."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Form, Input, Weights, Workload

if TYPE_CHECKING:
    from torch import Tensor

POINTS = 65_536


def _siren(hidden: int, depth: int, out: int) -> Workload:
    def plain(w: Weights, x: Tensor) -> Tensor:
        for i in range(depth):
            x = torch.sin(30.0 * F.linear(x, w[f"net.sine.{i}.weight"], w[f"net.sine.{i}.bias"]))
        return F.linear(x, w["net.linear.weight"], w["net.linear.bias"])

    return Workload(
        name=f"siren-{hidden}",
        family="neural field",
        title=f"SIREN 2-{hidden}^{depth}-{out}, {POINTS} points",
        source=f"""model Net(x: f32[{POINTS}, 2]) -> f32[{POINTS}, {out}] {{
  return SIREN(x; {out}, hidden = {hidden}, depth = {depth}) as net
}}""",
        inputs=(Input((POINTS, 2), between=(-1.0, 1.0)),),
        forms={"plain": plain},
        bar=2.2,
        quick=hidden == 64,
    )


def _rbf(points: int, d: int, centers: int) -> Workload:
    gamma = 0.5 / d

    def plain(w: Weights, x: Tensor) -> Tensor:
        distance = torch.cdist(x, w["machine.centers"]).square()
        return F.linear(torch.exp(-gamma * distance), w["machine.weight"], w["machine.bias"])

    def product(w: Weights, x: Tensor) -> Tensor:
        z = w["machine.centers"]
        squares = x.square().sum(1, keepdim=True) + z.square().sum(1)
        gram = torch.exp(torch.addmm(squares, x, z.t(), alpha=-2).clamp_min(0) * -gamma)
        return F.linear(gram, w["machine.weight"], w["machine.bias"])

    return Workload(
        name=f"rbf-{d}-{centers}",
        family="kernel machine",
        title=f"RBF machine {points}×{d}, {centers} centres → 10",
        source=f"""model Net(x: f32[{points}, {d}]) -> f32[{points}, 10] {{
  return KernelMachine(x; 10, centers = {centers}, kernel = gaussian(gamma = {gamma!r})) as machine
}}""",
        inputs=(Input((points, d)),),
        forms={"plain": plain, "product": product},
        flops=2.0 * points * centers * (d + 10),
        bar=2.0,
        quick=(d, centers) == (64, 1024),
    )


def _rff() -> Workload:
    points, d, features = 4096, 64, 2048

    def plain(w: Weights, x: Tensor) -> Tensor:
        z = torch.cos(F.linear(x, w["features.frequency"], w["features.phase"])) * math.sqrt(2.0 / features)
        return F.linear(z, w["head.weight"], w["head.bias"])

    return Workload(
        name="rff",
        family="kernel machine",
        title=f"random Fourier features {points}×{d} → {features} → 10",
        source=f"""model Net(x: f32[{points}, {d}]) -> f32[{points}, 10] {{
  return x |> RandomFourierFeatures({features}, gamma = 0.05) as features |> Linear(10) as head
}}""",
        inputs=(Input((points, d)),),
        forms={"plain": plain},
        flops=2.0 * points * features * (d + 10),
        bar=2.0,
    )


def _basis(x: Tensor, grid: int, order: int) -> Tensor:
    """B-splines on the uniform grid of -1..1, by the recursion of Cox and de Boor that KAN codes use."""
    step = 2.0 / grid
    knots = torch.arange(-order, grid + order + 1, dtype=x.dtype) * step - 1.0
    x = x.unsqueeze(-1)
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - knots[: -(k + 1)]) / (k * step) * bases[..., :-1]
        right = (knots[k + 1 :] - x) / (k * step) * bases[..., 1:]
        bases = left + right
    return bases


def _cubes(x: Tensor, grid: int) -> Tensor:
    """The cubic ones by truncated powers, all at once: max(2 - d, 0)^3 - 4 max(1 - d, 0)^3 over 6."""
    places = torch.arange(grid + 3, dtype=x.dtype) - 1.0
    d = ((x.unsqueeze(-1) + 1.0) * (grid / 2.0) - places).abs()
    far, near = (2.0 - d).clamp_min(0), (1.0 - d).clamp_min(0)
    return (far * far * far - 4.0 * near * near * near) / 6.0


def _kan(name: str, points: int, widths: tuple[int, ...], grid: int = 8) -> Workload:
    names = [f"layer{i}" for i in range(len(widths) - 1)]

    def form(recursive: bool) -> Form:
        def run(w: Weights, x: Tensor) -> Tensor:
            for layer in names:
                spline = w[f"{layer}.spline_weight"] * w[f"{layer}.spline_scale"].unsqueeze(-1)
                b = _basis(x, grid, 3) if recursive else _cubes(x, grid)
                y = F.linear(F.silu(x), w[f"{layer}.base_weight"])
                x = y + F.linear(b.flatten(1), spline.flatten(1))
            return x

        return run

    body = " |> ".join(f"KANLinear({out}, grid = {grid}) as layer{i}" for i, out in enumerate(widths[1:]))
    return Workload(
        name=name,
        family="KAN",
        title=f"KAN cubic G={grid} {points}×{'-'.join(map(str, widths))}",
        source=f"""model Net(x: f32[{points}, {widths[0]}]) -> f32[{points}, {widths[-1]}] {{
  return x |> {body}
}}""",
        inputs=(Input((points, widths[0]), between=(-1.0, 1.0)),),
        forms={"cubes": form(False), "recursion": form(True)},
        flops=sum(2.0 * points * a * b * (grid + 4) for a, b in itertools.pairwise(widths)),
        bar=5.0,
        quick=name == "kan",
    )


WORKLOADS = (
    _siren(256, 3, 3),
    _siren(64, 4, 1),
    *(_rbf(4096, 64, centers) for centers in (1024, 8192)),
    *(_rbf(4096, d, 1024) for d in (3, 784)),
    _rff(),
    _kan("kan", 1024, (64, 64)),
    _kan("kan-net", 1024, (64, 64, 64, 10)),
)
