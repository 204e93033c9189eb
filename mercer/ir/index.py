"""Index notation: the scalar expressions that define one element of a tensor."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from mercer.ir.integers import Computed, Dim, IntExpr, Var
from mercer.ir.types import DType


class Reducer(enum.Enum):
    """How a reduction combines its terms. `argmax`/`argmin` give the first position (i32) over their single axis."""

    SUM = "sum"
    PROD = "prod"
    MAX = "max"
    MIN = "min"
    ANY = "any"
    ALL = "all"
    ARGMAX = "argmax"
    ARGMIN = "argmin"


class Result(enum.Enum):
    """How the element type of a function follows from its arguments."""

    SAME = "same"
    BOOL = "bool"
    REAL = "real"
    COMPLEX = "complex"

    def of(self, operand: DType) -> DType:
        """The element type of a result; the parts of a c64 are f32."""
        match self:
            case Result.SAME:
                return operand
            case Result.BOOL:
                return DType.BOOL
            case Result.REAL:
                return DType.F32 if operand.is_complex else operand
            case Result.COMPLEX:
                return DType.C64


@dataclass(frozen=True)
class Function:
    """A scalar function that every backend knows."""

    name: str
    arity: int
    result: Result = Result.SAME


FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        *(Function(name, 2) for name in ("add", "sub", "mul", "div", "floordiv", "mod", "pow", "min", "max", "atan2")),
        *(Function(name, 1) for name in ("neg", "sign", "floor", "ceil", "round", "trunc", "conj")),
        *(Function(name, 1, Result.REAL) for name in ("abs", "real", "imag", "angle")),
        Function("xor", 2),  # of the bits of two integers
        Function("complex", 2, Result.COMPLEX),  # complex(re, im) of two f32
        *(Function(name, 1) for name in ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "erf", "sigmoid")),
        *(Function(name, 1) for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")),
        *(Function(name, 2, Result.BOOL) for name in ("eq", "ne", "lt", "le", "gt", "ge", "and", "or")),
        Function("not", 1, Result.BOOL),
        Function("where", 3),  # where(condition, then, otherwise)
        Function("cast", 1),  # to the element type of the Call
    )
}
"""`round` is to nearest, ties to even; `mod` is the remainder of the floor division; `div` of integers is an error."""

OF_COMPLEX = frozenset(
    ("add", "sub", "mul", "div", "neg", "exp", "abs", "real", "imag", "angle", "conj", "eq", "ne", "where", "cast")
)
"""The functions that take complex numbers."""

ONLY_COMPLEX = frozenset(("real", "imag", "angle", "conj"))
"""Those that take nothing else."""


@dataclass(frozen=True)
class Axis:
    """A loop: the index `name` runs over 0 <= name < extent."""

    name: str
    extent: IntExpr

    def __str__(self) -> str:
        return f"{self.name} < {self.extent}"


@dataclass(frozen=True)
class _Hashed:
    """Caches the hash: expressions are shared and compared often."""

    @cached_property
    def _hash(self) -> int:
        return hash((type(self).__name__, *(getattr(self, f) for f in self.__dataclass_fields__)))


@dataclass(frozen=True, eq=False)
class Const(_Hashed):
    """A literal number or truth value of the given element type; 0.0 and -0.0 differ, and a NaN equals itself."""

    number: float | int | bool | complex
    dtype: DType

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and self.dtype is other.dtype and repr(self.number) == repr(other.number)

    @cached_property
    def _hash(self) -> int:
        return hash((repr(self.number), self.dtype))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.number!r}:{self.dtype}"


@dataclass(frozen=True)
class Index(_Hashed):
    """An integer expression used as a number (i32)."""

    value: IntExpr

    @property
    def dtype(self) -> DType:
        return DType.I32

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"({self.value})"


@dataclass(frozen=True)
class Read(_Hashed):
    """One element of a tensor; outside of it the value is `pad`, or the read is an error when `pad` is None."""

    tensor: str
    indices: tuple[IntExpr, ...]
    dtype: DType
    pad: Const | None = None

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        pad = f"; pad = {self.pad}" if self.pad is not None else ""
        return f"%{self.tensor}[{', '.join(map(str, self.indices))}{pad}]"


@dataclass(frozen=True)
class Call(_Hashed):
    """A scalar function of `FUNCTIONS`."""

    function: str
    arguments: tuple[Expr, ...]
    dtype: DType

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        name = f"cast<{self.dtype}>" if self.function == "cast" else self.function
        return f"{name}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True)
class Reduce(_Hashed):
    """A reduction of `body` over `axes`."""

    reducer: Reducer
    axes: tuple[Axis, ...]
    body: Expr

    @property
    def dtype(self) -> DType:
        return DType.I32 if self.reducer in (Reducer.ARGMAX, Reducer.ARGMIN) else self.body.dtype

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.reducer.value}[{', '.join(map(str, self.axes))}]({self.body})"


Expr: TypeAlias = Const | Index | Read | Call | Reduce


def call(function: str, *arguments: Expr, dtype: DType | None = None) -> Call:
    """A `Call` whose element type follows the function's rule (`dtype` only for `cast`)."""
    if dtype is None:
        dtype = FUNCTIONS[function].result.of(arguments[-1].dtype)
    return Call(function, arguments, dtype)


def children(expr: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions, those hidden in the indices of a read included."""
    match expr:
        case Const():
            return ()
        case Index(value):
            return computed(value)
        case Read(_, indices):
            return tuple(e for index in indices for e in computed(index))
        case Call(_, arguments):
            return arguments
        case Reduce(_, _, body):
            return (body,)


def computed(value: IntExpr) -> tuple[Expr, ...]:
    """The run-time values that an integer expression uses."""
    return tuple(atom.value for atom in value.atoms() if isinstance(atom, Computed))


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, parents first; shared parts come as often as they are used."""
    stack = [expr]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(children(top)))


def parts(body: Expr) -> Iterator[Expr]:
    """Every distinct expression below `body`, itself included; shared ones come once."""
    seen: set[Expr] = set()
    stack = [body]
    while stack:
        expr = stack.pop()
        if expr not in seen:
            seen.add(expr)
            yield expr
            stack.extend(children(expr))


def reads(expr: Expr) -> Iterator[Read]:
    for e in walk(expr):
        if isinstance(e, Read):
            yield e


def dims(expr: Expr) -> frozenset[str]:
    """Names of the symbolic dims that occur in `expr`."""
    found: set[str] = set()
    for e in walk(expr):
        match e:
            case Index(value):
                found |= value.dims()
            case Read(_, indices):
                found.update(*(i.dims() for i in indices))
            case Reduce(_, axes, _):
                found.update(*(axis.extent.dims() for axis in axes))
            case _:
                pass
    return frozenset(found)


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Replace every direct sub-expression `e` by `change(e)`."""

    def index(value: IntExpr) -> IntExpr:
        def replacement(atom: Dim | Var | Computed) -> IntExpr | None:
            if not isinstance(atom, Computed):
                return None
            new = change(atom.value)
            return new.value if isinstance(new, Index) else IntExpr.atom(Computed(new))

        return value.substitute(replacement)

    match expr:
        case Const():
            return expr
        case Index(value):
            return Index(index(value))
        case Read(_, indices):
            return replace(expr, indices=tuple(index(i) for i in indices))
        case Call(_, arguments):
            return replace(expr, arguments=tuple(change(a) for a in arguments))
        case Reduce(_, _, body):
            return replace(expr, body=change(body))


def transform(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Bottom-up rewrite: children first, then `change` on the rebuilt expression; shared parts are done once."""
    done: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e not in done:
            done[e] = change(rebuild(e, visit))
        return done[e]

    return visit(expr)


def substitute(expr: Expr, variables: dict[str, IntExpr]) -> Expr:
    """Replace loop indices by integer expressions everywhere in `expr` (axes bound inside are left alone)."""
    if not variables:
        return expr

    def index(value: IntExpr) -> IntExpr:
        def replacement(atom: Dim | Var | Computed) -> IntExpr | None:
            match atom:
                case Var(name):
                    return variables.get(name)
                case Computed(inner):
                    new = visit(inner)
                    return new.value if isinstance(new, Index) else IntExpr.atom(Computed(new))
                case Dim():
                    return None

        return value.substitute(replacement)

    done: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if e in done:
            return done[e]
        match e:
            case Const():
                new: Expr = e
            case Index(value):
                new = Index(index(value))
            case Read(_, indices):
                new = replace(e, indices=tuple(index(i) for i in indices))
            case Call(_, arguments):
                new = replace(e, arguments=tuple(visit(a) for a in arguments))
            case Reduce(_, axes, body):
                inner = {k: v for k, v in variables.items() if all(a.name != k for a in axes)}
                new = replace(
                    e,
                    axes=tuple(Axis(a.name, index(a.extent)) for a in axes),
                    body=visit(body) if inner == variables else substitute(body, inner),
                )
        done[e] = new
        return new

    return visit(expr)


def variables(expr: Expr) -> frozenset[str]:
    """Names of the loop indices that occur free in `expr`."""
    found: set[str] = set()

    def integers(value: IntExpr) -> frozenset[str]:
        return frozenset(a.name for a in value.atoms() if isinstance(a, Var))

    match expr:
        case Index(value):
            found |= integers(value)
        case Read(_, indices):
            for i in indices:
                found |= integers(i)
        case _:
            pass
    for child in children(expr):
        found |= variables(child)
    if isinstance(expr, Reduce):
        found -= {axis.name for axis in expr.axes}
        for axis in expr.axes:
            found |= integers(axis.extent)
    return frozenset(found)
