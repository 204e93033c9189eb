"""Tensor products of features with degrees 0 to 3 and the harmonics of an edge."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import special

from benchmarks.cpu.workload import Array, Input, Weights, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

EDGES, CHANNELS, L = 512, 128, 3
SIZE = (L + 1) ** 2
SLICES = [slice(i * i, (i + 1) * (i + 1)) for i in range(L + 1)]
PATHS = [p for p in itertools.product(range(L + 1), repeat=3) if abs(p[0] - p[1]) <= p[2] <= p[0] + p[1]]
LATITUDES, LONGITUDES = 5, 10
"""Gauss-Legendre quadrature that is exact for products of three harmonics (degree 9)."""


def clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j: int, m: int) -> float:
    """<j1 m1 j2 m2 | j m> by Racah's formula (Varshalovich et al. 1988, section 8.2.1)."""
    if m1 + m2 != m:
        return 0.0
    f = math.factorial
    scale = (2 * j + 1) * f(j + j1 - j2) * f(j - j1 + j2) * f(j1 + j2 - j) / f(j1 + j2 + j + 1)
    scale *= f(j + m) * f(j - m) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2)
    total = 0.0
    for k in range(j1 + j2 - j + 1):
        below = (k, j1 + j2 - j - k, j1 - m1 - k, j2 + m2 - k, j - j2 + m1 + k, j - j1 - m2 + k)
        if min(below) >= 0:
            total += (-1) ** k / math.prod(map(f, below))
    return math.sqrt(scale) * total


def _real_basis(degree: int) -> Array:
    """Real spherical harmonics from complex ones."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), complex)
    q[degree, degree] = 1
    for m in range(1, degree + 1):
        q[degree + m, degree + m], q[degree + m, degree - m] = (-1) ** m / math.sqrt(2), 1 / math.sqrt(2)
        q[degree - m, degree - m], q[degree - m, degree + m] = 1j / math.sqrt(2), -1j * (-1) ** m / math.sqrt(2)
    return q


@functools.cache
def coefficients() -> Array:
    """Real Clebsch-Gordan coefficients of all paths, each of norm 1, as one array [SIZE, SIZE, SIZE]."""
    whole = np.zeros((SIZE, SIZE, SIZE))
    for a, b, c in PATHS:
        table = np.array(
            [
                [[clebsch_gordan(a, i, b, j, c, k) for k in range(-c, c + 1)] for j in range(-b, b + 1)]
                for i in range(-a, a + 1)
            ]
        )
        qa, qb, qc = map(_real_basis, (a, b, c))
        turned = np.einsum("ai,bj,ck,ijk->abc", qa, qb, qc.conj(), table)
        real = turned.real if np.abs(turned.real).max() > np.abs(turned.imag).max() else turned.imag
        whole[SLICES[a], SLICES[b], SLICES[c]] = real / np.linalg.norm(real)
    return whole


@functools.cache
def sphere() -> tuple[Array, Array]:
    """Orthonormal real harmonics on the grid, [points, SIZE], and the areas of its points."""
    height, weight = np.polynomial.legendre.leggauss(LATITUDES)
    theta, phi = np.meshgrid(np.arccos(height), 2 * np.pi * np.arange(LONGITUDES) / LONGITUDES, indexing="ij")
    columns: list[Array] = []
    for degree in range(L + 1):
        for m in range(-degree, degree + 1):
            value = special.sph_harm_y(degree, abs(m), theta, phi)
            part = value.real if m == 0 else math.sqrt(2) * (value.real if m > 0 else value.imag)
            columns.append(part.ravel())
    return np.stack(columns, 1), np.repeat(weight, LONGITUDES) * 2 * np.pi / LONGITUDES


# --- Clebsch-Gordan ---------------------------------------------------------------------------------------------------


def _by_paths(w: Weights, x: Tensor, z: Tensor) -> Tensor:
    """A small matrix product per path and edge."""
    out = [x.new_zeros(())] * (L + 1)
    for a, b, c in PATHS:
        table = w["coefficient"][SLICES[a], SLICES[b], SLICES[c]]
        matrix = torch.einsum("abc,nb->nac", table, z[:, SLICES[b]])
        out[c] = out[c] + (x[..., SLICES[a]] @ matrix) * w["weight"][:, a, b, c, None]
    return torch.cat(out, -1)


def _by_second(w: Weights, x: Tensor, z: Tensor) -> Tensor:
    """One matrix product per degree of z and of the result."""
    out: list[Tensor] = []
    degrees = torch.tensor([i for i in range(L + 1) for _ in range(2 * i + 1)])
    for c in range(L + 1):
        total = x.new_zeros(())
        for b in range(L + 1):
            matrix = torch.einsum("abc,nb->nac", w["coefficient"][:, SLICES[b], SLICES[c]], z[:, SLICES[b]])
            total = total + (x * w["weight"][:, degrees, b, c]) @ matrix
        out.append(total)
    return torch.cat(out, -1)


def _clebsch_gordan() -> Workload:
    x = f"f32[{EDGES}, {CHANNELS}, {SIZE}]"
    each = sum(2 * (2 * a + 1) * (2 * c + 1) + 2 * (2 * c + 1) for a, _, c in PATHS)
    tables = 2 * float(np.count_nonzero(np.abs(coefficients()) > 1e-9))
    return Workload(
        name="clebsch-gordan",
        family="equivariant",
        title=f"Clebsch–Gordan product to l={L}, {CHANNELS}ch, {EDGES} edges",
        source=f"""fn degree_of(a) = where(a == 0, 0, where(a < 4, 1, where(a < 9, 2, 3)))
op cg_tensor_product(x: T[n, u, a], z: T[n, b], weight: T[u, i, j, k], coefficient: T[a, b, c]) -> T[n, u, c] {{
  return y[n, u, c] = sum[a, b] weight[u, degree_of(a), degree_of(b), degree_of(c)] * coefficient[a, b, c] *
    x[n, u, a] * z[n, b]
}}
model Net(x: {x}, z: f32[{EDGES}, {SIZE}]) -> {x} {{
  param weight: f32[{CHANNELS}, {L + 1}, {L + 1}, {L + 1}] = normal(0, 1)
  buffer coefficient: f32[{SIZE}, {SIZE}, {SIZE}] = normal(0, 1)
  return cg_tensor_product(x, z, weight, coefficient)
}}""",
        inputs=(Input((EDGES, CHANNELS, SIZE)), Input((EDGES, SIZE))),
        forms={"paths": _by_paths, "second": _by_second},
        values=lambda: {"coefficient": coefficients()},
        flops=EDGES * (CHANNELS * each + tables),
    )


# --- Gaunt ------------------------------------------------------------------------------------------------------------


def _spread(x: Tensor) -> Tensor:
    """Factors of degrees, [..., L + 1], as factors of components."""
    return torch.cat([x[..., i : i + 1].expand(*x.shape[:-1], 2 * i + 1) for i in range(L + 1)], -1)


def _on_sphere(w: Weights, x: Tensor, z: Tensor) -> Tensor:
    f = (x * _spread(w["left"])) @ w["basis"].t()
    g = (z.unsqueeze(1) * _spread(w["right"])) @ w["basis"].t()
    return ((f * g) @ (w["area"].unsqueeze(-1) * w["basis"])) * _spread(w["out"])


def _sphere_values() -> Mapping[str, Array]:
    basis, area = sphere()
    return {"basis": basis, "area": area}


def _gaunt() -> Workload:
    x = f"f32[{EDGES}, {CHANNELS}, {SIZE}]"
    points = LATITUDES * LONGITUDES
    return Workload(
        name="gaunt",
        family="equivariant",
        title=f"Gaunt product to l={L}, {CHANNELS}ch, {EDGES} edges",
        source=f"""fn degree_of(a) = where(a == 0, 0, where(a < 4, 1, where(a < 9, 2, 3)))
op gaunt_tensor_product(x: T[n, u, a], z: T[n, b], left: T[u, i], right: T[u, j], out: T[u, k],
                        basis: T[p, a], area: T[p]) -> T[n, u, a] {{
  f[n, u, p] = sum[a] basis[p, a] * left[u, degree_of(a)] * x[n, u, a]
  g[n, u, p] = sum[b] basis[p, b] * right[u, degree_of(b)] * z[n, b]
  return y[n, u, a] = out[u, degree_of(a)] * (sum[p] area[p] * basis[p, a] * f[n, u, p] * g[n, u, p])
}}
model Net(x: {x}, z: f32[{EDGES}, {SIZE}]) -> {x} {{
  param left: f32[{CHANNELS}, {L + 1}] = normal(1, 0.2)
  param right: f32[{CHANNELS}, {L + 1}] = normal(1, 0.2)
  param out: f32[{CHANNELS}, {L + 1}] = normal(1, 0.2)
  buffer basis: f32[{points}, {SIZE}] = normal(0, 1)
  buffer area: f32[{points}] = ones
  return gaunt_tensor_product(x, z, left, right, out, basis, area)
}}""",
        inputs=(Input((EDGES, CHANNELS, SIZE)), Input((EDGES, SIZE))),
        forms={"sphere": _on_sphere},
        values=_sphere_values,
        flops=EDGES * CHANNELS * points * (6.0 * SIZE + 2),
    )


WORKLOADS = (_clebsch_gordan(), _gaunt())
