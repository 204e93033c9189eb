"""A program over a batch as one over a part of the batch, which runs once for every part.

What the statements of a network hand on for a whole batch of images goes to memory and comes back; for a few images at
a time it stays in a cache. The weights are read once for every part instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import elements
from mercer.backends.tvm.kernel import Kernel, Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules.common import bytes_of, size
from mercer.backends.tvm.schedules.pointwise import along
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Value
from mercer.ir.index import Axis, Index, Read, Reduce, reads, walk
from mercer.ir.integers import IntExpr, Var
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Statement, defined
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType, TensorType
from mercer.runtime.executors import PART

NEAR = 1 << 20
"""Bytes that a statement may read and write of a part, where a part has several samples."""

FAR = 8 << 20
"""Bytes that a statement reads and writes of the batch from which on they come from memory."""

LARGE = 64 << 10
"""Bytes that a statement reads and writes of a sample, at least: for less, a part would take as long as its calls."""

MOST = 64
"""Parts, at most: the program of the virtual machine lists them."""

STATEMENTS = 3
"""Fewer hand on nothing that would pay."""

WEIGHTS = 1.5
"""Bytes of weights that may be read again for every byte that statements read and write of samples: they come in order,
and are asked for ahead."""


@dataclass(frozen=True)
class Parts:
    """`nests` computes one of `count` parts; `inputs` are those of the whole that are cut along their first axis."""

    count: int
    inputs: tuple[Value, ...]
    nests: Nests


def in_parts(nests: Nests) -> Parts | None:
    """None where samples depend on each other, where sizes are open, or where a cache holds the batch anyhow."""
    if not nests.inputs or any(not n.is_constant for type in nests.types().values() for n in type.shape):
        return None
    shape = nests.inputs[0].type.shape
    batch = shape[0].value if shape else 1
    cut = _batched(nests, batch) if batch > 1 else None
    if cut is None:
        return None
    samples = _samples(nests, cut, batch)
    if samples is None:
        return None

    def part(type: TensorType) -> TensorType:
        return replace(type, shape=(IntExpr.constant(samples), *type.shape[1:]))

    def value(v: Value) -> Value:
        return replace(v, type=part(v.type)) if v.name in cut else v

    def statement(s: Statement) -> Statement:
        if isinstance(s, Primitive):
            return replace(s, targets=tuple(map(value, s.targets)))
        if s.target not in cut:
            return s
        axes = (replace(s.axes[0], extent=IntExpr.constant(samples)), *s.axes[1:])
        return replace(s, axes=axes, type=part(s.type))

    inputs = tuple(v for v in nests.inputs if v.name in cut)
    smaller = replace(nests, inputs=tuple(map(value, nests.inputs)), statements=tuple(map(statement, nests.statements)))
    return Parts(batch // samples, inputs, smaller)


def _batched(nests: Nests, batch: int) -> frozenset[str] | None:
    """The tensors whose first axis is that of the samples; None where one sample needs to know of another."""
    cut = {v.name for v in nests.inputs if v.type.rank and v.type.shape[0] == IntExpr.constant(batch)}
    for statement in nests.statements:
        targets = defined(statement)
        if isinstance(statement, Primitive):
            if cut.isdisjoint(statement.operands):
                continue
            if statement.name != "reshape" or targets[0].type.shape[:1] != (IntExpr.constant(batch),):
                return None
        elif not _is_separate(statement, cut, batch):
            if any(read.tensor in cut for read in reads(statement.body)):
                return None
            continue
        cut |= {target.name for target in targets}
    return frozenset(cut) if cut.issuperset(nests.outputs) else None


def _is_separate(nest: Nest, cut: set[str], batch: int) -> bool:
    """Whether the first axis is that of the samples, and each needs only the same sample of what is cut."""
    if not nest.axes or nest.axes[0].extent != IntExpr.constant(batch):
        return False
    name, found = nest.axes[0].name, False
    for e in dict.fromkeys(walk(nest.body)):
        elsewhere: tuple[IntExpr, ...] = ()
        match e:
            case Read(tensor, (IntExpr() as first, *rest)) if tensor in cut:
                if first != IntExpr.var(name):
                    return False
                found, elsewhere = True, tuple(rest)
            case Read(_, indices):
                elsewhere = indices
            case Index(value):
                elsewhere = (value,)
            case Reduce(_, axes):
                elsewhere = tuple(axis.extent for axis in axes)
            case _:
                pass
        if any(isinstance(atom, Var) and atom.name == name for index in elsewhere for atom in index.atoms()):
            return False
    return found


def _samples(nests: Nests, cut: frozenset[str], batch: int) -> int | None:
    """How many samples are a part; None where parts would not pay."""
    types = nests.types()

    def bytes(names: Iterable[str]) -> int:
        return sum(bytes_of(types[name]) for name in names)

    nested = [s for s in nests.statements if isinstance(s, Nest)]
    moved = [bytes({s.target, *(read.tensor for read in reads(s.body))} & cut) // batch for s in nested]
    largest = max(moved, default=0)
    if len(nested) < STATEMENTS or largest < LARGE or largest * batch < FAR:
        return None
    sizes = [n for n in range(1, batch) if batch % n == 0 and batch // n <= MOST]
    if not sizes:
        return None
    found = max((n for n in sizes if n * largest <= NEAR), default=sizes[0])
    others = (v.name for v in (*nests.parameters, *nests.constants))
    again = (batch // found - 1) * bytes([*others, *(s.target for s in nested if s.target not in cut)])
    return found if again <= WEIGHTS * batch * sum(moved) else None


def taken(value: Value, part: Value) -> Nest:
    """A part of an input, copied; its number is the symbolic dim `PART`."""
    axes = tuple(Axis(f"i{k}", extent) for k, extent in enumerate(part.type.shape))
    first, *rest = (IntExpr.var(axis.name) for axis in axes)
    body = Read(value.name, (IntExpr.dim(PART) * axes[0].extent + first, *rest), value.type.dtype)
    return Nest(part.name, part.type, axes, body, (Origin("take", value.name, NOWHERE),))


def joined(parts: Sequence[Operand], whole: Operand, target: Target) -> Kernel:
    """One tensor of all parts, in order."""
    (each,) = {size(elements(part.type.shape)) for part in parts}
    axis = Axis("element", IntExpr.constant(each))
    lanes = 1 if whole.type.dtype is DType.BOOL else target.lanes
    place = IntExpr.var(axis.name)

    def emit(scope: Scope, number: TirExpr) -> None:
        for k, part in enumerate(parts):

            def copy(inside: Scope, source: str = part.name, first: int = k * each) -> None:
                value = inside.load(inside.tensors[source], place)
                inside.store(inside.tensors[whole.name], place + first, value)

            with T.If(tirx.EQ(number, int64(k))):
                with T.Then():
                    along(scope, axis, lanes, (0, each), copy)

    return Kernel(f"{len(parts)} parts", IntExpr.constant(len(parts)), 0.1 * each, emit)
