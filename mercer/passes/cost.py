"""Operation and byte counts of programs, for the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from mercer.ir import analysis
from mercer.ir.graph import Node
from mercer.ir.integers import IntExpr
from mercer.ir.library import Library
from mercer.ir.nests import Statement, defined
from mercer.ir.types import TensorType
from mercer.passes.ledger import Cost


def extent(value: IntExpr) -> int:
    """The number, with every symbolic dim taken as 1."""
    return int(value.evaluate(lambda _: 1))


def elements(shape: Iterable[IntExpr]) -> int:
    return math.prod(map(extent, shape))


def size(kind: TensorType) -> int:
    """Bytes of a tensor."""
    return elements(kind.shape) * kind.dtype.numpy.itemsize


def statement_cost(statement: Statement, types: Mapping[str, TensorType]) -> Cost:
    """`mercer.ir.analysis.cost` in numbers; every operation counts the same."""
    counted = analysis.cost(statement, types)
    return Cost(extent(counted.flops + counted.transcendental), extent(counted.bytes))


def node_cost(node: Node, types: Mapping[str, TensorType], library: Library) -> Cost:
    """The cost of a node's definition, statement by statement."""
    operands = [types[name] for name in node.operands]
    instance = library.instantiate(node.operator, operands, dict(node.attributes), node.span)
    inner = dict(zip(instance.operands, operands, strict=True)) | {c.name: c.type for c in instance.constants}
    total = Cost(0, 0)
    for statement in instance.statements:
        inner |= {value.name: value.type for value in defined(statement)}
        total += statement_cost(statement, inner)
    return total
