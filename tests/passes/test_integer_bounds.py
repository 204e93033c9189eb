"""What integer tensors may hold."""

from __future__ import annotations

import pytest

from mercer.ir.graph import Value
from mercer.ir.index import Axis, Const, Read, call
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
