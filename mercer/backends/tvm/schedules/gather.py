"""Sampling at computed positions: deformable convolutions, grid samples, sparse bases, sums of rows of a table.

Channels are vectors. A tile of pixels goes through its phases in cache: positions and weights, vectors of pixels or
taps at a time; the samples, one contiguous vector per position; for a convolution their product with the packed
weights in a register tile; at last the rest of the body, turned in registers where the result has pixels last.
"""

from __future__ import annotations

from dataclasses import replace

from mercer.backends.tvm.analysis import (
    elements,
    flatten,
    free,
    free_in_integer,
    is_computed,
    never_negative,
    stride,
)
from mercer.backends.tvm.schedules.common import Problem, Refusal, Schedule, count, size, volume
from mercer.backends.tvm.schedules.gather_kernel import Kernel
from mercer.backends.tvm.schedules.gather_words import WordKernel, packed
from mercer.backends.tvm.schedules.normalize import all_axes, is_flat, position, ranges_of
from mercer.backends.tvm.schedules.sample_terms import FAMILY
from mercer.backends.tvm.schedules.samples import Copies, Samples, find, moved, without_computed
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Const as Number, Expr, Index, Read, Reduce, call, reads, transform
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import Data, TensorType

CACHE = 24 << 10
"""Bytes of samples that stay in the first level of the cache."""

LARGEST_COPY = 4
"""A tensor is copied when it has at most this many times the elements that are sampled."""


def plan(problem: Problem) -> Schedule | Refusal:
    found = find(problem)
    if isinstance(found, Refusal):
        return found
    found, before = _apart(found)
    problem = replace(problem, types={**problem.types, **{nest.target: nest.type for nest in before}})
    copies = Copies(problem)
    kernel = _prepared(found, copies, problem)
    if isinstance(kernel, Refusal):
        return kernel
    units = count(kernel.outer)
    new = (*before, *copies.nests.values())
    nest = kernel.samples.nest
    return Schedule(
        FAMILY,
        str(kernel),
        nest,
        units,
        kernel.cost,
        kernel.emit,
        new,
        tuple(copies.constants.values()),
        kernel.workspace,
    )


def _apart(samples: Samples) -> tuple[Samples, tuple[Nest, ...]]:
    """Other reductions of the body become nests of their own."""
    nest = samples.nest
    before: dict[Expr, Nest] = {}

    def visit(e: Expr) -> Expr:
        if e == samples.root:
            return e
        if isinstance(e, Reduce):
            if e not in before:
                axes = tuple(axis for axis in nest.axes if axis.name in free(e))
                type = TensorType(e.dtype, tuple(axis.extent for axis in axes))
                before[e] = Nest(f"{nest.target}.part{len(before)}", type, axes, e, nest.origins)
            part = before[e]
            return Read(part.target, tuple(IntExpr.var(axis.name) for axis in part.axes), e.dtype)
        return replace(e, arguments=tuple(map(visit, e.arguments))) if isinstance(e, Call) else e

    body = visit(nest.body)
    return replace(samples, nest=replace(nest, body=body)), tuple(before.values())


# --- layouts ----------------------------------------------------------------------------------------------------------


def _prepared(found: Samples, copies: Copies, problem: Problem) -> Kernel | Refusal:
    """The kernel, once every operand is read in the layout that it wants."""
    lanes, channels = problem.target.lanes, found.channel.extent.value
    width = 2 * lanes if found.sample is not None else min(lanes, 1 << (channels - 1).bit_length())
    padding = -channels % width
    new: dict[Expr, Expr] = {}
    for term in found.terms:
        if term.sample not in new:
            moved = _channels_last(term.sample, found, copies, padding)
            if isinstance(moved, Refusal):
                return moved
            new[term.sample] = moved
        for read in (read for vector in term.vectors for read in reads(vector)):
            moved = _along_channels(read, found, copies, padding)
            if isinstance(moved, Refusal):
                return moved
            new[read] = moved
    columns = 0
    if found.matrix is not None:
        columns = min(2 * lanes, 1 << (found.result.extent.value - 1).bit_length())
        matrix: Read | Refusal = _packed(found.matrix, found, copies, columns)
        if found.sample is not None:
            matrix = _in_words(matrix, copies, width)
        if isinstance(matrix, Refusal):
            return matrix
        new[found.matrix] = matrix
    changed = _replaced(found, new)
    if found.sample is not None:
        return WordKernel(changed, problem.target, width, columns, 0)
    return Kernel(changed, problem.target, width, columns, _block(changed, copies))


def _block(found: Samples, copies: Copies) -> int:
    """How many taps of the first axis sample a part of their tensors that stays in cache; 0 when all of them do.

    That is so where a tap has a part of its own, such as the spline coefficients of an input.
    """
    if not found.taps or found.matrix is not None:
        return 0
    first, data = found.taps[0], 0.0
    for sample in {term.sample.tensor: term.sample for term in found.terms}.values():
        own = stride(without_computed(sample.indices[0]), first.name)
        data += 4.0 * size(elements(copies.types[sample.tensor].shape)) / (size(first.extent) if own else 1)
    block = max(1, int(CACHE // data))
    return 0 if block >= first.extent.value else block


def _replaced(found: Samples, new: dict[Expr, Expr]) -> Samples:
    def change(expr: Expr) -> Expr:
        return transform(expr, lambda e: new.get(e, e))

    def read(expr: Read) -> Read:
        changed = change(expr)
        assert isinstance(changed, Read)
        return changed

    terms = tuple(
        replace(term, vectors=tuple(map(change, term.vectors)), sample=read(term.sample)) for term in found.terms
    )
    return replace(
        found,
        nest=replace(found.nest, body=change(found.nest.body)),
        root=change(found.root),
        terms=terms,
        matrix=None if found.matrix is None else read(found.matrix),
        sample=None if found.sample is None else change(found.sample),
    )


def _in_words(matrix: Read, copies: Copies, width: int) -> Read | Refusal:
    """The packed matrix with words of two channels."""
    constant = copies.constants.pop(matrix.tensor, None)
    if constant is None or constant.data.array is None:
        return Refusal(FAMILY, f"the weights of 16 bits in %{matrix.tensor} are no constant")
    array = packed(constant.data.array, width)
    name = f"{constant.name}.words[{width}]"
    copies.constants[name] = Constant(name, TensorType.of(array), Data(array))
    copies.types[name] = copies.constants[name].type
    return replace(matrix, tensor=name)


def _channels_last(read: Read, found: Samples, copies: Copies, padding: int) -> Read | Refusal:
    """The sample from a tensor with channels last, as one row-major index that stays inside for any data."""
    type = copies.types[read.tensor]
    if is_flat(read, type):
        return Refusal(FAMILY, f"positions in %{read.tensor} are in one piece")
    ranges = ranges_of((*all_axes(found.nest), *found.taps))
    margins: list[int] = []
    places: list[IntExpr] = []
    for index, extent in zip(read.indices, type.shape, strict=True):
        inside = never_negative(index, ranges) and never_negative(extent - 1 - index, ranges)
        sure = inside or (read.pad is None and not is_computed(index))
        margin = 0 if sure or read.pad is None else 1
        margins.append(margin)
        places.append(index if sure else (index + margin).minimum(extent - 1 + 2 * margin).maximum(0))
    channel = next(k for k, index in enumerate(read.indices) if found.channel.name in free_in_integer(index))
    if margins[channel]:
        return Refusal(FAMILY, f"channels of %{read.tensor} are padded")
    order = [*(k for k in range(type.rank) if k != channel), channel]
    shape = [extent + 2 * margin for extent, margin in zip(type.shape, margins, strict=True)]
    name = read.tensor
    if any(margins) or channel != type.rank - 1 or padding:
        axes = tuple(Axis(f"d{k}", shape[k]) for k in order)
        copied = volume(axes)
        if read.tensor not in copies.problem.constants and copied > LARGEST_COPY * _sampled(found):
            return Refusal(FAMILY, f"a copy of %{read.tensor} has more elements than are read")
        pad = read.pad if any(margins) else None
        inner = Read(read.tensor, tuple(IntExpr.var(f"d{k}") - m for k, m in enumerate(margins)), read.dtype, pad)
        name = f"{read.tensor}.channels_last[{channel}; {margins}]={pad}+{padding}"
        name = copies.of(name, axes, inner, padding)
    new = copies.types[name]
    return Read(name, (flatten([places[k] for k in order], new),), read.dtype)


def _sampled(found: Samples) -> int:
    return volume((*found.outer, found.pixel, *found.taps, found.channel)) * len(found.terms)


def _along_channels(read: Read, found: Samples, copies: Copies, padding: int) -> Read | Refusal:
    """A factor that depends on the channel, with channels last."""
    name = found.channel.name
    if name not in free(read):
        return read
    if any(map(is_computed, read.indices)) or read.pad is not None:
        return Refusal(FAMILY, f"%{read.tensor} is a factor with positions or padding")
    if stride(position(read, copies.types[read.tensor]), name) == 1 and not padding:
        return read
    axes = tuple(axis for axis in (*found.taps, *found.nest.axes) if axis.name in free(read) and axis != found.channel)
    if found.pixel in axes:
        return Refusal(FAMILY, f"%{read.tensor} has weights of pixels and channels")
    axes = (*axes, found.channel)
    text = f"{read.tensor}.factor[{position(read, copies.types[read.tensor])} by {', '.join(map(str, axes))}]+{padding}"
    tensor = copies.of(text, axes, read, padding)
    return Read(tensor, (flatten([IntExpr.var(axis.name) for axis in axes], copies.types[tensor]),), read.dtype)


def _packed(matrix: Read, found: Samples, copies: Copies, columns: int) -> Read:
    """Columns of the matrix in blocks, each with all taps and channels in one piece; zeros fill the last one."""
    result = found.result
    block = Axis("block", IntExpr.constant(-(-result.extent.value // columns)))
    inside = Axis("column", IntExpr.constant(columns))
    place = IntExpr.var(block.name) * columns + IntExpr.var(inside.name)
    axes = (block, *found.taps, found.channel, inside)
    at = place if result.extent.value % columns == 0 else place.minimum(result.extent - 1)
    body: Expr = moved(matrix, {result.name: at})
    if result.extent.value % columns:
        body = call(
            "where",
            call("lt", Index(place), Index(result.extent)),
            body,
            Number(0.0 if body.dtype.is_float else 0, body.dtype),
        )
    text = f"{matrix.tensor}.columns[{position(matrix, copies.types[matrix.tensor])} by {', '.join(map(str, axes))}]"
    name = copies.of(text, axes, body)
    here = {block.name: IntExpr.var(result.name) // columns, inside.name: IntExpr.var(result.name) % columns}
    indices = [here.get(axis.name, IntExpr.var(axis.name)) for axis in axes]
    return Read(name, (flatten(indices, copies.types[name]),), matrix.dtype)
