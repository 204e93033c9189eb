"""From named operators to loop nests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mercer.ir.graph import Constant, Graph, Node, Value
from mercer.ir.index import Const, Expr, Read, transform
from mercer.ir.library import Instance, Library
from mercer.ir.nests import Nests, Origin, Primitive, Statement, defined


def lower(graph: Graph, library: Library) -> Nests:
    """Replace every node of `graph` by the statements of its definition.

    A constant of rank 0 becomes a literal where it is read. Names of intermediate tensors are `node.tensor`.
    """
    types = graph.types()
    constants = {c.name: c for c in graph.constants}
    statements: list[Statement] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        operands = [types[name] for name in node.operands]
        instance = library.instantiate(node.operator, operands, dict(node.attributes), node.span)
        names = _names(node, instance, renamed)
        constants |= {names[c.name]: replace(c, name=names[c.name]) for c in instance.constants}
        origin = Origin(node.operator, node.name, node.span)
        for statement in instance.statements:
            statements.append(rename(statement, names, (origin,)))
        for result, output in zip(node.results, instance.outputs, strict=True):
            if names[output] != result.name:  # the output is an operand: the node passes a tensor through
                renamed[result.name] = names[output]
    literals = {name: _literal(c) for name, c in constants.items() if not c.type.shape and c.data.array is not None}
    statements = [_inline_literals(s, literals) for s in statements]
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    used = {name for s in statements for name in read_names(s)} | set(outputs)
    return Nests(
        graph.name,
        graph.inputs,
        graph.parameters,
        tuple(c for c in constants.values() if c.name in used),
        tuple(statements),
        outputs,
    )


def _names(node: Node, instance: Instance, renamed: Mapping[str, str]) -> dict[str, str]:
    """Names in the program for the names in the definition."""
    names = {inner: renamed.get(outer, outer) for inner, outer in zip(instance.operands, node.operands, strict=True)}
    for output, result in zip(instance.outputs, node.results, strict=True):
        names.setdefault(output, result.name)
    inner = [value.name for s in instance.statements for value in defined(s)] + [c.name for c in instance.constants]
    for name in inner:
        names.setdefault(name, f"{node.name}.{name}")
    return names


def rename(statement: Statement, names: Mapping[str, str], origins: tuple[Origin, ...]) -> Statement:
    """The statement with other tensor names (names not in the mapping stay) and other origins."""
    if isinstance(statement, Primitive):
        return replace(
            statement,
            targets=tuple(Value(names.get(v.name, v.name), v.type) for v in statement.targets),
            operands=tuple(names.get(name, name) for name in statement.operands),
            origins=origins,
        )

    def change(expr: Expr) -> Expr:
        return replace(expr, tensor=names.get(expr.tensor, expr.tensor)) if isinstance(expr, Read) else expr

    target = names.get(statement.target, statement.target)
    return replace(statement, target=target, body=transform(statement.body, change), origins=origins)


def read_names(statement: Statement) -> frozenset[str]:
    """The tensors that a statement reads."""
    if isinstance(statement, Primitive):
        return frozenset(statement.operands)
    found: set[str] = set()

    def note(expr: Expr) -> Expr:
        if isinstance(expr, Read):
            found.add(expr.tensor)
        return expr

    transform(statement.body, note)
    return frozenset(found)


def _literal(constant: Constant) -> Const:
    assert constant.data.array is not None
    number = constant.data.array.item()
    return Const(number, constant.type.dtype)


def _inline_literals(statement: Statement, literals: Mapping[str, Const]) -> Statement:
    if isinstance(statement, Primitive):
        return statement

    def change(expr: Expr) -> Expr:
        return literals.get(expr.tensor, expr) if isinstance(expr, Read) else expr

    return replace(statement, body=transform(statement.body, change))
