"""Long rows that are only made to be reduced: a chunk of them at a time, so that not even one row is stored whole.

In y[n, o] = sum[m] w[o, m] exp(-d[n, m]) the exponentials of some m are computed for all rows of a tile and added to
the sums before those of the next m are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mercer.backends.tvm.rows import Rows
from mercer.backends.tvm.schedules.common import volume
from mercer.ir.index import Axis, Const, Expr, Read, Reduce, Reducer, call, reads, transform, walk
from mercer.ir.integers import IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest
from mercer.ir.types import DType

SHORTEST, LONGEST = 512, 1024
"""Elements of a row below which it is stored; and up to which, where sums of a chunk are as long as the chunk: they are
written and read once for every chunk, as the row would be once for all."""

CHUNK = 128
"""Elements of a chunk at most."""

_COMBINE = {Reducer.SUM: "add", Reducer.PROD: "mul", Reducer.MAX: "max", Reducer.MIN: "min"}


@dataclass(frozen=True)
class Chunks:
    """`makers` are the nests of `extent` elements a row, `size` of them a chunk; `readers` reduce what they make."""

    makers: tuple[str, ...]
    readers: tuple[str, ...]
    extent: int
    size: int

    @property
    def count(self) -> int:
        return self.extent // self.size


def chunks(group: Rows, lanes: int) -> Chunks | None:
    """The longest rows of a group that need not be stored, None when there are none."""
    lengths = {_length(nest, group) for nest in group.members}
    for extent in sorted((length for length in lengths if length >= SHORTEST), reverse=True):
        size = next((s for s in range(CHUNK, 0, -lanes) if extent % s == 0), None)
        makers = _makers(group, extent) if size is not None else ()
        if size is not None and makers:
            readers = _readers(group, makers)
            if extent > LONGEST or sum(volume(nest.axes[group.rank :]) for nest in readers.values()) < size:
                return Chunks(makers, tuple(readers), extent, size)
    return None


def _length(nest: Nest, group: Rows) -> int:
    rest = nest.type.shape[group.rank :]
    return rest[0].value if len(rest) == 1 and nest.target in group.inner else 0


def _readers(group: Rows, makers: Sequence[str]) -> dict[str, Nest]:
    return {n.target: n for n in group.members if n.target not in makers and read_names(n) & set(makers)}


def _makers(group: Rows, extent: int) -> tuple[str, ...]:
    """Nests whose results they read from each other element by element, and other nests reduce without their help."""
    members = {nest.target: nest for nest in group.members}
    makers = {name for name, nest in members.items() if _length(nest, group) == extent}
    after = _needed_by(group.members)
    while makers:
        wrong: set[str] = set()
        for name in makers:
            own = members[name].axes[group.rank].name
            if any(read.indices[-1] != IntExpr.var(own) for read in _reads_of(members[name], makers)):
                wrong |= read_names(members[name]) & makers
        for name, nest in _readers(group, tuple(makers)).items():
            if reduction(nest, makers, extent) is None or after[name] & makers:
                wrong |= read_names(nest) & makers
        if not wrong:
            break
        makers -= wrong
    return tuple(name for name in members if name in makers)


def _needed_by(members: Sequence[Nest]) -> dict[str, set[str]]:
    """For every nest those that need its result, directly or not."""
    found: dict[str, set[str]] = {nest.target: set() for nest in members}
    for nest in reversed(members):
        for name in read_names(nest) & found.keys():
            found[name] |= {nest.target} | found[nest.target]
    return found


def _reads_of(nest: Nest, names: set[str]) -> list[Read]:
    return [read for read in dict.fromkeys(reads(nest.body)) if read.tensor in names]


def reduction(nest: Nest, makers: set[str], extent: int) -> tuple[Reduce, Axis] | None:
    """The only reduction of a nest and its axis along what the makers make, None when it is none that can be split."""
    inside = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    if len(inside) != 1 or inside[0].reducer not in _COMBINE or inside[0].dtype not in (DType.F32, DType.I32):
        return None
    (e,) = inside
    found = _reads_of(nest, makers)
    within = set(reads(e.body))
    axes = [axis for axis in e.axes if all(read.indices[-1] == IntExpr.var(axis.name) for read in found)]
    if not axes or not within.issuperset(found) or axes[0].extent != IntExpr.constant(extent):
        return None
    return e, axes[0]


def first(nest: Nest, e: Reduce, target: str) -> Nest:
    """What the result of `e` is before any chunk."""
    start = {Reducer.SUM: 0, Reducer.PROD: 1}.get(e.reducer)
    if start is None:
        low = e.reducer is Reducer.MAX
        real = -float("inf") if low else float("inf")
        start = real if e.dtype.is_float else (-(2**31) if low else 2**31 - 1)
    number = float(start) if e.dtype.is_float else int(start)
    return _like(nest, e, target, Const(number, e.dtype))


def added(nest: Nest, e: Reduce, target: str, old: str) -> Nest:
    """`e` of one chunk, together with what was there."""
    return _like(nest, e, target, call(_COMBINE[e.reducer], _own(nest, e, old), e))


def last(nest: Nest, e: Reduce, source: str) -> Nest:
    """The nest once `e` is known."""
    return replace(nest, body=transform(nest.body, lambda expr: _own(nest, e, source) if expr == e else expr))


def _like(nest: Nest, e: Reduce, target: str, body: Expr) -> Nest:
    return replace(nest, target=target, type=replace(nest.type, dtype=e.dtype), body=body)


def _own(nest: Nest, e: Reduce, tensor: str) -> Read:
    return Read(tensor, tuple(IntExpr.var(axis.name) for axis in nest.axes), e.dtype)
