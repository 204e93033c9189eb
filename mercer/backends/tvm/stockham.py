"""Passes of Stockham's autosort algorithm on columns of complex numbers, and where such numbers lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.butterflies import Number, butterfly, shuffled, times, turned
from mercer.backends.tvm.lower import I64, Scope, int64
from mercer.backends.tvm.vector_math import TirExpr

UNROLLED = 13
"""Butterflies of a radix up to this are written out; larger primes are loops."""


def radices(n: int) -> list[int]:
    """Factors in the order of the passes: 8 and 4 before 2, then odd primes."""
    found: list[int] = []
    if n == 0:
        return found
    while n % 4 == 0 and n != 8:
        found.append(4)
        n //= 4
    if n % 2 == 0:
        power = n & -n
        found.append(power)
        n //= power
    prime = 3
    while n > 1:
        if prime * prime > n:
            prime = n
        while n % prime == 0:
            found.append(prime)
            n //= prime
        prime += 2
    return found


def root(numerator: Any, n: int) -> Any:
    """exp(-2i pi numerator / n)."""
    return np.exp(-2j * np.pi * (np.asarray(numerator) % n) / n)


# --- memory -----------------------------------------------------------------------------------------------------------


class Numbers(Protocol):
    """Complex numbers: element j is the vector of `width` numbers that begins at number `start + j*step`."""

    def shifted(self, start: TirExpr, step: int = 1, width: int = 1) -> Self: ...

    def load(self, j: TirExpr) -> Number: ...

    def store(self, j: TirExpr, value: Number) -> None: ...


@dataclass(frozen=True)
class Parts:
    """Real and imaginary parts in two buffers, or in one, the imaginary ones `apart` later."""

    re: Any
    im: Any
    start: TirExpr
    step: int = 1
    width: int = 1
    apart: int = 0

    @staticmethod
    def of(scope: Scope, names: Sequence[str]) -> Parts:
        re, im = (scope.tensors[name].buffer for name in names)
        return Parts(re, im, int64(0))

    def part(self, offset: int, length: int, width: int = 1) -> Parts:
        """`length` vectors from `offset` on, one after the other, in a buffer for both parts."""
        return replace(self, start=self.start + int64(offset), step=width, width=width, apart=length * width)

    def shifted(self, start: TirExpr, step: int = 1, width: int = 1) -> Parts:
        return replace(self, start=self.start + start, step=step, width=width)

    def exchanged(self) -> Parts:
        """Imaginary parts as real ones and the other way round."""
        if self.apart:
            return replace(self, start=self.start + int64(self.apart), apart=-self.apart)
        return replace(self, re=self.im, im=self.re)

    def scalar(self, j: TirExpr) -> Number:
        re, im = self._starts(j)
        return self.re[re], self.im[im]

    def load(self, j: TirExpr) -> Number:
        re, im = (place(start, self.width) for start in self._starts(j))
        return vm.let(self.re[re]), vm.let(self.im[im])

    def store(self, j: TirExpr, value: Number) -> None:
        re, im = (place(start, self.width) for start in self._starts(j))
        T.buffer_store(self.re, value[0], [re])
        T.buffer_store(self.im, value[1], [im])

    def _starts(self, j: TirExpr) -> tuple[TirExpr, TirExpr]:
        start = self.start + j * int64(self.step)
        return start, start + int64(self.apart) if self.apart else start


@dataclass(frozen=True)
class Pairs:
    """Both parts of a number side by side in one buffer; the imaginary one first where they are `exchanged`."""

    buffer: Any
    start: TirExpr
    step: int = 1
    width: int = 1
    exchanged: bool = False

    def shifted(self, start: TirExpr, step: int = 1, width: int = 1) -> Pairs:
        return replace(self, start=self.start + start, step=step, width=width)

    def load(self, j: TirExpr) -> Number:
        width = self.width
        low, high = (vm.let(self.buffer[p]) for p in self._places(j))
        if width > 1:
            both = [low, high]
            low, high = shuffled(both, range(0, 2 * width, 2)), shuffled(both, range(1, 2 * width, 2))
        return (high, low) if self.exchanged else (low, high)

    def store(self, j: TirExpr, value: Number) -> None:
        width = self.width
        low, high = value[::-1] if self.exchanged else value
        if width > 1:
            both = [vm.let(low), vm.let(high)]
            order = [k // 2 + (k % 2) * width for k in range(2 * width)]
            low, high = shuffled(both, order[:width]), shuffled(both, order[width:])
        for part, at in zip((low, high), self._places(j), strict=True):
            T.buffer_store(self.buffer, part, [at])

    def _places(self, j: TirExpr) -> tuple[TirExpr, TirExpr]:
        start = (self.start + j * int64(self.step)) * int64(2)
        return place(start, self.width), place(start + int64(self.width), self.width)


def place(start: TirExpr, width: int) -> TirExpr:
    """The index of `width` neighbours."""
    return T.ramp(start, int64(1), width) if width > 1 else start


# --- passes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """A transform of length n on `width` columns; its roots stand in a table from `offset` on."""

    n: int
    width: int
    offset: int = 0

    @property
    def passes(self) -> list[tuple[int, int, int]]:
        """(radix r, number of roots m, stride s) with r*m*s = n."""
        found: list[tuple[int, int, int]] = []
        stride = 1
        for r in radices(self.n):
            found.append((r, self.n // (stride * r), stride))
            stride *= r
        return found

    def roots(self) -> list[Any]:
        """For every pass w^(p*j), w the root of order r*m, for p < m and j < r; in a loop then those of order r."""
        found: list[Any] = []
        for r, m, _ in self.passes:
            found.append(root(np.outer(np.arange(m), np.arange(r)), r * m).ravel())
            if r > UNROLLED:
                found.append(root(np.arange(r), r))
        return found

    @property
    def memory(self) -> int:
        """Numbers that two buffers take."""
        return 4 * self.n * self.width

    def spare(self, work: Parts, offset: int = 0) -> list[Parts]:
        return [work.part(offset + 2 * k * self.n * self.width, self.n, self.width) for k in range(2)]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.roots())

    def emit(
        self,
        table: Parts,
        spare: Sequence[Parts],
        load: Callable[[TirExpr], Number],
        store: Callable[[TirExpr, Number], None],
        scale: float,
    ) -> None:
        """Read element j by `load(j)`, write element k of the result, times `scale`, by `store(k, value)`.

        Pass k writes to `spare[k % 2]`, except the last one.
        """

        def finish(k: TirExpr, value: Number) -> None:
            re, im = value
            store(k, value if scale == 1.0 else (re * vm.const(re, scale), im * vm.const(im, scale)))

        passes = self.passes
        if not passes:
            for k in range(self.n):
                finish(int64(k), load(int64(k)))
            return
        offset = self.offset
        for number, (r, m, s) in enumerate(passes):
            read = spare[(number - 1) % 2].load if number > 0 else load
            write = spare[number % 2].store if number < len(passes) - 1 else finish
            with T.serial(int64(0), int64(m)) as p:
                roots = table.shifted(p * int64(r) + int64(offset))
                with T.serial(int64(0), int64(s)) as q:
                    start, end = T.bind(q + p * int64(s)), T.bind(q + p * int64(r * s))
                    get = _each(read, start, m * s)
                    put = _each(write, end, s)
                    if r <= UNROLLED:
                        _unrolled(r, get, put, roots if m > 1 else None)
                    else:
                        _looped(r, self.width, get, put, roots, table.shifted(int64(offset + m * r)))
            offset += m * r + (r if r > UNROLLED else 0)


def _each(access: Callable[..., Any], start: TirExpr, step: int) -> Callable[..., Any]:
    """Access to elements start, start + step, ..."""
    return lambda k, *value: access(start + k * int64(step), *value)


def _unrolled(
    r: int, get: Callable[[TirExpr], Number], put: Callable[[TirExpr, Number], None], roots: Parts | None
) -> None:
    values = butterfly([get(int64(k)) for k in range(r)])
    for j, value in enumerate(values):
        put(int64(j), turned(value, roots.scalar(int64(j))) if roots is not None and j else value)


def _looped(
    r: int,
    width: int,
    get: Callable[[TirExpr], Number],
    put: Callable[[TirExpr, Number], None],
    roots: Parts,
    own: Parts,
) -> None:
    """The sum as it is defined, for every j; the power j*k mod r of the root is counted up."""
    total = [vm.registers(width, "float32") for _ in range(2)]
    power = vm.registers(1, I64)
    whole = vm.whole(width)
    with T.serial(int64(0), int64(r)) as j:
        for part in total:
            T.buffer_store(part, vm.broadcast(tirx.const(0.0, "float32"), width), [whole])
        T.buffer_store(power, int64(0), [0])
        with T.serial(int64(0), int64(r)) as k:
            term = times(get(k), own.scalar(power[0]))
            for part, value in zip(total, term, strict=True):
                T.buffer_store(part, part[whole] + value, [whole])
            after = T.bind(power[0] + j)
            T.buffer_store(power, tirx.Select(after >= int64(r), after - int64(r), after), [0])
        put(j, turned((total[0][whole], total[1][whole]), roots.scalar(j)))
