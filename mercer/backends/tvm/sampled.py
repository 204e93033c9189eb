"""Samples at computed positions, computed in the convolution that multiplies them: they are never stored whole."""

from __future__ import annotations

from dataclasses import replace

from mercer.backends.tvm.absorb import absorbed
from mercer.backends.tvm.analysis import is_computed
from mercer.backends.tvm.schedules import gather
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.schedules.normalize import normalize
from mercer.backends.tvm.target import Target
from mercer.ir.index import Reduce, Reducer, reads, walk
from mercer.ir.nests import Nest, Nests


def with_samples(nests: Nests, target: Target) -> Nests:
    """The same program, where a nest that samples goes into its only reader when that is a sum of products which the
    family `gather` computes as a whole.

    No rounding changes but that of the sum, whose order is not fixed.
    """
    types, constants = nests.types(), {constant.name: constant for constant in nests.constants}

    def takes(producer: Nest, reader: Nest) -> bool:
        return _samples(producer) and _multiplies(reader, producer.target)

    def pays(whole: Nest) -> bool:
        problem = Problem(whole, types, constants, target)
        return isinstance(gather.plan(replace(problem, nest=normalize(whole, types))), Schedule)

    return absorbed(nests, takes, pays)


def _samples(nest: Nest) -> bool:
    body = nest.body
    return not any(isinstance(e, Reduce) for e in walk(body)) and any(
        is_computed(index) for read in reads(body) for index in read.indices
    )


def _multiplies(nest: Nest, tensor: str) -> bool:
    """Whether the tensor is read once, in a sum, and surely inside."""
    sums = [e for e in dict.fromkeys(walk(nest.body)) if isinstance(e, Reduce) and e.reducer is Reducer.SUM]
    inside = {read for e in sums for read in reads(e) if read.tensor == tensor}
    everywhere = {read for read in reads(nest.body) if read.tensor == tensor}
    return len(everywhere) == 1 and inside == everywhere and all(read.pad is None for read in everywhere)
