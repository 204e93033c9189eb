"""Preimages of index maps against counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from mercer.ir.bounds import extents
from mercer.ir.index import Axis, Call, Expr, Index
from mercer.ir.integers import Computed, Dim, IntExpr, Var
from mercer.ir.preimage import Preimage, preimage, tidy

P, Q, R = (IntExpr.var(name) for name in "ijk")
Point = dict[str, int]


def number(value: IntExpr, point: Point) -> int:
    def leaf(atom: Dim | Var | Computed) -> int:
        assert isinstance(atom, Var)
        return point[atom.name]

    return int(value.evaluate(leaf))


def holds(condition: Expr, point: Point) -> bool:
    assert isinstance(condition, Call)
    left, right = (number(e.value, point) for e in condition.arguments if isinstance(e, Index))
    return {"eq": left == right, "le": left <= right, "lt": left < right}[condition.function]


def points(axes: Sequence[Axis]) -> list[Point]:
    names = [axis.name for axis in axes]
    return [dict(zip(names, p, strict=True)) for p in product(*(range(axis.extent.value) for axis in axes))]


def check(indices: Sequence[IntExpr], shape: Sequence[int], sizes: Sequence[int]) -> Preimage:
    """Every position of the tensor is reached from the same values of the loops, each once."""
    loops = [Axis(name, IntExpr.constant(size)) for name, size in zip("ijk", sizes, strict=False)]
    position = [Axis(f"p{k}", IntExpr.constant(size)) for k, size in enumerate(shape)]
    found = preimage(indices, position, loops, {"i", "j", "k", *(axis.name for axis in position)})
    conditions = [*found.conditions, *(c for each in found.bounds.values() for c in each)]
    for place in points(position):
        target = tuple(place.values())
        wanted = [v for v in points(loops) if tuple(number(e, v) for e in indices) == target]
        reached: list[Point] = []
        for free in points(found.axes):
            here = place | free
            if all(holds(c, here) for c in conditions):
                reached.append(
                    {a.name: here[a.name] if a.name in free else number(found.values[a.name], here) for a in loops}
                )
        count = Counter(tuple(v.values()) for v in reached)
        assert count == Counter(tuple(v.values()) for v in wanted)
    return found


@pytest.mark.parametrize(
    ("indices", "shape", "sizes", "runs", "bounds", "conditions"),
    [
        ([P, Q], (3, 4), (3, 4), [], 0, 0),
        ([Q, P], (4, 3), (3, 4), [], 0, 0),
        ([P], (3,), (3, 4), ["j"], 0, 0),
        ([P + 1], (5,), (3,), [], 1, 0),
        ([P * 2 + Q - 1], (8,), (4, 3), ["j"], 1, 1),  # a convolution with stride 2
        ([P * 2 + Q], (8,), (4, 2), [], 0, 0),  # windows that do not overlap
        ([P * 2 + Q], (9,), (4, 2), [], 1, 0),  # the last element is in no window
        ([P * 6 + Q * 2 + R], (24,), (4, 3, 2), [], 0, 0),
        ([P // 3], (4,), (12,), ["r0"], 0, 0),
        ([P // 3, P % 3], (4, 3), (12,), [], 0, 0),
        ([P % 3], (3,), (12,), ["r0"], 0, 0),
        ([P % 5], (5,), (12,), ["r0"], 1, 0),
        ([(P // 3) * 2 + Q], (8,), (12, 2), ["r0"], 0, 0),  # a grouped convolution
        ([P, P], (3, 3), (3,), [], 0, 1),
        ([IntExpr.constant(2)], (4,), (3,), ["i"], 0, 1),
        ([IntExpr.constant(0)], (1,), (3,), ["i"], 0, 0),
        ([P * Q], (9,), (3, 4), ["i", "j"], 0, 1),
    ],
    ids=str,
)
def test_loops_that_follow(
    indices: list[IntExpr],
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    runs: list[str],
    bounds: int,
    conditions: int,
) -> None:
    found = check(indices, shape, sizes)
    assert [axis.name for axis in found.axes] == runs
    assert len(found.bounds) == bounds
    assert len(found.conditions) == conditions


@pytest.mark.parametrize("seed", range(60))
def test_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def term() -> IntExpr:
        atom = (P, Q, R)[rng.integers(3)] * int(rng.integers(-2, 4)) + int(rng.integers(-1, 3))
        kind = rng.integers(4)
        divisor = int(rng.integers(1, 4))
        return atom // divisor if kind == 0 else atom % divisor if kind == 1 else atom

    indices = [term() + term() for _ in range(rng.integers(1, 3))]
    check(indices, [5, 4][: len(indices)], [int(n) for n in rng.integers(1, 6, 3)])


def test_divisions_that_ranges_decide() -> None:
    ranges = extents([Axis("i", IntExpr.constant(4)), Axis("j", IntExpr.constant(3))])
    assert tidy(Q // 3, ranges) == IntExpr.constant(0)
    assert tidy(Q % 3, ranges) == Q
    assert tidy((P * 3 + Q) // 3, ranges) == P
    assert tidy((P + Q) % 3 + (P + Q) // 3 * 3, ranges) == P + Q
    assert tidy(P.minimum(Q + 3), ranges) == P
    assert tidy(P.maximum(Q), ranges) == P.maximum(Q)
