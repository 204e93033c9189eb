"""Bounded deformable sampling on images of many shapes, bit for bit and cycle for cycle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Stream
from mercer.backends.fpga.stages_spatial import Deform, Pair
from tests.backends.fpga.bench import Bench, plant
from tests.backends.fpga.cases import Case, build_cases, check

CODES = Interval(-128, 127)


def samples_of(x: np.ndarray, offsets: np.ndarray, stage: Deform) -> np.ndarray:
    """[n, p, q, k, l, c] of x[n, h, w, c] and offsets[n, p, q, k, l, group, 2], from the definition."""
    samples, height, width, channels = x.shape
    one = 1 << stage.fraction
    y = np.zeros((samples, *stage.out, *stage.kernel, channels), np.int64)
    limit = stage.bound * one
    moves = np.clip(offsets, -limit, limit)

    def pixel(n: int, row: int, column: int, c: int) -> int:
        inside = 0 <= row < height and 0 <= column < width
        return int(x[n, row, column, c]) - stage.zero if inside else 0

    for n, p, q, i, j, c in np.ndindex(*y.shape):
        move = moves[n, p, q, i, j, c * stage.groups // channels]
        u = int((p * stage.stride[0] - stage.pad[0] + i * stage.dilation[0]) * one + move[0])
        v = int((q * stage.stride[1] - stage.pad[1] + j * stage.dilation[1]) * one + move[1])
        if stage.rounded:
            value = pixel(n, (2 * u + one) // (2 * one), (2 * v + one) // (2 * one), c)
        else:
            row, column, a, b = u // one, v // one, u % one, v % one
            upper = (one - b) * pixel(n, row, column, c) + b * pixel(n, row, column + 1, c)
            lower = (one - b) * pixel(n, row + 1, column, c) + b * pixel(n, row + 1, column + 1, c)
            value = ((one - a) * upper + a * lower + one * one // 2) // (one * one)
        y[n, p, q, i, j, c] = value + stage.zero
    return y


def deform(
    size: Pair,
    channels: int,
    kernel: Pair,
    bound: int,
    fraction: int,
    stride: Pair = (1, 1),
    pad: Pair = (0, 0),
    dilation: Pair = (1, 1),
    lanes: int = 1,
    groups: int = 1,
    square: bool = False,
    rounded: bool = False,
    rows: int | None = None,
    bits: int = 8,
    samples: int = 3,
    pixels: int = 0,
) -> Case:
    """With at least `pixels` output pixels."""
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, pad, dilation, strict=True)
    ]
    codes = Interval(-(1 << bits - 1), (1 << bits - 1) - 1)
    # A little wider than the bound, which must hold them.
    reach = (bound << fraction) + 3
    moves = Interval(-reach, reach)
    taps = kernel[0] * kernel[1]
    samples = max(samples, -(-pixels // (out[0] * out[1])))
    places = samples, out[0], out[1]
    random = np.random.default_rng([*size, *kernel, bound, fraction])
    if square:
        values = random.integers(-reach, reach + 1, places)
        middle = np.array([(k - 1) // 2 for k in kernel])
        steps = np.stack(np.indices(kernel), axis=-1) - middle
        offsets = (values[..., np.newaxis, np.newaxis, np.newaxis] * steps)[..., np.newaxis, :]
        stream = Stream(out[0] * out[1], 1, moves)
    else:
        values = random.integers(-reach, reach + 1, (*places, *kernel, groups, 2))
        offsets = values
        stream = Stream(out[0] * out[1], taps * groups * 2, moves)
    stage = Deform(
        name=f"deform {size} {kernel}", sources=("x", "offset"), input=Stream(size[0] * size[1], channels, codes),
        offsets=stream, size=size, kernel=kernel, out=(out[0], out[1]), fraction=fraction, bound=bound, stride=stride,
        pad=pad, dilation=dilation, zero=-3, groups=groups, square=square, rounded=rounded, lanes=lanes,
        buffer_rows=rows,
    )  # fmt: skip
    x = random.integers(codes.low, codes.high + 1, (samples, *size, channels))
    x[0, 0] = codes.low
    x[0, 1] = codes.high
    y = samples_of(x, offsets, stage)
    return Case(stage, [x.reshape(samples, -1), values.reshape(samples, -1)], y.reshape(samples, -1))


def cases(pixels: int = 0) -> list[Case]:
    """Every form and shape."""
    return [
        deform((7, 7), 1, (3, 3), bound=2, fraction=4, pad=(1, 1), pixels=pixels),
        deform((6, 8), 4, (3, 3), bound=1, fraction=3, pad=(1, 1), lanes=2, groups=2, pixels=pixels),
        deform((7, 6), 2, (3, 3), bound=2, fraction=4, pad=(1, 1), lanes=2, square=True, pixels=pixels),
        deform((7, 6), 2, (3, 3), bound=2, fraction=4, pad=(1, 1), square=True, rounded=True, pixels=pixels),
        deform((8, 7), 2, (3, 3), bound=1, fraction=5, pad=(1, 1), stride=(2, 2), rounded=True, pixels=pixels),
        deform((9, 8), 1, (2, 3), bound=1, fraction=8, stride=(2, 1), dilation=(2, 1), samples=4, pixels=pixels),
        deform((6, 6), 4, (1, 1), bound=3, fraction=1, lanes=4, pixels=pixels),
        deform((5, 7), 3, (3, 1), bound=0, fraction=2, pad=(1, 0), rounded=True, pixels=pixels),
        deform((5, 5), 2, (3, 3), bound=2, fraction=0, pad=(1, 1), square=True, rounded=True, bits=4, pixels=pixels),
        deform((6, 5), 1, (3, 3), bound=2, fraction=11, pad=(1, 1), bits=4, pixels=pixels),
        deform((8, 6), 1, (3, 3), bound=1, fraction=4, pad=(1, 1), rounded=True, rows=5, pixels=pixels),
    ]


CASES = cases()
ONE_ROW_SHORT = {"mercer_rows": ("ROW_BITS'(ROWS - 1)", "ROW_BITS'(ROWS)")}
ROUNDING_FLIPPED = {"mercer_bilinear": ("<<< (2*FRACTION - 1)", "<<< (2*FRACTION - 2)")}
FAULTY = [
    replace(deform((10, 6), 1, (3, 3), bound=1, fraction=4, pad=(1, 1), rounded=True, rows=5), fault=True),
    replace(CASES[0], fault=True, planted="flipped"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("deform")
    short = plant(directory, ONE_ROW_SHORT, "mercer_deform")
    flipped = plant(directory, ROUNDING_FLIPPED, "mercer_deform", name="flipped")
    return build_cases(CASES + FAULTY, directory, short + flipped)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_deformable_sampling(bench: Bench, seed: int) -> None:
    """Among the cases are a buffer one row short and a flipped rounding bit, which must give something else."""
    check(bench, CASES + FAULTY, seed)


def test_the_buffer_grows_with_the_bound() -> None:
    rows = [
        deform((16, 16), 1, (3, 3), bound, 4, pad=(1, 1), rounded=True, samples=1).stage.rows for bound in (0, 1, 3)
    ]
    assert rows[0] < rows[1] < rows[2] <= 3 + 2 * 3 + 2
