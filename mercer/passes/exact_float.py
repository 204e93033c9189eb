"""Sums of integer products in floating point, where that is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

import numpy as np

from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, call, children, transform
from mercer.ir.integers import IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Statement
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.passes.cost import elements, statement_cost
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext

EXACT = 1 << 24
"""Integers up to this magnitude are float32 numbers, and so are their sums and products as long as they stay below."""

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class ExactFloat(Pass):
    """cast:i32(sum of f32) for a sum of i32 whose terms, and whose every partial sum in any order, stay below 2**24.

    Needs Nests, best before `fuse`. Vector units multiply and add floats in one instruction and have no such
    instruction for 32-bit integers. The bound of a sum of products with constants is that of the constants' values.
    Class: bit. A sum of fewer than `min_terms` terms is left alone.
    """

    name: ClassVar[str] = "exact_float"
    level: ClassVar[Level] = Level.NESTS
    min_terms: int = 4

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        state = _State(nests)
        statements: list[Statement] = []
        for statement in nests.statements:
            if not isinstance(statement, Nest):
                statements.append(statement)
                continue
            new = statement
            for e in _integer_sums(statement.body):
                reason = self._obstacle(e, state)
                before = statement_cost(statement, state.types)
                if reason is None:
                    real = Reduce(Reducer.SUM, e.axes, state.real(e.body))
                    exchange: dict[Expr, Expr] = {e: call("cast", real, dtype=DType.I32)}
                    new = replace(new, body=_exchanged(new.body, exchange))
                costs = None if reason else (before, statement_cost(new, state.types))
                context.record_statement(self.name, "sum_in_f32", statement, Exactness.BIT, reason, costs)
            statements += [*state.copies, new]
            state.copies.clear()
        constants = (*nests.constants, *state.constants.values())
        return replace(nests, constants=constants, statements=tuple(statements))

    def _obstacle(self, e: Reduce, state: _State) -> str | None:
        if not all(axis.extent.is_constant for axis in e.axes):
            return f"the extent of {', '.join(map(str, e.axes))} is not known"
        if (terms := elements(axis.extent for axis in e.axes)) < self.min_terms:
            return f"{terms} terms are too few (min_terms = {self.min_terms})"
        if not state.is_polynomial(e.body):
            return "its terms are not sums and products of tensors"
        largest = state.largest_sum(e)
        return None if largest < EXACT else f"a partial sum may reach {largest:.0f}, which f32 rounds"


def _exchanged(body: Expr, exchange: Mapping[Expr, Expr]) -> Expr:
    return transform(body, lambda e: exchange.get(e, e))


def _integer_sums(body: Expr) -> list[Reduce]:
    found: dict[Reduce, None] = {}

    def visit(e: Expr) -> None:
        if isinstance(e, Reduce) and e.reducer is Reducer.SUM and e.dtype is DType.I32:
            found[e] = None
        for child in children(e):
            visit(child)

    visit(body)
    return list(found)


_ARITHMETIC = frozenset(("add", "sub", "mul", "neg", "min", "max"))


@dataclass
class _State:
    """What is known of the tensors so far, and their copies in f32."""

    nests: Nests
    types: dict[str, TensorType] = field(init=False)
    definitions: dict[str, Nest | Primitive] = field(init=False)
    arrays: dict[str, Array | None] = field(init=False)
    intervals: dict[str, Interval] = field(default_factory=dict[str, Interval])
    copies: list[Nest] = field(default_factory=list[Nest])
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])

    def __post_init__(self) -> None:
        self.types = self.nests.types()
        self.definitions = {}
        self.definitions |= {s.target: s for s in self.nests.statements if isinstance(s, Nest)}
        primitives = [s for s in self.nests.statements if isinstance(s, Primitive)]
        self.definitions |= {s.targets[0].name: s for s in primitives if s.name == "reshape"}
        self.arrays = {c.name: c.data.array for c in self.nests.constants}

    # --- bounds -------------------------------------------------------------------------------------------------------

    def array(self, name: str) -> Array | None:
        """The value of a tensor that depends on a constant alone."""
        if name not in self.arrays:
            self.arrays[name] = None
            definition = self.definitions.get(name)
            if isinstance(definition, Nest) and len(sources := read_names(definition)) == 1:
                (source,) = sources
                if (array := self.array(source)) is not None:
                    constant = Constant(source, self.types[source], Data(array))
                    self.arrays[name] = evaluate(Nests(name, (), (), (constant,), (definition,), (name,)), {})[0]
        return self.arrays[name]

    def interval(self, name: str) -> Interval:
        if name not in self.intervals:
            array, definition = self.array(name), self.definitions.get(name)
            if array is not None:
                self.intervals[name] = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
            elif isinstance(definition, Nest):
                self.intervals[name] = self.bound(definition.body)
            elif definition is not None:
                self.intervals[name] = self.interval(definition.operands[0])
            else:
                self.intervals[name] = _all_of(self.types[name].dtype)
        return self.intervals[name]

    def bound(self, e: Expr) -> Interval:
        """An interval that holds every value of `e`."""
        everything = _all_of(e.dtype)
        match e:
            case Const(number) if not isinstance(number, complex):
                return float(number), float(number)
            case Read(tensor):
                low, high = self.interval(tensor)
                pad = low if e.pad is None or isinstance(e.pad.number, complex) else float(e.pad.number)
                return min(low, pad), max(high, pad)
            case Call("cast", (inner,)) if e.dtype.is_integer:
                return _meet(self.bound(inner), everything)
            case Call("where", (_, a, b)):
                (a0, a1), (b0, b1) = self.bound(a), self.bound(b)
                return min(a0, b0), max(a1, b1)
            case Call(function, arguments) if function in _ARITHMETIC:
                return _meet(_combine(function, [self.bound(a) for a in arguments]), everything)
            case _:
                return everything

    def largest_sum(self, e: Reduce) -> float:
        """The largest magnitude of a sum of some terms of `e`, or of an intermediate of one term."""
        inner = max((max(map(abs, self.bound(part))) for part in _parts(e.body)), default=0.0)
        low, high = self.bound(e.body)
        terms = elements(axis.extent for axis in e.axes)
        whole = terms * max(abs(min(low, 0.0)), abs(max(high, 0.0)))
        if isinstance(e.body, Call) and e.body.function == "mul":
            for constant, other in (e.body.arguments, reversed(e.body.arguments)):
                whole = min(whole, self._weighted(constant, other, e.axes))
        return max(inner, whole)

    def _weighted(self, constant: Expr, other: Expr, axes: tuple[Axis, ...]) -> float:
        """The bound for products with the values of a constant, read in place by plain indices."""
        if not isinstance(constant, Read) or constant.pad is not None:
            return math.inf
        array = self.array(constant.tensor)
        names = [index.single.name if isinstance(index.single, Var) else "" for index in constant.indices]
        summed = tuple(i for i, name in enumerate(names) if any(axis.name == name for axis in axes))
        if array is None or not array.size or "" in names or len(set(names)) < len(names):
            return math.inf
        low, high = self.bound(other)
        weights = array.astype(np.float64)
        extremes = np.stack([weights * low, weights * high, np.zeros_like(weights)])
        sums = [np.abs(extreme.sum(axis=summed)).max() for extreme in (extremes.max(axis=0), extremes.min(axis=0))]
        missing = [axis.extent for axis in axes if axis.name not in names]
        return float(max(sums)) * elements(missing)

    # --- rewriting ----------------------------------------------------------------------------------------------------

    def is_polynomial(self, e: Expr) -> bool:
        match e:
            case Const() | Read():
                return True
            case Call("cast", (Read(),)):
                return e.dtype.is_integer
            case Call(function, arguments):
                return function in _ARITHMETIC and all(map(self.is_polynomial, arguments))
            case _:
                return False

    def real(self, e: Expr) -> Expr:
        """The same value in f32."""
        match e:
            case Const(number):
                return _real(number)
            case Read() | Call("cast", (Read(),)):
                read = e if isinstance(e, Read) else e.arguments[0]
                assert isinstance(read, Read)
                pad = None if read.pad is None else _real(read.pad.number)
                return Read(self._copy(read.tensor), read.indices, DType.F32, pad)
            case Call(function, arguments):
                return call(function, *map(self.real, arguments))
            case Index() | Reduce():
                raise AssertionError("not a polynomial")

    def _copy(self, tensor: str) -> str:
        """The tensor in f32: a constant, or a nest that fusion merges with what computes the tensor."""
        name = f"{tensor}.real"
        if name in self.types:
            return name
        type = replace(self.types[tensor], dtype=DType.F32)
        self.types[name] = type
        array = self.array(tensor)
        if array is not None:
            self.constants[name] = Constant(name, type, Data(array.astype(np.float32)))
            return name
        axes = tuple(Axis(f"i_{k}", size) for k, size in enumerate(type.shape))
        read = Read(tensor, tuple(IntExpr.var(axis.name) for axis in axes), self.types[tensor].dtype)
        definition = self.definitions.get(tensor)
        origins = definition.origins if definition is not None else ()
        self.copies.append(Nest(name, type, axes, call("cast", read, dtype=DType.F32), origins))
        return name


def _real(number: float | int | bool | complex) -> Const:
    assert not isinstance(number, complex)
    return Const(float(number), DType.F32)


def _parts(e: Expr) -> list[Expr]:
    """The expression and its arguments at every depth."""
    return [e, *(part for a in (e.arguments if isinstance(e, Call) else ()) for part in _parts(a))]


def _all_of(dtype: DType) -> Interval:
    if dtype is DType.BOOL:
        return 0.0, 1.0
    if dtype.is_integer:
        info = np.iinfo(str(dtype.numpy))
        return float(info.min), float(info.max)
    return -math.inf, math.inf


def _meet(a: Interval, b: Interval) -> Interval:
    """What lies in both, `b` where a value may have wrapped around."""
    return a if b[0] <= a[0] and a[1] <= b[1] else b


def _combine(function: str, bounds: list[Interval]) -> Interval:
    (a0, a1), (b0, b1) = bounds[0], bounds[-1]
    match function:
        case "add":
            return a0 + b0, a1 + b1
        case "sub":
            return a0 - b1, a1 - b0
        case "neg":
            return -a1, -a0
        case "min":
            return min(a0, b0), min(a1, b1)
        case "max":
            return max(a0, b0), max(a1, b1)
        case _:
            products = [x * y for x in (a0, a1) for y in (b0, b1)]
            finite = [0.0 if math.isnan(p) else p for p in products]
            return min(finite), max(finite)
