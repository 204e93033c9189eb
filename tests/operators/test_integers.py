"""Integers bit for bit: the reference, PyTorch and TVM against NumPy's i64 and Python's integers.

Every operator has at least 100 000 elements, over the whole range of its element type, the ends included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mercer.backends.torch import module
from mercer.compiler import Program, compile, parse_text
from mercer.ir.evaluate import evaluate
from mercer.ir.lower import lower
from tests.operators.records.quantization import RECORDS
from tests.operators.records.record import Array
from tests.operators.run import LIBRARY, graph_of

COUNT = 100_000
LOWEST, HIGHEST = -(2**31), 2**31 - 1
RNG = np.random.default_rng(20180618)


@dataclass(frozen=True)
class Case:
    """A call of an operator and what must come out."""

    operator: str
    operands: tuple[Array, ...]
    attributes: dict[str, Any]
    expected: Array


def recorded(operator: str, *operands: Array, **attributes: Any) -> Case:
    """Judged by the formula of the operator's record."""
    record = next(r for r in RECORDS if r.name == operator)
    wanted = record.reference(*map(torch.from_numpy, operands), **attributes)
    return Case(operator, operands, attributes, np.asarray(wanted))


def wrong(cases: Sequence[Case]) -> list[str]:
    """What differs in a bit, in the type or in the shape, on any backend."""
    graph, inputs = graph_of([(case.operator, case.operands, case.attributes) for case in cases])
    net = module(graph, LIBRARY, {}).eval()
    outputs = net(*(torch.from_numpy(np.array(a)) for a in inputs.values()))
    compiled = compile(Program(graph, LIBRARY), target="cpu")(**inputs)
    found = {
        "reference": evaluate(lower(graph, LIBRARY), inputs),
        "torch": [o.numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))],
        "tvm": compiled if isinstance(compiled, tuple) else (compiled,),
    }
    return [
        f"{case.operator} {case.attributes} on {backend}"
        for backend, results in found.items()
        for case, actual in zip(cases, results, strict=True)
        if not same(actual, case.expected)
    ]


def same(actual: Array, expected: Array) -> bool:
    return actual.dtype == expected.dtype and np.array_equal(actual, expected, equal_nan=actual.dtype.kind == "f")


# --- operands ---------------------------------------------------------------------------------------------------------


def numbers(dtype: Any, *shape: int) -> Array:
    """Over the whole range, half of them small, the ends among them."""
    limits = np.iinfo(dtype)
    values = RNG.integers(limits.min, limits.max, shape, endpoint=True)
    values = np.where(RNG.random(shape) < 0.5, values, values >> RNG.integers(0, limits.bits, shape))
    ends = [limits.min, limits.max, limits.min + 1, -1, 0, 1]
    values.flat[: min(values.size, len(ends))] = ends[: values.size]
    return values.astype(dtype)


def words(*shape: int) -> Array:
    return numbers(np.int32, *shape)


def codes(*shape: int) -> Array:
    return numbers(np.int8, *shape)


def factors(count: int, shift: int) -> tuple[Array, Array]:
    """Accumulators and multipliers: random ones, all pairs of extremes, and products that are ties for this shift."""
    extremes = [LOWEST, LOWEST + 1, -(2**30), -65537, -2, -1, 0, 1, 2, 46341, 2**30, HIGHEST - 1, HIGHEST]
    pairs = np.array(list(itertools.product(extremes, repeat=2)))
    low = RNG.integers(max(0, shift - 31), min(31, shift - 1) + 1, 200)
    ties = np.stack([RNG.choice([-1, 1], 200) << low, np.full(200, 1) << (shift - 1 - low)], 1)
    rest = np.stack([words(count), words(count)], 1)
    both = np.concatenate([pairs, ties, rest])[:count]
    return both[:, 0].astype(np.int32), both[:, 1].astype(np.int32)


# --- operators of quantization.mer ------------------------------------------------------------------------------------


def test_products_are_rounded_alike_for_every_shift() -> None:
    each = -(-COUNT // 62)
    cases: list[Case] = []
    for shift in range(1, 63):
        acc, multiplier = factors(each, shift)
        cases.append(recorded("requantize", acc, multiplier, shift=shift, zero=shift - 31))
        cases.append(recorded("rescale", acc, multiplier, shift=shift))
    for bits in range(1, 32):
        cases.append(recorded("wrap", *factors(2 * each, 2 * bits), shift=2 * bits, bits=bits))
    assert wrong(cases) == []


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.0371, 1e-3, 17.3, 3e-39])
def test_quantize_divides_and_rounds_alike(scale: float) -> None:
    """Any bits as x, and for every code the f32 numbers around its ends."""
    bits = RNG.integers(LOWEST, HIGHEST, COUNT, dtype=np.int32, endpoint=True).view(np.float32)
    ends = (np.arange(-140, 140) + 0.5).astype(np.float32) * np.float32(scale)
    around = [np.nextafter(ends, np.float32(d * np.inf)) for d in (-1, 1)]
    x = np.concatenate([bits, ends, *around, np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0])])
    cases = [recorded("quantize", x, scale=scale), recorded("quantize", x, scale=scale, zero=-7, low=-90, high=101)]
    assert wrong(cases) == []


def test_tables_distances_and_sums() -> None:
    exponentials = np.rint(2**20 * np.exp(-np.arange(256) / 16)).astype(np.int32)
    wide = RNG.integers(0, 1024, (COUNT,)).astype(np.int32)
    rows, points, weights = words(320, 12), words(320, 12), words(320, 12)
    every = np.arange(-128, 128, dtype=np.int8)
    cases = [
        recorded("dequantize", codes(COUNT), scale=0.0371, zero=-3),
        recorded("dequantize", words(COUNT), scale=1e-3),
        recorded("dequantize_channels", words(100, 10, 100), RNG.random((10, 1)).astype(np.float32)),
        recorded("widen", codes(COUNT), zero=-128),
        recorded("lookup", codes(COUNT), words(256)),
        recorded("lookup", wide, codes(1024), low=0),
        recorded("unpack4", codes(COUNT // 50, 50), codes(16), count=99),
        recorded("channel_lookup", codes(40, 25, 100), words(25, 256)),
        recorded("edge_lookup", codes(5000, 5), words(20, 5, 256)),
        recorded("squared_distances", rows, points),
        recorded("weighted_squared_distances", rows, points, weights),
        recorded("l1_distances", rows >> 5, points >> 5),
        recorded("sum_pool1d", words(40, 50, 100), k=3, stride=2, pad=1),
        recorded("sum_pool2d", words(10, 10, 64, 64), k=(3, 2), stride=2, pad=1),
        recorded("sum_pool3d", words(4, 4, 38, 38, 38), k=3, stride=2, pad=1),
        recorded("integer_softmax", np.concatenate([codes(1000, 100), np.tile(every[:100], (4, 1))]), exponentials),
        recorded("integer_softmax", words(100, 10, 100), exponentials, axis=1, high=HIGHEST),
        recorded("integer_sqrt", np.concatenate([words(COUNT), squares() - 1, squares(), squares() + 1])),
    ]
    assert wrong(cases) == []


def squares() -> Array:
    return np.append(np.arange(0, 46341, 7), 46340).astype(np.int32) ** 2


def test_deformable_windows() -> None:
    near = RNG.integers(-(2**10), 2**10, (2, 36, 40, 40)).astype(np.int32)
    x, mask = codes(2, 4, 40, 40), RNG.integers(0, 257, (2, 18, 40, 40)).astype(np.int32)
    whole = RNG.integers(-50, 50, (2, 18, 40, 40)).astype(np.int32)
    attributes = {"pad": 1, "groups": 2, "offset_groups": 2, "zero": 5}
    cases = [
        recorded("fixed_deform_columns2d", x, near, window=3, pad=1, offset_groups=2, fraction=8, zero=-128),
        recorded("fixed_deform_columns2d", x, words(2, 18, 40, 40), window=3, pad=1, fraction=11, zero=127),
        recorded("fixed_deform_columns2d", x, whole, window=3, pad=1, fraction=0, zero=-7),
        recorded("fixed_deform_conv2d_v1", x, near, codes(32, 2, 3, 3), **attributes),
        recorded("fixed_deform_conv2d", x, near, mask, codes(32, 2, 3, 3), **attributes),
    ]
    assert wrong(cases) == []


# --- the library's other operators on integers ------------------------------------------------------------------------


def conv(x: Array, weight: Array, stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1) -> Array:
    rank = x.ndim - 2
    padded = np.pad(x.astype(np.int64), [(0, 0), (0, 0), *[(pad, pad)] * rank])
    spans = tuple(dilation * (size - 1) + 1 for size in weight.shape[2:])
    views = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, 2 + rank)))
    views = views[(..., *[slice(None, None, stride)] * rank, *[slice(None, None, dilation)] * rank)]
    parts: list[Array] = []
    for part, kernel in zip(np.split(views, groups, 1), np.split(weight.astype(np.int64), groups), strict=True):
        axes = (1, *range(-rank, 0)), (1, *range(2, 2 + rank))
        parts.append(np.moveaxis(np.tensordot(part, kernel, axes), -1, 1))
    return np.concatenate(parts, 1)


def pool(x: Array, k: int, stride: int, pad: int) -> Array:
    rank = x.ndim - 2
    lowest = np.iinfo(x.dtype).min
    padded = np.pad(x, [(0, 0), (0, 0), *[(pad, pad)] * rank], constant_values=lowest)
    views = np.lib.stride_tricks.sliding_window_view(padded, (k,) * rank, tuple(range(2, 2 + rank)))
    return views[(..., *[slice(None, None, stride)] * rank, *[slice(None)] * rank)].max(tuple(range(-rank, 0)))


def divided(a: Array, b: Array) -> Array:
    """Floor division in Python's integers."""
    return np.asarray(a.astype(object) // b.astype(object)).astype(np.int64)


def cases_of(dtype: Any) -> Iterator[Case]:
    def call(operator: str, reference: Callable[..., Any], *operands: Array, **attributes: Any) -> Case:
        wide = [a.astype(np.int64) if a.dtype == dtype else a for a in operands]
        result = np.asarray(reference(*wide))
        return Case(operator, operands, attributes, result if result.dtype == np.bool_ else result.astype(dtype))

    def of(*shape: int) -> Array:
        return numbers(dtype, *shape)

    for rank, shape in ((1, (20, 4, 330)), (2, (5, 4, 37, 36)), (3, (2, 4, 15, 14, 16))):
        x = of(*shape)
        for weight, attributes in (
            (of(16, 4, *[3] * rank), {"pad": 1}),
            (of(64, 4, *[3] * rank), {"stride": 2, "pad": 1}),
            (of(16, 1, *[3] * rank), {"pad": 2, "dilation": 2, "groups": 4}),
            (of(16, 2, *[2] * rank), {"pad": 1, "groups": 2}),
        ):
            yield Case(f"conv{rank}d", (x, weight), attributes, conv(x, weight, **attributes).astype(dtype))
    for rank, shape in ((1, (40, 50, 100)), (2, (10, 10, 64, 64)), (3, (4, 4, 38, 38, 38))):
        x, attributes = of(*shape), {"k": 3, "stride": 2, "pad": 1}
        yield Case(f"max_pool{rank}d", (x,), attributes, pool(x, **attributes))
    a, b = of(100, 10, 100), of(10, 1)
    nonzero = np.where(a == 0, dtype(3), a)
    yield call("linear", lambda x, w: x @ w.T, of(1000, 33), of(101, 33))
    yield call("matmul", lambda x, y: x @ y, of(10, 100, 17), of(10, 17, 101))
    yield call("add", lambda x, y: x + y, a, b)
    yield call("sub", lambda x, y: x - y, a, b)
    yield call("mul", lambda x, y: x * y, a, b)
    yield Case("floor_divide", (a, nonzero), {}, divided(a, nonzero).astype(dtype))
    yield call("mod", lambda x, y: x % y, a, nonzero)
    yield call("maximum", np.maximum, a, b)
    yield call("minimum", np.minimum, a, b)
    yield call("bias_add", lambda x, y: x + y[:, None], a, of(10))
    yield call("neg", lambda x: -x, a)
    yield call("abs", np.abs, a)
    yield call("sign", np.sign, a)
    yield call("square", lambda x: x * x, a)
    yield call("relu", lambda x: np.maximum(x, 0), a)
    yield call("clamp", lambda x: np.clip(x, -17, 99), a, low=-17, high=99)
    yield call("clamp", lambda x: np.maximum(x, -17), a, low=-17)
    yield call("sum", lambda x: x.sum(1), of(100, 7, 1000), axis=1)
    yield call("max", lambda x: x.max(1), of(100, 7, 1000), axis=1)
    yield call("min", lambda x: x.min(1), of(100, 7, 1000), axis=1)
    yield call("concat", lambda x, y: np.concatenate([x, y], 1), a, of(100, 3, 100), axis=1)
    yield call("upsample_nearest2d", lambda x: x.repeat(2, 2).repeat(2, 3), of(10, 10, 16, 16), scale=2)
    yield call("pad", lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2)], constant_values=-3), a, widths=(1, 2), value=-3)
    yield call("pad", lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2)], mode="reflect"), a, widths=(1, 2), mode="reflect")
    yield call("reshape", lambda x: x.reshape(50, 2000), a, shape=(50, 2000))
    yield call("transpose", lambda x: x.swapaxes(1, 2), a)
    yield call("permute", lambda x: x.transpose(2, 0, 1), a, dims=(2, 0, 1))
    yield call("slice_axis", lambda x: x[:, 1:9:2], of(100, 10, 300), axis=1, start=1, stop=9, step=2)
    yield call("flip", lambda x: x[..., ::-1], a)
    yield call("where", np.where, RNG.random((100, 10, 100)) < 0.5, a, b)
    yield call("lt", np.less, a, of(100, 10, 100))
    yield call("eq", np.equal, a, np.where(RNG.random(a.shape) < 0.5, a, dtype(1)))


@pytest.mark.parametrize("dtype", [np.int32, np.int8])
def test_operators_of_the_library(dtype: Any) -> None:
    """Sums and products wrap, as they do in NumPy."""
    assert wrong(list(cases_of(dtype))) == []


# --- a whole network --------------------------------------------------------------------------------------------------

NETWORK = """
model Net(x: f32[N, 3, 12, 12], kernel: i8[8, 3, 3, 3], bias: i32[8], scale: i32[8, 1, 1], table: i8[256],
          matrix: i8[10, 288]) -> (f32[N, 10], i8[N, 8, 6, 6]) {
  h = conv2d(widen(quantize(x; 0.05, 3); 3), widen(kernel); pad = 1) |> bias_add(bias)
  h = requantize(h, scale; 38, -20) |> lookup(table) |> max_pool2d(2)
  return dequantize(linear(flatten(widen(h)), widen(matrix)); 0.01), h
}
"""


def test_a_network_is_the_same_on_all_backends() -> None:
    program = parse_text(NETWORK)
    x = (3 * RNG.standard_normal((70, 3, 12, 12))).astype(np.float32)
    kernel, table, matrix = codes(8, 3, 3, 3), codes(256), codes(10, 288)
    bias, scale = words(8) >> 15, RNG.integers(2**29, 2**30, (8, 1, 1)).astype(np.int32)
    given = {"x": x, "kernel": kernel, "bias": bias, "scale": scale, "table": table, "matrix": matrix}
    code = np.clip(np.rint(x / np.float32(0.05)) + 3, -128, 127).astype(np.int64) - 3
    product = (conv(code, kernel, pad=1) + bias[:, None, None]) * scale.astype(np.int64)
    code = np.clip(((product + 2**37) >> 38) - 20, -128, 127)
    pooled = pool(table[code + 128], 2, 2, 0)
    sums = pooled.reshape(70, -1).astype(np.int64) @ matrix.T.astype(np.int64)
    expected = (sums.astype(np.float32) * np.float32(0.01), pooled)
    with torch.no_grad():
        found = {
            "reference": program.evaluate(*given.values()),
            "torch": [y.numpy() for y in program.torch()(*map(torch.from_numpy, given.values()))],
            "tvm": compile(program, target="cpu")(**given),
        }
    assert [(b, i) for b, ys in found.items() for i in (0, 1) if not same(np.asarray(ys[i]), expected[i])] == []
    assert len(np.unique(pooled)) > 20
