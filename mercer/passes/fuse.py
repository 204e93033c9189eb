"""Fusion of loop nests: producers move into the nests that read them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.bounds import extents, in_bounds, non_negative
from mercer.ir.index import (
    Axis,
    Call,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    children,
    parts,
    substitute,
    transform,
)
from mercer.ir.integers import ONE, Extremum, IntExpr, Quotient, Remainder, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Statement, defined
from mercer.ir.types import TensorType
from mercer.passes.cost import statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext
from mercer.passes.rewrite import Refusal, RewriteStatistics

CHEAP = frozenset(
    ("add", "sub", "mul", "neg", "abs", "sign", "min", "max", "where", "cast", "floor", "ceil", "round", "trunc")
    + ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor")
)
"""Functions of about one cycle, which may be computed again rather than stored."""


@dataclass(frozen=True)
class Fuse(Pass):
    """Producers are inlined into the nests that read them, so that fewer tensors are stored.

    Needs Nests, gives Nests where a `Reduce` has still no other below it and no nest has gained a second reduction.

    * `inline_movement`: a producer that only moves elements goes into every reader.
    * `inline_producer`: a pointwise producer goes into its readers when nothing expensive is computed twice: either
      every element is read at most once, or it is cheap (at most `max_repeated` operations on at most two reads).
      Inside a reduction, only a cheap one that is read at most once per element.
    * `fuse_epilogue`: a pointwise nest that reads a reduction at its own index takes the reduction in.

    A read with padding keeps it: only movement that carries the padding along exactly is inlined there. Outputs of the
    program stay. Bodies stay below `max_ops` functions and, shared parts counted wherever they are used, `max_written`
    terms. Class: bit; real where a computation or an index map moves into
    a sum or product of floats, whose order and intermediate rounding are not fixed.
    """

    name: ClassVar[str] = "fuse"
    level: ClassVar[Level] = Level.NESTS
    max_ops: int = 64
    max_written: int = 1000
    max_repeated: int = 4

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        return _Fusion(self, nests, context).run()


@dataclass(frozen=True)
class Occurrence:
    """A read of the producer inside a nest: the loops around it, and the reductions among them."""

    read: Read
    loops: Mapping[str, IntExpr]
    reducers: tuple[Reducer, ...]


class _Fusion:
    """State of one run: the statements by the first name that they assign, and who reads what."""

    def __init__(self, options: Fuse, nests: Nests, context: PassContext) -> None:
        self.options = options
        self.nests = nests
        self.context = context
        self.types = nests.types()
        self.statements = {defined(s)[0].name: s for s in nests.statements}
        self.readers: dict[str, list[str]] = {}
        self.reads = {key: read_names(s) for key, s in self.statements.items()}
        for key in self.statements:
            for name in self.reads[key]:
                self.readers.setdefault(name, []).append(key)

    def run(self) -> Nests:
        refusals: dict[str, tuple[str, Exactness, Nest, str]] = {}
        changed = True
        while changed:
            changed = False
            for key in list(self.statements):
                producer = self.statements[key]
                if not isinstance(producer, Nest) or not self.readers.get(key):
                    continue
                start = time.perf_counter()
                name, kept, outcome = self._plan(producer)
                seconds = time.perf_counter() - start
                if isinstance(outcome, Refusal):
                    refusals[key] = (name, kept, producer, outcome.reason)
                    self.context.statistics.setdefault(name, RewriteStatistics()).seconds += seconds
                else:
                    refusals.pop(key, None)
                    self._take(name, kept, producer, outcome, seconds)
                    changed = True
        for name, kept, producer, reason in refusals.values():
            self.context.record_statement(self.options.name, name, producer, kept, reason)
        return replace(self.nests, statements=tuple(self.statements.values()))

    # --- what may be done ---------------------------------------------------------------------------------------------

    def _plan(self, producer: Nest) -> tuple[str, Exactness, list[Nest] | Refusal]:
        if has_reduction(producer.body):
            return "fuse_epilogue", Exactness.BIT, self._epilogue(producer)
        movement = is_movement(producer.body)
        name = "inline_movement" if movement else "inline_producer"
        if obstacle := self._kept(producer):
            return name, Exactness.BIT, Refusal(obstacle)
        readers = [self.statements[key] for key in self.readers[producer.target]]
        nests = [reader for reader in readers if isinstance(reader, Nest)]
        found = {nest.target: list(occurrences(nest, producer.target)) for nest in nests}
        everywhere = [occurrence for each in found.values() for occurrence in each]
        once = len(nests) == 1 and len(everywhere) == 1
        kept = Exactness.weakest(
            Exactness.REAL
            for o in everywhere
            if producer.type.dtype.rounds and {Reducer.SUM, Reducer.PROD} & set(o.reducers)
        )
        for occurrence in everywhere:
            reason = self._obstacle(producer, occurrence, movement, once)
            if reason:
                return name, kept, Refusal(reason)
        merged = [_inline(producer, nest, found[nest.target], self.types) for nest in nests]
        for nest in merged:
            if reason := self._too_large(nest):
                return name, kept, Refusal(reason)
        return name, kept, merged

    def _too_large(self, nest: Nest) -> str | None:
        if (count := functions(nest.body)) > self.options.max_ops:
            return f"%{nest.target} would have {count} functions, over max_ops"
        if (count := written_out(nest.body)) > self.options.max_written:
            return f"%{nest.target} would have {count} terms if written out, over max_written"
        return None

    def _kept(self, producer: Nest) -> str | None:
        """Why the producer must be stored."""
        if producer.target in self.nests.outputs:
            return "it is an output of the program"
        for key in self.readers[producer.target]:
            reader = self.statements[key]
            if isinstance(reader, Primitive):
                return f"the primitive {reader.name} reads it"
        return None

    def _obstacle(self, producer: Nest, occurrence: Occurrence, movement: bool, once: bool) -> str | None:
        """Why the producer cannot or should not be computed where it is read."""
        read, loops = occurrence.read, occurrence.loops
        if not _reads_inside(occurrence, producer.type):
            if not movement:
                return "it is computed, and read with padding"
            if _carry_pad(producer, occurrence, self.types) is None:
                return "the padding of a reader does not carry over to what it moves"
        if movement and is_simple(producer.body):
            return None
        single = once and reads_each_once(read, loops)
        cheap = is_cheap(producer.body)
        if occurrence.reducers:
            if not once:
                return "a reduction is not its only reader"
            if not single:
                return "a reduction reads it more than once per element"
            return None if cheap else "it is expensive, and read inside a reduction"
        if single:
            return None
        if not cheap:
            return "it is expensive, and would be computed more than once"
        if functions(producer.body) > self.options.max_repeated or len(distinct_reads(producer.body)) > 2:
            return "it is read more than once, and not worth computing again"
        return None

    def _epilogue(self, producer: Nest) -> list[Nest] | Refusal:
        if obstacle := self._kept(producer):
            return Refusal(obstacle)
        if len(self.readers[producer.target]) > 1:
            return Refusal(f"{len(self.readers[producer.target])} statements read it")
        reader = self.statements[self.readers[producer.target][0]]
        assert isinstance(reader, Nest)
        if has_reduction(reader.body):
            return Refusal(f"its reader %{reader.target} has a reduction of its own")
        if [axis.extent for axis in reader.axes] != [axis.extent for axis in producer.axes]:
            return Refusal(f"its reader %{reader.target} has another shape")
        own = tuple(IntExpr.var(axis.name) for axis in reader.axes)
        found = list(occurrences(reader, producer.target))
        if any(occurrence.read.indices != own for occurrence in found):
            return Refusal(f"its reader %{reader.target} does not read it at its own index")
        merged = _inline(producer, reader, found, self.types)
        if reason := self._too_large(merged):
            return Refusal(reason)
        return [merged]

    # --- doing it -----------------------------------------------------------------------------------------------------

    def _take(self, name: str, kept: Exactness, producer: Nest, merged: list[Nest], seconds: float) -> None:
        """Replace the readers, drop the producer and write the ledger."""
        old = [self.statements[nest.target] for nest in merged]
        before = self._cost([producer, *old])
        del self.statements[producer.target]
        for name_read in self.reads.pop(producer.target):
            self.readers[name_read].remove(producer.target)
        for nest in merged:
            self.statements[nest.target] = nest
            names = read_names(nest)
            for gone in self.reads[nest.target] - names:
                self.readers[gone].remove(nest.target)
            for new in names - self.reads[nest.target]:
                self.readers.setdefault(new, []).append(nest.target)
            self.reads[nest.target] = names
        costs = (before, self._cost(merged))
        self.context.record_statement(self.options.name, name, producer, kept, None, costs, seconds)

    def _cost(self, statements: Sequence[Statement]) -> Cost:
        return sum((statement_cost(statement, self.types) for statement in statements), Cost(0, 0))


# --- substitution -----------------------------------------------------------------------------------------------------


def _inline(producer: Nest, reader: Nest, found: list[Occurrence], types: Mapping[str, TensorType]) -> Nest:
    """The reader with every read of the producer replaced by what the producer computes there."""
    taken = {axis.name for axis in (*reader.axes, *producer.axes)} | {name for o in found for name in o.loops}
    body = _fresh_reductions(producer.body, taken)
    if body.dtype is not producer.type.dtype:
        body = call("cast", body, dtype=producer.type.dtype)
    padded = {o.read: _carry_pad(producer, o, types) for o in found if not _reads_inside(o, producer.type)}

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr.tensor != producer.target:
            return expr
        here = padded.get(expr) or body
        return substitute(here, {axis.name: index for axis, index in zip(producer.axes, expr.indices, strict=True)})

    origins = tuple(dict.fromkeys((*producer.origins, *reader.origins)))
    return replace(reader, body=transform(reader.body, change), origins=origins)


def _fresh_reductions(body: Expr, taken: set[str]) -> Expr:
    """The same expression with reduction indices that are not in `taken`."""

    def fresh(name: str) -> str:
        new, count = name, 1
        while new in taken:
            count += 1
            new = f"{name}{count}"
        return new

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Reduce) or not any(axis.name in taken for axis in expr.axes):
            return expr
        names = {axis.name: fresh(axis.name) for axis in expr.axes}
        axes = tuple(Axis(names[axis.name], axis.extent) for axis in expr.axes)
        return replace(expr, axes=axes, body=substitute(expr.body, {o: IntExpr.var(n) for o, n in names.items()}))

    return transform(body, change)


def _reads_inside(occurrence: Occurrence, kind: TensorType) -> bool:
    """Whether the read needs no padding; without `pad`, leaving the tensor is an error of the program already."""
    read = occurrence.read
    if read.pad is None:
        return True
    return all(
        in_bounds(index, extent, occurrence.loops) for index, extent in zip(read.indices, kind.shape, strict=True)
    )


def _carry_pad(producer: Nest, occurrence: Occurrence, types: Mapping[str, TensorType]) -> Expr | None:
    """The body of a moving producer with the padding of its reader, when that is exactly the same.

    Every index of the producer must either stay inside, or be an index of what it reads, shifted so that being outside
    of the producer means being outside of that too.
    """
    body, read = producer.body, occurrence.read
    assert read.pad is not None
    if isinstance(body, Const):
        return body if _same_number(body, read.pad) else None
    if not isinstance(body, Read) or (body.pad is not None and not _same_number(body.pad, read.pad)):
        return None
    source = types[body.tensor].shape
    for axis, index in zip(producer.axes, read.indices, strict=True):
        inside = in_bounds(index, axis.extent, occurrence.loops)
        if not inside and not any(_leaves_too(axis, i, e) for i, e in zip(body.indices, source, strict=True)):
            return None
    return replace(body, pad=read.pad)


def _same_number(left: Const, right: Const) -> bool:
    """Bit for bit, so that 0.0 is not -0.0."""
    return left.dtype is right.dtype and repr(complex(left.number)) == repr(complex(right.number))


def _leaves_too(axis: Axis, index: IntExpr, extent: IntExpr) -> bool:
    """Whether `index` is `axis - shift` and leaves 0..extent whenever the axis leaves its own range."""
    shift = IntExpr.var(axis.name) - index
    return non_negative(shift) and non_negative(axis.extent - shift - extent)


# --- questions about bodies -------------------------------------------------------------------------------------------


def has_reduction(body: Expr) -> bool:
    return any(isinstance(expr, Reduce) for expr in parts(body))


def is_movement(body: Expr) -> bool:
    """Whether the body is one element of another tensor, at an index known before the program runs, or a constant."""
    return isinstance(body, Const | Index | Read) and not children(body)


def is_simple(body: Expr) -> bool:
    """Whether all indices are polynomials: no divisions, remainders or extrema."""
    indices = body.indices if isinstance(body, Read) else (body.value,) if isinstance(body, Index) else ()
    return not any(isinstance(atom, Quotient | Remainder | Extremum) for index in indices for atom in index.atoms())


def is_cheap(body: Expr) -> bool:
    """Whether it has only cheap functions and no read at a computed index."""
    return all(
        expr.function in CHEAP if isinstance(expr, Call) else not (isinstance(expr, Read) and children(expr))
        for expr in parts(body)
    )


def functions(body: Expr) -> int:
    """Number of distinct function calls."""
    return sum(isinstance(expr, Call) for expr in parts(body))


def written_out(body: Expr) -> int:
    """Number of terms when what is used twice is written twice."""
    known: dict[Expr, int] = {}

    def count(expr: Expr) -> int:
        if expr not in known:
            known[expr] = 1 + sum(map(count, children(expr)))
        return known[expr]

    return count(body)


def distinct_reads(body: Expr) -> frozenset[Read]:
    return frozenset(expr for expr in parts(body) if isinstance(expr, Read))


def occurrences(nest: Nest, tensor: str) -> Iterator[Occurrence]:
    """Every distinct read of `tensor` in every scope of the nest."""

    def visit(
        expr: Expr, loops: Mapping[str, IntExpr], reducers: tuple[Reducer, ...], seen: set[Expr]
    ) -> Iterator[Occurrence]:
        if expr in seen:
            return
        seen.add(expr)
        if isinstance(expr, Read) and expr.tensor == tensor:
            yield Occurrence(expr, loops, reducers)
        if isinstance(expr, Reduce):
            yield from visit(expr.body, {**loops, **extents(expr.axes)}, (*reducers, expr.reducer), set())
            return
        for child in children(expr):
            yield from visit(child, loops, reducers, seen)

    return visit(nest.body, extents(nest.axes), (), set())


def reads_each_once(read: Read, loops: Mapping[str, IntExpr]) -> bool:
    """Whether no element is read for two values of the loop indices: each is alone in an index of its own."""
    alone: set[str] = set()
    for index in read.indices:
        names = {atom.name for atom in index.atoms() if isinstance(atom, Var)}
        factor = index.coefficient(Var(next(iter(names)))) if len(names) == 1 and not children(read) else None
        if factor is not None and factor.is_constant and factor.value:
            alone |= names
    return all(name in alone or extent == ONE for name, extent in loops.items())
