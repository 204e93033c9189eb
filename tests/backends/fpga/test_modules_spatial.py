"""Windows and pools on images of many shapes, bit for bit and cycle for cycle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Stream
from mercer.backends.fpga.stages_spatial import Pair, Pool, Window
from tests.backends.fpga.bench import Bench, plant
from tests.backends.fpga.cases import Case, build_cases, check

CODES = Interval(-128, 127)


def windows_of(x: np.ndarray, stage: Window) -> np.ndarray:
    """[samples, p, q, kh, kw, c] of x[samples, h, w, c], from the definition."""
    samples, height, width, channels = x.shape
    taps = np.full((samples, *stage.out, *stage.kernel, channels), stage.zero, np.int64)
    for p, q, i, j in np.ndindex(*stage.out, *stage.kernel):
        row = p * stage.stride[0] - stage.pad[0] + i * stage.dilation[0]
        column = q * stage.stride[1] - stage.pad[1] + j * stage.dilation[1]
        if 0 <= row < height and 0 <= column < width:
            taps[:, p, q, i, j] = x[:, row, column]
    return taps


def window(
    size: Pair,
    channels: int,
    kernel: Pair,
    stride: Pair = (1, 1),
    pad: Pair = (0, 0),
    dilation: Pair = (1, 1),
    lanes: int = 1,
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
    stage = Window(
        name=f"window {size} {kernel}",
        sources=("x",),
        input=Stream(size[0] * size[1], channels, codes),
        size=size,
        kernel=kernel,
        out=(out[0], out[1]),
        stride=stride,
        pad=pad,
        dilation=dilation,
        zero=-3,
        lanes=lanes,
        buffer_rows=rows,
    )
    samples = max(samples, -(-pixels // (out[0] * out[1])))
    random = np.random.default_rng(sum(size) + 7 * sum(kernel) + channels)
    x = random.integers(codes.low, codes.high + 1, (samples, *size, channels))
    return Case(stage, [x.reshape(samples, -1)], windows_of(x, stage).reshape(samples, -1))


def windows(pixels: int = 0) -> list[Case]:
    return [
        window((8, 8), 1, (3, 3), pad=(1, 1), pixels=pixels),
        window((8, 8), 4, (3, 3), pad=(1, 1), lanes=2, pixels=pixels),
        window((5, 7), 2, (1, 1), pixels=pixels),
        window((6, 6), 3, (2, 2), stride=(2, 2), lanes=3, pixels=pixels),
        window((9, 7), 2, (3, 5), pad=(1, 2), lanes=2, pixels=pixels),
        window((9, 11), 1, (3, 3), stride=(2, 3), pad=(1, 0), pixels=pixels),
        window((12, 10), 2, (3, 2), pad=(2, 1), dilation=(2, 3), pixels=pixels),
        window((15, 14), 1, (13, 13), pad=(6, 6), pixels=pixels),
        window((13, 13), 1, (13, 13), samples=4, pixels=pixels),
        window((1, 20), 2, (1, 5), pad=(0, 2), pixels=pixels),
        window((20, 1), 1, (7, 1), stride=(3, 1), pixels=pixels),
        window((7, 7), 4, (1, 1), stride=(3, 3), lanes=4, pixels=pixels),
        window((8, 8), 2, (3, 3), bits=4, rows=3, pixels=pixels),
        window((8, 8), 1, (3, 3), pad=(1, 1), rows=3, pixels=pixels),
        window((8, 6), 1, (4, 4), stride=(4, 4), rows=9, pixels=pixels),
        window((4, 4), 1, (1, 1), pad=(2, 2), pixels=pixels),
        window((2, 2), 1, (2, 2), samples=6, pixels=pixels),
        window((1, 1), 8, (1, 1), lanes=2, samples=5, pixels=pixels),
    ]


WINDOWS = windows()


def pool(windows: int, taps: int, channels: int, lanes: int, maximum: bool, zero: int = 0, pixels: int = 0) -> Case:
    stage = Pool(
        name=f"pool {taps} {maximum}",
        sources=("x",),
        input=Stream(windows * taps, channels, CODES),
        windows=windows,
        taps=taps,
        maximum=maximum,
        zero=zero,
        lanes=lanes,
    )
    samples = max(3, -(-pixels // windows))
    random = np.random.default_rng(taps)
    x = random.integers(-128, 128, (samples, windows, taps, channels))
    x[0, 0] = -128
    x[1, 0] = 127
    output = x.max(axis=2) if maximum else (x - zero).sum(axis=2)
    return Case(stage, [x.reshape(samples, -1)], output.reshape(samples, -1))


def pools(pixels: int = 0) -> list[Case]:
    return [
        pool(9, 4, 6, 2, maximum=True, pixels=pixels),
        pool(4, 9, 3, 1, maximum=True, pixels=pixels),
        pool(5, 4, 2, 2, maximum=True, pixels=pixels),
        pool(4, 4, 8, 4, maximum=False, zero=-5, pixels=pixels),
        pool(1, 49, 5, 1, maximum=False, zero=17, pixels=pixels),
        pool(3, 1, 4, 2, maximum=False, pixels=pixels),
    ]


POOLS = pools()


ONE_ROW_SHORT = {"mercer_rows": ("ROW_BITS'(ROWS - 1)", "ROW_BITS'(ROWS)")}
FAULTY = [replace(window((8, 8), 1, (3, 3), pad=(1, 1), rows=3), fault=True)]
CASES = WINDOWS + POOLS + FAULTY


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("spatial")
    return build_cases(CASES, directory, plant(directory, ONE_ROW_SHORT, "mercer_window"))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_windows_and_pools(bench: Bench, seed: int) -> None:
    """Among the cases is a line buffer one row short, which must give something else."""
    check(bench, CASES, seed)


def test_a_sample_takes_as_long_as_its_input_or_its_output() -> None:
    for case in WINDOWS:
        if case.stage.buffer_rows is None:
            assert case.stage.cycles == max(case.stage.timing().firings), case.stage.name
