"""What index notation does not cover, as PyTorch calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mercer.backends.torch.code import Code
from mercer.backends.torch.terms import Algebra
from mercer.ir.nests import Primitive
from mercer.ir.primitives import OF_KNOWN_LENGTH, THREEFRY_PARITY, THREEFRY_ROTATIONS

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
    name, _, place = statement.name.partition("_")
    dim = ", dim=-2" if place == "inner" else ""
    return [algebra.block.code(f"torch.fft.{name}({{}}{dim})", operands[0], hint="spectrum")]


def _scatter_add(algebra: Algebra, _: Primitive, operands: Sequence[Code]) -> list[Code]:
    block = algebra.block
    name = block.define(
        "scatter_add",
        """def {}(base, index, values):
    inside = (index >= 0) & (index < base.shape[-2])
    rows = torch.where(inside, index, 0).long()[..., None].expand_as(values)
    return base.scatter_add(-2, rows, torch.where(inside[..., None], values, 0))""",
    )
    return [block.code(f"{name}({{}}, {{}}, {{}})", *operands)]


def _threefry(algebra: Algebra, _: Primitive, operands: Sequence[Code]) -> list[Code]:
    block = algebra.block
    name = block.define(
        "threefry",
        f"""def {{}}(key, counter):
    k, (a, b) = key.long(), counter.long()
    words = (k[0], k[1], k[0] ^ k[1] ^ {THREEFRY_PARITY:#x})
    a, b = a + words[0], (b + words[1]) & 0xFFFFFFFF
    for group in range(5):
        for rotation in {THREEFRY_ROTATIONS}[group % 2]:
            a = (a + b) & 0xFFFFFFFF
            b = ((b << rotation | b >> 32 - rotation) ^ a) & 0xFFFFFFFF
        a, b = a + words[(group + 1) % 3], (b + words[(group + 2) % 3] + group + 1) & 0xFFFFFFFF
    bits = torch.stack([a, b]) & 0xFFFFFFFF
    return torch.where(bits < 1 << 31, bits, bits - (1 << 32)).to(torch.int32)""",
    )
    return [block.code(f"{name}({{}}, {{}})", *operands, hint="bits")]


PRIMITIVES: dict[str, Rule] = {
    "reshape": _reshape,
    "argsort": _argsort,
    **dict.fromkeys(OF_KNOWN_LENGTH, _fourier),
    "scatter_add": _scatter_add,
    "threefry": _threefry,
}
"""Rules by name: (statement, operands) -> one expression for each target."""
