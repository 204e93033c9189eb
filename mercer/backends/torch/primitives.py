"""What index notation does not cover, as PyTorch calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mercer.backends.torch.code import Code
from mercer.backends.torch.terms import Algebra
from mercer.ir.nests import Primitive

Rule: TypeAlias = Callable[[Algebra, Primitive, Sequence[Code]], list[Code]]


def _reshape(algebra: Algebra, statement: Primitive, operands: Sequence[Code]) -> list[Code]:
    extents = [algebra.count(extent).code for extent in statement.targets[0].type.shape]
    holes = ", ".join("{}" for _ in extents)
    return [algebra.block.postfix(f"{{}}.reshape({holes})" if extents else "{}.reshape(())", operands[0], *extents)]


PRIMITIVES: dict[str, Rule] = {"reshape": _reshape}
"""Rules by name: (statement, operands) -> one expression for each target."""
