"""A group of nests as one piece of work: all of them for one tile of rows, then for the next.

Every nest becomes one over the rows of a tile, scheduled by its family like any other. What stays inside of the group
lies in scratch of a tile's size, either as [row, ...] or, with the rows in vector lanes, as [..., row], whichever is
estimated to be faster. Operands that a family wants repacked are repacked for the tile, or once where they are the same
for all tiles. The last tile overlaps the one before where the number of rows is known, and is a shorter one where not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import row_chunks as chunked
from mercer.backends.tvm.analysis import flatten
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, Tensor, int64
from mercer.backends.tvm.row_chunks import Chunks, chunks
from mercer.backends.tvm.rows import Rows, row_bytes
from mercer.backends.tvm.schedules.common import Choice, Options, Problem, Schedule, size, unravel
from mercer.backends.tvm.schedules.pairs import has_pairs
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Expr, Read, Reduce, dims, reads, substitute, transform
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest
from mercer.ir.types import DType, TensorType

ROW, FIRST, COUNT, OUTER = "tile.row", "tile.first", "tile.rows", "tile.outer"
"""The row within the tile (a loop index), the first row and the number of rows (dims), the leading rows (dims)."""

ELEMENT, CHUNK = "tile.element", "tile.chunk"
"""The element within the chunk (a loop index), the number of the chunk (a dim)."""

SUM = ("first", "old", "new", "last")
"""What a sum over chunks is called before all of them, before and after one, and after all."""

CACHE = 128 << 10
"""Bytes of all tensors of a tile: half of a small second-level cache, the other half is for weights."""

FIRST_LEVEL, CONTIGUOUS = 28 << 10, 24
"""Bytes of a tensor of a tile that make good use of the first-level cache; rows at most where it is larger: as many as
a micro-kernel takes, so that what it reads lies in one piece."""

HEIGHTS = (1536, 768, 384, 192, 96, 72, 48, 24, 16, 8, 4, 2, 1)

CHUNKED = 48
"""Rows of a tile at most where long rows are made in chunks: a chunk then fits into the first-level cache."""

OTHERS = 6
"""Candidates for the rows of a tile beside the first one."""

TILES = 8
"""As many tiles are made at least, so that threads find work."""

Choose = Callable[[Problem], Schedule]


@dataclass(frozen=True)
class RowTiles:
    """The work of a group; `emit(scope, i)` writes the code of tile i. `workspace` is that of a thread.

    `nests` are what it does for a tile, of tensors that it is given and of those named `inside`.
    """

    detail: str
    families: tuple[str, ...]
    count: IntExpr
    cost: float
    emit: Callable[[Scope, TirExpr], None]
    workspace: tuple[Operand, ...]
    dims: frozenset[str]
    nests: tuple[Nest, ...]
    inside: tuple[str, ...]
    before: tuple[Nest, ...]
    constants: tuple[Constant, ...]
    options: Options


def plan(
    group: Rows,
    types: Mapping[str, TensorType],
    constants: Mapping[str, Constant],
    target: Target,
    choose: Choose,
    choice: Choice | None = None,
) -> RowTiles:
    narrow = any(map(has_pairs, group.members))
    parts = None if narrow else chunks(group, target.lanes)
    heights = _heights(group, parts, target.lanes)
    lanes = group.axes[-1].extent.is_constant and not narrow
    layouts = (True,) if parts is not None else (False, True) if lanes else (False,)
    choices = [_choice(height, across) for height in heights for across in layouts]
    wanted = choices.index(choice) if choice in choices else None
    height = heights[wanted // len(layouts)] if wanted is not None else heights[0]
    extent = group.axes[-1].extent
    known = extent.is_constant

    def version(rows: IntExpr, most: int, across: bool, parts: Chunks | None) -> _Tile:
        return _Tile(group, rows, most, across, parts, types, constants, target, choose)

    few = height if parts is None else min(height, _heights(group, None, target.lanes)[0])
    rest = None if known else version(IntExpr.dim(COUNT), few, False, None)
    if rest is None or parts is not None:
        if wanted is not None:
            layouts = (layouts[wanted % len(layouts)],)
        wholes = [version(IntExpr.constant(height), height, across, parts) for across in layouts]
        whole = min(wholes, key=lambda v: v.cost)
    else:  # one form for all tiles is as fast, and stores constants once
        whole = rest
    versions = [whole] if rest is None or rest is whole else [whole, rest]
    slots, places = _slots(versions)
    tiles = [Axis(f"{OUTER}{k}", axis.extent) for k, axis in enumerate(group.axes[:-1])]
    tiles.append(Axis("tile", (extent + (height - 1)) // height))

    def emit(scope: Scope, position: TirExpr) -> None:
        *outer, tile = unravel(scope, tiles, position)
        start = tile * int64(height)
        first = T.bind(T.min(start, int64(extent.value - height)) if known else start)
        named = {f"{OUTER}{k}": value for k, value in enumerate(outer)}
        scope = replace(scope, dims={**scope.dims, **named, FIRST: first})
        if rest is None:
            whole.emit(scope, places[0])
            return
        left = T.bind(scope.integer(extent) - first)
        if rest is whole:
            whole.emit(replace(scope, dims={**scope.dims, COUNT: T.bind(T.min(left, int64(height)))}), places[0])
            return
        with T.If(left >= int64(height)):
            with T.Then():
                whole.emit(scope, places[0])
            with T.Else(), T.serial(int64(0), T.truncdiv(left + int64(few - 1), int64(few))) as i:
                done = T.bind(i * int64(few))
                count = T.bind(T.min(left - done, int64(few)))
                rest.emit(replace(scope, dims={**scope.dims, FIRST: T.bind(first + done), COUNT: count}), places[1])

    layout = "rows in lanes" if whole.across else "rows one by one"
    layout += f", {parts.size} of {parts.extent} elements at a time" if parts is not None else ""
    inside = "; ".join(f"{step.family} {step.detail}" for step in whole.steps)
    nests = tuple(step.nest for each in versions for step in each.steps)
    used = frozenset[str]().union(*(dims(nest.body) for nest in nests), *(_dims(nest.type) for nest in nests))
    return RowTiles(
        detail=f"{height} rows at a time, {layout}: {inside}",
        families=tuple(step.family for step in whole.steps),
        count=math.prod((axis.extent for axis in tiles), start=ONE),
        cost=whole.cost,
        emit=emit,
        workspace=(*slots, *(operand for each in versions for operand in each.workspace)),
        dims=frozenset(name for name in used if not name.startswith("tile.")),
        nests=nests,
        inside=tuple(dict.fromkeys(name for each in versions for name in each.inside)),
        before=tuple(nest for each in versions for nest in each.before),
        constants=tuple(constant for each in versions for constant in each.constants),
        options=Options(tuple(choices), choices.index(_choice(height, whole.across))),
    )


def _choice(height: int, across: bool) -> Choice:
    return {"family": "rows", "rows": height, "across": across}


def _dims(type: TensorType) -> frozenset[str]:
    return frozenset(name for extent in type.shape for name in extent.dims())


def _heights(group: Rows, parts: Chunks | None, lanes: int) -> list[int]:
    """Candidates for the rows of a tile; the first one is taken unless another is asked for."""
    best, extent = _height(group, parts, lanes), group.axes[-1].extent
    most = CHUNKED if parts is not None else 4 * CACHE // _alive(group, None)
    others = [h for h in HEIGHTS if h != best and h <= most and not (extent.is_constant and h > extent.value)]
    return [best, *sorted(others, key=lambda h: abs(math.log(h / best)))[:OTHERS]]


def _height(group: Rows, parts: Chunks | None, lanes: int) -> int:
    """Rows of a tile: what the cache holds, a divisor of what there is if possible.

    Rows of chunks lie in lanes of which none should be idle.
    """
    extent = group.axes[-1].extent
    fits = [height for height in HEIGHTS if height * _alive(group, parts) <= CACHE] or [1]
    if parts is not None:
        fits = [height for height in fits if height <= CHUNKED] or fits
    longest = max((row_bytes(n, group.rank) for n in group.members if n.target in group.inner), default=0)
    fits = [height for height in fits if height <= CONTIGUOUS or height * longest <= FIRST_LEVEL or parts] or fits
    if not extent.is_constant:
        return min(fits[0], 96)
    outer = size(math.prod((axis.extent for axis in group.axes[:-1]), start=ONE))
    most = max(1, min(extent.value, -(-extent.value * outer // TILES)))
    fits = [height for height in fits if height <= most] or [most]
    lanes = lanes if parts is not None else 1
    return min(fits[:4], key=lambda height: -(-extent.value // height) * (-(-height // lanes) * lanes + 1))


def _alive(group: Rows, parts: Chunks | None) -> int:
    """Most bytes of a row of the group's tensors that are needed at one time."""
    bytes_of = {nest.target: row_bytes(nest, group.rank) for nest in group.members}
    if parts is not None:
        bytes_of |= {name: bytes_of[name] // parts.count for name in parts.makers}
    last = {name: k for k, nest in enumerate(group.members) for name in (nest.target, *read_names(nest))}
    first = {nest.target: k for k, nest in enumerate(group.members)}
    steps = range(len(group.members))
    return max(sum(b for name, b in bytes_of.items() if first[name] <= k <= last[name]) for k in steps)


class _Tile:
    """The schedules of one tile of `rows` rows; rows that are not stored whole are [..., row] if `across`.

    Of the steps those of the range `repeated` run once for every chunk.
    """

    def __init__(
        self,
        group: Rows,
        rows: IntExpr,
        height: int,
        across: bool,
        parts: Chunks | None,
        types: Mapping[str, TensorType],
        constants: Mapping[str, Constant],
        target: Target,
        choose: Choose,
    ) -> None:
        self.group, self.rows, self.height, self.across, self.parts = group, rows, height, across, parts
        self.types, self.known, self.target, self.choose = dict(types), dict(constants), target, choose
        self.originals = frozenset(nest.target for nest in group.members)
        self.own = set(self.originals)
        self.makers = frozenset(parts.makers) if parts is not None else frozenset[str]()
        self.local: dict[str, TensorType] = {}
        self.sums: dict[str, TensorType] = {}
        self.steps: list[Schedule] = []
        self.repeated = range(0)
        self.before: list[Nest] = []
        self.constants: list[Constant] = []
        for member in group.members:
            self.types[member.target] = self._tile_type(member)
            if member.target in group.inner:
                self.local[member.target] = self.types[member.target]
        if parts is None:
            for member in group.members:
                self._add(self._within(member))
        else:
            self._add_chunks(parts)

    @property
    def cost(self) -> float:
        """Nanoseconds."""
        times = self.parts.count if self.parts is not None else 1
        costs = [step.cost * size(step.count) for step in self.steps]
        return sum(cost * (times if k in self.repeated else 1) for k, cost in enumerate(costs))

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _is_across(self, name: str) -> bool:
        return self.across and (name in self.group.inner or name not in self.originals)

    def _tile_type(self, member: Nest) -> TensorType:
        rest = member.type.shape[self.group.rank :]
        if self.parts is not None and member.target in self.makers:
            rest = (IntExpr.constant(self.parts.size),)
        shape = (*rest, self.rows) if self._is_across(member.target) else (self.rows, *rest)
        return TensorType(member.type.dtype, shape)

    def _within(self, member: Nest, along: str = "") -> Nest:
        """The nest for the rows of a tile, and for the elements of a chunk `along` one of its indices."""
        rank = self.group.rank
        row = Axis(ROW, self.rows)
        element = Axis(ELEMENT, IntExpr.constant(self.parts.size if self.parts is not None else 1))

        def change(expr: Expr) -> Expr:
            if isinstance(expr, Reduce):
                return replace(expr, axes=tuple(element if axis.name == along else axis for axis in expr.axes))
            if not isinstance(expr, Read) or expr.tensor not in self.own:
                return expr
            here, rest = IntExpr.var(ROW), expr.indices[rank:]
            rest = (IntExpr.var(ELEMENT),) if expr.tensor in self.makers else rest
            return replace(expr, indices=(*rest, here) if self._is_across(expr.tensor) else (here, *rest))

        places = {axis.name: IntExpr.dim(f"{OUTER}{k}") for k, axis in enumerate(member.axes[: rank - 1])}
        places[member.axes[rank - 1].name] = IntExpr.dim(FIRST) + IntExpr.var(ROW)
        if along:
            places[along] = IntExpr.dim(CHUNK) * element.extent + IntExpr.var(ELEMENT)
        body = substitute(transform(member.body, change), places)
        rest = [element if axis.name == along else axis for axis in member.axes[rank:]]
        axes = (*rest, row) if self._is_across(member.target) else (row, *rest)
        return replace(member, type=TensorType(member.type.dtype, tuple(a.extent for a in axes)), axes=axes, body=body)

    @property
    def inside(self) -> tuple[str, ...]:
        """The tensors of the tile."""
        sums = (f"{name}.{part}" for name in self.sums for part in SUM)
        return (*(step.nest.target for step in self.steps), *sums)

    def _add_chunks(self, parts: Chunks) -> None:
        """What does not need the chunks, then the chunks, then what needs what is made of them."""
        members = self.group.members
        late = set(parts.readers)
        for member in members:
            late |= {member.target} if read_names(member) & late else set()
        for member in members:
            if member.target not in late and member.target not in self.makers:
                self._add(self._within(member))
        split = [(m, *found) for m in members if m.target in parts.readers and (found := self._split(m, parts))]
        for member, e, _ in split:
            first, old, new, last = (f"{member.target}.{part}" for part in SUM)
            self.own |= {first, old, new, last}
            self.sums[member.target] = self._within(chunked.first(member, e, first)).type
            self.types |= dict.fromkeys((first, old, new, last), self.sums[member.target])
            self._add(self._within(chunked.first(member, e, first)))
        start = len(self.steps)
        for member in members:
            if member.target in self.makers:
                self._add(self._within(member, member.axes[self.group.rank].name))
        for member, e, axis in split:
            name = member.target
            self._add(self._within(chunked.added(member, e, f"{name}.new", f"{name}.old"), axis.name))
        self.repeated = self._varying(start)
        for member in members:
            found = [e for m, e, _ in split if m is member]
            if member.target in late:
                self._add(self._within(chunked.last(member, found[0], f"{member.target}.last") if found else member))

    def _varying(self, start: int) -> range:
        """Of the steps from `start` on those that differ between chunks, after the others have been put first."""
        varying = set(self.makers)
        for step in self.steps[start:]:
            if CHUNK in dims(step.nest.body) or varying & {read.tensor for read in reads(step.nest.body)}:
                varying.add(step.nest.target)
        steps = sorted(self.steps[start:], key=lambda step: step.nest.target in varying)
        self.steps[start:] = steps
        return range(start + sum(step.nest.target not in varying for step in steps), len(self.steps))

    def _split(self, member: Nest, parts: Chunks) -> tuple[Reduce, Axis] | None:
        return chunked.reduction(member, set(self.makers), parts.extent)

    def _add(self, nest: Nest) -> None:
        schedule = self.choose(Problem(nest, self.types, self.known, self.target))
        for constant in schedule.constants:
            self.known[constant.name] = constant
            self.types[constant.name] = constant.type
            self.constants.append(constant)
        for copy in schedule.before:
            if copy.target in self.types:
                continue
            self.types[copy.target] = copy.type
            if self._differs(copy):
                self.local[copy.target] = copy.type
                self._add(copy)
            else:
                self.before.append(copy)
        self.steps.append(schedule)

    def _differs(self, nest: Nest) -> bool:
        """Whether the nest depends on the tile."""
        of_tile = {name for name in dims(nest.body) | _dims(nest.type) if name.startswith("tile.")}
        return bool(of_tile) or any(read.tensor in self.local or read.tensor in self.own for read in reads(nest.body))

    # --- code ---------------------------------------------------------------------------------------------------------

    def emit(self, scope: Scope, places: Mapping[str, str]) -> None:
        tensors = dict(scope.tensors)
        for name, slot in places.items():
            tensors[name] = Tensor(scope.tensors[slot].buffer, self.types[name])
        group = self.group
        for member in group.members:
            if member.target in group.inner:
                continue
            leading = [IntExpr.dim(f"{OUTER}{k}") for k in range(group.rank - 1)]
            inner = [ZERO for _ in member.type.shape[group.rank :]]
            start = scope.integer(flatten([*leading, IntExpr.dim(FIRST), *inner], member.type))
            whole = scope.tensors[member.target]
            tensors[member.target] = Tensor(whole.buffer, self.types[member.target], T.bind(start))
        tensors |= {f"{name}.first": self._sum(scope, name, 1) for name in self.sums}
        self._emit_steps(replace(scope, tensors=tensors), range(self.repeated.start))
        if self.parts is not None:
            with T.serial(int64(0), int64(self.parts.count)) as chunk:
                odd = T.bind(T.truncmod(chunk, int64(2)))
                new = {f"{name}.new": self._sum(scope, name, odd) for name in self.sums}
                old = {f"{name}.old": self._sum(scope, name, int64(1) - odd) for name in self.sums}
                inside = replace(scope, tensors={**tensors, **new, **old}, dims={**scope.dims, CHUNK: chunk})
                self._emit_steps(inside, self.repeated)
            final = (self.parts.count - 1) % 2
            tensors |= {f"{name}.last": self._sum(scope, name, final) for name in self.sums}
        self._emit_steps(replace(scope, tensors=tensors), range(self.repeated.stop, len(self.steps)))

    def _sum(self, scope: Scope, name: str, place: int | TirExpr) -> Tensor:
        """One of the two places for what the chunks so far add up to."""
        place = int64(place) if isinstance(place, int) else place
        whole = scope.tensors[f"tile.{self.rows}.{name}"]
        return Tensor(whole.buffer, self.sums[name], T.bind(place * int64(self._count(self.sums[name]))))

    def _emit_steps(self, scope: Scope, numbers: range) -> None:
        tensors = scope.tensors
        for number in numbers:
            step = self.steps[number]
            own = {operand.name: tensors[self._workspace(number, operand).name] for operand in step.workspace}
            inside = replace(scope, tensors={**tensors, **own}, outer=None)
            with T.serial(int64(0), scope.integer(step.count)) as i:
                step.emit(replace(inside, done={}), i)

    @property
    def workspace(self) -> tuple[Operand, ...]:
        """What the steps want for themselves, under names that differ, and two places for every sum over chunks."""
        steps = [self._workspace(k, operand) for k, step in enumerate(self.steps) for operand in step.workspace]
        sums = [(f"tile.{self.rows}.{name}", type.dtype, 2 * self._count(type)) for name, type in self.sums.items()]
        return (*steps, *(Operand(n, TensorType(d, (IntExpr.constant(count),))) for n, d, count in sums))

    def _workspace(self, number: int, operand: Operand) -> Operand:
        return replace(operand, name=f"tile.{self.rows}.{number}.{operand.name}")

    def lifetimes(self) -> dict[str, tuple[int, int]]:
        """First and last step of every tensor in scratch."""
        found: dict[str, tuple[int, int]] = {}
        for number, step in enumerate(self.steps):
            number = self.repeated.start if number in self.repeated else number
            names = (step.nest.target, *(read.tensor for read in reads(step.nest.body)))
            for name in names:
                if name in self.local:
                    found[name] = (found.get(name, (number, number))[0], number)
        return found

    def elements(self, name: str) -> int:
        return self._count(self.local[name])

    def _count(self, type: TensorType) -> int:
        return math.prod(self.height if COUNT in extent.dims() else extent.value for extent in type.shape)


def _slots(versions: Sequence[_Tile]) -> tuple[tuple[Operand, ...], list[dict[str, str]]]:
    """Pieces of scratch that tensors of the same element type share one after another, and the one of each tensor."""
    sizes: dict[DType, list[int]] = {}
    places: list[dict[str, str]] = []
    for version in versions:
        busy: dict[DType, dict[int, int]] = {}
        found: dict[str, str] = {}
        for name, (first, last) in version.lifetimes().items():
            dtype = version.local[name].dtype
            known, until = sizes.setdefault(dtype, []), busy.setdefault(dtype, {})
            free = [k for k in range(len(known)) if until.get(k, -1) < first]
            needed = version.elements(name)
            slot = min(free, key=lambda k: abs(known[k] - needed)) if free else len(known)
            if slot == len(known):
                known.append(needed)
            known[slot] = max(known[slot], needed)
            until[slot] = last
            found[name] = _slot_name(dtype, slot)
        places.append(found)
    slots = tuple(_slot(dtype, k, count) for dtype, known in sizes.items() for k, count in enumerate(known))
    return slots, places


def _slot_name(dtype: DType, number: int) -> str:
    return f"tile.{dtype}.{number}"


def _slot(dtype: DType, number: int, count: int) -> Operand:
    return Operand(_slot_name(dtype, number), TensorType(dtype, (IntExpr.constant(count),)))
