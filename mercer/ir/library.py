"""What the IR asks of an operator library, without knowing the language that defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mercer.ir.graph import AttributeValue, Constant
from mercer.ir.nests import Statement
from mercer.ir.spans import Span
from mercer.ir.types import TensorType

GRADIENT = ".grad"
"""Ends the name of the gradient of an operator."""


def primal(operator: str) -> str:
    """The operator whose gradient, or gradient of a gradient, this is; the operator itself when it is none."""
    while operator.endswith(GRADIENT):
        operator = operator.removesuffix(GRADIENT)
    return operator


@dataclass(frozen=True)
class Instance:
    """An operator's definition for operands of given types.

    The statements read `operands` and `constants` by name and assign the `outputs`.
    """

    operands: tuple[str, ...]
    results: tuple[TensorType, ...]
    constants: tuple[Constant, ...]
    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]


class Library(Protocol):
    """A set of operators: the standard library with a user's own."""

    def instantiate(
        self,
        operator: str,
        operands: Sequence[TensorType],
        attributes: Mapping[str, AttributeValue],
        span: Span,
    ) -> Instance:
        """The definition of `operator` for operands of these types.

        Raises a MercerError with `span` when the operator is unknown or its operands or attributes do not fit.
        """
        ...

    def operators(self) -> frozenset[str]: ...

    def normalize(
        self, operator: str, attributes: Mapping[str, AttributeValue]
    ) -> tuple[tuple[str, AttributeValue], ...]:
        """All attributes of `operator` in declaration order, defaults filled in."""
        ...
