"""What a nest does with the value of its reduction, on vectors of neighbouring pixels."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mercer.backends.tvm import vector_math as vm, words
from mercer.backends.tvm.analysis import flatten, free
from mercer.backends.tvm.lower import Scope
from mercer.backends.tvm.schedules import blocks
from mercer.backends.tvm.schedules.normalize import flat_reads, merge
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.convolution import Convolution
from mercer.ir.index import Axis, Call, Expr, Read, call, children, parts, reads, transform
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.types import DType, TensorType

_SUM = "(sum)"
"""Stands for the value of the reduction."""


@dataclass(frozen=True)
class Start:
    """What the sum of integers may begin with in place of 0: then it is the value of `whole`."""

    whole: Expr
    value: Expr

    @staticmethod
    def of(body: Expr, total: Expr, places: Collection[str]) -> Start | None:
        """What is added to `total` alike in all places, where the body reads nothing else of the sum."""
        whole, added = total, None
        while total.dtype is DType.I32:
            match [part for part in parts(body) if whole in children(part)]:
                case [Call("add", (a, b)) as use] if a != b and not free(b if a == whole else a) & set(places):
                    other = b if a == whole else a
                    whole, added = use, other if added is None else call("add", added, other)
                case _:
                    break
        return None if added is None else Start(whole, added)


@dataclass(frozen=True)
class Epilogue:
    """`body`, over the axes (batch, channel, pixel), with the value of the reduction under the expression `total`."""

    target: str
    axes: tuple[Axis, Axis, Axis]
    body: Expr
    total: Expr
    place: IntExpr
    start: Start | None

    @staticmethod
    def of(convolution: Convolution, types: Mapping[str, TensorType]) -> Epilogue | None:
        """None when the body does not run along all pixels of a channel."""
        nest = convolution.nest
        own = Read(_SUM, tuple(IntExpr.var(axis.name) for axis in nest.axes), convolution.reduce.dtype)
        body = transform(nest.body, lambda e: own if e == convolution.reduce else e)
        known = {**types, _SUM: TensorType(convolution.reduce.dtype, nest.type.shape)}
        body = flat_reads(replace(nest, body=body), known).body
        merged, body = merge(convolution.spatial, body)
        if len(merged) != 1:
            return None
        (total,) = {read for read in reads(body) if read.tensor == _SUM}
        (pixel,) = merged
        batch, channel = nest.axes[:2]
        axes = batch, channel, pixel
        shape = tuple(axis.extent for axis in axes)
        place = flatten([IntExpr.var(axis.name) for axis in axes], TensorType(nest.type.dtype, shape))
        return Epilogue(nest.target, axes, body, total, place, Start.of(body, total, {pixel.name}))

    def ask(self, scope: Scope, batch: TirExpr, channel: TirExpr, pixel: TirExpr, rows: int, width: int) -> None:
        """For the lines of `width` pixels of so many channels that `store` will read and write: each is on a page of
        its own, which nothing foresees. Where channels begin with a line, so should `pixel`."""
        inside = scope.inside(self.axes, [batch, channel, pixel])
        names = {self.axes[1].name, self.axes[2].name}
        others = [r for r in dict.fromkeys(reads(self.body)) if r != self.total and names <= free(r)]
        plain = [r for r in others if r.pad is None and len(r.indices) == 1]
        each = blocks.LINE // self.total.dtype.numpy.itemsize
        pixels = self.axes[2].extent.value
        columns = range(0, width, each) if pixels % each == 0 else (0, width - 1)
        for row, column in itertools.product(range(rows), columns):
            here = inside.at({self.axes[1].name: row, self.axes[2].name: column})
            for read in plain:
                tensor = scope.tensors[read.tensor]
                blocks.prefetch(tensor.buffer, tensor.place(here.integer(read.indices[0])))
            target = scope.tensors[self.target]
            blocks.prefetch(target.buffer, target.place(here.integer(self.place)), write=True)

    def starts(self, scope: Scope, batch: TirExpr, channel: TirExpr, rows: int) -> list[TirExpr] | None:
        """What the sums of so many channels may begin with."""
        if self.start is None:
            return None
        inside = scope.inside(self.axes[:2], [batch, channel])
        return [inside.at({self.axes[1].name: row}).value(self.start.value) for row in range(rows)]

    def store(
        self,
        scope: Scope,
        batch: TirExpr,
        channel: TirExpr,
        pixel: TirExpr,
        values: Mapping[tuple[int, int], TirExpr],
        started: bool = False,
    ) -> None:
        """Finish and store vectors of sums; a key says by how many channels and pixels a vector lies further on."""
        total = self.start.whole if self.start is not None and started else self.total
        width = max(vm.lanes(value) for value in values.values())
        inside = self._vectors(scope, batch, channel, pixel, width)
        for (row, column), value in values.items():
            here = self._moved(inside, row, column)
            here.done[here.key(total, free(total))] = value
        saturating = words.Saturating.of(self.body) if width in words.NARROW else None
        for row, column, count in _runs(values, width, (4, 2) if saturating else ()):
            here = self._moved(inside, row, column)
            if saturating is None or count == 1:
                here.store(here.tensors[self.target], self.place, here.value(self.body))
                continue
            heres = [self._moved(inside, row, column + k * width) for k in range(count)]
            codes = [saturating.word(each.value(saturating.x), each.value(saturating.y)) for each in heres]
            here = self._moved(self._vectors(scope, batch, channel, pixel, count * width), row, column)
            here.store(here.tensors[self.target], self.place, words.saturated(codes))

    def _vectors(self, scope: Scope, batch: TirExpr, channel: TirExpr, pixel: TirExpr, width: int) -> Scope:
        inside = scope.inside(self.axes[:2], [batch, channel])
        inside = inside.vector(self.axes[2].name, pixel, width, (ZERO, self.axes[2].extent - 1))
        return replace(inside, offsets={})

    def _moved(self, scope: Scope, row: int, column: int) -> Scope:
        return scope.at({self.axes[1].name: row, self.axes[2].name: column})


def _runs(places: Iterable[tuple[int, int]], width: int, counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(row, column, number) of vectors side by side, as many as one of the counts says, else each by itself."""
    left = dict.fromkeys(places)
    while left:
        row, column = next(iter(left))
        count = next((n for n in counts if all((row, column + k * width) in left for k in range(n))), 1)
        for k in range(count):
            del left[row, column + k * width]
        yield row, column, count
