"""The memory that a run takes, from what the compiler has planned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .artifact import DTYPES, Artifact, evaluate_dim
from .weights import MEMBER as WEIGHTS

PAGE = 4096
"""Bytes in whose multiples TVM's allocators take memory."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one run: `weights` with what is unpacked of them, `inputs`, `tensors` with the outputs, and
    `workspace` of all threads."""

    weights: int
    inputs: int
    tensors: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.inputs + self.tensors + self.workspace


def planned(artifact: Artifact, sizes: Mapping[str, int], threads: int) -> Memory | None:
    """For sizes of the symbolic dims; None when the artifact has no plan.

    The plan is `entry["memory"]`: `storages`, each with its `bytes`, the `first` step, which it is allocated for, and
    the `last` one that needs it; `widened`, bytes of weights that are not used where they lie in the file;
    `workspace`, bytes of one thread.
    """
    plan: Mapping[str, Any] | None = artifact.manifest.entry.get("memory")
    if plan is None:
        return None
    storages = [(_pages(evaluate_dim(s["bytes"], sizes)), s["first"], s["last"]) for s in plan["storages"]]
    inputs = artifact.manifest.signature.inputs
    return Memory(
        weights=artifact.manifest.members[WEIGHTS].bytes + plan["widened"],
        inputs=sum(
            math.prod(evaluate_dim(d, sizes) for d in spec.shape) * DTYPES[spec.dtype].itemsize for spec in inputs
        ),
        tensors=_pooled(storages),
        workspace=plan["workspace"] * threads,
    )


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _pooled(storages: list[tuple[int, int, int]]) -> int:
    """Bytes that TVM's pool takes: what is free is given again to those who ask for as many pages, and kept."""
    total, free = 0, dict[int, int]()
    ends: dict[int, list[int]] = {}
    step = 0
    for size, first, last in sorted(storages, key=lambda storage: storage[1]):
        for done in range(step, first):
            for given in ends.pop(done, ()):
                free[given] = free.get(given, 0) + 1
        step = first
        if free.get(size):
            free[size] -= 1
        else:
            total += size
        ends.setdefault(last, []).append(size)
    return total
