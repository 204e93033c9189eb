"""Convolutions of images and sequences: Winograd's algorithm where the nest is marked for it, else the direct one.

Windows of 1 x 1 have ways of their own, on few pixels and on columns of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mercer.backends.tvm.analysis import free
from mercer.backends.tvm.schedules import columns, direct, few_pixels, pairs, winograd
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.ir.convolution import recognize
from mercer.ir.index import Call, Expr, Read, Reduce, reads, transform, walk
from mercer.ir.nests import Nest
from mercer.ir.types import DType

TILES = {"winograd2": 2, "winograd4": 4}
"""The m of F(m x m, 3 x 3) by the mark of a nest."""


def factor_of(nest: Nest) -> Expr | None:
    """A factor of the only sum of a nest that is computed from one read, without other indices or padding."""
    sums = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    product = sums[0].body if len(sums) == 1 else None
    if not isinstance(product, Call) or product.function != "mul":
        return None
    for factor in product.arguments:
        found = set(reads(factor))
        if not isinstance(factor, Read) and len(found) == 1:
            (read,) = found
            if read.pad is None and free(read) == free(factor) and read.dtype is factor.dtype:
                return factor
    return None


def _of_factor(nest: Nest, factor: Expr) -> Nest:
    """The nest with the read in the place of the factor in its sum."""
    (read,) = set(reads(factor))

    def change(expr: Expr) -> Expr:
        bare = isinstance(expr, Reduce)
        return replace(expr, body=transform(expr.body, lambda e: read if e == factor else e)) if bare else expr

    return replace(nest, body=transform(nest.body, change))


def _with_factor(problem: Problem, factor: Expr, known: Collection[str]) -> Schedule | Refusal:
    found = recognize(_of_factor(problem.nest, factor), problem.types, known)
    if isinstance(found, str):
        return Refusal("convolution", found)
    epilogue = Epilogue.of(found, problem.types)
    if epilogue is None:
        return Refusal("convolution", "what follows does not run along pixels")
    return columns.plan(found, epilogue, problem, factor)


def plan(problem: Problem) -> Schedule | Refusal:
    """A schedule of the nest as it is lowered, before normalization."""
    known = {name for name, constant in problem.constants.items() if constant.data.array is not None}
    factor = factor_of(problem.nest)
    if factor is not None:
        return _with_factor(problem, factor, known)
    found = recognize(problem.nest, problem.types, known)
    if isinstance(found, str):
        narrow = recognize(problem.nest, problem.types, known, DType.I32)
        if not isinstance(narrow, str) and pairs.are_words(narrow.dtype, problem.target):
            found = narrow
    if isinstance(found, str):
        return Refusal("convolution", found)
    if found.channels == 1 and found.groups > 1:
        return Refusal("convolution", "a channel is convolved by itself")
    epilogue = Epilogue.of(found, problem.types)
    if epilogue is None:
        return Refusal("convolution", "what follows does not run along pixels")
    if problem.nest.algorithm in TILES:
        marked = winograd.plan(found, TILES[problem.nest.algorithm], epilogue, problem)
        if isinstance(marked, Schedule):
            return marked
    for point in (few_pixels.plan, columns.plan):
        pointwise = point(found, epilogue, problem)
        if isinstance(pointwise, Schedule):
            return pointwise
    return direct.plan(found, epilogue, problem)
