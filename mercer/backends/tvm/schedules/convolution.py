"""Convolutions of images and sequences: Winograd's algorithm where the nest is marked for it, else the direct one.

Windows of 1 x 1 have ways of their own, on few pixels and on columns of them.
"""

from __future__ import annotations

from mercer.backends.tvm.schedules import columns, direct, few_pixels, winograd
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule
from mercer.backends.tvm.schedules.epilogue import Epilogue
from mercer.ir.convolution import recognize
from mercer.ir.types import DType

TILES = {"winograd2": 2, "winograd4": 4}
"""The m of F(m x m, 3 x 3) by the mark of a nest."""


def plan(problem: Problem) -> Schedule | Refusal:
    """A schedule of the nest as it is lowered, before normalization."""
    known = {name for name, constant in problem.constants.items() if constant.data.array is not None}
    found = recognize(problem.nest, problem.types, known)
    if isinstance(found, str):
        narrow = recognize(problem.nest, problem.types, known, DType.I32)
        if not isinstance(narrow, str) and problem.types[narrow.data].dtype is DType.I16:
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
