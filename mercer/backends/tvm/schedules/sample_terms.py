"""What samples at computed positions are multiplied by and how they are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mercer.backends.tvm.analysis import free, is_computed
from mercer.backends.tvm.schedules.common import Refusal
from mercer.ir.index import Axis, Call, Const, Expr, Read, Reduce, call, children, reads, transform, walk
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.types import DType

FAMILY = "gather"

MOST_TERMS = 16

BLEND = "gather.blend"
"""The sum of the terms at a tap: what stands for it is read along the channels."""


@dataclass(frozen=True)
class Term:
    """The product of `weights`, which do not depend on the channel, and `vectors`, which do, with a sample."""

    weights: tuple[Expr, ...]
    vectors: tuple[Expr, ...]
    sample: Read


def root_of(body: Expr, gathered: Sequence[Read]) -> Expr | None:
    """The smallest part of the body that all samples are in, or the reduction around them."""
    samples = frozenset(gathered)

    def reached(expr: Expr, without: Expr | None) -> bool:
        seen: set[Expr] = set()
        stack = [expr]
        while stack:
            top = stack.pop()
            if top in seen or top == without:
                continue
            if top in samples:
                return True
            seen.add(top)
            stack.extend(children(top))
        return False

    around = [e for e in dict.fromkeys(walk(body)) if isinstance(e, Reduce) and reached(e, None)]
    if around:
        return around[0] if len(around) == 1 and not reached(body, around[0]) else None
    gates = [e for e in dict.fromkeys(walk(body)) if reached(e, None) and not reached(body, e)]
    return gates[-1] if gates else None


def terms_of(expr: Expr, samples: frozenset[Read], channel: str) -> tuple[Term, ...] | None:
    """The expression as a sum of products with one sample each."""
    found: list[Term] = []

    def without(e: Expr) -> bool:
        return not any(read in samples for read in reads(e))

    def visit(e: Expr, factors: tuple[Expr, ...]) -> bool:
        if isinstance(e, Read) and e in samples:
            vectors = tuple(f for f in factors if channel in free(f))
            found.append(Term(tuple(f for f in factors if channel not in free(f)), vectors, e))
            return len(found) <= MOST_TERMS
        if not isinstance(e, Call) or e.dtype is not DType.F32:
            return False
        match e.function, e.arguments:
            case "add", (a, b):
                return not without(a) and not without(b) and visit(a, factors) and visit(b, factors)
            case "sub", (a, b):
                minus = Const(-1.0, DType.F32)
                return not without(a) and not without(b) and visit(a, factors) and visit(b, (*factors, minus))
            case "neg", (a,):
                return visit(a, (*factors, Const(-1.0, DType.F32)))
            case "mul", (a, b) if without(a):
                return visit(b, (*factors, a))
            case "mul", (a, b) if without(b):
                return visit(a, (*factors, b))
            case _:
                return False

    return tuple(found) if visit(expr, ()) else None


def matrix_of(
    terms: Sequence[Term], nest: Nest, channel: Axis, taps: Sequence[Axis]
) -> tuple[Axis, Read, tuple[Term, ...]] | Refusal:
    """(the result axis, the weight that all samples are multiplied by, the terms without it)"""
    shared = [f for f in terms[0].vectors if all(f in term.vectors for term in terms)]
    matrix = shared[0] if len(shared) == 1 and isinstance(shared[0], Read) else None
    if matrix is None or any(map(is_computed, matrix.indices)):
        return Refusal(FAMILY, "no matrix of weights")
    inner = {channel.name, *(tap.name for tap in taps)}
    results = [axis for axis in nest.axes if axis.name in free(matrix)]
    if len(results) != 1 or not results[0].extent.is_constant or free(matrix) - {results[0].name} - inner:
        return Refusal(FAMILY, "the weights depend on more than one axis of the result")
    rest = tuple(replace(term, vectors=tuple(f for f in term.vectors if f != matrix)) for term in terms)
    if any(results[0].name in free(part) for t in rest for part in (*t.weights, *t.vectors, t.sample)):
        return Refusal(FAMILY, f"samples depend on {results[0].name}")
    return results[0], matrix, rest


def product(factors: Sequence[Expr]) -> Expr:
    """The product of factors, 1 of none."""
    total: Expr | None = None
    for factor in factors:
        total = factor if total is None else call("mul", total, factor)
    return Const(1.0, DType.F32) if total is None else total


# --- integers ---------------------------------------------------------------------------------------------------------


def blend_of(root: Expr, gathered: Sequence[Read], channel: Axis) -> tuple[tuple[Term, ...], Expr] | None:
    """(terms, sample) of a sum of i32 products of weights with samples, both of i16: the sample depends on `channel`
    through a sum of products of i16 alone, which it reads as `BLEND`."""
    match root:
        case Reduce(_, _, Call("mul", (Call("cast", (left,)), Call("cast", (right,))))) if root.dtype is DType.I32:
            pass
        case _:
            return None
    if left.dtype is not DType.I16 or right.dtype is not DType.I16:
        return None
    samples = frozenset(gathered)
    matrix, sample = (right, left) if samples & set(reads(left)) else (left, right)
    if not isinstance(matrix, Read) or matrix in samples or not isinstance(sample, Call) or sample.function != "cast":
        return None
    (value,) = sample.arguments
    blend = root_of(value, gathered)
    terms = None if blend is None else _products(blend, samples)
    if blend is None or terms is None or value.dtype is not DType.I32 or len(terms) > MOST_TERMS:
        return None
    total = Read(BLEND, (IntExpr.var(channel.name),), DType.I32)
    value = transform(value, lambda e: total if e == blend else e)
    if channel.name in free(transform(value, lambda e: Const(0, DType.I32) if e == total else e)):
        return None
    return tuple(replace(term, vectors=(matrix,)) for term in terms), value


def _products(e: Expr, samples: frozenset[Read]) -> list[Term] | None:
    """The terms of a sum of products of two i16, one of them a sample."""
    match e:
        case Call("add", (a, b)):
            left, right = _products(a, samples), _products(b, samples)
            return None if left is None or right is None else [*left, *right]
        case Call("mul", (Call("cast", (a,)), Call("cast", (b,)))) if e.dtype is DType.I32:
            if a.dtype is not DType.I16 or b.dtype is not DType.I16:
                return None
            weight, sample = (b, a) if a in samples else (a, b)
            return [Term((weight,), (), sample)] if isinstance(sample, Read) and sample in samples else None
        case _:
            return None
