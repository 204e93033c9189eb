"""Reshapes that cut the last axis of a tensor into several, as heads of an attention: their readers take the tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mercer.backends.tvm.analysis import flatten
from mercer.ir.index import Expr, Read, reads, transform
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Primitive, Statement
from mercer.ir.types import TensorType


def without_splits(
    statements: Sequence[Statement], outputs: Sequence[str], types: Mapping[str, TensorType]
) -> list[Statement]:
    """The same program without reshapes that cut the last axis of what a nest computes, where all readers are nests
    that read it at their own rows: a group of rows would end there."""
    computed = {statement.target for statement in statements if isinstance(statement, Nest)}
    readers: dict[str, list[int]] = {}
    for number, statement in enumerate(statements):
        for name in read_names(statement):
            readers.setdefault(name, []).append(number)
    found: dict[int, Statement] = dict(enumerate(statements))
    for number, view in enumerate(statements):
        if not isinstance(view, Primitive) or view.name != "reshape":
            continue
        (source,), target = view.operands, view.targets[0].name
        if source not in computed or target in outputs or not _cuts(types[source], types[target]):
            continue
        rank = len(types[source].shape) - 1
        places = readers.get(target, [])
        nests = {k: s for k in places if isinstance(s := found[k], Nest) and _own_rows(s, target, rank)}
        if len(nests) == len(places):
            del found[number]
            found |= {k: _reading(s, target, source, types) for k, s in nests.items()}
    return list(found.values())


def _cuts(source: TensorType, target: TensorType) -> bool:
    """Whether only the last axis is another one, and has become several."""
    *rows, last = source.shape
    parts = target.shape[len(rows) :]
    return (
        target.shape[: len(rows)] == tuple(rows)
        and len(parts) > 1
        and all(size.is_constant for size in (last, *parts))
        and math.prod(parts, start=ONE) == last
    )


def _own_rows(nest: Nest, name: str, rank: int) -> bool:
    own = tuple(IntExpr.var(axis.name) for axis in nest.axes[:rank])
    return all(r.pad is None and r.indices[:rank] == own for r in reads(nest.body) if r.tensor == name)


def _reading(nest: Nest, target: str, source: str, types: Mapping[str, TensorType]) -> Nest:
    rank = len(types[source].shape) - 1
    parts = replace(types[target], shape=types[target].shape[rank:])

    def change(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.tensor != target:
            return e
        return replace(e, tensor=source, indices=(*e.indices[:rank], flatten(e.indices[rank:], parts)))

    return replace(nest, body=transform(nest.body, change))
