"""Short complex Fourier transforms on vectors: n = n1*n2 numbers in two steps of written out transforms.

X[k1 + n1*k2] = sum[i < n2] w_n^(i*k1) w_n2^(i*k2) sum[j < n1] x[i + n2*j] w_n1^(j*k1), w_n = exp(-2i pi/n) (Cooley
and Tukey 1965). Zeros at the end of x and results at the end of X that nobody wants are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.butterflies import Number, turned
from mercer.backends.tvm.lower import int64
from mercer.backends.tvm.stockham import Parts, root
from mercer.backends.tvm.vector_math import TirExpr

Term: TypeAlias = "Number | None"
"""None is zero."""

WRITTEN_OUT = 16
"""Transforms up to this length are written out."""


@lru_cache(maxsize=1024)
def factors(n: int) -> tuple[int, int] | None:
    """(n1, n2), as equal as possible, n1 the larger one; None when n is no product of two that can be written out."""
    pairs = [(n // b, b) for b in range(1, WRITTEN_OUT + 1) if n % b == 0 and b <= n // b <= WRITTEN_OUT]
    pairs = [pair for pair in pairs if all(_largest_prime(part) <= 5 for part in pair)]
    return pairs[-1] if pairs else None


def _largest_prime(n: int) -> int:
    return max((p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, p))), default=1)


@dataclass(frozen=True)
class TwoSteps:
    """A transform of length n, of which the first `inputs` numbers are not zero and the first `outputs` are wanted."""

    n: int
    inputs: int
    outputs: int

    @property
    def n1(self) -> int:
        return (factors(self.n) or (self.n, 1))[0]

    @property
    def n2(self) -> int:
        return self.n // self.n1

    def roots(self) -> npt.NDArray[np.complex128]:
        """The table: w_n^(i*k1) at i*n1 + k1."""
        return root(np.outer(np.arange(self.n2), np.arange(self.n1)), self.n).ravel()

    def emit(
        self,
        load: Callable[[TirExpr], Number],
        store: Callable[[TirExpr, Number], None],
        between: Parts,
        table: Parts,
    ) -> None:
        """Read by `load(j)`, write by `store(k, value)`; `between` has room for n vectors."""
        n1, n2 = self.n1, self.n2
        for low, high, known in _ranges(self.inputs, n2):
            with T.serial(int64(low), int64(high)) as i:
                values = dft([load(i + int64(n2 * j)) if j < known else None for j in range(n1)])
                for k, value in enumerate(values):
                    roots = table.scalar(i * int64(n1) + int64(k)) if k and n2 > 1 else None
                    term = _some(value, between.width)
                    between.store(i + int64(k * n2), turned(term, roots) if roots is not None else term)
        for low, high, wanted in _ranges(self.outputs, n1):
            with T.serial(int64(low), int64(high)) as k:
                start = T.bind(k * int64(n2))
                values = dft([between.load(start + int64(i)) for i in range(n2)])
                for j, value in enumerate(values[:wanted]):
                    store(k + int64(n1 * j), _some(value, between.width))


def _ranges(number: int, step: int) -> list[tuple[int, int, int]]:
    """For i from `low` to `high` there are so many i + step*j below `number`."""
    whole, rest = divmod(number, step)
    return [each for each in ((0, rest, whole + 1), (rest, step, whole)) if each[0] < each[1]]


def _some(value: Term, width: int) -> Number:
    if value is not None:
        return value
    zero = vm.broadcast(T.float32(0.0), width)
    return zero, zero


# --- written out ------------------------------------------------------------------------------------------------------


def dft(x: Sequence[Term]) -> list[Term]:
    """y[j] = sum_k x[k] exp(-2i pi j k/r) for r numbers whose number has the prime factors 2, 3 and 5."""
    r = len(x)
    if r == 1 or all(value is None for value in x):
        return list(x)
    if r == 2:
        return [_add(x[0], x[1]), _sub(x[0], x[1])]
    if r == 4:
        (a, b), (c, d) = dft(x[0::2]), dft(x[1::2])
        turned_d = _minus_i(d)
        return [_add(a, c), _add(b, turned_d), _sub(a, c), _sub(b, turned_d)]
    if r in (3, 5):
        return _odd(x)
    first = next(p for p in (4, 2, 3, 5) if r % p == 0 and r != p)
    second = r // first
    parts = [dft(x[i::second]) for i in range(second)]
    result: list[Term] = [None] * r
    for k in range(first):
        column = dft([_power(parts[i][k], i * k, r) for i in range(second)])
        for j, value in enumerate(column):
            result[k + first * j] = value
    return result


def _power(value: Term, k: int, r: int) -> Term:
    """value * exp(-2i pi k/r)."""
    if value is None or k % r == 0:
        return value
    if 4 * k % r == 0:
        quarter = 4 * k // r % 4
        return [value, _minus_i(value), _minus(value), _minus_i(_minus(value))][quarter]
    w = complex(root(k, r))
    return turned(value, (vm.const(value[0], w.real), vm.const(value[0], w.imag)))


def _odd(x: Sequence[Term]) -> list[Term]:
    """Elements k and r - k together: their sum meets cosines, their difference sines."""
    r = len(x)
    pairs = [(_add(x[k], x[r - k]), _sub(x[k], x[r - k])) for k in range(1, (r + 1) // 2)]
    first = x[0]
    for total, _ in pairs:
        first = _add(first, total)
    result: list[Term] = [first, *[None] * (r - 1)]
    for j in range(1, (r + 1) // 2):
        even, odd = x[0], None
        for k, (total, difference) in enumerate(pairs, start=1):
            angle = 2 * math.pi * (j * k % r) / r
            even = _sum(even, total, math.cos(angle))
            odd = _sum(odd, difference, math.sin(angle))
        odd = _minus_i(odd)
        result[j], result[r - j] = _add(even, odd), _sub(even, odd)
    return result


def _sum(total: Term, value: Term, factor: float) -> Term:
    if value is None:
        return total
    re, im = (part * vm.const(part, factor) for part in value)
    return (vm.let(re), vm.let(im)) if total is None else (vm.let(total[0] + re), vm.let(total[1] + im))


def _add(x: Term, y: Term) -> Term:
    if x is None or y is None:
        return y if x is None else x
    return vm.let(x[0] + y[0]), vm.let(x[1] + y[1])


def _sub(x: Term, y: Term) -> Term:
    if x is None or y is None:
        return _minus(y) if x is None else x
    return vm.let(x[0] - y[0]), vm.let(x[1] - y[1])


def _minus(x: Term) -> Term:
    return None if x is None else (vm.let(x[0] * vm.const(x[0], -1.0)), vm.let(x[1] * vm.const(x[1], -1.0)))


def _minus_i(x: Term) -> Term:
    """-i*x."""
    return None if x is None else (x[1], vm.let(x[0] * vm.const(x[0], -1.0)))
