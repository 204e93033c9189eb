"""Products, scales, tables and lane converters, bit for bit and cycle for cycle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.scaling import reach
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Rescale, Scale, Stream, Table, Width
from tests.backends.fpga.bench import Bench, plant
from tests.backends.fpga.cases import Case, build_cases, check

CODES = Interval(-128, 127)


def requantized(values: np.ndarray, scale: Scale | None) -> np.ndarray:
    """section 5 of the design in arbitrary precision; channels are the last axis."""
    if scale is None:
        return values
    products = values.astype(object) * np.broadcast_to(scale.multipliers, values.shape[-1:]).astype(object)
    levels = (products + 2 ** (scale.shift - 1)) // 2**scale.shift
    if scale.wrap_bits is not None:
        return (levels % 2**scale.wrap_bits).astype(np.int64)
    return np.clip(levels + scale.zero, scale.low, scale.high).astype(np.int64)


def scale(channels: int, shift: int, wrap_bits: int | None = None, low: int = -128, high: int = 127) -> Scale:
    """Multipliers of both signs with the largest ones among them."""
    random = np.random.default_rng(shift)
    size = 1 << min(shift, 31) - 1
    multipliers = random.integers(-size, size, channels)
    multipliers[0] = size - 1
    return Scale(multipliers, shift, -7, low, high, wrap_bits)


def codes(samples: int, elements: int, interval: Interval) -> np.ndarray:
    random = np.random.default_rng(elements)
    x = random.integers(interval.low, interval.high + 1, (samples, elements))
    x[0], x[1] = interval.low, interval.high
    return x


def product(
    rows: int,
    columns: int,
    pe: int,
    simd: int,
    weights: Interval = CODES,
    to: Scale | None = None,
    inputs: Interval = CODES,
    vectors: int = 2,
    samples: int = 6,
) -> Case:
    random = np.random.default_rng(rows * columns)
    weight = random.integers(weights.low, weights.high + 1, (rows, columns))
    weight[0] = weights.low
    bias = random.integers(-3000, 3000, rows)
    stage = MatrixVector(
        name=f"mvu {rows}x{columns}",
        sources=("x",),
        weight=weight,
        bias=bias,
        input=Stream(vectors, columns, inputs),
        sums=reach(weight, bias, inputs),
        scale=to,
        vectors=vectors,
        pe=pe,
        simd=simd,
    )
    x = codes(samples, vectors * columns, inputs)
    sums = x.reshape(samples, vectors, columns) @ weight.T + bias
    return Case(stage, [x], requantized(sums, to).reshape(samples, -1))


def depthwise(channels: int, taps: int, lanes: int, to: Scale | None = None, windows: int = 3) -> Case:
    random = np.random.default_rng(channels * taps)
    weight = random.integers(-8, 8, (channels, taps))
    bias = random.integers(-300, 300, channels)
    stage = Depthwise(
        name=f"vvu {channels}x{taps}",
        sources=("x",),
        weight=weight,
        bias=bias,
        input=Stream(windows * taps, channels, CODES),
        sums=reach(weight, bias, CODES),
        scale=to,
        windows=windows,
        lanes=lanes,
    )
    x = codes(5, windows * taps * channels, CODES)
    sums = np.einsum("swtc,ct->swc", x.reshape(5, windows, taps, channels), weight) + bias
    return Case(stage, [x], requantized(sums, to).reshape(5, -1))


def rescale(channels: int, lanes: int, to: Scale, bits: int, samples: int = 4) -> Case:
    interval = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    stream = Stream(3, channels, interval)
    stage = Rescale(name=f"scale {channels} {to.shift}", sources=("x",), input=stream, scale=to, lanes=lanes)
    x = codes(samples, stream.elements, interval)
    output = requantized(x.reshape(samples, 3, channels), to)
    return Case(stage, [x], output.reshape(samples, -1))


def table(channels: int, lanes: int, entries: int, low: int, each: bool) -> Case:
    random = np.random.default_rng(entries)
    contents = random.integers(-128, 128, (channels, entries) if each else entries)
    interval = Interval(low, low + entries - 1)
    stage = Table(
        name=f"table {channels} {entries}",
        sources=("x",),
        input=Stream(50, channels, interval),
        table=contents,
        low=low,
        lanes=lanes,
    )
    x = codes(3, 50 * channels, interval).reshape(3, 50, channels)
    y = contents[np.arange(channels), x - low] if each else contents[x - low]
    return Case(stage, [x.reshape(3, -1)], y.reshape(3, -1))


def width(before: int, after: int, bits: int = 5) -> Case:
    interval = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    stream = Stream(4, 12, interval, before)
    x = codes(4, 48, interval)
    return Case(Width(name=f"width {before} {after}", sources=("x",), input=stream, lanes=after), [x], x)


TERNARY, NIBBLE = Interval(-1, 1), Interval(-8, 7)
CASES = [
    product(6, 8, 1, 1, to=scale(6, 20)),
    product(6, 8, 3, 2, NIBBLE, to=scale(6, 24)),
    product(6, 8, 6, 8, NIBBLE, to=scale(1, 18)),
    product(4, 6, 2, 6, TERNARY),
    product(4, 6, 4, 1, NIBBLE, inputs=NIBBLE),
    product(5, 4, 5, 4, vectors=1),
    product(4, 4, 2, 2, to=scale(4, 17, wrap_bits=10)),
    product(1, 9, 1, 3, inputs=Interval(0, 15), to=scale(1, 16, low=-512, high=511)),
    depthwise(6, 9, 2, to=scale(6, 15)),
    depthwise(4, 1, 4, to=scale(4, 12, wrap_bits=8)),
    depthwise(3, 25, 1),
    depthwise(4, 4, 4, to=scale(1, 14)),
    rescale(4, 2, scale(4, 31), 32, samples=900),
    rescale(3, 3, scale(3, 8), 12),
    rescale(4, 2, scale(4, 20), 8, samples=90),
    rescale(2, 1, scale(1, 1), 8),
    rescale(2, 1, scale(2, 62), 32),
    rescale(4, 1, scale(4, 24, wrap_bits=12), 28, samples=900),
    rescale(2, 2, scale(2, 40, low=-(1 << 31), high=(1 << 31) - 1), 32),
    table(4, 2, 256, -128, each=False),
    table(3, 1, 1024, 0, each=False),
    table(6, 2, 16, -8, each=True),
    table(4, 4, 5, 3, each=True),
    width(1, 4),
    width(6, 2),
    width(2, 1),
    width(4, 12),
    width(3, 3),
]

NOT_ROUNDED = {"mercer_requantize": ("(SUM_BITS'(1) <<< (SHIFT - 1))", "(SUM_BITS'(1) <<< (SHIFT - 2))")}
FAULTY = [
    replace(product(6, 8, 3, 2, NIBBLE, to=scale(6, 24)), fault=True),
    replace(rescale(4, 2, scale(4, 20), 8, samples=90), fault=True),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("products")
    faulty = plant(directory, NOT_ROUNDED, "mercer_mvu", "mercer_scale", "mercer_wrap")
    return build_cases([*CASES, *FAULTY], directory, faulty)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_products_scales_and_tables(bench: Bench, seed: int) -> None:
    """Among the cases are products and scales with a wrong rounding bit, which must give something else."""
    check(bench, [*CASES, *FAULTY], seed)


def test_the_cycles_of_a_stage_are_those_of_its_timing() -> None:
    for case in CASES:
        for folded in case.stage.foldings():
            assert folded.cycles == folded.timing().cycles, folded.name
