"""What integer tensors may hold, and their copies in other element types."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Call, Const, Expr, Read, Reduce, Reducer, call, children, transform
from mercer.ir.integers import IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Statement
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.passes.cost import elements, statement_cost
from mercer.passes.ledger import Cost

Interval: TypeAlias = tuple[float, float]

ARITHMETIC = frozenset(("add", "sub", "mul", "neg", "min", "max"))
"""The functions whose values follow from the ends of their arguments."""

EPSILON = 2.0**-23
"""Of f32: twice the relative error of an operation, so that a product and its sum are within one."""


def integer_sums(body: Expr) -> list[Reduce]:
    """The sums of i32 in a body."""
    found: dict[Reduce, None] = {}

    def visit(e: Expr) -> None:
        if isinstance(e, Reduce) and e.reducer is Reducer.SUM and e.dtype is DType.I32:
            found[e] = None
        for child in children(e):
            visit(child)

    visit(body)
    return list(found)


def exchange_sums(
    nests: Nests,
    state: Integers,
    attempt: Callable[[Nest, Reduce], Expr | str],
    record: Callable[[Statement, str | None, tuple[Cost, Cost] | None], None],
) -> Nests:
    """Every sum of i32 becomes what `attempt` gives for it, or stays for the reason that it gives."""
    statements: list[Statement] = []
    for statement in nests.statements:
        if not isinstance(statement, Nest):
            statements.append(statement)
            continue
        new = statement
        for e in integer_sums(statement.body):
            found = attempt(statement, e)
            if isinstance(found, str):
                record(statement, found, None)
                continue
            before = statement_cost(new, state.types)
            new = replace(new, body=_exchanged(new.body, e, found))
            record(statement, None, (before, statement_cost(new, state.types)))
        statements += [*state.copies, new]
        state.copies.clear()
    constants = (*nests.constants, *state.constants.values())
    return replace(nests, constants=constants, statements=tuple(statements))


def too_few_terms(e: Reduce, least: int, others: Sequence[Axis] = ()) -> str | None:
    """Why a sum is left alone: an extent of its axes or of the `others` is not known, or it has fewer terms."""
    axes = (*e.axes, *others)
    if not _known(axes):
        return f"the extent of {', '.join(map(str, axes))} is not known"
    terms = elements(axis.extent for axis in e.axes)
    return f"{terms} terms are too few (min_terms = {least})" if terms < least else None


def _exchanged(body: Expr, old: Expr, new: Expr) -> Expr:
    return transform(body, lambda e: new if e == old else e)


@dataclass
class Integers:
    """What is known of the tensors so far, and their copies: constants, or nests to stand before the next statement."""

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
        """What a tensor may hold; what it is made of comes first, lest a long chain exceed the stack."""
        waiting = [name]
        while waiting:
            last = waiting[-1]
            definition = self.definitions.get(last) if last not in self.intervals else None
            missing = sorted(read_names(definition) - self.intervals.keys()) if definition is not None else []
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if last not in self.intervals:
                self.intervals[last] = self._interval(last)
        return self.intervals[name]

    def _interval(self, name: str) -> Interval:
        array, definition = self.array(name), self.definitions.get(name)
        if array is not None:
            return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if isinstance(definition, Nest):
            return self.bound(definition.body)
        return self.interval(definition.operands[0]) if definition is not None else all_of(self.types[name].dtype)

    def bound(self, e: Expr) -> Interval:
        """An interval that holds every value of `e`."""
        everything = all_of(e.dtype)
        match e:
            case Const(number) if not isinstance(number, complex):
                return float(number), float(number)
            case Read(tensor):
                low, high = self.interval(tensor)
                pad = low if e.pad is None or isinstance(e.pad.number, complex) else float(e.pad.number)
                return min(low, pad), max(high, pad)
            case Call("cast", (inner,)) if e.dtype.is_integer or e.dtype is DType.F32:
                return _within(self.bound(inner), e.dtype)
            case Call("where", (_, a, b)):
                (a0, a1), (b0, b1) = self.bound(a), self.bound(b)
                return min(a0, b0), max(a1, b1)
            case Reduce(Reducer.SUM, axes) if e.dtype in (DType.I32, DType.F32) and _known(axes):
                largest = self.largest_sum(e)
                if e.dtype is DType.F32:
                    largest *= 1 + elements(axis.extent for axis in axes) * EPSILON
                return _within((-largest, largest), e.dtype)
            case Call("mod", (_, Const(int() as divisor))) if e.dtype.is_integer and divisor > 0:
                return 0.0, divisor - 1.0
            case Call("floordiv", (a, Const(int() as divisor))) if e.dtype.is_integer and divisor > 0:
                low, high = self.bound(a)
                return float(low // divisor), float(high // divisor)
            case Call(function, arguments) if function in ARITHMETIC:
                return _within(_combine(function, [self.bound(a) for a in arguments]), e.dtype)
            case _:
                return everything

    def largest_sum(self, e: Reduce) -> float:
        """The largest magnitude of a sum of some terms of `e`, or of an intermediate of one term."""
        inner = max((max(map(abs, self.bound(part))) for part in _parts(e.body)), default=0.0)
        if math.isinf(inner):
            return inner
        low, high = self.bound(e.body)
        terms = elements(axis.extent for axis in e.axes)
        whole = terms * max(abs(min(low, 0.0)), abs(max(high, 0.0)))
        if isinstance(e.body, Call) and e.body.function == "mul":
            for constant, other in (e.body.arguments, reversed(e.body.arguments)):
                whole = min(whole, self._weighted(constant, other, e.axes))
        return max(inner, whole)

    def _weighted(self, constant: Expr, other: Expr, axes: tuple[Axis, ...]) -> float:
        """The bound for products with the values of a constant, read in place by plain indices."""
        if isinstance(constant, Call) and constant.function == "cast":
            (constant,) = constant.arguments
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

    def copy(self, tensor: str, dtype: DType, suffix: str = "", less: int = 0) -> str:
        """The name of the tensor, less a number, in another element type: a constant, or a nest that fusion merges with
        what computes the tensor."""
        if less == 0 and self.types[tensor].dtype is dtype:
            return tensor
        name = f"{tensor}.{suffix or dtype}" + (f"_{'less' if less > 0 else 'plus'}_{abs(less)}" if less else "")
        if name in self.types:
            return name
        type = replace(self.types[tensor], dtype=dtype)
        self.types[name] = type
        array = self.array(tensor)
        if array is not None:
            self.constants[name] = Constant(name, type, Data(np.subtract(array, less).astype(dtype.numpy)))
            return name
        axes = tuple(Axis(f"i_{k}", size) for k, size in enumerate(type.shape))
        read: Expr = Read(tensor, tuple(IntExpr.var(axis.name) for axis in axes), self.types[tensor].dtype)
        if less:
            wide = read if read.dtype is DType.I32 else call("cast", read, dtype=DType.I32)
            read = call("sub", wide, Const(less, DType.I32))
        definition = self.definitions.get(tensor)
        origins = definition.origins if definition is not None else ()
        self.copies.append(Nest(name, type, axes, call("cast", read, dtype=dtype), origins))
        return name


def _known(axes: Sequence[Axis]) -> bool:
    return all(axis.extent.is_constant for axis in axes)


def all_of(dtype: DType) -> Interval:
    if dtype is DType.BOOL:
        return 0.0, 1.0
    if dtype.is_integer:
        info = np.iinfo(str(dtype.numpy))
        return float(info.min), float(info.max)
    return -math.inf, math.inf


def fits(interval: Interval, dtype: DType) -> bool:
    """Whether all of it are numbers of an integer type, without the lowest, whose opposite is none."""
    low, high = all_of(dtype)
    return low < interval[0] and interval[1] <= high


def holds(dtype: DType, a: Interval) -> bool:
    """Whether all of it are numbers of a type."""
    low, high = all_of(dtype)
    return low <= a[0] and a[1] <= high


def _within(a: Interval, dtype: DType) -> Interval:
    """The interval in numbers of a type, rounded as it rounds; all of them where an integer may have wrapped around."""
    if dtype is DType.F32:
        with np.errstate(over="ignore"):
            return float(np.float32(a[0])), float(np.float32(a[1]))
    if dtype.is_integer:
        a = float(np.trunc(a[0])), float(np.trunc(a[1]))
    return a if holds(dtype, a) else all_of(dtype)


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


def _parts(e: Expr) -> list[Expr]:
    """The expression and its arguments at every depth."""
    return [e, *(part for a in (e.arguments if isinstance(e, Call) else ()) for part in _parts(a))]
