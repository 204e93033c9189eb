"""The family of a nest; generic with the reasons why it was none of the others."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from mercer.backends.tvm.schedules import (
    contraction,
    convolution,
    fft_convolution,
    gather,
    generic,
    pointwise,
    reduce,
    stencil,
    stencil_words,
    transpose,
)
from mercer.backends.tvm.schedules.common import Choice, Options, Problem, Schedule
from mercer.backends.tvm.schedules.normalize import normalize
from mercer.ir.index import Reduce, walk

INSTEAD = {"winograd4": ("winograd2", ""), "winograd2": ("",), "fft": ("",)}
"""Algorithms that may stand for the one that a nest is marked with: they round no more than it."""


def choose(problem: Problem) -> Schedule:
    """The schedule of a nest; `algorithm` of the choice, if any, replaces the mark of the nest."""
    nest, wanted = problem.nest, dict(problem.choice or {})
    algorithm = wanted.pop("algorithm", nest.algorithm)
    if algorithm == nest.algorithm or algorithm not in INSTEAD.get(nest.algorithm, ()):
        return _choose(problem)
    marked = replace(nest, algorithm=str(algorithm))
    found = _choose(replace(problem, nest=marked, choice=wanted))
    choices = tuple({**each, "algorithm": algorithm} for each in found.options.choices or ({},))
    return replace(found, options=Options(choices, found.options.taken))


def candidates(problem: Problem) -> list[Choice]:
    """Everything that may be chosen for a nest, what costs least first."""
    ways = [None, *({"algorithm": each} for each in INSTEAD.get(problem.nest.algorithm, ()))]
    found = [choose(replace(problem, choice=way)).options.choices for way in ways]
    return [each for row in zip_longest(*found) for each in row if each is not None]


def _choose(problem: Problem) -> Schedule:
    special = (fft_convolution.plan,) if problem.nest.algorithm == "fft" else ()
    for plan in (*special, stencil_words.plan, stencil.plan, convolution.plan):
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
