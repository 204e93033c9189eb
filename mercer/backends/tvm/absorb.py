"""Nests that go into the only nest that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mercer.ir.index import Expr, Read, substitute, transform
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Statement


def absorbed(nests: Nests, takes: Callable[[Nest, Nest], bool], pays: Callable[[Nest], bool]) -> Nests:
    """The same program, where a nest goes into its only reader, a nest that `takes` the one before: `takes(producer,
    reader)`, if computing both as a whole `pays`."""
    statements = dict(enumerate(nests.statements))
    readers: dict[str, set[int]] = {}
    for number, statement in statements.items():
        for name in read_names(statement):
            readers.setdefault(name, set()).add(number)
    for number, producer in list(statements.items()):
        if not isinstance(producer, Nest) or producer.target in nests.outputs:
            continue
        places = readers.get(producer.target, set[int]())
        reader = statements[min(places)] if len(places) == 1 else None
        if not isinstance(reader, Nest) or not takes(producer, reader):
            continue
        whole = _merged(producer, reader)
        if pays(whole):
            (place,) = places
            statements[place] = whole
            del statements[number]
            for name in read_names(producer):
                readers[name] = (readers[name] - {number}) | {place}
    return replace(nests, statements=tuple[Statement, ...](statements.values()))


def _merged(producer: Nest, reader: Nest) -> Nest:
    """The reader with what the producer computes in the place of its reads."""

    def change(expr: Expr) -> Expr:
        if not isinstance(expr, Read) or expr.tensor != producer.target:
            return expr
        places = {axis.name: index for axis, index in zip(producer.axes, expr.indices, strict=True)}
        return substitute(producer.body, places)

    origins = tuple(dict.fromkeys((*producer.origins, *reader.origins)))
    return replace(reader, body=transform(reader.body, change), origins=origins)
