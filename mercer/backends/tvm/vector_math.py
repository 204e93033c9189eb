"""Elementary functions of float32 as polynomials in TIR, on scalars and on vectors alike.

TVM's own `exp`, `sin`, ... become one libm call per lane. These forms vectorize; errors in ulp of the correctly rounded
result are measured in tests/backends/test_tvm_math.py. NaN goes in, NaN comes out. Coefficients: Cephes single
precision (exp, tanh, log, atan, asin), SLEEF (sin), N. Juffa (erf).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

from tvm import tirx
from tvm.tirx.script.builder import ir as T

TirExpr: TypeAlias = Any

LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
ROUNDER = 12582912.0
"""1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds to an integer, left in the low mantissa bits."""


def lanes(x: TirExpr) -> int:
    """1 for a scalar."""
    _, _, count = str(x.ty).partition("x")
    return int(count) if count else 1


def element(x: TirExpr) -> str:
    """`float32` for `float32x8`."""
    return str(x.ty).partition("x")[0]


def like(x: TirExpr, dtype: str) -> str:
    """`dtype` with as many lanes as `x`."""
    return dtype if lanes(x) == 1 else f"{dtype}x{lanes(x)}"


def cast(x: TirExpr, dtype: str) -> TirExpr:
    return x if element(x) == dtype else tirx.Cast(like(x, dtype), x)


def bits(x: TirExpr) -> TirExpr:
    """The float32 as int32."""
    return tirx.reinterpret(like(x, "int32"), x)


def from_bits(x: TirExpr) -> TirExpr:
    return tirx.reinterpret(like(x, "float32"), x)


def select(condition: TirExpr, then: TirExpr, otherwise: TirExpr) -> TirExpr:
    width = max(lanes(condition), lanes(then), lanes(otherwise))
    return tirx.Select(*(broadcast(e, width) for e in (condition, then, otherwise)))


def broadcast(x: TirExpr, width: int) -> TirExpr:
    return x if lanes(x) == width else tirx.Broadcast(x, width)


def const(x: TirExpr, value: float) -> TirExpr:
    """The number as a constant of the type of `x`."""
    return broadcast(tirx.const(value, element(x)), lanes(x))


REGISTERS: ContextVar[str] = ContextVar("REGISTERS", default="global")
"""TIR's storage scope of registers: "global" on a CPU, "local" on a GPU."""


FUSED: ContextVar[bool] = ContextVar("FUSED", default=False)
"""Whether the target has multiply-adds that round once."""


def registers(width: int, dtype: str) -> Any:
    """A buffer that becomes registers: TVM puts what is below 1 KiB on the stack, LLVM takes it from there."""
    return T.alloc_buffer((width,), dtype, scope=REGISTERS.get(), layout=None)


def whole(width: int) -> TirExpr:
    """The index of all elements of a register."""
    return T.ramp(0, 1, width) if width > 1 else 0


def let(x: TirExpr) -> TirExpr:
    """A name for a value that is used more than once; vectors of bool have none in TVM.

    Reals are kept in a register and not bound to a TIR variable: TVM's simplifier replaces a variable by its definition
    wherever it is used, which takes time exponential in the length of a chain of definitions.
    """
    kind, width = element(x), lanes(x)
    if kind == "bool" and width > 1:
        return x
    return kept(x) if kind.startswith(("float", "bfloat")) else T.bind(x)


def kept(x: TirExpr) -> TirExpr:
    """A value in a register, out of sight of TVM's simplifier, which takes integers to be unbounded."""
    place = whole(lanes(x))
    register = registers(lanes(x), element(x))
    T.buffer_store(register, x, [place])
    return register[place]


def every_second(buffer: Any, start: TirExpr, width: int) -> TirExpr:
    """`width` elements two apart, an even number, without touching what lies after the last one."""
    low, high = (buffer[T.ramp(start + tirx.const(k, "int64"), tirx.const(1, "int64"), width)] for k in (0, width - 1))
    return tirx.Shuffle([low, high], [*range(0, width, 2), *range(width + 1, 2 * width, 2)])


def polynomial(x: TirExpr, coefficients: Sequence[float]) -> TirExpr:
    """Horner's scheme, highest power first."""
    result = const(x, coefficients[0])
    for c in coefficients[1:]:
        result = result * x + const(x, c)
    return result


def clamp(x: TirExpr, low: float, high: float) -> TirExpr:
    x = let(select(x < const(x, low), const(x, low), x))
    return let(select(x > const(x, high), const(x, high), x))


def maximum(a: TirExpr, b: TirExpr) -> TirExpr:
    """NaN when either is NaN; one instruction when one of the two is a constant."""
    return _extremum(a, b, lambda p, q: p > q)


def minimum(a: TirExpr, b: TirExpr) -> TirExpr:
    return _extremum(a, b, lambda p, q: p < q)


def _extremum(a: TirExpr, b: TirExpr, better: Any) -> TirExpr:
    if is_literal(a):
        return select(better(a, b), a, b)
    if is_literal(b):
        return select(better(b, a), b, a)
    return select(tirx.isnan(a), a, select(better(a, b), a, b))


def is_literal(x: TirExpr) -> bool:
    return isinstance(x.value if isinstance(x, tirx.Broadcast) else x, tirx.FloatImm | tirx.IntImm)


def magnitude(x: TirExpr) -> TirExpr:
    return let(tirx.abs(x))


def with_sign(x: TirExpr, sign: TirExpr) -> TirExpr:
    """|x| with the sign of `sign`, also that of a negative zero."""
    return from_bits((bits(x) & 0x7FFFFFFF) | (bits(sign) & tirx.const(-0x80000000, "int32")))


def _reduced(x: TirExpr, bias: int = 0) -> tuple[TirExpr, TirExpr]:
    """(n + bias in the low bits of an int32, r) with x = n ln 2 + r, |r| <= ln(2)/2."""
    rounder = ROUNDER + bias
    shifted = let(bits(x * const(x, LOG2_E) + const(x, rounder)))
    n = let(from_bits(shifted) - const(x, rounder))
    return shifted, let((x - n * const(x, LN2_HIGH)) - n * const(x, LN2_LOW))


def _to_exponent(n: TirExpr) -> TirExpr:
    """The float32 with the low bits of `n` as its exponent, its bias of 127 in them."""
    return from_bits(n << tirx.const(23, "int32"))


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def exp(x: TirExpr) -> TirExpr:
    """Overflow gives infinity; results below the normal range are rounded to denormals."""
    n, r = _reduced(clamp(x, -104.0, 89.0), 2 * 127)
    half = let(n >> tirx.const(1, "int32"))
    return (polynomial(r, (*_EXP, 1.0, 1.0)) * _to_exponent(half)) * _to_exponent(n - half)


_EXP_SHORT = (1.0, 1.0, 0.49999992056, 0.16666419681, 0.041668228683, 0.0083748570739, 0.0013836794019)
"""Lowest power first; minimax in the relative error."""


def exp_of_negative(x: TirExpr) -> TirExpr:
    """exp where x <= 0: fewer operations, and fewer that wait for each other (Estrin's scheme)."""
    x = let(x)
    n, r = _reduced(let(select(x < const(x, -104.0), const(x, -104.0), x)), 127 + 64)
    c = [const(x, each) for each in _EXP_SHORT]
    square = let(r * r)
    high = let((r * c[5] + c[4]) + square * c[6])
    high = let(square * high + let(r * c[3] + c[2]))
    return (square * high + let(r * c[1] + c[0])) * _to_exponent(n) * const(x, 2.0**-64)


def expm1(x: TirExpr) -> TirExpr:
    n, r = _reduced(clamp(x, -20.0, 89.0), 126)
    p = polynomial(r, _EXP) * (r * r) + r
    scale = let(_to_exponent(n))
    result = let(scale * p + (scale - const(x, 0.5)))
    return select(tirx.EQ(scale, const(x, 0.5)), p, result + result)


def sigmoid(x: TirExpr) -> TirExpr:
    """1 / d with d = 1 + exp(-x), and what the rounding of d has lost."""
    e = let(exp(const(x, 0.0) - x))
    d = let(e + const(x, 1.0))
    q = let(const(x, 1.0) / d)
    lost = const(x, 1.0) - (from_bits(bits(d)) - e)
    return select(e < const(x, math.inf), q - q * (q * lost), q)


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def tanh(x: TirExpr) -> TirExpr:
    a, s = magnitude(x), let(x * x)
    inner = polynomial(s, _TANH) * s * x + x
    outer = const(x, 1.0) - const(x, 2.0) / (exp(a + a) + const(x, 1.0))
    return select(a < const(x, 0.625), inner, with_sign(outer, x))


def sinh(x: TirExpr) -> TirExpr:
    a = magnitude(x)
    t = let(expm1(a - select(a > const(x, 80.0), const(x, 1.0), const(x, 0.0))))
    large = const(x, math.e / 2) * t
    return with_sign(select(a > const(x, 80.0), large, const(x, 0.5) * (t + t / (t + const(x, 1.0)))), x)


def cosh(x: TirExpr) -> TirExpr:
    half = let(const(x, 0.5) * exp(magnitude(x) - const(x, 1.0)))
    return const(x, math.e) * half + const(x, 0.25 / math.e) / half


_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_SQRT_HALF_BITS = 0x3F3504F3


def log(x: TirExpr) -> TirExpr:
    """-inf at 0, NaN below."""
    small = let(x < const(x, 1.17549435e-38))
    scaled = let(bits(select(small, x * const(x, 8388608.0), x)) - _SQRT_HALF_BITS)
    e = let(cast(scaled >> tirx.const(23, "int32"), "float32") - select(small, const(x, 23.0), const(x, 0.0)))
    f = let(from_bits((scaled & 0x7FFFFF) + _SQRT_HALF_BITS) - const(x, 1.0))
    z = let(f * f)
    y = polynomial(f, _LOG) * f * z + e * const(x, LN2_LOW) - const(x, 0.5) * z
    result = f + y + e * const(x, LN2_HIGH)
    infinity, nan = const(x, math.inf), const(x, math.nan)
    result = select(x < infinity, result, x)
    return select(x > const(x, 0.0), result, select(tirx.EQ(x, const(x, 0.0)), const(x, -math.inf), nan))


def log1p(x: TirExpr) -> TirExpr:
    """log(u) + c / u with u = 1 + x, c what the rounding of u has lost."""
    u = let(x + const(x, 1.0))
    d = let(from_bits(bits(u)) - const(x, 1.0))
    lost, whole = let(x - d), let(log(u))
    repaired = select(magnitude(lost) > const(x, 0.0), whole + lost / u, whole)  # not where u is 0 or infinite
    return select(tirx.EQ(d, const(x, 0.0)), x, repaired)


_SIN = (2.60831598097865935e-06, -0.000198106907191686332, 0.00833307858556509018, -0.166666597127914429)
_PI_HIGH, _PI_LOW = 3.141592653589793116, 1.2246467991473532e-16
_PI_PARTS = (3.1415927410125732, -8.742277657347586e-08, -3.4302490200117637e-15)
"""Of float32: their sum is pi."""

_WIDE_ROUNDER = 1.5 * 2.0**52
"""ROUNDER for float64: the integer is left in the low bits."""

_FEW_TURNS = 32768.0
"""Arguments below it are reduced by pi in float32."""


def sin(x: TirExpr) -> TirExpr:
    """The reduction by pi is done in float64 where that is needed, and is good to |x| about 1e9."""
    return _sine_after(x, 0.0)


def cos(x: TirExpr) -> TirExpr:
    return _sine_after(x, 0.5)


def _sine_after(x: TirExpr, turn: float) -> TirExpr:
    """sin(x + turn * pi)"""
    if FUSED.get() and element(x) == "float32":
        x, width = let(x), lanes(x)
        rest, odd = registers(width, "float32"), registers(width, "int32")
        with T.If(_any(tirx.Not(magnitude(x) < const(x, _FEW_TURNS)))):
            for branch, reduced in ((T.Then, _without_half_turns_wide), (T.Else, _without_half_turns)):
                with branch():
                    r, parity = reduced(x, turn)
                    T.buffer_store(rest, r, [whole(width)])
                    T.buffer_store(odd, parity, [whole(width)])
        r, parity = rest[whole(width)], odd[whole(width)]
    else:
        r, parity = _without_half_turns_wide(x, turn)
    s = let(r * r)
    return from_bits(bits(polynomial(s, _SIN) * (s * r) + r) ^ parity)


def _without_half_turns(x: TirExpr, turn: float) -> tuple[TirExpr, TirExpr]:
    """(x + turn * pi less the nearest multiple of pi, 1 << 31 where that is an odd one).

    The first difference is exact: it has no bit below the last ones of x and of n times the first part of pi.
    """
    turns = x * const(x, 1 / math.pi) + const(x, turn) if turn else x * const(x, 1 / math.pi)
    shifted = kept(bits(turns + const(x, ROUNDER)))
    rounded = from_bits(shifted)
    n = let(const(x, turn) - let(rounded - const(x, ROUNDER)) if turn else const(x, ROUNDER) - rounded)
    r = x
    for part in _PI_PARTS:
        r = fused(n, const(x, part), r)
    return let(r), shifted << tirx.const(31, "int32")


def _without_half_turns_wide(x: TirExpr, turn: float) -> tuple[TirExpr, TirExpr]:
    """The same in float64."""
    wide = let(cast(x, "float64"))
    shifted = wide * const(wide, 1 / math.pi) + const(wide, turn) if turn else wide * const(wide, 1 / math.pi)
    rounded = kept(tirx.reinterpret(like(x, "int64"), shifted + const(wide, _WIDE_ROUNDER)))
    n = tirx.reinterpret(like(x, "float64"), rounded) - const(wide, _WIDE_ROUNDER)
    shift = let(n - const(wide, turn) if turn else n)
    r = let(cast(wide - shift * const(wide, _PI_HIGH) - shift * const(wide, _PI_LOW), "float32"))
    return r, cast(rounded, "int32") << tirx.const(31, "int32")


def _any(condition: TirExpr) -> TirExpr:
    """Whether it is true in a lane."""
    if lanes(condition) == 1:
        return condition
    return tirx.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", condition)


def fused(a: TirExpr, b: TirExpr, c: TirExpr) -> TirExpr:
    """a * b + c, rounded once: for targets that have an instruction for it."""
    return tirx.call_llvm_pure_intrin(str(a.ty), "llvm.fma", a, b, c)


_ESTIMATES = {4: "llvm.x86.sse.rsqrt.ps", 8: "llvm.x86.avx.rsqrt.ps.256", 16: "llvm.x86.avx512.rsqrt14.ps.512"}
"""Instructions for 1 / sqrt(x) to 12 bits and more, by the lanes of a vector."""


def rsqrt(x: TirExpr) -> TirExpr:
    """From the estimate y of the processor, a step of third order in e = 1 - x y^2; division takes four times as long.

    The estimate takes denormals for zeros, so that they are scaled; of 0 and infinity it is right as it is. Makers of
    processors estimate differently, so that last bits may differ between them.
    """
    width = lanes(x)
    if not FUSED.get() or element(x) != "float32" or width not in (1, *_ESTIMATES):
        return const(x, 1.0) / tirx.sqrt(x)
    if width == 1:
        return tirx.Shuffle([let(rsqrt(broadcast(x, 4)))], [tirx.const(0, "int32")])
    denormal = x < const(x, 2.0**-126)
    scaled = let(select(denormal, x * const(x, 2.0**24), x))
    masked = (scaled, tirx.const(-1, "int16")) if width == 16 else ()
    y = let(tirx.call_llvm_pure_intrin(str(x.ty), _ESTIMATES[width], scaled, *masked))
    e = let(fused(const(x, 0.0) - scaled * y, y, const(x, 1.0)))
    stepped = let(fused(y * e, fused(e, const(x, 0.375), const(x, 0.5)), y))
    result = let(select(tirx.isnan(stepped), y, stepped))
    return select(denormal, result * const(x, 2.0**12), result)


def tan(x: TirExpr) -> TirExpr:
    return sin(x) / cos(x)


def erf(x: TirExpr) -> TirExpr:
    """Two polynomials that meet at |x| = 475/512."""
    t, s = magnitude(x), let(x * x)
    tail = (-1.72853470e-5, 3.83197126e-4), (-3.88396438e-3, 2.42546219e-2)
    r = let(polynomial(t, tail[0]) * s + polynomial(t, tail[1]))
    r = ((r * t + const(x, -1.06777877e-1)) * t + const(x, -6.34846687e-1)) * t + const(x, -1.28717512e-1)
    outer = with_sign(const(x, 1.0) - exp_of_negative(r * t - t), x)
    inner = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
    return select(t > const(x, 0.927734375), outer, polynomial(s, inner) * x + x)


_ERFC = (
    -1.62790860,
    -9.18416132e-1,
    -1.48483215e-1,
    2.82575130e-2,
    -7.79198800e-4,
    -1.48655447e-3,
    4.44582959e-4,
    -4.5240626e-5,
)
"""Of log2(erfc(x)) / x for 0 <= x <= 4; minimax in the error of erfc. Lowest power first, as below."""

_EXP2 = (6.93147208e-1, 2.40226534e-1, 5.55032637e-2, 9.61775770e-3, 1.34005650e-3, 1.55449700e-4)
"""Of (2**x - 1) / x for |x| <= 1/2."""


def one_plus_erf(x: TirExpr) -> TirExpr:
    """1 + erf(x), wrong by at most 1.7e-7, and exactly 0 or 2 where that is nearest: with fewer operations than erf,
    since near 0 no digits of erf are needed but those of the sum."""
    t = magnitude(x)
    t = let(select(t > const(x, 4.2), const(x, 4.2), t))
    power = let(t * _estrin(t, _ERFC))
    shifted = let(bits(power + const(x, ROUNDER + 127)))
    r = let(power - (from_bits(shifted) - const(x, ROUNDER + 127)))
    erfc = (r * _estrin(r, _EXP2) + const(x, 1.0)) * _to_exponent(shifted)
    sign = from_bits(bits(const(x, 1.0)) | (bits(x) & tirx.const(-0x80000000, "int32")))
    return sign * (const(x, 1.0) - erfc) + const(x, 1.0)


def _estrin(x: TirExpr, coefficients: Sequence[float]) -> TirExpr:
    """A polynomial, lowest power first: fewer operations wait for each other than in Horner's scheme."""
    terms = [const(x, c) for c in coefficients]
    while len(terms) > 1:
        pairs = [let(terms[k + 1] * x + terms[k]) for k in range(0, len(terms) - 1, 2)]
        terms = [*pairs, *terms[2 * len(pairs) :]]
        x = let(x * x)
    return terms[0]


_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)


def atan(x: TirExpr) -> TirExpr:
    a = magnitude(x)
    far, middle = let(a > const(x, 2.414213562373095)), let(a > const(x, 0.4142135623730950))
    one = const(x, 1.0)
    t = let(select(far, const(x, -1.0) / a, select(middle, (a - one) / (a + one), a)))
    base = select(far, const(x, math.pi / 2), select(middle, const(x, math.pi / 4), const(x, 0.0)))
    z = let(t * t)
    return with_sign(base + (polynomial(z, _ATAN) * z * t + t), x)


def atan2(y: TirExpr, x: TirExpr) -> TirExpr:
    a, b = magnitude(y), magnitude(x)
    equal, steep = let(tirx.EQ(a, b)), let(a > b)
    ratio = select(steep, b, a) / select(steep, a, b)
    ratio = select(equal, select(tirx.EQ(a, const(a, 0.0)), a, const(a, 1.0)), ratio)
    angle = let(atan(ratio))
    angle = let(select(steep, const(x, math.pi / 2) - angle, angle))
    negative = bits(x) < 0 * bits(x)
    return with_sign(select(negative, const(x, math.pi) - angle, angle), y)


_ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)


def _asin_pieces(x: TirExpr) -> tuple[TirExpr, TirExpr]:
    """(whether |x| > 1/2, asin of |x| or of sqrt((1 - |x|) / 2))"""
    a = magnitude(x)
    outer = let(a > const(x, 0.5))
    z = let(select(outer, const(x, 0.5) * (const(x, 1.0) - a), a * a))
    t = let(select(outer, tirx.sqrt(z), a))
    return outer, let(polynomial(z, _ASIN) * z * t + t)


def asin(x: TirExpr) -> TirExpr:
    outer, angle = _asin_pieces(x)
    return with_sign(select(outer, const(x, math.pi / 2) - const(x, 2.0) * angle, angle), x)


def acos(x: TirExpr) -> TirExpr:
    outer, angle = _asin_pieces(x)
    double = let(angle + angle)
    negative = let(bits(x) < 0 * bits(x))
    far = select(negative, const(x, math.pi) - double, double)
    near = const(x, math.pi / 2) - select(negative, const(x, 0.0) - angle, angle)
    return select(outer, far, near)


FAST = {
    f.__name__: f
    for f in (exp, expm1, log, log1p, sigmoid, tanh, sinh, cosh, sin, cos, rsqrt, tan, erf, atan, asin, acos, atan2)
}
"""By the name that the function has in the IR."""

OF_REGISTERS = frozenset({"rsqrt"})
"""Functions with instructions that are chosen by the size of a register: their vectors are not wider."""
