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


def _argsort(algebra: Algebra, statement: Primitive, operands: Sequence[Code]) -> list[Code]:
    descending = bool(dict(statement.attributes)["descending"])
    call = f"torch.argsort({{}}, dim=-1, descending={descending}, stable=True).to(torch.int32)"
    return [algebra.block.postfix(call, operands[0])]


def _fourier(algebra: Algebra, statement: Primitive, operands: Sequence[Code]) -> list[Code]:
    return [algebra.block.code(f"torch.fft.{statement.name.removesuffix('_last')}({{}})", operands[0], hint="spectrum")]


PRIMITIVES: dict[str, Rule] = {"reshape": _reshape, "argsort": _argsort, "fft_last": _fourier, "ifft_last": _fourier}
"""Rules by name: (statement, operands) -> one expression for each target."""
