"""The discrete Fourier transform along the last axis as TIR, on parts (re, im) in f32.

Every transform is a sequence of passes of Stockham's autosort algorithm (Van Loan, Computational Frameworks for the
FFT, 1.7) on `width` columns at once, so that each step works on whole vectors. A row of length n1*n2 is a matrix of n1
rows: its columns are transformed, multiplied by roots of unity, transposed and transformed again (Bailey 1990, the four
step method). Where n does not divide so, `width` rows of the tensor are transformed side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.butterflies import Number, butterfly, times, transposed, turned
from mercer.backends.tvm.kernel import Kernel, Operand, rows
from mercer.backends.tvm.lower import I64, Scope, int64
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant, Value
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nests, Primitive, Statement
from mercer.ir.types import Data, DType, TensorType

GROUP, SHARES = 8192, 16
"""Elements that one unit of work transforms, one row at least; fewer where that leaves less than so many units."""

UNROLLED = 13
"""Butterflies of a radix up to this are written out; larger primes are loops."""


FFT = ("fft_last", "ifft_last")


def with_tables(nests: Nests, target: Target) -> Nests:
    """The same program with roots of unity as two more operands of every transform, and how to compute it.

    Raises UnsupportedError for a symbolic length.
    """
    statements, tables = _prepared(nests, target)
    return replace(nests, constants=(*nests.constants, *tables.values()), statements=statements)


def _prepared(nests: Nests, target: Target) -> tuple[tuple[Statement, ...], dict[str, Constant]]:
    """The statements and the tables that they need; a scan hands them to its body."""
    types = nests.types()
    tables: dict[str, Constant] = {}
    statements: list[Statement] = []
    for statement in nests.statements:
        if isinstance(statement, Primitive):
            found: dict[str, Constant] = {}
            if statement.name in FFT:
                found = _tables(_transform(statement, types[statement.operands[0]], target.lanes))
                statement = replace(statement, attributes=(("lanes", target.lanes),))
            elif statement.scan is not None:
                body = statement.scan.body
                inner, found = _prepared(body, target)
                inputs = (*body.inputs, *(Value(table.name, table.type) for table in found.values()))
                scan = replace(statement.scan, body=replace(body, inputs=inputs, statements=inner))
                statement = replace(statement, scan=scan)
            statement = replace(statement, operands=(*statement.operands, *found))
            tables |= found
        statements.append(statement)
    return tuple(statements), tables


def kernel(statement: Primitive, types: Mapping[str, TensorType]) -> Kernel:
    """Of operands (re, im, roots re, roots im) to targets (re, im)."""
    type = types[statement.operands[0]]
    lanes = dict(statement.attributes)["lanes"]
    assert isinstance(lanes, int)
    transform = _transform(statement, type, lanes)
    count = rows(type)
    blocks = (count + (transform.rows - 1)) // transform.rows
    group = max(1, GROUP // max(1, transform.n * transform.rows))
    if blocks.is_constant:
        group = min(group, max(1, blocks.value // SHARES))
    units = (blocks + (group - 1)) // group
    size = transform.memory
    names = _names(statement)
    scratch = Operand(f"{names[1][0]}.memory", TensorType(DType.F32, (units, IntExpr.constant(size))))

    def emit(scope: Scope, i: TirExpr) -> None:
        x, y, table = (_Memory.of(scope, pair) for pair in names)
        memory = scope.tensors[scratch.name].buffer
        work = _Memory(memory, memory, T.bind(i * int64(size)), 1, 1)
        end = T.bind(tirx.min((i + int64(1)) * int64(group), scope.integer(blocks)))
        with T.serial(i * int64(group), end) as block:
            first = T.bind(block * int64(transform.rows))
            left = T.bind(scope.integer(count) - first) if transform.rows > 1 else int64(1)
            transform.emit(x, y, table, work, first, left)

    cost = 1.0 + 0.2 * transform.n * transform.rows * sum(
        r if r > UNROLLED else math.log2(r) for r in radices(transform.n)
    )
    return Kernel(transform.detail, units, cost * group, emit, (scratch,))


def _names(statement: Primitive) -> tuple[Sequence[str], ...]:
    """Of source, result and roots; backwards is forwards with re and im exchanged on both sides."""
    source, roots = statement.operands[:2], statement.operands[2:]
    result = [value.name for value in statement.targets]
    return (source, result, roots) if statement.name == "fft_last" else (source[::-1], result[::-1], roots)


def _transform(statement: Primitive, type: TensorType, width: int) -> _Transform:
    length, count = type.shape[-1], rows(type)
    if not length.is_constant:
        place = f" at {statement.origins[0].span}" if statement.origins else ""
        raise UnsupportedError(f"`{statement.name}` needs a length known at compile time; found {length}{place}")
    n = length.value
    scale = 1.0 / n if statement.name == "ifft_last" and n else 1.0
    halves = _halves(n, width)
    if halves is not None:
        return _FourSteps(n, scale, width, halves)
    if width == 1 or (count.is_constant and 2 * count.value <= width):
        return _OneRow(n, scale)
    return _SideBySide(n, scale, width)


def _tables(transform: _Transform) -> dict[str, Constant]:
    """Real and imaginary parts of the roots of unity, computed in f64."""
    table = np.concatenate([*transform.roots(), np.ones(1)])
    parts = {"re": table.real.astype(np.float32), "im": table.imag.astype(np.float32)}
    name = f"roots.{transform.n}.{type(transform).__name__.strip('_').lower()}.{transform.width}"
    constants = (Constant(f"{name}.{key}", TensorType.of(part), Data(part)) for key, part in parts.items())
    return {constant.name: constant for constant in constants}


def _halves(n: int, width: int) -> tuple[int, int] | None:
    """n as a product of two multiples of `width` that are as close as possible."""
    if width == 1 or n < width * width:
        return None
    found = [(d, n // d) for d in range(width, n // width + 1, width) if n % d == 0 and n // d % width == 0]
    return min(found, key=lambda pair: abs(pair[0] - pair[1])) if found else None


def radices(n: int) -> list[int]:
    """Factors in the order of the passes: 8 and 4 before 2, then odd primes."""
    found: list[int] = []
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


def _root(numerator: Any, n: int) -> Any:
    """exp(-2i pi numerator / n)."""
    return np.exp(-2j * np.pi * (np.asarray(numerator) % n) / n)


# --- passes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Memory:
    """Complex numbers: element j is the vector of `width` numbers at `start + j*step` of two buffers.

    Where both parts lie in one buffer, the imaginary ones come `apart` later.
    """

    re: Any
    im: Any
    start: TirExpr
    step: int = 1
    width: int = 1
    apart: int = 0

    @staticmethod
    def of(scope: Scope, names: Sequence[str]) -> _Memory:
        re, im = (scope.tensors[name].buffer for name in names)
        return _Memory(re, im, int64(0))

    def part(self, offset: int, length: int, width: int = 1) -> _Memory:
        """`length` vectors from `offset` on, one after the other, in a buffer for both parts."""
        return replace(self, start=self.start + int64(offset), step=width, width=width, apart=length * width)

    def shifted(self, start: TirExpr, step: int = 1, width: int = 1) -> _Memory:
        return replace(self, start=self.start + start, step=step, width=width)

    def scalar(self, j: TirExpr) -> Number:
        place = self.start + j * int64(self.step)
        return self.re[place], self.im[place]

    def load(self, j: TirExpr) -> Number:
        re, im = self._places(j)
        return vm.let(self.re[re]), vm.let(self.im[im])

    def store(self, j: TirExpr, value: Number) -> None:
        re, im = self._places(j)
        T.buffer_store(self.re, value[0], [re])
        T.buffer_store(self.im, value[1], [im])

    def _places(self, j: TirExpr) -> tuple[TirExpr, TirExpr]:
        start = self.start + j * int64(self.step)
        starts = (start, start + int64(self.apart) if self.apart else start)
        return tuple(T.ramp(s, int64(1), self.width) if self.width > 1 else s for s in starts)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Columns:
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
            found.append(_root(np.outer(np.arange(m), np.arange(r)), r * m).ravel())
            if r > UNROLLED:
                found.append(_root(np.arange(r), r))
        return found

    @property
    def memory(self) -> int:
        """Numbers that two buffers take."""
        return 4 * self.n * self.width

    def spare(self, work: _Memory, offset: int = 0) -> list[_Memory]:
        return [work.part(offset + 2 * k * self.n * self.width, self.n, self.width) for k in range(2)]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.roots())

    def emit(
        self,
        table: _Memory,
        spare: Sequence[_Memory],
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
    r: int, get: Callable[[TirExpr], Number], put: Callable[[TirExpr, Number], None], roots: _Memory | None
) -> None:
    values = butterfly([get(int64(k)) for k in range(r)])
    for j, value in enumerate(values):
        put(int64(j), turned(value, roots.scalar(int64(j))) if roots is not None and j else value)


def _looped(
    r: int,
    width: int,
    get: Callable[[TirExpr], Number],
    put: Callable[[TirExpr, Number], None],
    roots: _Memory,
    own: _Memory,
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


# --- whole transforms -------------------------------------------------------------------------------------------------


def _exchanged(square: Sequence[Number]) -> list[Number]:
    """Rows of a square as its columns."""
    re, im = (transposed([value[part] for value in square]) for part in range(2))
    return list(zip(re, im, strict=True))


class _Transform(Protocol):
    """A transform of length n of `rows` rows at once, which begin at row `first`; `left` rows are left."""

    @property
    def n(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def detail(self) -> str: ...

    def roots(self) -> list[Any]: ...

    @property
    def memory(self) -> int: ...

    def emit(self, x: _Memory, y: _Memory, table: _Memory, work: _Memory, first: TirExpr, left: TirExpr) -> None: ...


@dataclass(frozen=True)
class _FourSteps:
    """Rows of n1*n2 elements."""

    n: int
    scale: float
    width: int
    halves: tuple[int, int]
    rows: int = 1

    @property
    def detail(self) -> str:
        n1, n2 = self.halves
        return f"{n1} x {n2} by radices {radices(n1)} and {radices(n2)}"

    @property
    def _first(self) -> _Columns:
        return _Columns(self.halves[0], self.width)

    @property
    def _second(self) -> _Columns:
        return _Columns(self.halves[1], self.width, self._first.size)

    @property
    def memory(self) -> int:
        return 2 * self.n + max(self._first.memory, self._second.memory)

    def roots(self) -> list[Any]:
        between = _root(np.outer(np.arange(self.halves[0]), np.arange(self.halves[1])), self.n).ravel()
        return [*self._first.roots(), *self._second.roots(), between]

    def emit(self, x: _Memory, y: _Memory, table: _Memory, work: _Memory, first: TirExpr, left: TirExpr) -> None:
        (n1, n2), width = self.halves, self.width
        start = T.bind(first * int64(self.n))
        turning = table.shifted(int64(self._first.size + self._second.size))
        exchanged = work.part(0, self.n)
        spare, again = self._first.spare(work, 2 * self.n), self._second.spare(work, 2 * self.n)
        columns = spare[(len(self._first.passes) - 1) % 2]
        with T.serial(int64(0), int64(n2 // width)) as block:
            j2 = T.bind(block * int64(width))
            between = turning.shifted(j2, n2, width)

            def turn(k: TirExpr, value: Number) -> None:
                columns.store(k, turned(value, between.load(k)))

            self._first.emit(table, spare, x.shifted(start + j2, n2, width).load, turn, 1.0)
            with T.serial(int64(0), int64(n1 // width)) as group:
                k1 = T.bind(group * int64(width))
                square = _exchanged([columns.load(k1 + int64(k)) for k in range(width)])
                target = exchanged.shifted(j2 * int64(n1) + k1, n1, width)
                for k, value in enumerate(square):
                    target.store(int64(k), value)
        with T.serial(int64(0), int64(n1 // width)) as block:
            k1 = T.bind(block * int64(width))
            load, store = exchanged.shifted(k1, n1, width).load, y.shifted(start + k1, n1, width).store
            self._second.emit(table, again, load, store, self.scale)


@dataclass(frozen=True)
class _OneRow:
    """One row, number after number."""

    n: int
    scale: float
    width: int = 1
    rows: int = 1

    @property
    def detail(self) -> str:
        return f"{self.n} by radices {radices(self.n)}"

    @property
    def memory(self) -> int:
        return _Columns(self.n, 1).memory

    def roots(self) -> list[Any]:
        return _Columns(self.n, 1).roots()

    def emit(self, x: _Memory, y: _Memory, table: _Memory, work: _Memory, first: TirExpr, left: TirExpr) -> None:
        start, columns = T.bind(first * int64(self.n)), _Columns(self.n, 1)
        columns.emit(table, columns.spare(work), x.shifted(start).load, y.shifted(start).store, self.scale)


@dataclass(frozen=True)
class _SideBySide:
    """`width` rows; where fewer are left, the last one is computed more than once."""

    n: int
    scale: float
    width: int

    @property
    def rows(self) -> int:
        return self.width

    @property
    def detail(self) -> str:
        return f"{self.n} by radices {radices(self.n)}, {self.width} rows at once"

    @property
    def memory(self) -> int:
        return _Columns(self.n, self.width).memory

    def roots(self) -> list[Any]:
        return _Columns(self.n, self.width).roots()

    def emit(self, x: _Memory, y: _Memory, table: _Memory, work: _Memory, first: TirExpr, left: TirExpr) -> None:
        width = self.width
        starts = [T.bind((first + tirx.min(int64(k), left - int64(1))) * int64(self.n)) for k in range(width)]
        columns = _Columns(self.n, width)
        spare = columns.spare(work)
        before = spare[1]
        after = spare[(len(columns.passes) - 1) % 2]
        blocks = self.n // width
        with T.serial(int64(0), int64(blocks)) as block:
            j = T.bind(block * int64(width))
            square = _exchanged([x.shifted(start + j, width, width).load(int64(0)) for start in starts])
            for k, value in enumerate(square):
                before.store(j + int64(k), value)
        for j in range(blocks * width, self.n):
            for k, start in enumerate(starts):
                before.shifted(int64(j * width + k)).store(int64(0), x.shifted(start + int64(j)).load(int64(0)))
        columns.emit(table, spare, before.load, after.store, self.scale)
        with T.serial(int64(0), int64(blocks)) as block:
            j = T.bind(block * int64(width))
            square = _exchanged([after.load(j + int64(k)) for k in range(width)])
            for k, start in enumerate(starts):
                with T.If(int64(k) < left), T.Then():
                    y.shifted(start + j, width, width).store(int64(0), square[k])
        for j in range(blocks * width, self.n):
            for k, start in enumerate(starts):
                with T.If(int64(k) < left), T.Then():
                    y.shifted(start + int64(j)).store(int64(0), after.shifted(int64(j * width + k)).load(int64(0)))
