"""Groups of nests that a tile of rows can go through while it stays in cache.

The rows of a group are the leading axes of all its nests. Inside of a group every nest reads what the others assign
only at its own row, so that the nests can run one tile of rows at a time; what nobody else reads is never stored whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mercer.backends.tvm.row_axes import merged
from mercer.backends.tvm.schedules.common import size
from mercer.backends.tvm.schedules.normalize import unique_names
from mercer.ir.index import Axis, Read, Reduce, reads, variables, walk
from mercer.ir.integers import ONE, IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Primitive, Statement, defined
from mercer.ir.types import TensorType

FEWEST = 16
"""Rows that a group has at least, where their number is known."""

LONGEST = 1 << 16
"""Bytes of one row, all tensors of the group together."""

HEAVIEST = 1 << 22
"""Bytes that one nest may read again for every tile: more would not stay in cache from one tile to the next."""

HEAVY, SHARED = 1 << 19, 384
"""Bytes beyond a second-level cache that a nest reads again for every tile only where there are so many rows."""


@dataclass(frozen=True)
class Rows:
    """Nests, in order, whose `rank` leading axes are the rows; `inner` are the targets that nobody else reads."""

    members: tuple[Nest, ...]
    rank: int
    inner: frozenset[str]

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The rows, under the names that they have in the first nest."""
        return self.members[0].axes[: self.rank]


@dataclass(eq=False)
class _Open:
    """A group in the making; a closed one has a reader outside of it already, so nothing can join it."""

    members: list[Nest]
    rank: int
    closed: bool = False
    reasons: list[str] = field(default_factory=list[str])


def grouped(
    statements: Sequence[Statement], outputs: Sequence[str], types: Mapping[str, TensorType]
) -> tuple[list[Statement | Rows], dict[str, str]]:
    """The statements with groups in the place of their last nest, and for nests left alone the reason by target."""
    home: dict[str, _Open] = {}
    position: dict[str, int] = {}
    for number, statement in enumerate(statements):
        position |= {value.name: number for value in defined(statement)}
        sources = list(dict.fromkeys(home[name] for name in sorted(read_names(statement)) if name in home))
        if isinstance(statement, Primitive):
            for source in sources:
                source.closed = True
                source.reasons.append(f"the primitive {statement.name} reads it")
            continue
        mine = _Open([unique_names(statement)], len(statement.axes))
        for source in sources:
            joined = _joined(source, mine, types)
            if isinstance(joined, str):
                source.closed = True
                source.reasons.append(f"%{statement.target}: {joined}")
            else:
                mine = joined
        home |= {nest.target: mine for nest in mine.members}
    groups = [group for group in dict.fromkeys(home.values()) if len(group.members) > 1]
    last = {group: max(position[nest.target] for nest in group.members) for group in groups}
    inside = {nest.target: group for group in groups for nest in group.members}
    result: list[Statement | Rows] = []
    for number, statement in enumerate(statements):
        group = inside.get(defined(statement)[0].name)
        if group is None:
            result.append(statement)
        elif last[group] == number:
            rows = _merged(_shared(_finished(group, statements, outputs, position)), types)
            result += [rows] if len(rows.inner) < len(rows.members) else []  # else nobody reads any of it
    alone = {g.members[0].target: g.reasons[0] for g in home.values() if len(g.members) == 1 and g.reasons}
    return result, alone


def _finished(
    group: _Open, statements: Sequence[Statement], outputs: Sequence[str], position: Mapping[str, int]
) -> Rows:
    own = {nest.target for nest in group.members}
    others = [s for s in statements if not own & {value.name for value in defined(s)}]
    needed = set(outputs).union(*map(read_names, others))
    members = sorted(group.members, key=lambda nest: position[nest.target])
    return Rows(tuple(members), _useful(members, group.rank), frozenset(own - needed))


def _shared(group: Rows) -> Rows:
    """The same with the last row axis inside of the rows where a reduction reads an operand that varies along it, not
    along the axis before, as heads after positions: rows of a tile then share what they are multiplied by."""
    if group.rank < 2 or _too_few(group.axes[:-1]) or _too_long(group.members, group.rank - 1):
        return group
    if any(not nest.axes[group.rank - 1].extent.is_constant for nest in group.members):
        return group
    for nest in group.members:
        before, last = (axis.name for axis in nest.axes[group.rank - 2 : group.rank])
        within = {read for e in walk(nest.body) if isinstance(e, Reduce) for read in reads(e.body)}
        if any(last in (names := variables(read)) and before not in names for read in within):
            return replace(group, rank=group.rank - 1)
    return group


def _merged(group: Rows, types: Mapping[str, TensorType]) -> Rows:
    """The same with neighbouring row axes as one where every nest reads them together, as the rows and columns of an
    image, so that tiles are not bound to one row of it."""
    for at in range(group.rank - 2, -1, -1):
        found = merged(group.members, at, types)
        if found is not None:
            group = replace(group, members=found, rank=group.rank - 1)
    return group


def _joined(source: _Open, mine: _Open, types: Mapping[str, TensorType]) -> _Open | str:
    """Both as one group, or why not."""
    if source.closed:
        return "a statement between them reads the group"
    nest = mine.members[-1]
    own = {member.target for member in source.members}
    rank = min(source.rank, mine.rank)
    for read in dict.fromkeys(reads(nest.body)):
        if read.tensor in own:
            rank = min(rank, _common(read, nest))
    if rank == 0:
        return "it reads other rows than its own"
    members = [*source.members, *mine.members]
    useful = _useful(members, rank)
    obstacle = next((o for member in members if (o := _obstacle(member, useful, types))), None)
    obstacle = obstacle or _too_few(nest.axes[:useful]) or _too_long(members, useful)
    return obstacle or _Open(members, rank)


def _common(read: Read, nest: Nest) -> int:
    """How many leading indices of the read are those of the nest itself."""
    count = 0
    for index, axis in zip(read.indices, nest.axes, strict=False):
        if index != IntExpr.var(axis.name):
            break
        count += 1
    return count


def _useful(members: Sequence[Nest], rank: int) -> int:
    """One axis stays inside of the rows where all nests could do without."""
    return rank - 1 if rank > 1 and all(len(nest.axes) == rank for nest in members) else rank


def _obstacle(nest: Nest, rank: int, types: Mapping[str, TensorType]) -> str | None:
    """Why a nest is no member of any group."""
    rows = {axis.name for axis in nest.axes[:rank]}
    again = 0
    for read in dict.fromkeys(reads(nest.body)):
        if read.pad is not None or any(_is_window(index, nest) for index in read.indices):
            return f"%{nest.target} reads windows"
        if not rows & variables(read):
            type = types[read.tensor]
            again += size(math.prod(type.shape, start=ONE)) * type.dtype.numpy.itemsize
    rows_count = math.prod((axis.extent for axis in nest.axes[:rank]), start=ONE)
    few = rows_count.is_constant and rows_count.value < SHARED
    if again > HEAVIEST or (few and again > HEAVY):
        return f"%{nest.target} would read {again / (1 << 20):.1f} MiB again for every tile"
    if not all(axis.extent.is_constant for axis in nest.axes[rank:]):
        return f"a row of %{nest.target} has no constant length"
    return None


def _is_window(index: IntExpr, nest: Nest) -> bool:
    """Whether an index of the result and one of a reduction meet in it, other than as a block and a place within it."""
    own = {axis.name for axis in nest.axes}
    mixed = len({atom.name in own for atom in index.atoms() if isinstance(atom, Var)}) > 1
    return mixed and not _in_blocks(index, nest)


def _in_blocks(index: IntExpr, nest: Nest) -> bool:
    """Whether the result goes on by more than a reduction reaches, so that it sums blocks that do not overlap. A window
    of one element is none: those are images, which have families of their own."""
    own = {axis.name for axis in nest.axes}
    summed = {axis.name: axis.extent for e in walk(nest.body) if isinstance(e, Reduce) for axis in e.axes}
    reach, step = 0, math.inf
    for monomial, factor in index.terms:
        match monomial:
            case ():
                pass
            case (Var(name),) if name in own:
                step = min(step, factor)
            case (Var(name),) if name in summed and summed[name].is_constant:
                reach += abs(factor) * (summed[name].value - 1)
            case _:
                return False
    return 0 < reach < step


def _too_few(axes: Sequence[Axis]) -> str | None:
    count = math.prod((axis.extent for axis in axes), start=ONE)
    return f"{count} rows are too few for tiles" if count.is_constant and count.value < FEWEST else None


def _too_long(members: Sequence[Nest], rank: int) -> str | None:
    total = sum(row_bytes(nest, rank) for nest in members)
    return f"a row would take {total} bytes" if total > LONGEST else None


def row_bytes(nest: Nest, rank: int) -> int:
    return size(math.prod(nest.type.shape[rank:], start=ONE)) * nest.type.dtype.numpy.itemsize
