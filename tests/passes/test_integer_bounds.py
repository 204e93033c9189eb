"""What integer tensors may hold."""

from __future__ import annotations

import math

import pytest

from mercer.ir.graph import Value
from mercer.ir.index import Axis, Const, Expr, Read, Reduce, Reducer, call
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import DType, TensorType
from mercer.passes.integer_bounds import Integers

SIZE = IntExpr.constant(4)


def chain(length: int) -> Nests:
    """Each tensor is max(min(the one before, 100), -5) + 1."""
    axis, type = Axis("i", SIZE), TensorType(DType.I32, (SIZE,))
    place = (IntExpr.var("i"),)

    def link(k: int) -> Nest:
        before = Read(f"t{k}", place, DType.I32)
        clamped = call("max", call("min", before, Const(100, DType.I32)), Const(-5, DType.I32))
        return Nest(f"t{k + 1}", type, (axis,), call("add", clamped, Const(1, DType.I32)), ())

    return Nests("chain", (Value("t0", type),), (), (), tuple(map(link, range(length))), (f"t{length}",))


@pytest.mark.parametrize("length", [1, 3000])
def test_long_chains_have_bounds(length: int) -> None:
    assert Integers(chain(length)).interval(f"t{length}") == (min(length - 5.0, 101.0), 101.0)


TYPES = {"codes": DType.I8, "numbers": DType.F32}


def read(name: str) -> Expr:
    return Read(name, (IntExpr.var("i"),), TYPES[name])


def real(e: Expr) -> Expr:
    return call("cast", e, dtype=DType.F32)


def total(e: Expr) -> Expr:
    return Reduce(Reducer.SUM, (Axis("i", SIZE),), e)


CLAMPED = call("max", call("min", read("numbers"), Const(2.5, DType.F32)), Const(-0.5, DType.F32))


@pytest.mark.parametrize(
    ("e", "low", "high"),
    [
        (real(read("codes")), -128.0, 127.0),
        (real(Const(2**24 + 1, DType.I32)), 2.0**24, 2.0**24),
        (call("mul", real(read("codes")), Const(1.0, DType.F32)), -128.0, 127.0),
        (total(real(read("codes"))), -512 * (1 + 2**-21), 512 * (1 + 2**-21)),
        (total(read("numbers")), -math.inf, math.inf),
        (total(call("mul", real(read("codes")), read("numbers"))), -math.inf, math.inf),
        (call("cast", total(real(read("codes"))), dtype=DType.I32), -512.0, 512.0),
        (call("cast", CLAMPED, dtype=DType.I32), 0.0, 2.0),
        (call("cast", read("numbers"), dtype=DType.I8), -128.0, 127.0),
    ],
    ids=str,
)
def test_bounds_hold_what_f32_rounds(e: Expr, low: float, high: float) -> None:
    inputs = tuple(Value(name, TensorType(dtype, (SIZE,))) for name, dtype in TYPES.items())
    assert Integers(Nests("bounds", inputs, (), (), (), ("codes",))).bound(e) == (low, high)
