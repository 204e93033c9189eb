"""The family of a nest; generic with the reasons why it was none of the others."""

from __future__ import annotations

from dataclasses import replace

from mercer.backends.tvm.schedules import (
    contraction,
    convolution,
    fft_convolution,
    gather,
    generic,
    pointwise,
    reduce,
    stencil,
    transpose,
)
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.schedules.normalize import normalize
from mercer.ir.index import Reduce, walk


def choose(problem: Problem) -> Schedule:
    special = (fft_convolution.plan,) if problem.nest.algorithm == "fft" else ()
    for plan in (*special, stencil.plan, convolution.plan):
        found = plan(problem)
        if isinstance(found, Schedule):
            return found
    problem = replace(problem, nest=normalize(problem.nest, problem.types))
    reductions = any(isinstance(e, Reduce) for e in walk(problem.nest.body))
    families = (contraction.plan, reduce.plan, pointwise.plan) if reductions else (transpose.plan, pointwise.plan)
    reasons: list[str] = []
    for plan in (gather.plan, *families):
        found = plan(problem)
        if isinstance(found, Schedule):
            return found
        reasons.append(f"not {found.family}: {found.reason}")
    return generic.plan(problem, "; ".join(reasons))
