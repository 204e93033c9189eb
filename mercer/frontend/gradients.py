"""`grad(y, x)`: reverse mode over the nodes of a graph.

Every node between x and y gets one node `OP.grad` per operand that depends on x. Its operands are those of the node and
the cotangent of a result; its attributes are those of the node, `wrt`, which lists the number of the operand (for a
gradient of a gradient, one number for each), and `of`, the number of the result where that is not the first. The
definition of `OP.grad` is the derivative of the definition of OP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mercer.frontend.diagnostics import CompileError
from mercer.frontend.frames import Builder, fail
from mercer.frontend.values import Static, Tensor, as_attribute
from mercer.ir.derivative import gradient
from mercer.ir.graph import AttributeValue, Node
from mercer.ir.index import Const
from mercer.ir.library import GRADIENT, Instance, Library, primal
from mercer.ir.nests import Nest
from mercer.ir.reverse import DerivativeError
from mercer.ir.spans import Span
from mercer.ir.types import TensorType

WRT, OF = "wrt", "of"
"""The attributes of a gradient."""


def differentiate(
    library: Library,
    builder: Builder,
    nodes: Sequence[Node],
    types: Mapping[str, TensorType],
    y: Tensor,
    x: Tensor,
    span: Span,
) -> Tensor:
    """The gradient of sum(y), y real, with respect to x, real or complex, by new nodes; raises CompileError.

    `nodes` are those so far; `types` has the types of their operands.
    """
    one = builder.constant(np.asarray(1, y.dtype.numpy), "number")
    if y == x:
        return _filled(builder, x, one, span)
    depends, broken = _dependents(nodes, x)
    if y.name not in depends:
        if y.name in broken:
            operator = broken[y.name]
            message = f"`{operator}` has no derivative: it does not give real numbers"
            fail("not-differentiable", message, span, hint="a smooth function in its place has one")
        message = "the first tensor of `grad` does not depend on the second"
        fail("not-differentiable", message, span, hint="grad(y, x) is the gradient of y with respect to x")
    cotangents = {y.name: one}
    for node in reversed(tuple(nodes)):
        for number, result in enumerate(node.results):
            if result.name not in cotangents:
                continue
            for position, name in enumerate(node.operands):
                part = None
                if name in depends:
                    part = _part(library, builder, node, position, number, cotangents[result.name], types, span)
                if part is not None:
                    known = cotangents.get(name)
                    cotangents[name] = builder.apply("add", (known, part), {}, span)[0] if known else part
    if x.name not in cotangents:
        zero = builder.constant(np.asarray(0, x.dtype.numpy), "number")
        return _filled(builder, x, zero, span)
    return cotangents[x.name]


def _filled(builder: Builder, x: Tensor, number: Tensor, span: Span) -> Tensor:
    """A tensor of the shape of x."""
    (same,) = builder.apply("eq", (x, x), {}, span)
    return builder.apply("where", (same, number, number), {}, span)[0]


def _dependents(nodes: Sequence[Node], x: Tensor) -> tuple[dict[str, TensorType], dict[str, str]]:
    """The real and complex tensors that depend on x, and those that do only through others: by which operator."""
    depends, broken = {x.name: x.type}, dict[str, str]()
    for node in nodes:
        smooth = any(name in depends for name in node.operands)
        operator = next((broken[name] for name in node.operands if name in broken), node.operator)
        for value in node.results:
            if smooth and value.type.dtype.rounds:
                depends[value.name] = value.type
            elif smooth or any(name in broken for name in node.operands):
                broken[value.name] = operator
    return depends, broken


def _part(
    library: Library,
    builder: Builder,
    node: Node,
    position: int,
    number: int,
    cotangent: Tensor,
    types: Mapping[str, TensorType],
    span: Span,
) -> Tensor | None:
    """What result `number` of the node adds to the cotangent of the operand at `position`; None when it is 0."""
    attributes: dict[str, Static] = dict(node.attributes)  # type: ignore[arg-type]
    inner = attributes.pop(WRT, ()) if node.operator.endswith(GRADIENT) else ()
    assert isinstance(inner, tuple)
    taken = next((name for name in (WRT, OF) if name in attributes and not inner), None)
    if taken is not None:
        message = f"the attribute `{taken}` of `{node.operator}` has a name that its gradient needs"
        fail("not-differentiable", message, span, hint="give it another name")
    attributes[WRT] = (*inner, position)
    if number:
        attributes[OF] = number
    operands = (*(Tensor(name, types[name]) for name in node.operands), cotangent)
    name = node.operator + GRADIENT
    try:
        given = {key: as_attribute(value) for key, value in attributes.items()}
        made = library.instantiate(name, [t.type for t in operands], given, span)
        return None if _is_zero(made) else builder.apply(name, operands, attributes, span)[0]
    except CompileError as error:
        note = f"`{node.operator}` is applied in {node.span}"
        raise CompileError(replace(d, notes=(*d.notes, note)) for d in error.diagnostics) from None


def _is_zero(made: Instance) -> bool:
    match made.statements:
        case [Nest(body=Const(number))]:
            return number == 0
        case _:
            return False


def instance(
    library: Library,
    operator: str,
    operands: Sequence[TensorType],
    attributes: Mapping[str, AttributeValue],
    span: Span,
) -> Instance:
    """The definition of `operator`, which is a gradient; see `mercer.ir.library.Library`."""
    inner, name = dict(attributes), operator.removesuffix(GRADIENT)
    wrt, of = inner.pop(WRT, None), 0
    if not name.endswith(GRADIENT):
        of = inner.pop(OF, 0)
    if not isinstance(wrt, tuple) or len(wrt) == 0 or not operands:
        fail("missing-argument", f"`{operator}` needs a cotangent and `{WRT} = [number of the operand]`", span)
    *before, position = wrt
    if before:
        inner[WRT] = tuple(before)
    original = library.instantiate(name, operands[:-1], inner, span)
    if not isinstance(position, int) or not 0 <= position < len(operands) - 1:
        fail("wrong-attribute", f"`{name}` has no operand number {position}", span)
    if not isinstance(of, int) or not 0 <= of < len(original.results):
        fail("wrong-attribute", f"`{name}` has no result number {of}", span)
    try:
        return gradient(name, original, operands[:-1], position, of, operands[-1])
    except DerivativeError as error:
        fail("not-differentiable", error.message, span, hint=error.hint)


def normalize(
    library: Library, operator: str, attributes: Mapping[str, AttributeValue]
) -> tuple[tuple[str, AttributeValue], ...]:
    """The attributes of the operator differentiated, then those of the gradient."""
    own = {name: value for name, value in attributes.items() if name in (WRT, OF)}
    rest = {name: value for name, value in attributes.items() if name not in own}
    return (*library.normalize(primal(operator), rest), *own.items())
