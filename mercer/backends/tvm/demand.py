"""What a call of the binary cannot do without: operations of the plain algorithm, and bytes that move once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mercer.backends.tvm.analysis import elements, free, never_negative
from mercer.backends.tvm.kernel import Operand
from mercer.ir.analysis import TRANSCENDENTAL
from mercer.ir.index import Axis, Call, Expr, Reduce, parts, reads
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest, Primitive, Statement
from mercer.ir.primitives import OF_KNOWN_LENGTH
from mercer.ir.types import TensorType

TRANSCENDENTAL_FLOPS = 32
"""What exp and its like count: their polynomials take some sixteen vector instructions, of two operations each."""


@dataclass(frozen=True)
class Demand:
    """Counts in terms of the symbolic dims.

    `flops` are scalar operations, a multiply-add is two; every part of a formula counts once for all indices that it
    does not depend on. `bytes` are those of results, and of operands as far as they are read.
    """

    flops: IntExpr
    bytes: IntExpr

    @staticmethod
    def of_copy(type: TensorType) -> Demand:
        return Demand(ZERO, 2 * _bytes(type, elements(type.shape)))

    def times(self, count: int) -> Demand:
        return Demand(self.flops * count, self.bytes * count)


def demand(
    statements: Sequence[Statement],
    operands: Sequence[Operand],
    results: Sequence[Operand],
    types: Mapping[str, TensorType],
) -> Demand:
    """Of `statements` as one step; `operands` are what it is given, some of them packed copies of what the statements
    read. `types` are those of all tensors."""
    moved = sum((_bytes(result.type, elements(result.type.shape)) for result in results), ZERO)
    nests = [statement for statement in statements if isinstance(statement, Nest)]
    whole = len(nests) < len(statements)
    for operand in operands:
        everything = elements(operand.type.shape)
        touched = _touched(nests, operand.name)
        moved += _bytes(operand.type, everything if whole else _least(touched, everything))
    return Demand(sum((_flops(statement, types) for statement in statements), ZERO), moved)


def _least(touched: IntExpr, everything: IntExpr) -> IntExpr:
    """The smaller one; a packed copy is read as a whole."""
    if not touched.terms or never_negative(touched - everything, {}):
        return everything
    return touched if never_negative(everything - touched, {}) else touched.minimum(everything)


def _bytes(type: TensorType, count: IntExpr) -> IntExpr:
    return count * type.dtype.numpy.itemsize


def _touched(nests: Iterable[Nest], tensor: str) -> IntExpr:
    """Elements of a tensor that are read, at most: one for every index that the positions depend on."""
    total = ZERO
    for nest in nests:
        extents = _extents(nest.axes, nest.body)
        for read in dict.fromkeys(reads(nest.body)):
            if read.tensor == tensor:
                total += _count(read, extents)
    return total


def _flops(statement: Statement, types: Mapping[str, TensorType]) -> IntExpr:
    if isinstance(statement, Nest):
        return _of_formula(statement.axes, statement.body)
    if statement.scan is not None:
        inner = statement.scan.body.types()
        return statement.scan.extent * sum((_flops(s, inner) for s in statement.scan.body.statements), ZERO)
    return _of_transform(statement, types) if statement.name in OF_KNOWN_LENGTH else ZERO


def _of_transform(statement: Primitive, types: Mapping[str, TensorType]) -> IntExpr:
    """5 n log2 n for a complex row, half of it for a real one."""
    real = statement.name.removesuffix("_last") if statement.name.endswith("_last") else ""
    type = statement.targets[0].type if real == "irfft" else types[statement.operands[0]]
    length = type.shape[OF_KNOWN_LENGTH[statement.name]].value
    return elements(type.shape) * round(5 * math.log2(max(2, length)) / (2 if "rfft" in real else 1))


def _of_formula(axes: Sequence[Axis], body: Expr) -> IntExpr:
    extents = _extents(axes, body)
    total = ZERO
    for expr in parts(body):
        match expr:
            case Call(function) if function != "cast":
                total += _count(expr, extents) * (TRANSCENDENTAL_FLOPS if function in TRANSCENDENTAL else 1)
            case Reduce(_, inner, _):
                total += math.prod((axis.extent for axis in inner), start=_count(expr, extents))
            case _:
                pass
    return total


def _extents(axes: Sequence[Axis], body: Expr) -> dict[str, IntExpr]:
    """Of every index of a nest; of one that several sums use, the largest that is known."""
    found = {axis.name: axis.extent for axis in axes}
    for expr in parts(body):
        for axis in expr.axes if isinstance(expr, Reduce) else ():
            found[axis.name] = found.get(axis.name, ZERO).maximum(axis.extent)
    return found


def _count(expr: Expr, extents: Mapping[str, IntExpr]) -> IntExpr:
    return math.prod((extents[name] for name in sorted(free(expr))), start=IntExpr.constant(1))
