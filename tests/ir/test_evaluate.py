from __future__ import annotations

import cmath
import math
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.spatial
import scipy.special
import torch

from mercer.ir import evaluate as module
from mercer.ir.evaluate import EvaluationError, bind_dims, evaluate, evaluate_statement
from mercer.ir.functions import NUMPY_FUNCTIONS, NUMPY_REDUCERS
from mercer.ir.graph import Constant, Initializer, Parameter, Value
from mercer.ir.index import FUNCTIONS, Const, Expr, Index, Read, Reduce, Reducer, call
from mercer.ir.integers import IntExpr, IntLike
from mercer.ir.nests import Nests, Origin, Primitive
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, Data, DType
from tests.ir.programs import F32, I32, axes, computed, dim, nest, program, read, tensor, total, var

N = dim("N")
n, c, o, p, q, i, j, k = map(var, "ncopqijk")
random = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def run(body: Expr, arrays: dict[str, Array], **extents: IntLike) -> Array:
    (result,) = evaluate_statement(nest("y", body, **extents), arrays, {"N": 2})
    return result


# --- against PyTorch --------------------------------------------------------------------------------------------------


def convolution(channels: int, size: int, kernel: int, stride: int, pad: int, dilation: int) -> Nests:
    out = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    u, v = p * stride - pad + i * dilation, q * stride - pad + j * dilation
    product = call("mul", read("w", o, c, i, j), read("x", n, c, u, v, pad=0.0))
    body = total(product, c=channels, i=kernel, j=kernel)
    inputs = {"x": tensor(N, channels, size, size), "w": tensor(5, channels, kernel, kernel)}
    return program(inputs, nest("y", body, n=N, o=5, p=out, q=out))


@pytest.mark.parametrize("precision", [None, DType.F64])
@pytest.mark.parametrize(
    ("stride", "pad", "dilation"), [(1, 0, 1), (1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 4, 2), (1, 9, 1)]
)
def test_convolution(stride: int, pad: int, dilation: int, precision: DType | None) -> None:
    x, w = normal(2, 3, 9, 9), normal(5, 3, 3, 3)
    (y,) = evaluate(convolution(3, 9, 3, stride, pad, dilation), {"x": x, "w": w}, precision=precision)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(w).double(), stride=stride, padding=pad, dilation=dilation
    ).numpy()
    if precision is None:
        np.testing.assert_array_equal(y, expected.astype(np.float32))  # one rounding of the f64 sum
    else:
        assert y.dtype == np.float64
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nests = convolution(3, 9, 3, 2, 1, 1)
    inputs = {"x": normal(4, 3, 9, 9), "w": normal(5, 3, 3, 3)}
    (whole,) = evaluate(nests, inputs)
    for limit in (100, 2000, 8000):
        monkeypatch.setattr(module, "CHUNK_BYTES", limit)
        np.testing.assert_allclose(evaluate(nests, inputs)[0], whole, rtol=1e-6)


def test_softmax() -> None:
    x = normal(4, 7) * 3
    nests = program(
        {"x": tensor(N, 7)},
        nest("m", Reduce(Reducer.MAX, axes(j=7), read("x", n, j)), n=N),
        nest("e", call("exp", call("sub", read("x", n, i), read("m", n))), n=N, i=7),
        nest("s", total(read("e", n, j), j=7), n=N),
        nest("y", call("div", read("e", n, i), read("s", n)), n=N, i=7),
    )
    (y,) = evaluate(nests, {"x": x})
    np.testing.assert_allclose(y, scipy.special.softmax(x.astype(np.float64), axis=1), rtol=1e-6, atol=1e-30)
    assert y.dtype == np.float32
    assert evaluate(nests, {"x": x[:0]})[0].shape == (0, 7)


def test_bilinear_sampling() -> None:
    """Positions computed at run time, zero outside, against torch's grid_sample."""
    x, u, v = normal(2, 3, 5, 6), normal(2, 8) * 4 + 2, normal(2, 8) * 4 + 2
    y0, x0 = call("floor", read("u", n, k)), call("floor", read("v", n, k))
    row, column = computed(call("cast", y0, dtype=I32)), computed(call("cast", x0, dtype=I32))
    fy, fx = call("sub", read("u", n, k), y0), call("sub", read("v", n, k), x0)
    one = Const(1.0, F32)

    def corner(dy: int, dx: int) -> Expr:
        wy, wx = fy if dy else call("sub", one, fy), fx if dx else call("sub", one, fx)
        return call("mul", call("mul", wy, wx), read("x", n, c, row + dy, column + dx, pad=0.0))

    body = call("add", call("add", corner(0, 0), corner(0, 1)), call("add", corner(1, 0), corner(1, 1)))
    result = run(body, {"x": x, "u": u, "v": v}, n=2, c=3, k=8)
    grid = np.stack([v * 2 / 5 - 1, u * 2 / 4 - 1], axis=-1)[:, None]
    expected = torch.nn.functional.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), align_corners=True)
    np.testing.assert_allclose(result, expected.numpy()[:, :, 0], atol=2e-5)


def test_product_of_three_and_distances() -> None:
    x, y, w = normal(4, 6), normal(5, 6), normal(6)
    product = call("mul", call("mul", read("w", k), read("x", i, k)), read("y", j, k))
    np.testing.assert_allclose(
        run(total(product, k=6), {"x": x, "y": y, "w": w}, i=4, j=5), np.einsum("k,ik,jk->ij", w, x, y), rtol=1e-5
    )
    difference = call("sub", read("x", i, k), read("y", j, k))
    squared = total(call("mul", difference, difference), k=6)
    expected = scipy.spatial.distance.cdist(x.astype(np.float64), y.astype(np.float64), "sqeuclidean")
    np.testing.assert_allclose(run(squared, {"x": x, "y": y}, i=4, j=5), expected, rtol=1e-5)


# --- reads ------------------------------------------------------------------------------------------------------------

X = np.arange(24, dtype=np.float32).reshape(4, 6)
A = np.arange(3)[:, None]
TWICE = call("sub", call("mul", Index(i), Const(2, I32)), Const(1, I32))


@pytest.mark.parametrize(
    ("indices", "extents", "expected"),
    [
        ((j, i), {"i": 6, "j": 4}, X.T),
        ((i, i), {"i": 4}, X.diagonal()),
        ((3 - i, j * 2), {"i": 4, "j": 3}, X[::-1, ::2]),
        ((i // 2, j % 4), {"i": 8, "j": 6}, X[np.arange(8) // 2][:, np.arange(6) % 4]),
        (
            (i.minimum(j), i.maximum(j)),
            {"i": 3, "j": 3},
            X[np.minimum.outer(range(3), range(3)), np.maximum.outer(range(3), range(3))],
        ),
        ((N, j + N), {"j": 4}, X[2, 2:]),
        ((1, 2), {}, X[1, 2]),
        ((i * j, j), {"i": 2, "j": 3}, np.array([[X[a * b, b] for b in range(3)] for a in range(2)])),
        ((i, j), {"i": 0, "j": 6}, X[:0]),
    ],
)
def test_index_expressions(indices: tuple[IntLike, ...], extents: dict[str, int], expected: Array) -> None:
    np.testing.assert_array_equal(run(read("x", *indices), {"x": X}, **extents), expected)


@pytest.mark.parametrize("row", [i - 1, computed(call("add", Index(i), Const(-1, I32)))])
def test_pad_stands_outside(row: IntExpr) -> None:
    padded = np.pad(X, ((1, 1), (3, 1)), constant_values=-7.5)
    result = run(read("x", row, j - 3, pad=-7.5), {"x": X}, i=6, j=10)
    np.testing.assert_array_equal(result, padded)


def test_pad_far_away_and_of_nothing() -> None:
    assert run(read("x", i * 1_000_000_000, 0, pad=2.0), {"x": X}, i=3).tolist() == [0, 2, 2]
    assert run(read("x", i, pad=2.0), {"x": X[0, :0]}, i=3).tolist() == [2, 2, 2]
    nowhere = computed(call("cast", Const(math.nan, F32), dtype=I32))
    assert run(read("x", nowhere, i, pad=2.0), {"x": X}, i=3).tolist() == [2, 2, 2]


@pytest.mark.parametrize("index", [i * 2 - 1, computed(TWICE)])
def test_read_outside_is_an_error(index: IntExpr) -> None:
    origin = Origin("take", "y", Span("m.mer", 2, 3, 2, 9))
    statement = nest("y", read("x", 0, index), origin, i=3)
    message = r"%y \(take at m\.mer:2:3\): %x is read outside of its shape \[4, 6\]: index 1, .*, is -1 at i = 0"
    with pytest.raises(EvaluationError, match=message):
        evaluate_statement(statement, {"x": X})


def test_read_outside_names_the_first_place() -> None:
    with pytest.raises(EvaluationError, match=r"index 0, i \+ j, is 4 at i = 1, j = 3"):
        run(read("x", i + j, 0), {"x": X}, i=2, j=4)


# --- reductions -------------------------------------------------------------------------------------------------------

TERMS = [[3, -1, 2, -1], [0, 5, 5, 1]]


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.C64])
@pytest.mark.parametrize("reducer", Reducer)
def test_reductions(dtype: DType, reducer: Reducer) -> None:
    array = np.array(TERMS).astype(dtype.numpy)
    body = Reduce(reducer, axes(k=4), Read("x", (i, k), dtype))
    wide = array.astype(np.float64)
    expected = {
        Reducer.SUM: wide.any(1) if dtype is DType.BOOL else wide.sum(1),
        Reducer.PROD: wide.prod(1),
        Reducer.MAX: wide.max(1),
        Reducer.MIN: wide.min(1),
        Reducer.ANY: wide.any(1),
        Reducer.ALL: wide.all(1),
        Reducer.ARGMAX: wide.argmax(1),
        Reducer.ARGMIN: wide.argmin(1),
    }[reducer]
    result = run(body, {"x": array}, i=2)
    assert result.dtype == body.dtype.numpy
    np.testing.assert_array_equal(result.astype(np.float64), expected)


def test_reductions_of_nothing() -> None:
    empty = {"x": np.zeros((3, 0), np.float32), "k": np.zeros((3, 0), np.int32)}
    over = axes(k=0)
    assert run(Reduce(Reducer.SUM, over, read("x", i, k)), empty, i=3).tolist() == [0, 0, 0]
    assert run(Reduce(Reducer.PROD, over, read("x", i, k)), empty, i=3).tolist() == [1, 1, 1]
    assert run(Reduce(Reducer.MAX, over, read("x", i, k)), empty, i=3).tolist() == [-math.inf] * 3
    assert run(Reduce(Reducer.MIN, over, read("k", i, k, dtype=I32)), empty, i=3).tolist() == [2**31 - 1] * 3
    with pytest.raises(EvaluationError, match="of nothing"):
        run(Reduce(Reducer.ARGMAX, over, read("x", i, k)), empty, i=3)


def test_reductions_side_by_side_may_share_names() -> None:
    body = call("sub", total(read("x", 0, k), k=6), total(read("x", k, 0), k=4))
    assert run(body, {"x": X}).item() == X[0].sum() - X[:, 0].sum()


def test_sum_of_what_does_not_depend_on_its_axis() -> None:
    assert run(total(read("x", i, 1), k=5), {"x": X}, i=4).tolist() == (X[:, 1] * 5).tolist()
    assert run(total(call("mul", Const(2, I32), Index(k)), j=3, k=4), {}).item() == 36


def test_integer_sums_are_exact_and_wrap() -> None:
    big = np.full(8, 2**30, np.int32)
    assert run(total(read("x", k, dtype=I32), k=8), {"x": big}).item() == 0  # 2^33 wraps
    product = call("mul", read("x", k, dtype=I32), read("x", k, dtype=I32))
    assert run(total(product, k=8), {"x": big - 1}).item() == np.int64((2**30 - 1) ** 2 * 8).astype(np.int32)
    small = random.integers(-127, 128, 1000).astype(np.int32)
    expected = int((small.astype(np.int64) ** 2).sum())
    assert run(total(product, k=1000), {"x": small}).item() == expected


def test_sums_accumulate_in_double() -> None:
    x = np.array([1e8, 1.0, -1e8, 1.0], np.float32)
    assert run(total(read("x", k), k=4), {"x": x}).item() == 2.0
    half = np.full(5000, 1.0, np.float16)
    assert run(total(read("x", k, dtype=DType.F16), k=5000), {"x": half}).item() == 5000


# --- functions --------------------------------------------------------------------------------------------------------

REFERENCES = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a - b * math.floor(a / b),
    "pow": lambda a, b: abs(a) ** b,
    "min": min,
    "max": max,
    "atan2": math.atan2,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,  # Python rounds halves to even
    "trunc": math.trunc,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": lambda a: math.log(abs(a)),
    "log1p": lambda a: math.log1p(abs(a)),
    "sqrt": lambda a: math.sqrt(abs(a)),
    "rsqrt": lambda a: 1 / math.sqrt(abs(a)),
    "erf": math.erf,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": lambda a: math.asin(math.tanh(a)),
    "acos": lambda a: math.acos(math.tanh(a)),
    "atan": math.atan,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
PREPARED = {"pow": "abs", "log": "abs", "log1p": "abs", "sqrt": "abs", "rsqrt": "abs", "asin": "tanh", "acos": "tanh"}
SAMPLES = [-2.5, -1.5, -0.5, 0.25, 0.5, 1.5, 2.0, 3.75]
PAIRS = [(a, b) for a in SAMPLES for b in (-1.5, 0.5, 2.0)]


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("precision", [None, DType.F64])
def test_function(name: str, precision: DType | None) -> None:
    arity = FUNCTIONS[name].arity
    samples = PAIRS if arity == 2 else [(a,) for a in SAMPLES]
    arrays = {f"x{m}": np.array([s[m] for s in samples], np.float32) for m in range(arity)}
    arguments: list[Expr] = [read(f"x{m}", i) for m in range(arity)]
    if name in PREPARED:
        arguments[0] = call(PREPARED[name], arguments[0])
    statement = nest("y", call(name, *arguments), i=len(samples))
    stored = {key: a.astype(np.float64) if precision else a for key, a in arrays.items()}
    (result,) = evaluate_statement(statement, stored, precision=precision)
    expected = np.array([REFERENCES[name](*s) for s in samples])
    tolerance = 1e-12 if precision else 3e-7
    if name in ("asin", "acos", "tanh") and precision is None:
        tolerance = 3e-6  # the argument has been rounded
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=tolerance, atol=1e-12 if precision else 1e-7)


def test_all_functions_and_reducers_have_a_rule() -> None:
    assert NUMPY_FUNCTIONS.keys() == FUNCTIONS.keys()
    assert NUMPY_REDUCERS.keys() == set(Reducer)
    assert FUNCTIONS.keys() - REFERENCES.keys() == {"and", "or", "not", "xor", "where", "cast"} | COMPLEX.keys()


@pytest.mark.parametrize("dtype", [DType.I8, DType.I32, DType.I64])
def test_xor(dtype: DType) -> None:
    limits = np.iinfo(dtype.numpy)
    pairs = [(a, b) for a in (limits.min, -3, 0, 5, limits.max) for b in (limits.min, -1, 6, limits.max)]
    arrays = {name: np.array([pair[k] for pair in pairs], dtype.numpy) for k, name in enumerate("ab")}
    statement = nest("y", call("xor", *(read(name, i, dtype=dtype) for name in "ab")), i=len(pairs))
    (result,) = evaluate_statement(statement, arrays)
    assert result.dtype == dtype.numpy
    np.testing.assert_array_equal(result, [a ^ b for a, b in pairs])


COMPLEX: dict[str, Any] = {
    "complex": complex,
    "real": lambda z: z.real,
    "imag": lambda z: z.imag,
    "conj": lambda z: z.conjugate(),
    "angle": cmath.phase,
}


@pytest.mark.parametrize("name", [*COMPLEX, "abs", "exp", "neg", "mul", "div"])
@pytest.mark.parametrize("precision", [None, DType.F64])
def test_function_of_complex_numbers(name: str, precision: DType | None) -> None:
    others: dict[str, Any] = {"exp": cmath.exp, "abs": abs, "neg": lambda z: -z}
    others |= {"mul": lambda z: z * -2j, "div": lambda z: z / -2j}
    points = [complex(a, b) for a in SAMPLES for b in (-1.5, 0.5, 2.0)]
    parts = [read(part, i) for part in ("re", "im")]
    z = call("complex", *parts)
    second = (Const(-2j, DType.C64),) if name in ("mul", "div") else ()
    statement = nest("y", z if name == "complex" else call(name, z, *second), i=len(points))
    wide = np.float64 if precision else np.float32
    arrays = {"re": np.array([p.real for p in points], wide), "im": np.array([p.imag for p in points], wide)}
    (result,) = evaluate_statement(statement, arrays, precision=precision)
    expected = np.array(points if name == "complex" else [(COMPLEX | others)[name](p) for p in points])
    assert result.dtype.itemsize == (2 if np.iscomplexobj(expected) else 1) * (8 if precision else 4)
    np.testing.assert_allclose(result, expected, rtol=1e-12 if precision else 3e-7)


def test_logic_and_choice() -> None:
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    arrays: dict[str, Array] = {"a": a, "b": b, "x": X[0]}
    left, right = read("a", i, dtype=DType.BOOL), read("b", i, dtype=DType.BOOL)
    assert run(call("and", left, right), arrays, i=4).tolist() == (a & b).tolist()
    assert run(call("or", left, right), arrays, i=4).tolist() == (a | b).tolist()
    assert run(call("not", left), arrays, i=4).tolist() == (~a).tolist()
    assert run(call("where", left, read("x", i), Const(-1.0, F32)), arrays, i=4).tolist() == [-1, -1, 2, 3]


def test_sigmoid_is_stable() -> None:
    x = np.array([-1000.0, -100.0, 0.0, 1000.0], np.float32)
    y = run(call("sigmoid", read("x", i)), {"x": x}, i=4)
    np.testing.assert_allclose(y, [0.0, np.float32(math.exp(-100)), 0.5, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (2.7, F32, I32, 2),
        (-2.7, F32, I32, -2),
        (300, I32, DType.I8, 44),
        (3e9, F32, I32, 2**31 - 1),
        (-3e9, F32, I32, -(2**31)),
        (-math.inf, F32, DType.I64, -(2**63)),
        (2.0**63, F32, DType.I64, 2**63 - 1),
        (2147483520.0, F32, I32, 2147483520),
        (math.nan, F32, I32, -(2**31)),
        (9, I32, DType.I4, -7),
        (-9, I32, DType.I4, 7),
        (0.1, DType.F64, F32, float(np.float32(0.1))),
        (1 + 2**-11 + 2**-30, DType.F64, DType.F16, 1 + 2**-10),  # by way of f32 it would be 1
        (3.14159, F32, DType.BF16, float(ml_dtypes.bfloat16(3.14159))),
        (2.0, F32, DType.BOOL, True),
        (True, DType.BOOL, F32, 1.0),
    ],
)
def test_cast(value: float, source: DType, target: DType, expected: float) -> None:
    result = run(call("cast", Const(value, source), dtype=target), {})
    assert result.dtype == target.numpy
    assert result.item() == expected


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, F32])
def test_every_function_is_rounded_to_its_type(dtype: DType) -> None:
    x, y = (random.standard_normal(200).astype(dtype.numpy) for _ in "xy")
    product = call("mul", Read("x", (i,), dtype), Read("y", (i,), dtype))
    result = run(call("add", product, Read("x", (i,), dtype)), {"x": x, "y": y}, i=200)
    wide = (x.astype(np.float64) * y.astype(np.float64)).astype(dtype.numpy).astype(np.float64)
    np.testing.assert_array_equal(result, (wide + x.astype(np.float64)).astype(dtype.numpy))


def test_complex() -> None:
    z = (normal(5) + 1j * normal(5)).astype(np.complex64)
    value = Read("z", (k,), DType.C64)
    result = run(total(call("mul", value, value), k=5), {"z": z})
    np.testing.assert_allclose(result, (z.astype(np.complex128) ** 2).sum(), rtol=1e-6)


def test_shared_parts_are_computed_once() -> None:
    body: Expr = read("x", i, j)
    for _ in range(60):  # 3^60 parts when written out
        body = call("sub", call("max", body, body), Const(0.0, F32))
    np.testing.assert_array_equal(run(body, {"x": X}, i=4, j=6), X)


def test_integer_to_a_negative_power() -> None:
    with pytest.raises(EvaluationError, match="negative power"):
        run(call("pow", Const(2, I32), Const(-1, I32)), {})


# --- programs ---------------------------------------------------------------------------------------------------------


def test_reshape() -> None:
    statement = Primitive("reshape", (Value("y", tensor(N * 2, 3)),), ("x",), (), ())
    nests = program({"x": tensor(N, 6)}, statement)
    np.testing.assert_array_equal(evaluate(nests, {"x": X})[0], X.reshape(8, 3))
    wrong = replace(statement, targets=(Value("y", tensor(N * 2, 4)),))
    with pytest.raises(EvaluationError, match=r"%y: \[4, 6\] does not reshape to \[8, 4\]"):
        evaluate(program({"x": tensor(N, 6)}, wrong), {"x": X})


def test_parameters_constants_and_types() -> None:
    body = call("add", call("mul", read("x", n, i), read("w", i)), read("c", i))
    nests = replace(
        program({"x": tensor(N, 6)}, nest("y", body, n=N, i=6), outputs=("y", "x")),
        parameters=(Parameter("w", tensor(6), Initializer("ones"), True, NOWHERE),),
        constants=(Constant("c", tensor(6), Data(X[1])),),
    )
    y, x = evaluate(nests, {"x": X.astype(np.float64)}, {"w": X[0]})
    assert (y.dtype, x.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(y, X * X[0] + X[1])
    with pytest.raises(EvaluationError, match="no value is given for the parameter %w"):
        evaluate(nests, {"x": X})
    with pytest.raises(EvaluationError, match="no value is given for the input %x"):
        evaluate(nests, {}, {"w": X[0]})
    with pytest.raises(EvaluationError, match=r"%w is f32\[6\]: expected \[6\], got \[4\]"):
        evaluate(nests, {"x": X}, {"w": X[:, 0]})
    unread = replace(nests, constants=(Constant("c", tensor(6), Data(None, "00")),))
    with pytest.raises(EvaluationError, match="constant %c has no data"):
        evaluate(unread, {"x": X}, {"w": X[0]})


def test_integer_input_takes_no_floats() -> None:
    nests = program({"x": tensor(4, dtype=I32)}, outputs=("x",))
    with pytest.raises(EvaluationError, match=r"%x is i32\[4\]: got an array of float32"):
        evaluate(nests, {"x": X[:, 0]})


def test_unknown_primitive() -> None:
    with pytest.raises(EvaluationError, match="no such primitive: sort"):
        evaluate_statement(Primitive("sort", (), (), (), ()), {})


def value(*shape: IntLike) -> Value:
    return Value("x", tensor(*shape))


def test_dims_are_bound_from_shapes() -> None:
    assert bind_dims([(value(N, 3), (2, 3))]) == {"N": 2}
    assert bind_dims([(value(N * 2 + 1), (7,))]) == {"N": 3}
    assert bind_dims([(value(N * dim("M")), (6,)), (value(N), (2,))]) == {"N": 2, "M": 3}
    for shape, actual in [((N, N), (2, 3)), ((N, 3), (2, 4)), ((N * 2,), (7,)), ((N,), (2, 3))]:
        with pytest.raises(EvaluationError, match="%x is f32"):
            bind_dims([(value(*shape), actual)])
    with pytest.raises(EvaluationError, match=r"the dim \w is not known"):
        bind_dims([(value(N * dim("M")), (6,))])
