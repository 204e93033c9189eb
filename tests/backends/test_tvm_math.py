"""Errors of the vectorized functions, in units in the last place of the correctly rounded float32 result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from mercer.backends.tvm.analysis import is_sign
from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.target import parse
from mercer.ir.index import Expr, call
from mercer.ir.types import Array
from tests.backends.tvm_programs import Binary, axes, build, nest, number, program, read, tensor

X = read("x", "n")

SMALL = np.concatenate([np.logspace(-44, 0, 20000), -np.logspace(-44, 0, 20000)]).astype(np.float32)


def grid(low: float, high: float) -> Array:
    return np.linspace(low, high, 200_001).astype(np.float32)


MIXED = np.where(np.arange(200_001) % 13 == 5, grid(-1e8, 1e8), grid(-50, 50)).astype(np.float32)
"""Large arguments beside small ones in a vector."""

CASES: dict[str, tuple[Callable[..., Any], float, tuple[Array, ...]]] = {
    "exp": (np.exp, 0.9, (grid(-104, 88.7), grid(-1, 1), SMALL)),
    "expm1": (np.expm1, 1.5, (grid(-20, 88.7), grid(-1, 1), SMALL)),
    "log": (np.log, 1.0, (grid(1e-3, 100), grid(0.5, 2), np.logspace(-44.8, 38, 100_000).astype(np.float32))),
    "log1p": (np.log1p, 1.5, (grid(-0.999, 100), grid(-0.5, 0.5), SMALL[SMALL > -1])),
    "sigmoid": (special.expit, 1.8, (grid(-80, 80), grid(-5, 5))),
    "tanh": (np.tanh, 1.7, (grid(-10, 10), grid(-1, 1), SMALL)),
    "sinh": (np.sinh, 2.6, (grid(-88, 88), grid(-1, 1), SMALL)),
    "cosh": (np.cosh, 2.6, (grid(-88, 88), grid(-1, 1))),
    "sin": (np.sin, 1.8, (grid(-10, 10), grid(-32790, 32790), grid(-1e8, 1e8), MIXED, SMALL)),
    "cos": (np.cos, 1.8, (grid(-10, 10), grid(-32790, 32790), grid(-1e8, 1e8), MIXED, SMALL)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.0, (grid(1e-3, 100), np.logspace(-44.8, 38.5, 100_000).astype(np.float32))),
    "tan": (np.tan, 3.6, (grid(-10, 10),)),
    "erf": (special.erf, 1.1, (grid(-5, 5), grid(-1, 1), SMALL)),
    "atan": (np.arctan, 2.9, (grid(-10, 10), SMALL)),
    "asin": (np.arcsin, 2.6, (grid(-1, 1), SMALL)),
    "acos": (np.arccos, 1.6, (grid(-1, 1),)),
}
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-45, 88.8, -104, 2], np.float32)


@pytest.fixture(scope="module")
def binary() -> Binary:
    statements = [nest(f, axes(n="N"), call(f, read("x", "n")), f) for f in CASES]
    return build(program({"x": tensor("N")}, {}, statements, *CASES))


@pytest.mark.parametrize("name", CASES)
def test_error_in_ulp(binary: Binary, name: str) -> None:
    exact, bound, samples = CASES[name]
    for x in samples:
        found = binary(x=x)[list(CASES).index(name)].astype(np.float64)
        with np.errstate(over="ignore"):
            expected = exact(x.astype(np.float64))
            unit = np.spacing(np.abs(expected.astype(np.float32))).astype(np.float64)
        error = np.abs(found - expected) / unit
        worst = int(np.argmax(np.where(np.isfinite(unit), error, 0)))
        assert error[worst] <= bound, f"{name}({x[worst]!r}) is {error[worst]:.2f} ulp wrong"


@pytest.mark.parametrize("name", CASES)
def test_special_values_in_vectors_and_alone(binary: Binary, name: str) -> None:
    with np.errstate(all="ignore"):
        expected = CASES[name][0](SPECIAL.astype(np.float64)).astype(np.float32)
    for length in (len(SPECIAL), 32):
        x = np.resize(SPECIAL, length)
        found = binary(x=x)[list(CASES).index(name)]
        np.testing.assert_allclose(found, np.resize(expected, length), rtol=1e-5)


@pytest.mark.parametrize("level", ["cpu:generic", "cpu:avx2", "cpu:avx512"])
def test_rows_of_a_known_length(level: str) -> None:
    """Their vectors may be wider than a register."""
    statements = [nest(f, axes(m=3, n=64), call(f, read("x", "m", "n")), f) for f in CASES]
    nests = program({"x": tensor(3, 64)}, {}, statements, *CASES)
    if level == "cpu:avx512":
        compile_nests(nests, parse(level))
        return
    x = np.random.default_rng(0).uniform(0.1, 0.9, (3, 64)).astype(np.float32)
    for found, (exact, _, _) in zip(build(nests, level)(x=x), CASES.values(), strict=True):
        np.testing.assert_allclose(found, exact(x.astype(np.float64)), rtol=1e-6)


def test_atan2_in_all_quadrants() -> None:
    nests = program(
        {"y": tensor("N"), "x": tensor("N")},
        {},
        [nest("a", axes(n="N"), call("atan2", read("y", "n"), read("x", "n")))],
        "a",
    )
    corners = np.array([0, -0.0, 1, -1, 0.3, -7, np.inf, -np.inf], np.float32)
    y, x = (a.ravel() for a in np.meshgrid(corners, corners))
    np.testing.assert_allclose(build(nests)(y=y, x=x)[0], np.arctan2(y, x), rtol=5e-7)


def test_exp_of_what_is_never_positive() -> None:
    """It takes fewer operations; vectors and single elements."""
    body = call("exp", call("min", read("x", "n"), number(0.0)))
    binary = build(program({"x": tensor("N")}, {}, [nest("y", axes(n="N"), body)], "y"))
    special_values = np.array(
        [np.nan, -np.inf, np.inf, 0.0, -0.0, -87.4, -103.0, -103.9, -104.5, -1e30, -1e-40], np.float32
    )
    for x in (grid(-104, 0), grid(-1, 0), -np.abs(SMALL), special_values, np.resize(special_values, 32)):
        found = binary(x=x)[0].astype(np.float64)
        expected = np.exp(np.minimum(x.astype(np.float64), 0))
        assert np.array_equal(np.isnan(found), np.isnan(x))
        error = np.abs(found - expected) / np.spacing(expected.astype(np.float32))
        assert np.nanmax(error) <= 1.5


def test_one_plus_erf() -> None:
    """It takes fewer operations than erf; vectors and single elements."""
    body = call("add", number(1.0), call("erf", read("x", "n")))
    binary = build(program({"x": tensor("N")}, {}, [nest("y", axes(n="N"), body)], "y"))
    ends = np.array([np.nan, -np.inf, np.inf, 0.0, -0.0, -4.2, -1e30, 4.2, 1e30, 3e38, 1e-40], np.float32)
    for x in (grid(-5, 5), grid(-1, 1), grid(-100, 100), SMALL, ends, np.resize(ends, 32)):
        found, expected = binary(x=x)[0], 1 + special.erf(x.astype(np.float64))
        assert np.array_equal(np.isnan(found), np.isnan(x))
        assert np.nanmax(np.abs(found - expected)) <= 1.7e-7
        assert np.all(found[x <= -4.2] == 0)
        assert np.all(found[x >= 4.2] == 2)


@pytest.mark.parametrize(
    ("body", "sign"),
    [
        (call("min", X, number(0.0)), -1),
        (call("mul", number(-0.5), call("max", X, number(0.0))), -1),
        (call("mul", call("neg", X), call("neg", X)), 1),
        (call("neg", call("add", call("abs", X), call("mul", X, X))), -1),
        (call("max", X, call("neg", call("abs", X))), 0),
        (call("mul", X, call("neg", X)), 0),
        (call("min", X, number(0.5)), 0),
        (call("sub", call("abs", X), number(1.0)), 0),
        (call("div", call("abs", X), number(-2.0)), -1),
        (call("div", call("abs", X), call("mul", X, X)), 1),
        (call("div", call("abs", X), call("sqrt", X)), 0),  # sqrt(-0.0) is -0.0
    ],
)
def test_signs_that_are_known(body: Expr, sign: int) -> None:
    """1 or -1 where the formula says so, 0 where it does not."""
    assert [is_sign(body, s) for s in (-1, 1)] == [sign == -1, sign == 1]
