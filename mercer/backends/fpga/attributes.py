"""Attributes of nodes as plain numbers."""

from __future__ import annotations

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.integers import IntExpr


def number(node: Node, name: str) -> float:
    """An attribute that is a number."""
    return plain(node.attribute(name))


def plain(value: AttributeValue) -> float:
    if isinstance(value, IntExpr):
        return value.value
    assert isinstance(value, int | float)
    return value


def pair(node: Node, name: str, axes: int, default: tuple[int, ...] = ()) -> tuple[int, int]:
    """An attribute that is one number or one per spatial axis, as (height, width)."""
    value = node.attribute(name)
    if value is None:
        sizes = default
    elif isinstance(value, tuple):
        sizes = tuple(int(plain(entry)) for entry in value)
    else:
        sizes = (int(plain(value)),) * axes
    return (sizes[0], sizes[1]) if axes == 2 else ((0 if name == "pad" else 1), sizes[0])
