"""Discrete Fourier transforms as TIR, on parts (re, im) in f32.

The last axis is transformed row by row as `fft_rows.py` says. A real row of even length is a complex one of half the
length (Sorensen et al. 1987, "Real-valued fast Fourier transform algorithms"). The axis before the last has its columns
side by side already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.butterflies import shuffled, times
from mercer.backends.tvm.fft_rows import FourSteps, OneRow, SideBySide, Transform, halves
from mercer.backends.tvm.kernel import Kernel, Operand, rows
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.stockham import UNROLLED, Columns, Pairs, Parts, radices, root
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.graph import Constant, Value
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nests, Primitive, Statement
from mercer.ir.types import Data, DType, TensorType

GROUP, SHARES = 32768, 32
"""A unit of work, which has its own scratch, transforms so many numbers; of a known batch there are so many units."""


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
                found = _tables(_plan(statement, types, target.lanes))
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


def _tables(plan: _Plan) -> dict[str, Constant]:
    """Real and imaginary parts of the roots of unity, computed in f64."""
    table = np.concatenate([*plan.roots(), np.ones(1)])
    parts = {"re": table.real.astype(np.float32), "im": table.imag.astype(np.float32)}
    constants = (Constant(f"roots.{plan.key}.{k}", TensorType.of(part), Data(part)) for k, part in parts.items())
    return {constant.name: constant for constant in constants}


def kernel(statement: Primitive, types: Mapping[str, TensorType]) -> Kernel:
    """The last two operands are the parts of the roots."""
    lanes = dict(statement.attributes)["lanes"]
    assert isinstance(lanes, int)
    plan = _plan(statement, types, lanes)
    blocks = plan.blocks
    group = -(-blocks.value // SHARES) if blocks.is_constant else GROUP // max(1, plan.numbers)
    group = max(1, group)
    units = (blocks + (group - 1)) // group
    scratch = Operand(
        f"{statement.targets[0].name}.memory", TensorType(DType.F32, (units, IntExpr.constant(plan.memory)))
    )

    def emit(scope: Scope, i: TirExpr) -> None:
        memory = scope.tensors[scratch.name].buffer
        work = Parts(memory, memory, T.bind(i * int64(plan.memory)))
        end = T.bind(tirx.min((i + int64(1)) * int64(group), scope.integer(blocks)))
        with T.serial(i * int64(group), end) as block:
            plan.emit(scope, Parts.of(scope, statement.operands[-2:]), work, block)

    steps = sum(r if r > UNROLLED else math.log2(r) for r in radices(plan.n))
    return Kernel(plan.detail, units, (1.0 + 0.2 * plan.numbers * (1.0 + steps)) * group, emit, (scratch,))


class _Plan(Protocol):
    """How a transform of length n is computed: `blocks` blocks of so many `numbers`, with `memory` f32 of scratch."""

    @property
    def n(self) -> int: ...

    @property
    def key(self) -> str: ...

    @property
    def detail(self) -> str: ...

    @property
    def blocks(self) -> IntExpr: ...

    @property
    def numbers(self) -> int: ...

    @property
    def memory(self) -> int: ...

    def roots(self) -> list[Any]: ...

    def emit(self, scope: Scope, table: Parts, work: Parts, block: TirExpr) -> None: ...


def _plan(statement: Primitive, types: Mapping[str, TensorType], lanes: int) -> _Plan:
    """Raises UnsupportedError for a symbolic length."""
    name, type = statement.name, types[statement.operands[0]]
    inner = name in ("fft_inner", "ifft_inner")
    length = type.shape[-2 if inner else -1]
    if not length.is_constant:
        at = f" at {statement.origins[0].span}" if statement.origins else ""
        raise UnsupportedError(f"`{name}` needs a length known at compile time; found {length}{at}")
    if name == "rfft_last" and length.value % 2:
        raise UnsupportedError(f"`rfft_last` needs an even length; found {length}", hint="call rfft")
    source, result = statement.operands, [value.name for value in statement.targets]
    if inner:
        return _Inner(name, length.value, source, result, _product(type.shape[:-2]), type.shape[-1], lanes)
    n = length.value // 2 if name == "rfft_last" else length.value - 1 if name == "irfft_last" else length.value
    scale = 1.0 / n if name.startswith("i") and n else 1.0
    count = rows(type)
    split = halves(n, lanes)
    transform: Transform = FourSteps(n, scale, lanes, split) if split is not None else SideBySide(n, scale, lanes)
    if split is None and (lanes == 1 or (count.is_constant and 2 * count.value <= lanes)):
        transform = OneRow(n, scale, lanes)
    return _Rows(name, source, result, count, transform)


def _product(shape: Sequence[IntExpr]) -> IntExpr:
    return math.prod(shape, start=IntExpr.constant(1))


FFT = ("fft_last", "ifft_last", "rfft_last", "irfft_last", "fft_inner", "ifft_inner")


@dataclass(frozen=True)
class _Inner:
    """The axis before the last: as many columns at once as a vector takes; the last vector may repeat some."""

    name: str
    n: int
    source: Sequence[str]
    result: Sequence[str]
    outer: IntExpr
    inner: IntExpr
    lanes: int

    @property
    def width(self) -> int:
        if not self.inner.is_constant:
            return 1
        return min(self.lanes, 1 << max(0, self.inner.value.bit_length() - 1))

    @property
    def key(self) -> str:
        return f"{self.n}.columns"

    @property
    def detail(self) -> str:
        return f"{self.n} by radices {radices(self.n)}, {self.width} columns at once"

    @property
    def across(self) -> IntExpr:
        return (self.inner + (self.width - 1)) // self.width

    @property
    def blocks(self) -> IntExpr:
        return self.outer * self.across

    @property
    def numbers(self) -> int:
        return self.n * self.width

    @property
    def memory(self) -> int:
        return Columns(self.n, self.width).memory

    def roots(self) -> list[Any]:
        return Columns(self.n, self.width).roots()

    def emit(self, scope: Scope, table: Parts, work: Parts, block: TirExpr) -> None:
        x, y = Parts.of(scope, self.source[:2]), Parts.of(scope, self.result)
        inverse = self.name == "ifft_inner"
        if inverse:
            x, y = x.exchanged(), y.exchanged()
        inner, across = scope.integer(self.inner), scope.integer(self.across)
        column = tirx.min(T.truncmod(block, across) * int64(self.width), inner - int64(self.width))
        start = T.bind(T.truncdiv(block, across) * inner * int64(self.n) + column)
        step = T.bind(inner)
        columns = Columns(self.n, self.width)
        columns.emit(
            table,
            columns.spare(work),
            lambda j: x.shifted(start + j * step, 1, self.width).load(int64(0)),
            lambda k, value: y.shifted(start + k * step, 1, self.width).store(int64(0), value),
            1.0 / self.n if inverse and self.n else 1.0,
        )


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """The last axis, by a transform of complex rows."""

    name: str
    source: Sequence[str]
    result: Sequence[str]
    count: IntExpr
    transform: Transform

    @property
    def n(self) -> int:
        return self.transform.n

    @property
    def key(self) -> str:
        kind = type(self.transform).__name__.lower()
        sign = self.name.removesuffix("fft_last") if self._real else ""
        return f"{self.n}.{kind}.{self.transform.width}{sign}"

    @property
    def detail(self) -> str:
        return f"real rows of {2 * self.n}: {self.transform.detail}" if self._real else self.transform.detail

    @property
    def blocks(self) -> IntExpr:
        return (self.count + (self.transform.rows - 1)) // self.transform.rows

    @property
    def numbers(self) -> int:
        return self.n * self.transform.rows

    @property
    def memory(self) -> int:
        return self.transform.memory + (2 * self.numbers if self._real else 0)

    @property
    def _real(self) -> bool:
        return self.name in ("rfft_last", "irfft_last")

    def roots(self) -> list[Any]:
        """Those of the transform, then those that relate a real row to its packed one."""
        if not self._real:
            return self.transform.roots()
        sign = 1 if self.name == "rfft_last" else -1
        between = root(sign * np.arange(self.n), 2 * self.n) * (-0.5j * sign)
        return [*self.transform.roots(), between]

    def emit(self, scope: Scope, table: Parts, work: Parts, block: TirExpr) -> None:
        transform, n = self.transform, int64(self.n)
        first = T.bind(block * int64(transform.rows))
        left = T.bind(scope.integer(self.count) - first) if transform.rows > 1 else int64(1)
        packed = work.part(transform.memory, self.numbers)
        between = table.shifted(int64(sum(part.size for part in transform.roots())))
        many = tirx.min(left, int64(transform.rows))
        match self.name:
            case "fft_last" | "ifft_last":
                x, y = (Parts.of(scope, names[:2]).shifted(first * n) for names in (self.source, self.result))
                if self.name == "ifft_last":
                    x, y = x.exchanged(), y.exchanged()
                transform.emit(x, y, table, work, left)
            case "rfft_last":
                x = Pairs(scope.tensors[self.source[0]].buffer, first * n)
                y = Parts.of(scope, self.result).shifted(first * (n + int64(1)))
                transform.emit(x, packed, table, work, left)
                with T.serial(int64(0), many) as row:
                    self._unpack(packed.shifted(T.bind(row * n)), y.shifted(T.bind(row * (n + int64(1)))), between)
            case _:
                x = Parts.of(scope, self.source[:2]).shifted(first * (n + int64(1)))
                y = Pairs(scope.tensors[self.result[0]].buffer, first * n, exchanged=True)
                with T.serial(int64(0), many) as row:
                    self._pack(x.shifted(T.bind(row * (n + int64(1)))), packed.shifted(T.bind(row * n)), between)
                transform.emit(packed.exchanged(), y, table, work, left)

    def _unpack(self, s: Parts, y: Parts, between: Parts) -> None:
        """y[k] = (s[k] + conj s[n-k])/2 - i/2 w^k (s[k] - conj s[n-k]), w the root of order 2n."""
        re, im = s.load(int64(0))
        zero = tirx.const(0.0, "float32")
        y.store(int64(0), (re + im, zero))
        y.store(int64(self.n), (re - im, zero))
        self._mirrored(s, y, between)

    def _pack(self, x: Parts, s: Parts, between: Parts) -> None:
        """s[k] = (x[k] + conj x[n-k])/2 + i/2 w^-k (x[k] - conj x[n-k]); x[0] and x[n] count as real."""
        half = tirx.const(0.5, "float32")
        first, last = x.load(int64(0))[0], x.load(int64(self.n))[0]
        s.store(int64(0), ((first + last) * half, (first - last) * half))
        self._mirrored(x, s, between)

    def _mirrored(self, x: Parts, y: Parts, between: Parts) -> None:
        """y[k] = (x[k] + conj x[n-k])/2 + between[k] (x[k] - conj x[n-k]) for 0 < k < n; vectors may overlap."""
        count = self.n - 1
        width = min(self.transform.lanes, 1 << max(0, count.bit_length() - 1))
        if count == 0:
            return
        with T.serial(int64(0), int64(-(-count // width))) as block:
            k = T.bind(tirx.min(int64(1) + block * int64(width), int64(self.n - width)))
            a, b = x.shifted(k, 1, width).load(int64(0))
            c, d = x.shifted(int64(self.n + 1 - width) - k, 1, width).load(int64(0))
            if width > 1:
                c, d = (shuffled([part], range(width - 1, -1, -1)) for part in (c, d))
            half = vm.const(a, 0.5)
            re, im = times((vm.let(a - c), vm.let(b + d)), between.shifted(k, 1, width).load(int64(0)))
            y.shifted(k, 1, width).store(int64(0), ((a + c) * half + re, (b - d) * half + im))
