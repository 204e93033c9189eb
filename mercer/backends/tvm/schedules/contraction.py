"""Reductions with a register tile of outputs: matrix products, convolutions, pairwise distances.

The outputs of a tile are computed together. Each step of the reduction loads every operand of the tile once and updates
all accumulators, which stay in vector registers; the rest of the body is applied to them before they are stored.
Before that, reads with pad are redirected to a padded copy, constants are repacked at compile time so that vectors are
contiguous, and other tensors are repacked by a nest of their own where the reuse pays for it. A long reduction over
operands that lie across it goes block by block through all tiles, so that a block stays in cache (see Blocks).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import flatten, free, free_in_integer, in_words, stride
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64, loops
from mercer.backends.tvm.scalar import convert, identity, wide
from mercer.backends.tvm.schedules import operands, pairs, panels, reduce
from mercer.backends.tvm.schedules.common import (
    Choice,
    Options,
    Problem,
    Refusal,
    Schedule,
    Units,
    at_outer,
    count,
    operations,
    pick,
    ravel,
    size,
    volume,
)
from mercer.backends.tvm.schedules.normalize import cut, position
from mercer.backends.tvm.schedules.order import Stream, ordered
from mercer.backends.tvm.schedules.tile import Access, Search, Tile
from mercer.backends.tvm.schedules.weights_ahead import Ahead, are_far, without_rest
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Call, Expr, Read, Reduce, Reducer, reads, walk
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import DType, TensorType

CYCLE = 0.35
"""Nanoseconds."""

ALONG: Choice = {"family": "reduce"}
"""The choice of vectors along the sum, where they cost less than tiles."""


def plan(problem: Problem) -> Schedule | Refusal:
    reductions = list(dict.fromkeys(e for e in walk(problem.nest.body) if isinstance(e, Reduce)))
    if refusal := _refuse(problem.nest, reductions):
        return refusal
    problem = without_rest(problem)
    known, given = problem.constants, problem
    problem, padded = operands.padded(problem)
    problem = pairs.paired(problem)
    nest = problem.nest
    reductions = [_ordered(e) for e in dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce))]
    steps = max(1, sum(volume(e.axes) for e in reductions))
    accesses = [_access(read, problem, e) for e in reductions for read in dict.fromkeys(reads(e.body))]
    calls = max(_calls(e.body) for e in reductions)
    search = Search(nest.axes, accesses, calls, steps, problem.target)
    scalar = in_words(nest.body)
    tiles = [t for t in search.tiles() if t.lane not in scalar and (not problem.once or t.is_exact(nest.axes))]
    if not tiles:
        return Refusal("contraction", "no output axis of constant extent for vectors")
    usable = (tile for tile in tiles if tile.cost * problem.target.lanes <= 8.0 * calls)
    found = pick(usable, lambda tile: tile.cost, lambda tile: tile.choice(nest.axes), problem.choice)
    if found is None:
        least = min(tiles, key=lambda tile: tile.cost)
        return Refusal("contraction", f"the best tile ({least}) would load more than it computes")
    best, options = found
    if problem.choice in (None, ALONG) and (along := _cheaper_along(given, best, steps)) is not None:
        return replace(along, options=Options((ALONG, *options.choices)))
    detail, once = str(best), best.is_exact(nest.axes)
    nest, best = _split(nest, best)
    problem = replace(problem, nest=nest)
    reductions = [_ordered(e) for e in dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce))]
    order = [*(axis.name for axis in nest.axes if axis.name != best.lane)]
    problem, packed, constants = operands.repacked(problem, best, order, reductions)
    constants += tuple(constant for name, constant in problem.constants.items() if name not in known)
    return replace(_schedule(problem, best, detail, steps, (*padded, *packed), constants), options=options, once=once)


def _cheaper_along(problem: Problem, best: Tile, steps: int) -> Schedule | None:
    """Vectors of partial results, where they cost less than tiles, whose operands must then be gathered."""
    along = reduce.plan(problem) if best.cost * problem.target.lanes > 4.0 else None
    if not isinstance(along, Schedule):
        return None
    tiles = best.cost * CYCLE * steps * volume(problem.nest.axes)
    return along if along.cost * size(along.count) < tiles else None


def _split(nest: Nest, best: Tile) -> tuple[Nest, Tile]:
    """Make two axes, tiles and the place inside of a tile, of every tiled axis that tiles cover without a rest.

    Repacked operands then hold what a tile needs in one piece.
    """
    parts: dict[str, tuple[Axis, Axis]] = {}
    for axis in nest.axes:
        factor = best.factors.get(axis.name, 1)
        if factor == 1 or not axis.extent.is_constant or axis.extent.value % factor or axis.extent.value == factor:
            continue
        inside = Axis(f"{axis.name}.in", IntExpr.constant(factor))
        parts[axis.name] = Axis(f"{axis.name}.tile", axis.extent // factor), inside
    names = {name: inside.name for name, (_, inside) in parts.items()}
    factors = {names.get(name, name): factor for name, factor in best.factors.items()}
    return cut(nest, parts), replace(best, lane=names.get(best.lane, best.lane), factors=factors)


def _schedule(
    problem: Problem,
    best: Tile,
    detail: str,
    steps: int,
    before: tuple[Nest, ...],
    constants: tuple[operands.Constant, ...],
) -> Schedule:
    nest = problem.nest
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)
    tiled = [Axis(f"{axis.name}#", _tiles(axis, best)) for axis in nest.axes]
    work = best.cost * CYCLE * steps * _tile_volume(best)
    blocks = _blocks(problem, best, tiled)
    if blocks is not None:
        cost = work * volume(blocks.inner)
        detail = f"{detail}, {blocks.size} of {blocks.axis.extent} {blocks.axis.name} at a time"
        detail += f", {len(blocks.panels)} operands in panels" if blocks.panels else ""
        ahead = _ahead(problem, best, (*blocks.outer, *blocks.inner), constants, blocks)
        detail += ", next weights ahead" if ahead is not None else ""
        emit = _emit_blocks(nest, best, place, blocks, ahead)
        memory = (blocks.workspace, *(each.workspace for each in blocks.panels))
        return Schedule("contraction", detail, nest, count(blocks.outer), cost, emit, before, constants, memory)
    tiled = list(_ordered_loops(problem, best, tiled, work / CYCLE))
    ahead = _ahead(problem, best, tiled, constants)
    detail += ", next weights ahead" if ahead is not None else ""
    units = Units.of(tiled, work)

    def emit_tiles(scope: Scope, at: TirExpr) -> None:
        units.run(scope, at, lambda inside: _tile(inside, nest, best, place, ahead))

    return Schedule("contraction", detail, nest, units.count, units.cost, emit_tiles, before, constants)


def _ordered_loops(problem: Problem, best: Tile, tiled: Sequence[Axis], cycles: float) -> tuple[Axis, ...]:
    """The loops over tiles in the order in which operands are read again least."""
    nest = problem.nest
    parts: list[Stream] = []
    for e in dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)):
        steps = {axis.name: volume([axis]) for axis in e.axes}
        for read in dict.fromkeys(reads(e.body)):
            names = free(read)
            bytes = read.dtype.numpy.itemsize * math.prod(steps[name] for name in steps if name in names)
            bytes *= math.prod(factor for name, factor in best.factors.items() if name in names)
            loops_of = frozenset(f"{axis.name}#" for axis in nest.axes if axis.name in names)
            parts.append(Stream(bytes, loops_of))
    return ordered(tiled, parts, cycles)


def _ahead(
    problem: Problem,
    best: Tile,
    tiled: Sequence[Axis],
    packed: Sequence[operands.Constant],
    blocks: Blocks | None = None,
) -> Ahead | None:
    """The weights to ask for, in loops over tiles `tiled`; None where there is nothing to wait for."""
    sums = list(dict.fromkeys(e for e in walk(problem.nest.body) if isinstance(e, Reduce)))
    if len(sums) != 1 or not all(axis.extent.is_constant for axis in sums[0].axes):
        return None
    if not are_far(constant.type for constant in problem.constants.values()):
        return None
    e = _ordered(sums[0])
    weights = {name: problem.types[name] for name in (*problem.constants, *(each.name for each in packed))}
    extents = {axis.name: volume([axis]) for axis in e.axes} | dict(best.factors)
    extents |= {blocks.axis.name: blocks.size} if blocks is not None else {}
    inner = blocks.axis if blocks is not None else e.axes[-1]
    return Ahead.of(e, weights, extents, {axis: axis.name.removesuffix("#") for axis in tiled}, inner.name)


BLOCK = 128
"""Steps of a block."""

BLOCK_BYTES = 256 << 10
"""What a block reads, and what it adds to, at most."""

DEEP = 96 << 10
"""Bytes of the steps of one operand of a tile from which on they are made in blocks."""

ACROSS = 33
"""Elements from one step to the next of an operand that has not been packed for a tile."""

SUMS = "contraction.sums"


@dataclass(frozen=True)
class Blocks:
    """The steps of `axis` in blocks of `size`: each for all tiles of `inner`, whose sums lie in memory in between.

    What `panels` copy is read there.
    """

    axis: Axis
    size: int
    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    dtype: DType
    volume: int
    panels: tuple[panels.Panels, ...] = ()

    @property
    def count(self) -> int:
        return self.axis.extent.value // self.size

    @property
    def next(self) -> panels.Next | None:
        return panels.Next(self.panels, self.inner) if self.panels else None

    @property
    def workspace(self) -> Operand:
        return Operand(SUMS, TensorType(self.dtype, (IntExpr.constant(volume(self.inner) * self.volume),)))


@dataclass(frozen=True)
class _Block:
    """One of them at a place of the program: its number, and where the sums of the tile begin."""

    blocks: Blocks
    number: TirExpr
    start: TirExpr


def _blocks(problem: Problem, best: Tile, tiled: Sequence[Axis]) -> Blocks | None:
    """None where whole reductions are as good: where they are short, contiguous or hardly shared by tiles."""
    nest = problem.nest
    reductions = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    if len(reductions) != 1 or reductions[0].dtype not in (DType.F32, DType.I32):
        return None
    e = _ordered(reductions[0])
    axis = e.axes[-1]
    operands_of = list(dict.fromkeys(reads(e.body)))
    across = [
        abs(stride(position(r, problem.types[r.tensor]), axis.name) or 0) * best.width >= 128 for r in operands_of
    ]
    if not axis.extent.is_constant or axis.extent.value < 4 * BLOCK or axis.extent.value % BLOCK:
        return None
    if not all(across):
        return _deep_blocks(nest, best, tiled, e)
    shared = [all(a.name in free(r) for r in operands_of) for a in nest.axes]
    outer = tuple(t for t, each in zip(tiled, shared, strict=True) if each)
    inner = tuple(t for t, each in zip(tiled, shared, strict=True) if not each)
    if not all(t.extent.is_constant for t in inner) or volume(inner) < 4:
        return None
    extents = {a.name: volume([a]) for a, each in zip(nest.axes, shared, strict=True) if not each}
    read = sum(BLOCK * math.prod(extents.get(name, 1) for name in free(r)) for r in operands_of)
    tiles = {
        a: (t.extent.value, best.factors.get(a.name, 1)) for t, a in zip(tiled, nest.axes, strict=True) if t in inner
    }
    alone = all(best.factors.get(a.name, 1) == 1 for a, each in zip(nest.axes, shared, strict=True) if each)
    copies = panels.panels(e, axis, BLOCK, tiles, problem.types) if alone else ()
    widest = {number: each.width for each in sorted(copies, key=lambda each: each.width) for number in each.numbers}
    inner = tuple(sorted(inner, key=lambda t: -widest.get(t.name, 0)))  # what is large is then read again least
    found = Blocks(axis, BLOCK, outer, inner, e.dtype, _tile_volume(best), copies)
    return found if 4 * max(read, volume(inner) * found.volume) <= BLOCK_BYTES else None


def _deep_blocks(nest: Nest, best: Tile, tiled: Sequence[Axis], e: Reduce) -> Blocks | None:
    """Blocks for all tiles that share a part of the largest operand, where that part does not stay in cache."""
    steps = {axis.name: volume([axis]) for axis in e.axes}
    each = {**steps, **best.factors}

    def bytes(read: Read, extents: Mapping[str, int]) -> int:
        return read.dtype.numpy.itemsize * math.prod(extents.get(name, 1) for name in free(read))

    axis, operands_of = e.axes[-1], list(dict.fromkeys(reads(e.body)))
    wide = max(operands_of, key=lambda read: bytes(read, each))
    outer = tuple(t for t, a in zip(tiled, nest.axes, strict=True) if a.name in free(wide))
    inner = tuple(t for t, a in zip(tiled, nest.axes, strict=True) if a.name not in free(wide))
    if bytes(wide, each) < DEEP or not all(t.extent.is_constant for t in inner) or volume(inner) < 4:
        return None
    size = math.gcd(axis.extent.value, 4 * BLOCK)
    extents = {a.name: volume([a]) for a in nest.axes if a.name not in free(wide)}
    read = sum(bytes(r, {**best.factors, **extents, axis.name: size}) for r in operands_of)
    found = Blocks(axis, size, outer, inner, e.dtype, _tile_volume(best))
    return found if max(read, 4 * volume(inner) * found.volume) <= BLOCK_BYTES else None


def _emit_blocks(
    nest: Nest, best: Tile, place: IntExpr, blocks: Blocks, ahead: Ahead | None
) -> Callable[[Scope, TirExpr], None]:
    def emit(scope: Scope, at: TirExpr) -> None:
        outside = at_outer(scope, blocks.outer, at)
        alone = [axis for axis in nest.axes if panels.number(axis) in outside.indices]
        place_of = outside.inside(alone, [outside.indices[panels.number(axis)] for axis in alone])
        with T.serial(int64(0), int64(blocks.count)) as number:
            for each in blocks.panels:
                each.emit(place_of, number, best.width)

            def tile(inside: Scope) -> None:
                start = T.bind(ravel(inside, blocks.inner) * int64(blocks.volume))
                _tile(inside, nest, best, place, ahead, _Block(blocks, number, start))

            loops(replace(outside, done={}, outer=outside), blocks.inner, tile)

    return emit


def _tile_volume(best: Tile) -> int:
    total = 1
    for factor in best.factors.values():
        total *= factor
    return total


def _tiles(axis: Axis, best: Tile) -> IntExpr:
    """How many tiles an axis has; a symbolic one ends with single elements."""
    factor = best.factors.get(axis.name, 1)
    if axis.extent.is_constant:
        return IntExpr.constant(-(-axis.extent.value // factor))
    return axis.extent // factor + axis.extent % factor


def _tile(
    scope: Scope, nest: Nest, best: Tile, place: IntExpr, ahead: Ahead | None, block: _Block | None = None
) -> None:
    """One tile: its first element on every axis, then the code for its size."""
    starts: list[TirExpr] = []
    ragged: tuple[TirExpr, Axis] | None = None
    for axis in nest.axes:
        number, factor = scope.indices[f"{axis.name}#"], best.factors.get(axis.name, 1)
        start = number * int64(factor)
        if axis.extent.is_constant:
            start = panels.start(axis, number, factor)
        elif factor > 1:
            whole = scope.integer(axis.extent // factor)
            start = T.min(start, number + whole * int64(factor - 1))
            ragged = number < whole, axis
        starts.append(vm.let(start))
    inside = scope.inside(nest.axes, starts)
    if block is not None and block.blocks.panels:
        inside = inside.inside([replace(axis, name=panels.first(axis)) for axis in nest.axes], starts)
    if ragged is None:
        _micro_kernel(inside, nest, best, best.factors, place, ahead, block)
        return
    whole_tile, axis = ragged
    with T.If(whole_tile):
        with T.Then():
            _micro_kernel(replace(inside, done={}, outer=inside), nest, best, best.factors, place, ahead, block)
        with T.Else():
            single = {**best.factors, axis.name: 1}
            _micro_kernel(replace(inside, done={}, outer=inside), nest, best, single, place, None, block)


def _micro_kernel(
    scope: Scope,
    nest: Nest,
    best: Tile,
    factors: Mapping[str, int],
    place: IntExpr,
    ahead: Ahead | None,
    block: _Block | None,
) -> None:
    """All outputs of a tile: accumulate, finish, store."""
    extent = next(axis.extent for axis in nest.axes if axis.name == best.lane)
    scope = replace(scope.vector(best.lane, scope.indices[best.lane], best.width, (ZERO, extent - 1)), offsets={})
    steps = [range(0, k, best.width if name == best.lane else 1) for name, k in factors.items()]
    offsets = [dict(zip(factors, combination, strict=True)) for combination in itertools.product(*steps)]
    for e in dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)):
        if block is None:
            _accumulate(scope, _ordered(e), e, offsets, best.width, ahead)
        else:
            _accumulate_block(scope, _ordered(e), e, offsets, best.width, ahead, block)

    def finish() -> None:
        for offset in offsets:
            at = scope.at(offset)
            at.store(scope.tensors[nest.target], place, at.value(nest.body))

    if block is None:
        finish()
        return
    with T.If(tirx.EQ(block.number, int64(block.blocks.count - 1))):
        with T.Then():
            finish()


def _accumulate(
    scope: Scope, e: Reduce, key: Reduce, offsets: Sequence[dict[str, int]], width: int, ahead: Ahead | None
) -> None:
    """Leave the value of the reduction for every element of the tile in `scope.done`."""
    totals = [vm.registers(width, wide(e.dtype)) for _ in offsets]
    everything = vm.whole(width)
    for total in totals:
        T.buffer_store(total, vm.broadcast(identity(e.reducer, e.dtype), width), [everything])
    run = loops if ahead is None else ahead.loops
    run(scope, e.axes, lambda inside: _step(inside, e, totals, offsets, width))
    for total, offset in zip(totals, offsets, strict=True):
        at = scope.at(offset)
        at.done[at.key(key, free(key))] = vm.let(convert(total[everything], e.dtype))


def _step(scope: Scope, e: Reduce, totals: Sequence[Any], offsets: Sequence[dict[str, int]], width: int) -> None:
    for total, offset in zip(totals, offsets, strict=True):
        scope.at(offset).accumulate(e, total, width)


def _accumulate_block(
    scope: Scope,
    e: Reduce,
    key: Reduce,
    offsets: Sequence[dict[str, int]],
    width: int,
    ahead: Ahead | None,
    block: _Block,
) -> None:
    """The same for one block of the steps, on top of the sums in memory."""
    blocks, memory = block.blocks, scope.tensors[SUMS].buffer
    copied = panels.redirected(e, blocks.panels)
    totals = [vm.registers(width, wide(e.dtype)) for _ in offsets]
    everything = vm.whole(width)
    starts = [block.start + int64(k * width) for k in range(len(offsets))]
    places = [T.ramp(start, int64(1), width) if width > 1 else start for start in starts]
    with T.If(tirx.EQ(block.number, int64(0))):
        with T.Then():
            for total in totals:
                T.buffer_store(total, vm.broadcast(identity(e.reducer, e.dtype), width), [everything])
        with T.Else():
            for total, place in zip(totals, places, strict=True):
                T.buffer_store(total, memory[place], [everything])

    first = T.bind(block.number * int64(blocks.size))

    def step(inside: Scope) -> None:
        index = T.bind(first + inside.indices[panels.STEP])
        _step(inside.inside([blocks.axis], [index]), copied, totals, offsets, width)

    inner = Axis(panels.STEP, IntExpr.constant(blocks.size))
    asks = ahead or blocks.next
    run = loops if asks is None else asks.loops
    axes = [*(axis for axis in e.axes if axis != blocks.axis), inner]
    run(scope.inside([blocks.axis], [first]), axes, step)
    for total, place, offset in zip(totals, places, offsets, strict=True):
        T.buffer_store(memory, total[everything], [place])
        at = scope.at(offset)
        at.done[at.key(key, free(key))] = vm.let(convert(total[everything], e.dtype))


def _ordered(e: Reduce) -> Reduce:
    """The longest axis innermost, so that loop overhead is paid least."""
    return replace(e, axes=tuple(sorted(e.axes, key=lambda axis: volume([axis]))))


def _access(read: Read, problem: Problem, e: Reduce) -> Access:
    index = position(read, problem.types[read.tensor])
    inner = [read.indices] if read.pad is not None else []
    names = free(read)
    strides = {name: None if inner else stride(index, name) for name in sorted(names)}
    return Access(read.tensor, strides, operands.is_movable(read, problem, e))


def _calls(body: Expr) -> int:
    """Vector operations of one step; the product of a sum is one with it."""
    total = operations(body) - sum(1 for _ in dict.fromkeys(reads(body)))
    return max(1, round(total))


def _refuse(nest: Nest, reductions: Sequence[Reduce]) -> Refusal | None:
    if not nest.axes:
        return Refusal("contraction", "a single number")
    if nest.type.dtype is DType.BOOL:
        return Refusal("contraction", "bool elements are stored one by one")
    for e in reductions:
        if e.reducer in (Reducer.ARGMAX, Reducer.ARGMIN, Reducer.ANY, Reducer.ALL):
            return Refusal("contraction", f"{e.reducer.value} has no vector form")
        if any(free_in_integer(axis.extent) for axis in e.axes):
            return Refusal("contraction", "a reduction whose extent depends on an index")
        if any(isinstance(c, Read | Call) and c.dtype is DType.BOOL for c in [e.body]):
            return Refusal("contraction", "a reduction of bool elements")
    if any(read.dtype is DType.BOOL for read in reads(nest.body)):
        return Refusal("contraction", "bool elements are read one by one")
    return None
