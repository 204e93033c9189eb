"""Words of 32 bits that hold two numbers of 16 bits or four bytes, the first one in the lowest bits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Call, Const, Expr
from mercer.ir.packed import COUNTS
from mercer.ir.types import Array, DType

DOT = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""By the number of words. LLVM makes one instruction of it and an addition where the CPU has VNNI."""

QUADS = {4: "llvm.x86.avx512.vpdpbusd.128", 8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
"""By the number of words; for CPUs with VNNI."""

NARROW = {
    4: "llvm.x86.sse2.packsswb.128",
    8: "llvm.x86.avx2.packsswb",
    16: "llvm.x86.avx512.packsswb.512",
}
"""By the number of words: of two vectors of i16 one of i8, eight numbers of each at a time."""

SIGNS = -0x7F7F7F80
"""The signs of four bytes: 128 more in each of them, without sign."""


def modulo(operate: Callable[..., TirExpr], *values: TirExpr) -> TirExpr:
    """An operation of i32 modulo 2**32.

    By way of 64 bits: LLVM and C leave open what a number of 32 bits is after an overflow. LLVM takes the detour out
    again. (In unsigned numbers, TVM takes 0 - x to be 0.)
    """
    return vm.cast(operate(*(vm.cast(value, "int64") for value in values)), "int32")


def add(a: TirExpr, b: TirExpr) -> TirExpr:
    return modulo(operator.add, a, b)


def dot(a: TirExpr, b: TirExpr) -> TirExpr:
    """low(a)*low(b) + high(a)*high(b) of every two words, in i32; not both halves are (-2**15)**2."""
    width = vm.lanes(a)
    if width in DOT:
        halves = (tirx.reinterpret(f"int16x{2 * width}", word) for word in (a, b))
        return T.call_llvm_pure_intrin(f"int32x{width}", DOT[width], *halves)
    half = tirx.const(16, "int32")
    low = ((a << half) >> half) * ((b << half) >> half)
    return low + (a >> half) * (b >> half)


def add_dot(total: TirExpr, a: TirExpr, b: TirExpr) -> TirExpr:
    return add(total, dot(a, b))


def add_quad(total: TirExpr, a: TirExpr, b: TirExpr) -> TirExpr:
    """total and the four products of bytes of every two words, in i32; those of a have no sign."""
    width = vm.lanes(total)
    if width in QUADS:
        fours = (tirx.reinterpret(f"int8x{4 * width}", word) for word in (a, b))
        return T.call_llvm_pure_intrin(f"int32x{width}", QUADS[width], total, *fours)
    for at in (0, 8, 16, 24):
        total = add(total, ((a >> at) & 255) * ((b << (24 - at)) >> 24))
    return total


def joined(parts: Sequence[TirExpr]) -> TirExpr:
    """Words of the low halves of two vectors of i32, or of the low bytes of four, the first one in the lowest bits."""
    bits = 32 // len(parts)
    word = parts[-1] << vm.const(parts[-1], 32 - bits)
    for k, part in enumerate(parts[:-1]):
        word = word | ((part & vm.const(part, 2**bits - 1)) << vm.const(part, k * bits))
    return vm.kept(word)


def load(buffer: Any, place: TirExpr) -> TirExpr:
    """The word of the numbers from this place on."""
    count = 32 // int(str(buffer.dtype).removeprefix("int"))
    return tirx.reinterpret("int32", buffer[T.ramp(place, tirx.const(1, "int64"), count)])


def interleaved(*parts: TirExpr) -> TirExpr:
    """Words of two vectors of i16, or of four of i8, the first one in the lowest bits."""
    first, second, *others = parts
    if others:
        first, second = _interleaved(first, second, "int16"), _interleaved(others[0], others[1], "int16")
    return _interleaved(first, second, "int32")


def _interleaved(first: TirExpr, second: TirExpr, dtype: str) -> TirExpr:
    """Numbers of twice the size."""
    width = vm.lanes(first)
    if width == 1:
        bits = int(dtype.removeprefix("int")) // 2
        both = vm.cast(second, "int32") << tirx.const(bits, "int32")
        return vm.cast(both | (vm.cast(first, "int32") & tirx.const((1 << bits) - 1, "int32")), dtype)
    order = [k + half for k in range(width) for half in (0, width)]
    return vm.kept(tirx.reinterpret(f"{dtype}x{width}", tirx.Shuffle([first, second], order)))


def is_high(dtype: DType, divisor: Any) -> bool:
    """Whether a quotient of this type has its bits in the high words: the divisor is a power of two from 2**32 on."""
    return dtype is DType.I64 and isinstance(divisor, int) and divisor >= 2**32 and divisor & (divisor - 1) == 0


def high(x: TirExpr, divisor: int) -> TirExpr:
    """floor(x / divisor) as i32, of an i64."""
    width = vm.lanes(x)
    if width == 1:
        word = vm.cast(x >> tirx.const(32, "int64"), "int32")
    else:
        halves = vm.kept(tirx.reinterpret(f"int32x{2 * width}", x))
        word = tirx.Shuffle([halves], list(range(1, 2 * width, 2)))
    return word >> vm.const(word, divisor.bit_length() - 33)


def scaled(a: TirExpr, b: TirExpr, rounding: int, divisor: int) -> TirExpr:
    """floor((a*b + rounding) / divisor) as i32, of i32 with products of 64 bits, on a vector of four or more lanes.

    The even and the odd lanes are multiplied where they lie, as vector units do it.
    """
    width = max(vm.lanes(a), vm.lanes(b))
    half = vm.const(tirx.const(0, "int64"), 32)

    def parts(x: TirExpr) -> tuple[TirExpr, TirExpr]:
        if vm.lanes(x) == 1:
            both = vm.broadcast(vm.cast(x, "int64"), width // 2)
            return both, both
        pairs = vm.kept(tirx.reinterpret(f"int64x{width // 2}", x))
        shift = vm.broadcast(half, width // 2)
        return (pairs << shift) >> shift, pairs >> shift

    products = (x * y + vm.const(x, rounding) for x, y in zip(parts(a), parts(b), strict=True))
    even, odd = (vm.kept(tirx.reinterpret(f"int32x{width}", product)) for product in products)
    word = tirx.Shuffle([even, odd], [k + width if k % 2 else k + 1 for k in range(width)])
    return word >> vm.const(word, divisor.bit_length() - 33)


NEAREST = 1 << 22
"""Magnitude of the limits of `Nearest`."""

_SHIFT = 1.5 * 2**23
_SHIFT_BITS = 0x4B400000


@dataclass(frozen=True)
class Nearest:
    """min(max(the integer nearest to x*y, low), high) as i32, of f32; `is_word` where that integer has 16 bits."""

    x: Expr
    y: Expr
    low: int
    high: int
    is_word: bool

    @staticmethod
    def of(e: Expr) -> Nearest | None:
        """Of cast:i32(min(max(round(f64(x) * f64(y)), low), high)), where `value` gives that within these limits."""
        match e:
            case Call(
                "cast",
                (Call("min", (Call("max", (inner, Const(float() as low))), Const(float() as high))),),
                DType.I32,
            ):
                pass
            case _:
                return None
        is_word = False
        match inner:
            case Call("cast", (Call("cast", (rounded,), DType.I16),), DType.F64):
                is_word, inner = True, rounded
            case _:
                pass
        match inner:
            case Call("round", (Call("mul", (Call("cast", (x,), DType.F64), Call("cast", (y,), DType.F64))),)):
                limits = all(abs(each) <= NEAREST and each == int(each) for each in (low, high))
                on_cpu = vm.REGISTERS.get() == "global"
                if limits and on_cpu and x.dtype is y.dtype is DType.F32:
                    return Nearest(x, y, int(low), int(high), is_word)
            case _:
                pass
        return None

    def value(self, x: TirExpr, y: TirExpr) -> TirExpr:
        """Of a product of 48 bits; a half goes to even.

        A multiply-add that rounds once brings the integer to the last bits of a number whose order is that of its bits.
        """
        if vm.FUSED.get():
            word = _rounded(x, y, _SHIFT)
            word = vm.kept(tirx.max(word, vm.const(word, _SHIFT_BITS + self.low)))
            return vm.kept(tirx.min(word, vm.const(word, _SHIFT_BITS + self.high))) - vm.const(word, _SHIFT_BITS)
        width = max(vm.lanes(x), vm.lanes(y))
        x, y = vm.broadcast(x, width), vm.broadcast(y, width)
        product = vm.kept(vm.cast(x, "float64") * vm.cast(y, "float64"))
        limited = vm.kept(vm.maximum(vm.minimum(product, vm.const(product, self.high)), vm.const(product, self.low)))
        shifted = vm.kept(limited + vm.const(product, 1.5 * 2.0**52))
        return vm.cast(tirx.reinterpret(vm.like(product, "int64"), shifted), "int32")


def _rounded(x: TirExpr, y: TirExpr, shift: float) -> TirExpr:
    """The bits of x*y + shift, of f32."""
    width = max(vm.lanes(x), vm.lanes(y))
    x, y = vm.broadcast(x, width), vm.broadcast(y, width)
    return vm.kept(vm.bits(vm.fused(x, y, vm.const(x, shift))))


@dataclass(frozen=True)
class Saturating:
    """min(max(the integer nearest to x*y, less - 128), less + 127) - less in bytes, of an integer of 16 bits."""

    x: Expr
    y: Expr
    less: int

    @staticmethod
    def of(e: Expr) -> Saturating | None:
        """What e is, where vector units limit numbers of 16 bits as they make bytes of them."""
        match e:
            case Call("cast", (Call("sub", (limited, Const(int() as less))),)):
                pass
            case Call("cast", (Call("add", (limited, Const(int() as more))),)):
                less = -more
            case Call("cast", (limited,)):
                less = 0
            case _:
                return None
        found = Nearest.of(limited)
        if found is None or not found.is_word or e.dtype is not DType.I8 or not vm.FUSED.get():
            return None
        return Saturating(found.x, found.y, less) if (found.low, found.high) == (less - 128, less + 127) else None

    def word(self, x: TirExpr, y: TirExpr) -> TirExpr:
        """The integer nearest to x*y, less so much, in the low half of an i32."""
        return _rounded(x, y, _SHIFT - self.less)


def saturated(parts: Sequence[TirExpr], interleaved: bool = False) -> TirExpr:
    """The low halves of two or four vectors of i32 as bytes, limited to -128 and 127: vector by vector, or in turns.

    Of two vectors of 16 bits, vector units narrow eight numbers of each at a time; one permutation orders the bytes.
    """
    width, count = vm.lanes(parts[0]), len(parts)
    halves = [vm.kept(tirx.reinterpret(f"int16x{2 * width}", part)) for part in parts]
    taken = [at + 2 * width * half for k in range(0, 2 * width, 8) for half in (0, 1) for at in range(k, k + 8, 2)]
    pairs = [vm.kept(tirx.Shuffle(halves[k : k + 2], taken)) for k in range(0, count, 2)]
    both = vm.kept(T.call_llvm_pure_intrin(f"int8x{4 * width}", NARROW[width], pairs[0], pairs[-1]))
    places = (divmod(k, count)[::-1] if interleaved else divmod(k, width) for k in range(count * width))
    order = [lane // 4 * 16 + part * 4 + lane % 4 for part, lane in places]
    return vm.kept(tirx.Shuffle([both], order))


def packed(array: Array, dtype: DType) -> Array:
    """Neighbours of this type along the last axis as words; the last word is filled up with 0."""
    narrow = np.ascontiguousarray(array, dtype.numpy)
    rest = -narrow.shape[-1] % COUNTS[dtype]
    padded = np.pad(narrow, [(0, 0)] * (narrow.ndim - 1) + [(0, rest)])
    return np.ascontiguousarray(padded).view("<i4")
