"""What an expression of the language can be while it is elaborated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from mercer.frontend.syntax import Definition
from mercer.ir.graph import AttributeValue, KernelValue, format_attribute
from mercer.ir.index import Call, Const, Expr, Index, Read, Reduce
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType, TensorType


@dataclass(frozen=True)
class Tensor:
    """A whole tensor: the name under which the builder knows it."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[IntExpr, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True)
class View:
    """A tensor with its leading axes already indexed, as `x[n]` of a matrix: what is left is a vector, an image …"""

    tensor: Tensor
    prefix: tuple[IntExpr, ...]
    maps: tuple[Reference, ...] = ()
    """Scalar functions that every element goes through, first to last."""

    @property
    def shape(self) -> tuple[IntExpr, ...]:
        return self.tensor.type.shape[len(self.prefix) :]

    @property
    def dtype(self) -> DType:
        return self.tensor.type.dtype


@dataclass(frozen=True)
class Reference:
    """A definition used as a value, such as `activation = relu`."""

    definition: Definition


@dataclass(frozen=True)
class Poison:
    """Stands for the value of an expression that was already reported as wrong."""


POISON = Poison()

Scalar: TypeAlias = Expr
Static: TypeAlias = "int | float | bool | str | None | IntExpr | KernelValue | Reference | tuple[Static, ...]"
AnyValue: TypeAlias = "Static | Scalar | Tensor | View | Poison | tuple[AnyValue, ...]"
"""A tuple is a list of the language, or the results of a call that has several."""

SCALARS = (Const, Index, Read, Call, Reduce)


def simplified(value: IntExpr) -> IntExpr | int:
    """A Python int when the expression is a number."""
    return value.value if value.is_constant else value


def is_integer(value: AnyValue) -> bool:
    return isinstance(value, IntExpr) or (isinstance(value, int) and not isinstance(value, bool))


def is_static(value: AnyValue) -> bool:
    if isinstance(value, tuple):
        return all(is_static(v) for v in value)
    return not isinstance(value, (*SCALARS, Tensor, View, Poison))


def describe(value: AnyValue) -> str:
    """For messages: `a tensor f32[N, 3]`, `the number 3`."""
    match value:
        case Tensor(_, type_):
            return f"a tensor {type_}"
        case View():
            return f"a part of tensor `{value.tensor.name}` with shape [{', '.join(map(str, value.shape))}]"
        case bool() | None:
            return f"`{format_attribute(value)}`"
        case int() | float():
            return f"the number {value}"
        case str():
            return f'the string "{value}"'
        case IntExpr():
            return f"the dimension {value}"
        case KernelValue():
            return f"the kernel {value}"
        case Reference(definition):
            return f"the {definition.kind} `{definition.name.name}`"
        case tuple():
            return f"a list of {len(value)}"
        case Poison():
            return "an invalid value"
        case _:
            return f"a number of type {value.dtype}"


def as_attribute(value: Static) -> AttributeValue:
    """The form in which the graph keeps it; a definition becomes its name."""
    match value:
        case Reference(definition):
            return KernelValue(definition.name.name)
        case tuple():
            return tuple(as_attribute(v) for v in value)
        case IntExpr():
            return simplified(value)
        case _:
            return value


def constant_of(value: int | float | bool, dtype: DType) -> Const:
    """The number in the given element type; among integers, infinity is the largest and -infinity the lowest."""
    if dtype is DType.BOOL:
        return Const(bool(value), dtype)
    if dtype.is_integer and abs(value) == math.inf:
        largest = 2 ** (3 if dtype is DType.I4 else 8 * dtype.numpy.itemsize - 1) - 1
        return Const(largest if value > 0 else -largest - 1, dtype)
    kind = complex if dtype.is_complex else float if dtype.is_float else int
    return Const(kind(value), dtype)
