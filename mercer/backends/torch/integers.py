"""Contractions of integers: what generated modules call in place of `torch.einsum`."""

from __future__ import annotations

from mercer.ir.types import DType

NAME = "integer_einsum"

TYPES = frozenset((DType.I32, DType.I16, DType.I8))
"""The element types that it takes."""

SOURCE = '''
def integer_einsum(equation, left, right):
    """torch.einsum of integers of up to 32 bits, modulo the range of their type.

    PyTorch multiplies matrices of float64 on every device, exactly as long as no sum reaches 2**53; where one might,
    the numbers are taken apart into halves of 16 bits.
    """

    def contract(a, b):
        return torch.einsum(equation, a.double(), b.double()).long()

    letters, kept = equation.split("->")
    sizes = dict(zip(letters.replace(",", ""), (*left.shape, *right.shape)))
    reach = 1.0
    for letter, size in sizes.items():
        reach *= 1 if letter in kept else size
    for operand in (left, right):
        reach *= float(operand.double().abs().max()) if operand.numel() else 0
    if reach < 2**53:
        return contract(left, right).to(left.dtype)
    low = contract(left & 65535, right & 65535)
    middle = contract(left >> 16, right & 65535) + contract(left & 65535, right >> 16)
    return (low + (middle << 16)).to(left.dtype)
'''.strip()
"""Sums of halves are exact for up to 2**20 terms."""
