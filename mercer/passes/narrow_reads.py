"""Integers that are stored once, in the narrower one of two types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.index import Call, Const, Expr, Read, call, reads, transform
from mercer.ir.integers import IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Statement, defined
from mercer.ir.types import DType
from mercer.passes.cost import statement_cost
from mercer.passes.integer_bounds import Integers, holds
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class _Copy:
    """`nest` has the numbers of a tensor, each `less` so much."""

    nest: Nest
    less: int

    def of(self, read: Read) -> Expr:
        """The number that is read of the tensor."""
        pad = None if read.pad is None else Const(int(read.pad.number.real) - self.less, self.nest.type.dtype)
        stored = Read(self.nest.target, read.indices, self.nest.type.dtype, pad)
        wide = call("cast", stored, dtype=read.dtype)
        return call("add", wide, Const(self.less, read.dtype)) if self.less else wide


@dataclass(frozen=True)
class NarrowReads(Pass):
    """cast:i32(copy) + n for every read of a tensor of i32 that also has a copy of i8 or i16, whose numbers are n less.

    Needs Nests, best after `narrow`, which makes such copies for its products, and before `fuse`, which then stores the
    copy alone. Left alone is what an output or a primitive needs as it is, and a padding that the copy cannot hold.
    Class: bit.
    """

    name: ClassVar[str] = "narrow_reads"
    level: ClassVar[Level] = Level.NESTS

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types, statements = nests.types(), list(nests.statements)
        readers: dict[str, list[int]] = {}
        for k, statement in enumerate(statements):
            for name in read_names(statement):
                readers.setdefault(name, []).append(k)
        done: dict[str, Nest] = {}
        for tensor, copy in _copies(nests).items():
            others = [k for k in readers[tensor] if statements[k] != copy.nest]
            reason = _obstacle(tensor, copy, [statements[k] for k in others], nests.outputs)
            for k in others:
                other = statements[k]
                costs = None
                if not reason and isinstance(other, Nest):
                    statements[k] = new = _reading(other, tensor, copy)
                    costs = statement_cost(other, types), statement_cost(new, types)
                    done[tensor] = copy.nest
                context.record_statement(self.name, "narrow_reads", other, Exactness.BIT, reason, costs)
        return replace(nests, statements=tuple(_early(statements, done)))


def _copies(nests: Nests) -> Mapping[str, _Copy]:
    """The narrowest copy of every tensor that has one with all of its bits."""
    state, found = Integers(nests), dict[str, _Copy]()
    for nest in nests.statements:
        match nest:
            case Nest(body=Call("cast", (Read(dtype=DType.I32) as read,))):
                less = 0
            case Nest(body=Call("cast", (Call("sub", (Read(dtype=DType.I32) as read, Const(int() as less))),))):
                pass
            case _:
                continue
        own = tuple(IntExpr.var(axis.name) for axis in nest.axes)
        best = found.get(read.tensor)
        dtype = nest.type.dtype
        is_narrower = best is None or dtype.numpy.itemsize < best.nest.type.dtype.numpy.itemsize
        if dtype in (DType.I8, DType.I16) and is_narrower and read.indices == own and read.pad is None:
            low, high = state.interval(read.tensor)
            if holds(dtype, (low - less, high - less)):
                found[read.tensor] = _Copy(nest, less)
    return found


def _obstacle(tensor: str, copy: _Copy, others: Sequence[Statement], outputs: Collection[str]) -> str | None:
    """Why the tensor has to be stored as it is."""
    if tensor in outputs:
        return "it is an output"
    for other in others:
        if not isinstance(other, Nest):
            return f"{other.name} needs it in i32"
        for read in reads(other.body):
            if read.tensor == tensor and read.pad is not None:
                number = int(read.pad.number.real)
                if not holds(copy.nest.type.dtype, (number - copy.less, number - copy.less)):
                    return f"{copy.nest.type.dtype} does not hold its padding of {number}"
    return None


def _reading(nest: Nest, tensor: str, copy: _Copy) -> Nest:
    body = transform(nest.body, lambda e: copy.of(e) if isinstance(e, Read) and e.tensor == tensor else e)
    return replace(nest, body=body)


def _early(statements: Sequence[Statement], copies: Mapping[str, Nest]) -> list[Statement]:
    """The same statements, where these copies stand behind what they are copies of."""
    targets = {copy.target for copy in copies.values()}
    known = {value.name for statement in statements for value in defined(statement)}
    found: list[Statement] = [copy for tensor, copy in copies.items() if tensor not in known]
    for statement in statements:
        names = [value.name for value in defined(statement)]
        if names[0] not in targets:
            found += [statement, *(copies[name] for name in names if name in copies)]
    return found
