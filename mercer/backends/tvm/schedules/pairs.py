"""Sums of products of i16 or i8 with constants as products of words: see `words.dot` and `words.add_quad`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.tvm.analysis import DOT, QUAD, WORD, free, stride
from mercer.backends.tvm.schedules import operands
from mercer.backends.tvm.schedules.common import Problem
from mercer.backends.tvm.schedules.normalize import position
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.words import SIGNS, packed
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Const, Expr, Read, Reduce, Reducer, call, substitute, transform, walk
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.packed import BYTES_FEATURE, COUNTS, packed_factors
from mercer.ir.types import Data, DType, TensorType


def has_pairs(nest: Nest) -> bool:
    """Whether it sums products of i16 or bytes, which want rows that lie in one piece."""
    sums = (e for e in walk(nest.body) if isinstance(e, Reduce))
    return any(packed_factors(e.body) is not None for e in sums)


def are_words(dtype: DType, target: Target) -> bool:
    """Whether the CPU sums products of words of such numbers."""
    return dtype is DType.I16 or (dtype is DType.I8 and BYTES_FEATURE in target.features)


def paired(problem: Problem) -> Problem:
    """The problem with words where its one sum has pairs that lie together; else as it is."""
    sums = list(dict.fromkeys(e for e in walk(problem.nest.body) if isinstance(e, Reduce)))
    if len(sums) != 1 or (factors := _factors(sums[0], problem)) is None:
        return problem
    (e,), (data, weight) = sums, factors
    place = position(data, problem.types[data.tensor])
    steps = [axis for axis in e.axes if stride(place, axis.name) == 1 and axis.name in free(weight)]
    count = COUNTS[data.dtype]
    axis = next((axis for axis in steps if axis.extent.value % count == 0 or (count == 2 and len(e.axes) == 1)), None)
    grid = operands.grid(weight, problem)
    if axis is None or grid is None:
        return problem
    return _Pairing(problem, e, data, weight, axis, grid).problem()


def _factors(e: Reduce, problem: Problem) -> tuple[Read, Read] | None:
    """(data, weight)"""
    if e.reducer is not Reducer.SUM or e.dtype is not DType.I32:
        return None
    found = packed_factors(e.body)
    if found is None or any(read.pad is not None for read in found):
        return None
    a, b = found
    if not are_words(a.dtype, problem.target):
        return None
    known = [read.tensor in problem.constants for read in found]
    return ((b, a) if known[0] and a.dtype is DType.I16 else (a, b)) if any(known) and not all(known) else None


class _Pairing:
    """Words along `axis` of the sum `e`."""

    def __init__(self, problem: Problem, e: Reduce, data: Read, weight: Read, axis: Axis, grid: list[Axis]) -> None:
        self.source, self.e, self.data, self.weight, self.axis = problem, e, data, weight, axis
        self.others = [each for each in grid if each != axis]
        array = problem.constants[weight.tensor].data.array
        assert array is not None
        shaped = array.reshape([each.extent.value for each in grid])
        self.array = np.moveaxis(shaped, grid.index(axis), -1)

    def problem(self) -> Problem:
        dtype = self.data.dtype
        count, rest = divmod(self.axis.extent.value, COUNTS[dtype])
        whole = self.array[..., : COUNTS[dtype] * count]
        short = Axis(self.axis.name, IntExpr.constant(count))
        words = self._constant(f"words along {self.axis}", packed(whole, dtype))
        step = {self.axis.name: IntExpr.var(self.axis.name) * COUNTS[dtype]}
        left = Call(WORD, (substitute(self.data, step),), DType.I32)
        right = self._read(words, [*self.others, short])
        axes = tuple(short if each == self.axis else each for each in self.e.axes)
        if dtype is DType.I8:
            left = call("xor", left, Const(SIGNS, DType.I32))
        product = Call(QUAD if dtype is DType.I8 else DOT, (left, right), DType.I32)
        new: Expr = Reduce(Reducer.SUM, axes, product)
        constants = {words.name: words}
        if rest:
            last = self._constant(f"last of {self.axis}", self.array[..., -1].astype(np.int32))
            constants[last.name] = last
            end = {self.axis.name: IntExpr.constant(2 * count)}
            data = call("cast", substitute(self.data, end), dtype=DType.I32)
            new = call("add", new, call("mul", data, self._read(last, self.others)))
        nest = self.source.nest
        nest = replace(nest, body=transform(nest.body, lambda e: new if e == self.e else e))
        types = {**self.source.types, **{name: constant.type for name, constant in constants.items()}}
        return replace(self.source, nest=nest, types=types, constants={**self.source.constants, **constants})

    def _constant(self, what: str, array: np.ndarray) -> Constant:
        place = position(self.weight, self.source.types[self.weight.tensor])
        return Constant(f"{self.weight.tensor}.pairs[{place}, {what}]", TensorType.of(array), Data(array))

    def _read(self, constant: Constant, axes: list[Axis]) -> Read:
        place = IntExpr.constant(0)
        for each in axes:
            place = place * each.extent + IntExpr.var(each.name)
        index = (place,) if axes else ()
        return Read(constant.name, index, DType.I32)
