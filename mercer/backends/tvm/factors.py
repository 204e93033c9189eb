"""Inputs of a convolution that are computed element by element, computed by the convolution itself: squares, powers."""

from __future__ import annotations

from dataclasses import replace

from mercer.backends.tvm.sampled import merged, only_reader
from mercer.backends.tvm.schedules import convolution
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.target import Target
from mercer.ir.nests import Nest, Nests, Statement


def with_factors(nests: Nests, target: Target) -> Nests:
    """The same program, where a nest that computes each element from one other goes into the convolution that is its
    only reader, provided that a kernel computes it there once for every element.

    No rounding changes.
    """
    statements = dict(enumerate(nests.statements))
    types, constants = nests.types(), {constant.name: constant for constant in nests.constants}
    for number, producer in list(statements.items()):
        if not isinstance(producer, Nest) or producer.target in nests.outputs:
            continue
        place = only_reader(statements, producer.target)
        reader = statements[place] if place is not None else None
        if place is None or not isinstance(reader, Nest):
            continue
        whole = merged(producer, reader)
        computed = convolution.factor_of(whole)
        if computed is None or convolution.factor_of(reader) is not None:
            continue
        if isinstance(convolution.plan(Problem(whole, types, constants, target)), Schedule):
            statements[place] = whole
            del statements[number]
    return replace(nests, statements=tuple[Statement, ...](statements.values()))
