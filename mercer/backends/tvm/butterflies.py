"""Small Fourier transforms, and transposition, of vectors in registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tvm import tirx

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.vector_math import TirExpr

Number: TypeAlias = tuple[TirExpr, TirExpr]
"""A complex number or a vector of them: (re, im)."""


def butterfly(x: Sequence[Number]) -> list[Number]:
    """y[j] = sum_k x[k] exp(-2i pi j k / r) for r = 2, 4, 8 or odd numbers x."""
    small = _SMALL.get(len(x))
    return small(x) if small is not None else _odd(x)


def turned(value: Number, root: Number) -> Number:
    """Their product, kept in registers; the root may be a scalar."""
    re, im = times(value, root)
    return vm.let(re), vm.let(im)


def times(value: Number, root: Number) -> Number:
    (a, b), (c, d) = value, root
    width = vm.lanes(a)
    c, d = vm.broadcast(c, width), vm.broadcast(d, width)
    return a * c - b * d, a * d + b * c


def _add(x: Number, y: Number) -> Number:
    return vm.let(x[0] + y[0]), vm.let(x[1] + y[1])


def _sub(x: Number, y: Number) -> Number:
    return vm.let(x[0] - y[0]), vm.let(x[1] - y[1])


def _minus_i(x: Number) -> Number:
    """-i*x."""
    return x[1], vm.let(x[0] * vm.const(x[0], -1.0))


def _two(x: Sequence[Number]) -> list[Number]:
    return [_add(x[0], x[1]), _sub(x[0], x[1])]


def _four(x: Sequence[Number]) -> list[Number]:
    even, odd = _two([x[0], x[2]]), _two([x[1], x[3]])
    (a, b), (c, d) = even[1], odd[1]
    left, right = (vm.let(a + d), vm.let(b - c)), (vm.let(a - d), vm.let(b + c))
    return [_add(even[0], odd[0]), left, _sub(even[0], odd[0]), right]


def _eight(x: Sequence[Number]) -> list[Number]:
    even, odd = _four(x[0::2]), _four(x[1::2])
    half = math.sqrt(0.5)
    (a, b), (c, d) = odd[1], odd[3]
    turned: list[Number] = [
        odd[0],
        (vm.let((a + b) * vm.const(a, half)), vm.let((b - a) * vm.const(a, half))),
        _minus_i(odd[2]),
        (vm.let((d - c) * vm.const(c, half)), vm.let((c + d) * vm.const(c, -half))),
    ]
    return [_add(e, o) for e, o in zip(even, turned, strict=True)] + [
        _sub(e, o) for e, o in zip(even, turned, strict=True)
    ]


def _odd(x: Sequence[Number]) -> list[Number]:
    """Elements k and r - k together: their sum meets cosines, their difference sines."""
    r = len(x)
    pairs = [(_add(x[k], x[r - k]), _sub(x[k], x[r - k])) for k in range(1, (r + 1) // 2)]
    first = x[0]
    for sum_, _ in pairs:
        first = _add(first, sum_)
    result: list[Number] = [first, *[first] * (r - 1)]
    for j in range(1, (r + 1) // 2):
        re, im = x[0]
        across: list[TirExpr] = [None, None]
        for k, (sum_, difference) in enumerate(pairs, start=1):
            angle = 2 * math.pi * (j * k % r) / r
            cosine, sine = vm.const(re, math.cos(angle)), vm.const(re, math.sin(angle))
            re, im = re + sum_[0] * cosine, im + sum_[1] * cosine
            turned = (difference[1] * sine, difference[0] * sine)
            across = [t if a is None else a + t for a, t in zip(across, turned, strict=True)]
        re, im, up, down = map(vm.let, (re, im, *across))
        result[j] = vm.let(re + up), vm.let(im - down)
        result[r - j] = vm.let(re - up), vm.let(im + down)
    return result


_SMALL: dict[int, Callable[[Sequence[Number]], list[Number]]] = {2: _two, 4: _four, 8: _eight}


def transposed(vectors: Sequence[TirExpr]) -> list[TirExpr]:
    """The square of as many vectors as they have lanes, exchanged by blocks of 1, 2, 4 … elements."""
    width = len(vectors)
    result = list(vectors)
    block = 1
    while block < width:
        low = [k if not k & block else width + k - block for k in range(width)]
        high = [k + block if not k & block else width + k for k in range(width)]
        for i in range(width):
            if not i & block:
                pair = [result[i], result[i + block]]
                result[i], result[i + block] = shuffled(pair, low), shuffled(pair, high)
        block *= 2
    return result


def shuffled(vectors: Sequence[TirExpr], order: Sequence[int]) -> TirExpr:
    """Elements of the vectors, counted through, in the given order."""
    return vm.let(tirx.Shuffle(list(vectors), [tirx.const(k, "int32") for k in order]))
