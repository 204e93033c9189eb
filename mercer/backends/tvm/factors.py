"""Inputs of a convolution that are computed element by element, computed by the convolution itself: squares, powers."""

from __future__ import annotations

from mercer.backends.tvm.absorb import absorbed
from mercer.backends.tvm.schedules import convolution
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.target import Target
from mercer.ir.nests import Nest, Nests


def with_factors(nests: Nests, target: Target) -> Nests:
    """The same program, where a nest that computes each element from one other goes into the convolution that is its
    only reader, provided that a kernel computes it there once for every element.

    No rounding changes.
    """
    types, constants = nests.types(), {constant.name: constant for constant in nests.constants}

    def takes(_: Nest, reader: Nest) -> bool:
        return convolution.factor_of(reader) is None

    def pays(whole: Nest) -> bool:
        if convolution.factor_of(whole) is None:
            return False
        return isinstance(convolution.plan(Problem(whole, types, constants, target)), Schedule)

    return absorbed(nests, takes, pays)
