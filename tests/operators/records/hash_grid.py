"""Hash grids, vertex by vertex, with hashes in unsigned numbers of 32 bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from tests.operators.records.quantization import codes, exact, reals
from tests.operators.records.record import Array, Operand, Record, bad, normal, sample, uniform

PRIMES = np.array([1, 2654435761, 805459861], np.uint32)


def vertex_rows(vertex: Array, cells: int, size: int) -> Array:
    """The rows of vertex[n, d]: counted along the axes where all have room, else hashed (Muller et al. 2022)."""
    dims = vertex.shape[1]
    if (cells + 1) ** dims <= size:
        return np.ravel_multi_index(tuple(vertex.T[::-1]), (cells + 1,) * dims)
    return np.bitwise_xor.reduce(vertex.astype(np.uint32) * PRIMES[:dims], axis=1) % np.uint32(size)


def grids(levels: int, base: int, growth: float) -> list[int]:
    return [int(np.floor(base * growth**level)) for level in range(levels)]


def interpolated(x: torch.Tensor, table: torch.Tensor, base: int = 16, growth: float = 1.5) -> torch.Tensor:
    """Level by level and corner by corner; sizes are powers of two, for which signed and unsigned remainders agree."""
    parts: list[torch.Tensor] = []
    for rows, cells in zip(table, grids(len(table), base, growth), strict=True):
        place = x.clamp(0, 1) * cells
        lower = place.detach().floor().clamp(max=cells - 1)
        total = torch.zeros(len(x), rows.shape[1], dtype=x.dtype)
        for corner in itertools.product((0, 1), repeat=x.shape[1]):
            share = (1 - (place - lower - torch.tensor(corner)).abs()).prod(1)
            vertex = lower.long().numpy() + np.array(corner)
            found = torch.from_numpy(vertex_rows(vertex, cells, len(rows)).astype(np.int64))
            total = total + share[:, None] * rows[found]
        parts.append(total)
    return torch.cat(parts, 1)


def in_fixed_point(
    x: torch.Tensor, table: torch.Tensor, base: int = 16, growth: float = 1.5, position: int = 20, fraction: int = 7
) -> Array:
    """In i64, with shifts."""
    one, parts = 1 << fraction, list[Array]()
    for rows, cells in zip(table.numpy().astype(np.int64), grids(len(table), base, growth), strict=True):
        place = np.clip(x.numpy().astype(np.int64), 0, 1 << position) * cells
        lower = np.minimum(place >> position, cells - 1)
        rest = place - (lower << position)
        near = (rest + (1 << position - fraction - 1)) >> position - fraction
        total = 0
        for corner in itertools.product((0, 1), repeat=x.shape[1]):
            share = np.where(np.array(corner) == 1, near, one - near).prod(1)
            total = total + share[:, None] * rows[vertex_rows(lower + np.array(corner), cells, len(rows))]
        parts.append(np.asarray(total))
    return np.concatenate(parts, 1).astype(np.int32)


def in_units(x: torch.Tensor, fraction: int, low: int, high: int) -> Array:
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(np.rint(x.numpy().astype(np.float64) * 2.0**fraction), nan=low)
    return np.clip(scaled, low, high).astype(np.int32)


def decoded(x: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nlc,lcf->nlf", x.unflatten(1, decoder.shape[:2]), decoder).flatten(1)


def points(count: int, dims: int) -> Operand:
    """Some of them outside."""
    return uniform(count, dims, low=-0.2, high=1.2)


def places(count: int, dims: int, position: int = 20) -> Operand:
    """The same in fixed point, both corners among them."""

    def make(rng: np.random.Generator) -> Array:
        values = points(count, dims)(rng)
        values[:2] = [[0.0], [1.0]]
        return np.rint(values * 2.0**position).astype(np.int32)

    return make


SAMPLES: tuple[tuple[int, tuple[int, int, int], dict[str, Any]], ...] = (
    (2, (4, 64, 2), {"base": 4}),
    (2, (3, 256, 3), {"base": 16, "growth": 2.0}),
    (3, (3, 128, 2), {"base": 3, "growth": 1.7}),
)

RECORDS: tuple[Record, ...] = (
    Record(
        "hash_grid",
        tuple(sample(points(9, dims), normal(*table), **attributes) for dims, table, attributes in SAMPLES),
        interpolated,
        (
            bad("points of 2 or 3 coordinates; found 4", (5, 4), (2, 8, 2)),
            bad("base is 0", (5, 2), (2, 8, 2), base=0),
            bad("growth is 0.5", (5, 2), (2, 8, 2), growth=0.5),
        ),
    ),
    exact(
        "fixed_hash_grid",
        (
            *(sample(places(40, dims), codes(*table), **attributes) for dims, table, attributes in SAMPLES),
            sample(places(40, 2, 16), codes(5, 64, 2), base=300, position=16, fraction=11),
        ),
        in_fixed_point,
        bad("points of 2 or 3 coordinates; found 1", (5, 1), (2, 8, 2), of="i32 i8"),
        bad("base is 0", (5, 2), (2, 8, 2), base=0, of="i32 i8"),
        bad(
            "fraction has 1 to 7 bits and a position more, up to 30; fraction is 8",
            (5, 3),
            (2, 8, 2),
            fraction=8,
            of="i32 i8",
        ),
        bad("position is 7", (5, 2), (2, 8, 2), position=7, of="i32 i8"),
    ),
    Record(
        "decode_levels",
        (sample(normal(5, 6), normal(3, 2, 4)), sample(normal(2, 3), normal(3, 1, 2))),
        decoded,
        (bad("3 levels with 2 latents takes 6 features, not 7", (5, 7), (3, 2, 4)),),
    ),
    exact(
        "to_fixed_point",
        (
            sample(reals(5, 7), fraction=4, low=-100, high=90),
            sample(lambda rng: rng.random(9, np.float32), fraction=20, low=300, high=2**20),
            sample(reals(9), fraction=0, low=-5, high=5),
        ),
        in_units,
        bad("fraction is 31", (3,), fraction=31, low=0, high=1),
        bad("low is 3, high is 2", (3,), fraction=3, low=3, high=2),
    ),
)
