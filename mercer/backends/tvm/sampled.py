"""Samples at computed positions, computed in the convolution that multiplies them: they are never stored whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mercer.backends.tvm.analysis import is_computed
from mercer.backends.tvm.schedules import gather
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.schedules.normalize import normalize
from mercer.backends.tvm.target import Target
from mercer.ir.index import Expr, Read, Reduce, Reducer, reads, substitute, transform, walk
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Statement


def with_samples(nests: Nests, target: Target) -> Nests:
    """The same program, where a nest that samples goes into its only reader when that is a sum of products which the
    family `gather` computes as a whole.

    No rounding changes but that of the sum, whose order is not fixed.
    """
    statements = dict(enumerate(nests.statements))
    types, constants = nests.types(), {constant.name: constant for constant in nests.constants}
    for number, producer in list(statements.items()):
        if not isinstance(producer, Nest) or not _samples(producer) or producer.target in nests.outputs:
            continue
        place = only_reader(statements, producer.target)
        reader = statements[place] if place is not None else None
        if place is None or not isinstance(reader, Nest) or not _multiplies(reader, producer.target):
            continue
        whole = merged(producer, reader)
        problem = Problem(whole, types, constants, target)
        if isinstance(gather.plan(replace(problem, nest=normalize(whole, types))), Schedule):
            statements[place] = whole
            del statements[number]
    return replace(nests, statements=tuple[Statement, ...](statements.values()))


def only_reader(statements: Mapping[int, Statement], name: str) -> int | None:
    """The number of the one statement that reads a tensor."""
    readers = [number for number, statement in statements.items() if name in read_names(statement)]
    return readers[0] if len(readers) == 1 else None


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


def merged(producer: Nest, reader: Nest) -> Nest:
    """The reader with what the producer computes in the place of its reads."""

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr.tensor != producer.target:
            return expr
        places = {axis.name: index for axis, index in zip(producer.axes, expr.indices, strict=True)}
        return substitute(producer.body, places)

    origins = tuple(dict.fromkeys((*producer.origins, *reader.origins)))
    return replace(reader, body=transform(reader.body, change), origins=origins)
