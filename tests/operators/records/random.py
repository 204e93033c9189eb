"""Random numbers, against the known answers of Random123 and a second implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.operators.records.record import Array, Record, bad, given, integers, sample

MASK = 0xFFFFFFFF


def encrypt(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 in Python integers (Salmon et al. 2011)."""
    words = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x = [(counter[0] + words[0]) & MASK, (counter[1] + words[1]) & MASK]
    for r in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[r % 8]
        x[0] = (x[0] + x[1]) & MASK
        x[1] = ((x[1] << turn) & MASK | x[1] >> (32 - turn)) ^ x[0]
        if r % 4 == 3:
            s = r // 4 + 1
            x = [(x[0] + words[s % 3]) & MASK, (x[1] + words[(s + 1) % 3] + s) & MASK]
    return x[0], x[1]


KNOWN = {
    ((0, 0), (0, 0)): (0x6B200159, 0x99BA4EFE),
    ((MASK, MASK), (MASK, MASK)): (0x1CB996FC, 0xBB002BE7),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)): (0xC4923A9C, 0x483DF7A0),
}
"""The test vectors of the Random123 library."""


def signed(words: Any) -> Array:
    return np.array(words, np.uint32).view(np.int32)


def threefry(key: Any, counter: Any) -> torch.Tensor:
    assert all(encrypt(*given) == answer for given, answer in KNOWN.items())
    pair = tuple(int(k) & MASK for k in key)
    columns = [encrypt(pair, (int(a) & MASK, int(b) & MASK)) for a, b in counter.T]  # type: ignore[arg-type]
    return torch.from_numpy(signed(columns).reshape(-1, 2).T.copy())


def bits(key: Any, size: int) -> torch.Tensor:
    counter = torch.stack([torch.arange((size + 1) // 2), torch.zeros((size + 1) // 2, dtype=torch.int64)])
    return threefry(key, counter).T.reshape(-1)[:size]


def uniform(key: Any, size: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    numbers = (bits(key, size).numpy().astype(np.int64) >> 8) + 2**23
    return torch.from_numpy((low + (high - low) * (numbers / 2**24)).astype(np.float32))


def normal(key: Any, size: int, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    u = uniform(key, size + size % 2).double().reshape(-1, 2).T
    radius, angle = torch.sqrt(-2 * torch.log1p(-u[0])), 2 * torch.pi * u[1]
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)
    return (mean + std * pairs.reshape(-1)[:size]).float()


KEY = given([1234567, -89], "int32")

RECORDS: tuple[Record, ...] = (
    Record(
        "threefry",
        (
            *(
                sample(given(signed(key), "int32"), given(signed(counter).reshape(2, 1), "int32"))
                for key, counter in KNOWN
            ),
            sample(KEY, integers(2, 7, low=-(2**31), high=2**31 - 1)),
        ),
        threefry,
        differentiable=False,
    ),
    Record("random_bits", (sample(KEY, size=7), sample(KEY, size=64)), bits, differentiable=False),
    Record(
        "random_uniform",
        (sample(KEY, size=9), sample(KEY, size=4, low=-2.0, high=2.0)),
        uniform,
        (bad("`key` is f32; i32 expected", (2,), size=3),),
        differentiable=False,
    ),
    Record(
        "random_normal",
        (sample(KEY, size=101), sample(KEY, size=8, mean=3.0, std=0.5)),
        normal,
        differentiable=False,
        tolerance=1e-6,
    ),
    Record(
        "fold_in",
        (sample(KEY, number=5),),
        lambda key, number: threefry(key, torch.tensor([[number], [1]]))[:, 0],
        differentiable=False,
    ),
)
