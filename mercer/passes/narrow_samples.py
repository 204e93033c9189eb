"""Samples of integers at computed positions in 16 bits, where vector units multiply pairs of such numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from mercer.ir.index import Axis, Call, Const, Expr, Read, call, reads, rebuild, transform, variables
from mercer.ir.integers import Computed, IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import statement_cost
from mercer.passes.integer_bounds import ARITHMETIC, Integers, fits
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext

Term: TypeAlias = tuple[tuple[Expr, ...], Expr]
"""Weights and the sample that they are multiplied by, an expression with one read."""


@dataclass(frozen=True)
class NarrowSamples(Pass):
    """sum(cast:i32(weight) * cast:i32(sample)) of i16 for weighted codes around computed positions, in i32.

    Needs Nests, before `narrow` and `fuse`. The weights that codes are multiplied by one after the other become one
    tensor of i16 for each code, and codes relative to their zero point are stored as i16; both must fit. Then all is
    one sum of products, which is modulo 2**32 what it was. What reads the samples computes in 32 bits instead of 64
    where every intermediate has that many. Class: bit.
    """

    name: ClassVar[str] = "narrow_samples"
    level: ClassVar[Level] = Level.NESTS

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        state = Integers(nests)
        statements: list[Statement] = []
        narrowed: set[str] = set()
        for statement in nests.statements:
            if not isinstance(statement, Nest):
                statements.append(statement)
                continue
            new = statement
            if any(map(_is_sample, reads(statement.body))):
                found = _Blend(state, statement)
                body = found.visit(statement.body)
                if found.before:
                    reason = found.obstacle or None
                    context.record_statement(self.name, "samples_of_i16", statement, Exactness.BIT, reason)
                if found.before and not found.obstacle:
                    statements += found.before
                    narrowed.add(statement.target)
                    new = replace(statement, body=body)
            elif narrowed & {read.tensor for read in reads(statement.body)}:
                new = replace(statement, body=transform(statement.body, lambda e: _in_i32(e, state)))
                if new != statement:
                    costs = statement_cost(statement, state.types), statement_cost(new, state.types)
                    context.record_statement(self.name, "in_i32", statement, Exactness.BIT, None, costs)
            statements.append(new)
        return replace(nests, statements=tuple(statements))


def _is_sample(read: Read) -> bool:
    moving = any(isinstance(atom, Computed) for index in read.indices for atom in index.atoms())
    return moving and read.dtype is DType.I8


@dataclass
class _Blend:
    """The body of a nest with its weighted samples in i16; `before` are the nests that it then reads."""

    state: Integers
    nest: Nest
    before: list[Nest] = field(default_factory=list[Nest])
    obstacle: str = ""
    known: dict[tuple[str, Expr], str] = field(default_factory=dict[tuple[str, Expr], str])

    def visit(self, e: Expr) -> Expr:
        terms = _terms(e)
        if terms is None or len(terms) < 2:
            return rebuild(e, self.visit) if isinstance(e, Call) else e
        products = [self._product(*term) for term in terms]
        total = products[0]
        for product in products[1:]:
            total = call("add", total, product)
        return total

    def _product(self, weights: tuple[Expr, ...], sample: Expr) -> Expr:
        weight: Expr = Const(1, DType.I32)
        for k, factor in enumerate(weights):
            weight = call("mul", weight, factor) if k else factor
        for what, e in (("weight", weight), ("sample", sample)):
            if not fits(self.state.bound(e), DType.I16):
                largest = max(map(abs, self.state.bound(e)))
                self.obstacle = self.obstacle or f"a {what} may be as large as {largest:.0f}"
        return call("mul", self._weight(weight), self._code(sample))

    def _weight(self, weight: Expr) -> Expr:
        used = variables(weight)
        axes = tuple(axis for axis in self.nest.axes if axis.name in used)
        name = self._stored("weight", axes, weight)
        read = Read(name, tuple(IntExpr.var(axis.name) for axis in axes), DType.I16)
        return call("cast", read, dtype=DType.I32)

    def _code(self, sample: Expr) -> Expr:
        """The sample from a tensor that has what it makes of every code."""
        read = next(filter(_is_sample, reads(sample)))
        shape = self.state.types[read.tensor].shape
        axes = tuple(Axis(f"i_{k}", extent) for k, extent in enumerate(shape))
        place = tuple(IntExpr.var(axis.name) for axis in axes)
        plain = Read(read.tensor, place, read.dtype)
        body = transform(sample, lambda e: plain if e == read else e)
        name = self._stored(f"{read.tensor}.code", axes, body)
        pad = None
        if read.pad is not None:
            (low, high) = self.state.bound(transform(sample, lambda e: read.pad if read.pad and e == read else e))
            assert low == high
            pad = Const(int(low), DType.I16)
        return call("cast", replace(read, tensor=name, dtype=DType.I16, pad=pad), dtype=DType.I32)

    def _stored(self, what: str, axes: tuple[Axis, ...], body: Expr) -> str:
        if (what, body) not in self.known:
            name = f"{self.nest.target}.{what}{len(self.known)}"
            self.known[what, body] = name
            type = TensorType(DType.I16, tuple(axis.extent for axis in axes))
            narrow = call("cast", body, dtype=DType.I16)
            self.before.append(Nest(name, type, axes, narrow, self.nest.origins))
            self.state.types[name] = type
            self.state.definitions[name] = self.before[-1]
        return self.known[what, body]


def _terms(e: Expr) -> list[Term] | None:
    """A sum of products of i32 with one sample each, the sample relative to a constant."""
    if e.dtype is not DType.I32:
        return None
    match e:
        case Call("cast", (Read() as read,)) if _is_sample(read):
            return [((), e)]
        case Call("sub" | "add", (Call("cast", (Read() as read,)), Const())) if _is_sample(read):
            return [((), e)]
        case Call("add", (a, b)):
            left, right = _terms(a), _terms(b)
            return None if left is None or right is None else [*left, *right]
        case Call("mul", (a, b)):
            for factor, other in ((a, b), (b, a)):
                if not any(map(_is_sample, reads(factor))) and (found := _terms(other)) is not None:
                    return [((factor, *weights), sample) for weights, sample in found]
            return None
        case _:
            return None


def _in_i32(e: Expr, state: Integers) -> Expr:
    match e:
        case Call("cast", (Call() as wide,)) if e.dtype is DType.I32 and wide.dtype is DType.I64:
            return _short(wide, state) or e
        case _:
            return e


def _short(e: Expr, state: Integers) -> Expr | None:
    """The value of i64 from operations of i32; None where an intermediate may have more bits."""
    if not fits(state.bound(e), DType.I32):
        return None
    match e:
        case Const(int() as number):
            return Const(number, DType.I32)
        case Call("cast", (inner,)) if inner.dtype is DType.I32:
            return inner
        case Call(function, arguments) if function in ARITHMETIC or function == "floordiv":
            short = [_short(each, state) for each in arguments]
            return None if None in short else call(function, *(each for each in short if each is not None))
        case _:
            return None
