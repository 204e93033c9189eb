"""Fourier transforms as loop nests, for targets on which every element has a thread of its own.

A transform of length n = r1*r2*… is a nest for each factor: Stockham's passes with the twiddle factors inside of the
sum, y[p, j, q] = sum[k < r] x[k, p, q] exp(-2i pi j (p + m*k)/(r*m)) with q < s and r*m*s = n (Van Loan, 1.7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.stockham import radices, root
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Const, Expr, Index, Read, Reduce, Reducer, call
from mercer.ir.integers import ONE, IntExpr
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Statement
from mercer.ir.primitives import OF_KNOWN_LENGTH
from mercer.ir.types import Data, DType, TensorType

LARGEST = 16
"""Factors are joined up to this."""
TABLE = 1 << 20
"""Up to so many numbers the roots are a table by p, j and k; beyond, by the power of the root."""


def expanded(nests: Nests) -> Nests:
    """The same program without Fourier transforms; complex numbers stay.

    Raises UnsupportedError for a symbolic length.
    """
    statements, tables = _expanded(nests)
    return replace(nests, constants=(*nests.constants, *tables.values()), statements=statements)


def _expanded(nests: Nests) -> tuple[tuple[Statement, ...], dict[str, Constant]]:
    """The statements and the roots that they need; a scan hands them to its body."""
    types = nests.types()
    tables: dict[str, Constant] = {}
    statements: list[Statement] = []
    for statement in nests.statements:
        if isinstance(statement, Primitive) and statement.name in OF_KNOWN_LENGTH:
            made = _Expansion(statement, types[statement.operands[0]])
            statements += made.statements
            tables |= made.tables
            continue
        if isinstance(statement, Primitive) and statement.scan is not None:
            body = statement.scan.body
            inner, found = _expanded(body)
            inputs = (*body.inputs, *(Value(table.name, table.type) for table in found.values()))
            scan = replace(statement.scan, body=replace(body, inputs=inputs, statements=inner))
            statement = replace(statement, scan=scan, operands=(*statement.operands, *found))
            tables |= found
        statements.append(statement)
    return tuple(statements), tables


class _Expansion:
    """The statements of one transform; the tensor is seen as rows, the transformed axis, and what comes after it."""

    def __init__(self, statement: Primitive, type: TensorType) -> None:
        (self.target,), (source,) = statement.targets, statement.operands
        self.origins: tuple[Origin, ...] = statement.origins
        self.statements: list[Statement] = []
        self.tables: dict[str, Constant] = {}
        axis = OF_KNOWN_LENGTH[statement.name]
        length = type.shape[axis]
        if not length.is_constant:
            at = f" at {self.origins[0].span}" if self.origins else ""
            raise UnsupportedError(f"`{statement.name}` needs a length known at compile time; found {length}{at}")
        self.outer = _product(type.shape[:axis])
        self.inner = _product(type.shape[axis:][1:])
        name = statement.name.split("_")[0]
        if name == "rfft":
            n = length.value
            values = self.transform(self.lifted(source, n), n, -1)
            self.emit(self.target.name, n // 2 + 1, lambda b, k, c: _read(values, b, k, c), final=True)
        elif name == "irfft":
            n = 2 * (length.value - 1)
            values = self.transform(self.mirrored(source, length.value), n, 1)
            scale = Const(1.0 / max(n, 1), DType.F32)
            self.emit(
                self.target.name,
                n,
                lambda b, k, c: call("mul", call("real", _read(values, b, k, c)), scale),
                final=True,
            )
        else:
            n = length.value
            values = self.transform(self.flat(source, n), n, 1 if name == "ifft" else -1)
            scale = Const(1.0 / max(n, 1) + 0j, DType.C64)
            inverse = name == "ifft"
            self.emit(
                self.target.name,
                n,
                lambda b, k, c: call("mul", _read(values, b, k, c), scale) if inverse else _read(values, b, k, c),
                final=True,
            )

    # --- statements ---------------------------------------------------------------------------------------------------

    def name(self, hint: str) -> str:
        return f"{self.target.name}.{hint}{len(self.statements)}"

    def emit(
        self, name: str, length: int, body: Callable[[IntExpr, IntExpr, IntExpr], Expr], final: bool = False
    ) -> str:
        """A tensor of `outer` rows, `length` and `inner`; the final one has the shape of the target."""
        axes = tuple(
            Axis(axis, extent)
            for axis, extent in (("b", self.outer), ("k", IntExpr.constant(length)), ("c", self.inner))
        )
        expr = body(*(IntExpr.var(axis.name) for axis in axes))
        flat = f"{name}.flat" if final else name
        self.statements.append(
            Nest(flat, TensorType(expr.dtype, tuple(a.extent for a in axes)), axes, expr, self.origins)
        )
        if final:
            self.view(flat, self.target)
        return flat

    def view(self, source: str, target: Value) -> str:
        self.statements.append(Primitive("reshape", (target,), (source,), (), self.origins))
        return target.name

    def flat(self, source: str, length: int, dtype: DType = DType.C64) -> str:
        return self.reshaped(source, (self.outer, IntExpr.constant(length), self.inner), dtype)

    def reshaped(self, source: str, shape: tuple[IntExpr, ...], dtype: DType = DType.C64) -> str:
        return self.view(source, Value(self.name("view"), TensorType(dtype, shape)))

    def lifted(self, source: str, n: int) -> str:
        """Real numbers as complex ones."""
        flat = self.flat(source, n, DType.F32)
        return self.emit(
            self.name("complex"), n, lambda b, k, c: call("cast", _read(flat, b, k, c, DType.F32), dtype=DType.C64)
        )

    def mirrored(self, source: str, m: int) -> str:
        """All frequencies from those of one half; the first and the last are real."""
        flat = self.flat(source, m)
        n, pad = 2 * (m - 1), Const(0j, DType.C64)

        def body(b: IntExpr, k: IntExpr, c: IntExpr) -> Expr:
            low = replace(_read(flat, b, k, c), pad=pad)
            high = call("conj", replace(_read(flat, b, IntExpr.constant(n) - k, c), pad=pad))
            edge = [call("eq", Index(k), Const(at, DType.I32)) for at in (0, m - 1)]
            real = call("cast", call("real", low), dtype=DType.C64)
            half = call("lt", Index(k), Const(m, DType.I32))
            return call("where", call("or", *edge), real, call("where", half, low, high))

        return self.emit(self.name("mirrored"), n, body)

    # --- passes -------------------------------------------------------------------------------------------------------

    def transform(self, source: str, n: int, sign: int) -> str:
        """The sum over the middle axis of x[k] exp(sign 2i pi j k/n)."""
        values, s = source, 1
        for r in _joined(n):
            m = n // (s * r)
            shape = (self.outer, *map(IntExpr.constant, (r, m, s)), self.inner)
            values = self.step(self.reshaped(values, shape), r, m, s, sign)
            s *= r
        return self.flat(values, n) if s > 1 else values

    def step(self, source: str, r: int, m: int, s: int, sign: int) -> str:
        sizes = (self.outer, *map(IntExpr.constant, (m, r, s)), self.inner)
        axes = tuple(Axis(name, size) for name, size in zip(("b", "p", "j", "q", "c"), sizes, strict=True))
        b, p, j, q, c = (IntExpr.var(axis.name) for axis in axes)
        k = IntExpr.var("k")
        power = np.arange(r)[:, None] * (np.arange(m)[:, None, None] + m * np.arange(r))
        name = f"roots.{r}.{m}.{'inverse' if sign > 0 else 'forward'}"
        if r * r * m <= TABLE:
            numbers, place = root(-sign * power, r * m), (p, j, k)
        else:
            numbers, place = root(-sign * np.arange(r * m), r * m), ((j * (p + k * m)) % (r * m),)
        table = numbers.astype(np.complex64)
        self.tables[name] = Constant(name, TensorType.of(table), Data(table))
        term = call("mul", Read(source, (b, k, p, q, c), DType.C64), Read(name, place, DType.C64))
        body = Reduce(Reducer.SUM, (Axis("k", IntExpr.constant(r)),), term)
        target = self.name("pass")
        self.statements.append(Nest(target, TensorType(DType.C64, sizes), axes, body, self.origins))
        return target


def _joined(n: int) -> list[int]:
    """The factors of n, small ones multiplied up to `LARGEST`."""
    found: list[int] = []
    for r in sorted(radices(n)):
        if found and found[-1] * r <= LARGEST:
            found[-1] *= r
        else:
            found.append(r)
    return found


def _product(shape: tuple[IntExpr, ...]) -> IntExpr:
    total = ONE
    for extent in shape:
        total = total * extent
    return total


def _read(tensor: str, b: IntExpr, k: IntExpr, c: IntExpr, dtype: DType = DType.C64) -> Read:
    return Read(tensor, (b, k, c), dtype)
