"""Reshapes that cut the last axis of a tensor into several, as heads of an attention: their readers take the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mercer.backends.tvm.analysis import elements, flatten
from mercer.ir.index import Expr, Read, reads, transform
from mercer.ir.integers import IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Primitive, Statement, defined
from mercer.ir.types import TensorType


def without_splits(
    statements: Sequence[Statement], outputs: Sequence[str], types: Mapping[str, TensorType]
) -> list[Statement]:
    """The same program without reshapes that cut the last axis of what a nest computes, where all readers are nests
    that read it at their own rows: a group of rows would end there."""
    computed = {statement.target for statement in statements if isinstance(statement, Nest)}
    views = [s for s in statements if isinstance(s, Primitive) and s.name == "reshape" and s.operands[0] in computed]
    sources = {view.targets[0].name: view.operands[0] for view in views}
    cuts = {name for name, source in sources.items() if name not in outputs and _cuts(types[source], types[name])}
    if not cuts:
        return list(statements)
    for statement in statements:
        for name in read_names(statement) & cuts:
            if not isinstance(statement, Nest) or not _own_rows(statement, name, types[sources[name]]):
                cuts.remove(name)
    gone = {name: (sources[name], types[name]) for name in cuts}
    left = [statement for statement in statements if defined(statement)[0].name not in gone]
    return [_reading(s, gone, types) if isinstance(s, Nest) and read_names(s) & cuts else s for s in left]


def _cuts(source: TensorType, target: TensorType) -> bool:
    """Whether only the last axis is another one, and has become several."""
    *rows, last = source.shape
    parts = target.shape[len(rows) :]
    return (
        target.shape[: len(rows)] == tuple(rows)
        and len(parts) > 1
        and all(size.is_constant for size in parts)
        and elements(parts) == last
    )


def _own_rows(nest: Nest, name: str, source: TensorType) -> bool:
    rank = len(source.shape) - 1
    own = tuple(IntExpr.var(axis.name) for axis in nest.axes[:rank])
    return all(read.pad is None and read.indices[:rank] == own for read in reads(nest.body) if read.tensor == name)


def _reading(nest: Nest, gone: Mapping[str, tuple[str, TensorType]], types: Mapping[str, TensorType]) -> Nest:
    """The nest with reads of sources, under the names of what is gone, whose types are beside them."""

    def change(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.tensor not in gone:
            return e
        source, type = gone[e.tensor]
        rank = len(types[source].shape) - 1
        last = flatten(e.indices[rank:], replace(type, shape=type.shape[rank:]))
        return replace(e, tensor=source, indices=(*e.indices[:rank], last))

    return replace(nest, body=transform(nest.body, change))
