"""Products of small integers in the forms of which vector units sum several at once."""

from __future__ import annotations

from mercer.ir.index import Call, Const, Expr, Read
from mercer.ir.types import DType

SIGN = 128
"""What a byte with a sign lacks to be one without."""

BYTES_FEATURE = "avx512vnni"
"""Of a CPU that multiplies four bytes of a word at once, as LLVM calls it."""

COUNTS = {DType.I16: 2, DType.I8: 4}
"""How many numbers of a type make a word of 32 bits."""


def packed_factors(product: Expr) -> tuple[Read, Read] | None:
    """The reads a and b of cast:i32(a) * cast:i32(b) in i16, or of (cast:i32(a) + 128) * cast:i32(b) in i8."""
    match product:
        case Call("mul", (left, right)):
            a, b = _factor(left), _factor(right)
        case _:
            return None
    if a is None or b is None or a[0].dtype is not b[0].dtype:
        return None
    match a[0].dtype, a[1], b[1]:
        case (DType.I16, 0, 0) | (DType.I8, 128, 0):
            return a[0], b[0]
        case DType.I8, 0, 128:
            return b[0], a[0]
        case _:
            return None


def _factor(e: Expr) -> tuple[Read, int] | None:
    """A read and what is added to it."""
    match e:
        case Call("cast", (Read() as read,)) if e.dtype is DType.I32:
            return read, 0
        case Call("add", (Call("cast", (Read() as read,)), Const(int() as number))) if e.dtype is DType.I32:
            return read, number
        case _:
            return None
