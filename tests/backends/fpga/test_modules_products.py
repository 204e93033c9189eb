"""Products, scales, tables, normalization and lane converters, bit for bit and cycle for cycle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.scaling import reach
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Rescale, Scale, Stream, Table, Width
from mercer.backends.fpga.stages_vectors import Modulate, Normalize, Slice
from tests.backends.fpga.bench import Bench, plant
from tests.backends.fpga.cases import Case, build_cases, check, pipelined

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


def codes(elements: int, interval: Interval, inputs: int) -> np.ndarray:
    """[samples, elements] with at least `inputs` numbers; the first two samples are the ends of the interval."""
    random = np.random.default_rng(elements)
    x = random.integers(interval.low, interval.high + 1, (max(4, -(-inputs // elements)), elements))
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
    amount: int = 0,
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
    x = codes(vectors * columns, inputs, amount)
    sums = x.reshape(-1, vectors, columns) @ weight.T + bias
    return Case(stage, [x], requantized(sums, to).reshape(len(x), -1))


def depthwise(channels: int, taps: int, lanes: int, to: Scale | None = None, windows: int = 3, amount: int = 0) -> Case:
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
    x = codes(windows * taps * channels, CODES, amount)
    sums = np.einsum("swtc,ct->swc", x.reshape(-1, windows, taps, channels), weight) + bias
    return Case(stage, [x], requantized(sums, to).reshape(len(x), -1))


def rescale(channels: int, lanes: int, to: Scale, bits: int, amount: int = 0) -> Case:
    interval = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    stream = Stream(3, channels, interval)
    stage = Rescale(name=f"scale {channels} {to.shift}", sources=("x",), input=stream, scale=to, lanes=lanes)
    x = codes(stream.elements, interval, amount)
    output = requantized(x.reshape(-1, 3, channels), to)
    return Case(stage, [x], output.reshape(len(x), -1))


def table(channels: int, lanes: int, entries: int, low: int, each: bool, amount: int = 0) -> Case:
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
    x = codes(50 * channels, interval, amount).reshape(-1, 50, channels)
    y = contents[np.arange(channels), x - low] if each else contents[x - low]
    return Case(stage, [x.reshape(len(x), -1)], y.reshape(len(x), -1))


def width(before: int, after: int, bits: int = 5, amount: int = 0) -> Case:
    interval = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    stream = Stream(4, 12, interval, before)
    x = codes(48, interval, amount)
    return Case(Width(name=f"width {before} {after}", sources=("x",), input=stream, lanes=after), [x], x)


def normalize(size: int, bits: int, centered: bool, eps: int = 0, fraction: int = 12, amount: int = 0) -> Case:
    """The operator's formula in integers without limits."""
    interval = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    stage = Normalize(
        name=f"normalize {size}",
        sources=("x",),
        input=Stream(2, size, interval),
        size=size,
        vectors=2,
        fraction=fraction,
        eps=eps,
        centered=centered,
    )
    x = codes(2 * size, interval, amount)
    x[2, 1:size] = x[2, 0]  # nearly constant
    vectors = x.reshape(-1, size).tolist()
    y: list[int] = []
    for vector in vectors:
        v = [size * e - sum(vector) if centered else e for e in vector]
        root = max(math.isqrt(sum(e * e for e in v) * 4096 // size + eps), 1)
        half = root // 2 if sum(e * e for e in v) * 4096 // size + eps else 0
        y += [((e << fraction + 6) + half) // root for e in v]
    return Case(stage, [x], np.array(y).reshape(len(x), -1))


def sliced(channels: int, start: int, stop: int, lanes: int, amount: int = 0) -> Case:
    stage = Slice(
        name=f"slice {start}:{stop}",
        sources=("x",),
        input=Stream(3, channels, CODES),
        start=start,
        stop=stop,
        lanes=lanes,
    )
    x = codes(3 * channels, CODES, amount)
    return Case(stage, [x], x.reshape(-1, 3, channels)[:, :, start:stop].reshape(len(x), -1))


def modulated(channels: int, lanes: int, zero: int, fraction: int, masks: Interval, amount: int = 0) -> Case:
    stage = Modulate(
        name=f"modulate {channels}",
        sources=("x", "m"),
        input=Stream(6, channels, CODES),
        masks=Stream(6, 1, masks),
        fraction=fraction,
        zero=zero,
        lanes=lanes,
    )
    x = codes(6 * channels, CODES, amount)
    m = np.random.default_rng(channels).integers(masks.low, masks.high + 1, (len(x), 6, 1))
    products = (x.reshape(-1, 6, channels) - zero) * m
    y = (2 * products + (1 << fraction)) >> fraction + 1
    return Case(stage, [x, m.reshape(len(x), -1)], y.reshape(len(x), -1))


TERNARY, NIBBLE = Interval(-1, 1), Interval(-8, 7)


def cases(amount: int = 0) -> list[Case]:
    """Every shape of every stage, each with at least `amount` inputs."""
    shapes = [
        product(6, 8, 1, 1, to=scale(6, 20), amount=amount),
        product(6, 8, 3, 2, NIBBLE, to=scale(6, 24), amount=amount),
        product(6, 8, 6, 8, NIBBLE, to=scale(1, 18), amount=amount),
        product(4, 6, 2, 6, TERNARY, amount=amount),
        product(4, 6, 4, 1, NIBBLE, inputs=NIBBLE, amount=amount),
        product(5, 4, 5, 4, vectors=1, amount=amount),
        product(4, 4, 2, 2, to=scale(4, 17, wrap_bits=10), amount=amount),
        product(1, 9, 1, 3, inputs=Interval(0, 15), to=scale(1, 16, low=-512, high=511), amount=amount),
        depthwise(6, 9, 2, to=scale(6, 15), amount=amount),
        depthwise(4, 1, 4, to=scale(4, 12, wrap_bits=8), amount=amount),
        depthwise(3, 25, 1, amount=amount),
        depthwise(4, 4, 4, to=scale(1, 14), amount=amount),
        rescale(4, 2, scale(4, 31), 32, amount=amount),
        rescale(3, 3, scale(3, 8), 12, amount=amount),
        rescale(4, 2, scale(4, 20), 8, amount=amount),
        rescale(2, 1, scale(1, 1), 8, amount=amount),
        rescale(2, 1, scale(2, 62), 32, amount=amount),
        rescale(4, 1, scale(4, 24, wrap_bits=12), 28, amount=amount),
        rescale(2, 2, scale(2, 40, low=-(1 << 31), high=(1 << 31) - 1), 32, amount=amount),
        table(4, 2, 256, -128, each=False, amount=amount),
        table(3, 1, 1024, 0, each=False, amount=amount),
        table(6, 2, 16, -8, each=True, amount=amount),
        table(4, 4, 5, 3, each=True, amount=amount),
        width(1, 4, amount=amount),
        width(6, 2, amount=amount),
        width(2, 1, amount=amount),
        width(4, 12, amount=amount),
        width(3, 3, amount=amount),
        normalize(8, 10, True, eps=700, amount=amount),
        normalize(5, 6, True, fraction=9, amount=amount),
        normalize(4, 8, False, amount=amount),
        sliced(6, 2, 4, 2, amount=amount),
        sliced(5, 0, 3, 1, amount=amount),
        sliced(4, 3, 4, 1, amount=amount),
        modulated(4, 2, -5, 7, Interval(0, 128), amount=amount),
        modulated(3, 3, 7, 3, Interval(-100, 100), amount=amount),
    ]
    return pipelined(shapes)


CASES = cases()

NOT_ROUNDED = {"mercer_product": ("(SUM_BITS'(1) <<< (SHIFT - 1))", "(SUM_BITS'(1) <<< (SHIFT - 2))")}
USERS = ("mercer_mvu", "mercer_scale", "mercer_scaler", "mercer_requantize", "mercer_wrap")
FAULTY = [
    replace(product(6, 8, 3, 2, NIBBLE, to=scale(6, 24)), fault=True),
    replace(rescale(4, 2, scale(4, 20), 8, amount=1000), fault=True),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("products")
    faulty = plant(directory, NOT_ROUNDED, *USERS)
    return build_cases([*CASES, *FAULTY], directory, faulty)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_products_scales_and_tables(bench: Bench, seed: int) -> None:
    """Among the cases are products and scales with a wrong rounding bit, which must give something else."""
    check(bench, [*CASES, *FAULTY], seed)


@pytest.mark.slow
def test_many_inputs(bench: Bench) -> None:
    """10,000 numbers for each of the same units, without stalls and with them."""
    many = [*cases(10_000), *FAULTY]
    for seed in (0, 4):
        check(bench, many, seed)


def test_the_cycles_of_a_stage_are_those_of_its_timing() -> None:
    for case in CASES:
        for folded in case.stage.foldings():
            assert folded.cycles == folded.timing().cycles, folded.name
