from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mercer.ir.integers import ONE, ZERO, Computed, Dim, IntExpr, Var
from tests.ir.programs import dim, int_exprs, var

NAMES = ("a", "b", "c")
exprs = int_exprs(st.sampled_from([var("a"), var("b"), dim("c")]))
values = st.fixed_dictionaries({name: st.integers(-20, 20) for name in NAMES})
a, b = var("a"), var("b")


def at(expr: IntExpr, point: dict[str, int]) -> int:
    def leaf(atom: Dim | Var | Computed) -> int:
        assert not isinstance(atom, Computed)
        return point[atom.name]

    return int(expr.evaluate(leaf))


@settings(deadline=None)
@given(exprs, exprs, exprs)
def test_equal_polynomials_are_equal_objects(x: IntExpr, y: IntExpr, z: IntExpr) -> None:
    assert (x + y) * z == x * z + y * z
    assert x * y == y * x
    assert (x + y) + z == x + (y + z)
    assert (x * y) * z == x * (y * z)
    assert x - x == ZERO
    assert hash(x * (y + z)) == hash(x * z + x * y)
    assert x.minimum(y) == y.minimum(x)
    assert x.maximum(x) == x


@settings(deadline=None)
@given(exprs, exprs, values, st.integers(-9, 9).filter(bool))
def test_operations_mean_what_python_means(x: IntExpr, y: IntExpr, point: dict[str, int], number: int) -> None:
    left, right = at(x, point), at(y, point)
    assert at(x + y, point) == left + right
    assert at(x - y, point) == left - right
    assert at(x * y, point) == left * right
    assert at(x // number, point) == left // number
    assert at(x % number, point) == left % number
    assert at(x.minimum(y), point) == min(left, right)
    assert at(x.maximum(y), point) == max(left, right)
    if right:
        assert at((x * y) // y, point) == left
        if not y.is_constant:
            assert at(x // y, point) == left // right
            assert at(x % y, point) == left % right


@settings(deadline=None)
@given(exprs, exprs, values)
def test_substitution(x: IntExpr, y: IntExpr, point: dict[str, int]) -> None:
    replaced = x.substitute(lambda atom: y if atom == Var("a") else None)
    assert at(replaced, point) == at(x, {**point, "a": at(y, point)})
    assert x.substitute(lambda _: None) == x


@settings(deadline=None)
@given(exprs, values)
def test_affine_part(x: IntExpr, point: dict[str, int]) -> None:
    factor = x.coefficient(Var("a"))
    if factor is not None:
        assert at(x, point) == at(factor, point) * point["a"] + at(x, {**point, "a": 0})


def test_constants_within_compound_atoms_are_substituted() -> None:
    n = dim("N")
    for expr in (IntExpr.constant(8) // n, IntExpr.constant(8) % n, n.maximum(3), n.minimum(3)):
        assert expr.substitute(lambda _: IntExpr.constant(4)).is_constant
        assert expr.substitute(lambda _: dim("M")) != expr
        assert expr.substitute(lambda _: None) == expr


def test_simplifications() -> None:
    assert (a * 6 + 4) // 2 == a * 3 + 2
    assert (a * 6 + 5) // 2 == a * 3 + 2
    assert (a * 6 + b) // 3 == a * 2 + b // 3
    assert (a * 6 + 5) % 3 == IntExpr.constant(2)
    assert (a * 6 + 5) % 3 == 5 % IntExpr.constant(3)
    assert (a * b) // b == a
    assert a.minimum(a + 1) == a
    assert (a + 1).maximum(a) == a + 1
    assert a // 1 == a
    assert a % 1 == ZERO
    assert a // a == ONE
    with pytest.raises(ZeroDivisionError):
        a // 0
    with pytest.raises(ValueError, match="is not a number"):
        _ = a.value
