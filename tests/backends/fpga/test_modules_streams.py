"""Modules that join streams or reduce vectors, bit for bit and cycle for cycle; forks and queues."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.stages import Scale, Stream
from mercer.backends.fpga.stages_streams import Add, ArgMax, Concat, Distance, EdgeTable
from tests.backends.fpga.bench import Bench, Port, Unit, plant
from tests.backends.fpga.cases import Case, build_cases, check, pipelined

CODES = Interval(-128, 127)
SAMPLES = 4


def numbers(shape: tuple[int, ...], interval: Interval = CODES, seed: int = 0) -> np.ndarray:
    """Random numbers of the interval; its ends are among them."""
    x = np.random.default_rng([*shape, seed]).integers(interval.low, interval.high + 1, shape)
    x.reshape(-1)[:2] = interval.low, interval.high
    return x


def requantized(total: np.ndarray, scale: Scale) -> np.ndarray:
    rounded = (total * int(scale.multipliers[0]) + (1 << scale.shift - 1)) >> scale.shift
    return np.clip(rounded + scale.zero, scale.low, scale.high)


def add(
    channels: int,
    lanes: int,
    factors: tuple[int, int],
    bias: int,
    scale: Scale | None,
    b: Interval = CODES,
    samples: int = SAMPLES,
) -> Case:
    x, y = numbers((samples, 3, channels)), numbers((samples, 3, channels), b, 1)
    x[0, 0], y[0, 0] = CODES.high, b.high
    x[1, 0], y[1, 0] = CODES.low, b.low
    sums = CODES.times(factors[0]).plus(b.times(factors[1])).plus(Interval(bias, bias))
    stage = Add(
        name="add", sources=("x", "y"), a=Stream(3, channels, CODES), b=Stream(3, channels, b), factors=factors,
        bias=bias, sums=sums, scale=scale, lanes=lanes,
    )  # fmt: skip
    total = x * factors[0] + y * factors[1] + bias
    output = total if scale is None else requantized(total, scale)
    return Case(stage, [x.reshape(samples, -1), y.reshape(samples, -1)], output.reshape(samples, -1))


def concat(
    channels: tuple[int, int], lanes: int, bits: tuple[Interval, Interval] = (CODES, CODES), samples: int = SAMPLES
) -> Case:
    x, y = (numbers((samples, 5, c), codes) for c, codes in zip(channels, bits, strict=True))
    stage = Concat(
        name="concat",
        sources=("x", "y"),
        a=Stream(5, channels[0], bits[0]),
        b=Stream(5, channels[1], bits[1]),
        lanes=lanes,
    )
    output = np.concatenate([x, y], axis=2)
    return Case(stage, [x.reshape(samples, -1), y.reshape(samples, -1)], output.reshape(samples, -1))


def argmax(channels: int, lanes: int, interval: Interval = CODES, samples: int = SAMPLES) -> Case:
    x = numbers((samples, 6, channels), interval)
    x[1, :, :] = interval.low
    x[2, 0, -2:] = interval.high
    stage = ArgMax(name="argmax", sources=("x",), input=Stream(6, channels, interval), lanes=lanes)
    return Case(stage, [x.reshape(samples, -1)], x.argmax(axis=2))


def distance(
    centers: int,
    dimensions: int,
    pe: int,
    simd: int,
    absolute: bool = False,
    wide: Interval = CODES,
    samples: int = SAMPLES,
) -> Case:
    x, c = numbers((samples, 3, dimensions)), numbers((centers, dimensions), wide, 1)
    x[0, 0], c[0] = CODES.low, wide.high
    stage = Distance(
        name="distance", sources=("x",), input=Stream(3, dimensions, CODES), centers=c, vectors=3, absolute=absolute,
        pe=pe, simd=simd,
    )  # fmt: skip
    difference = x[:, :, np.newaxis] - c
    output = np.abs(difference).sum(axis=3) if absolute else (difference**2).sum(axis=3)
    return Case(stage, [x.reshape(samples, -1)], output.reshape(samples, -1))


def edge_table(outputs: int, inputs: int, pe: int, codes: Interval = CODES, samples: int = SAMPLES) -> Case:
    table = numbers((outputs, inputs, codes.high - codes.low + 1), Interval(-100, 90))
    x = numbers((samples, 3, inputs), codes)
    stage = EdgeTable(
        name="edges", sources=("x",), input=Stream(3, inputs, codes), table=table, low=codes.low, vectors=3, pe=pe
    )
    entries = table[:, np.arange(inputs), x - codes.low]  # [o, n, v, d]
    return Case(stage, [x.reshape(samples, -1)], np.moveaxis(entries.sum(axis=3), 0, 2).reshape(samples, -1))


HALF = Scale(np.array([11]), shift=4, zero=-7)
NARROW = Scale(np.array([-23000]), shift=20, low=-8, high=7)


def cases(samples: int = SAMPLES) -> list[Case]:
    """Every shape of every stage, each with `samples` samples of several vectors."""
    shapes = [
        add(4, 2, (3, -5), 17, HALF, samples=samples),
        add(3, 1, (1, 1), 0, None, samples=samples),
        add(6, 6, (200, 77), -3000, NARROW, Interval(-8, 7), samples=samples),
        concat((4, 2), 2, samples=samples),
        concat((1, 5), 1, samples=samples),
        concat((3, 3), 3, (CODES, Interval(-8, 7)), samples=samples),
        argmax(10, 1, samples=samples),
        argmax(10, 5, samples=samples),
        argmax(6, 6, samples=samples),
        argmax(12, 3, Interval(-(2**19), 2**19 - 1), samples=samples),
        argmax(2, 1, samples=samples),
        distance(6, 8, 1, 1, samples=samples),
        distance(6, 8, 3, 2, samples=samples),
        distance(4, 5, 4, 5, samples=samples),
        distance(4, 6, 4, 2, absolute=True, samples=samples),
        distance(8, 4, 2, 4, wide=Interval(-300, 255), samples=samples),
        edge_table(4, 3, 1, samples=samples),
        edge_table(4, 3, 4, samples=samples),
        edge_table(6, 5, 2, Interval(-8, 7), samples=samples),
        edge_table(2, 1, 1, samples=samples),
    ]
    return pipelined(shapes)


CASES = cases()
EDGES = next(case for case in CASES if case.stage.parameters().get("OUTPUTS") == 6)


ONE_ENTRY_SHORT = {"mercer_fifo": ("ADDRESS_BITS'(DEPTH - 1)", "ADDRESS_BITS'(DEPTH - 2)")}
FORK = """
module split (
  input wire clk, input wire rst,
  input wire [6:0] s_axis_tdata, input wire s_axis_tvalid, output wire s_axis_tready,
  output wire [6:0] a_tdata, output wire a_tvalid, input wire a_tready,
  output wire [6:0] b_tdata, output wire b_tvalid, input wire b_tready,
  output wire [6:0] c_tdata, output wire c_tvalid, input wire c_tready
);
  wire [6:0] shared;
  assign {a_tdata, b_tdata, c_tdata} = {3{shared}};
  mercer_fork #(.WIDTH(7), .COPIES(3)) fork3 (
    .clk, .rst, .s_axis_tdata, .s_axis_tvalid, .s_axis_tready,
    .m_axis_tdata(shared), .m_axis_tvalid({a_tvalid, b_tvalid, c_tvalid}),
    .m_axis_tready({a_tready, b_tready, c_tready})
  );
endmodule
"""


WORD = Port("s_axis", 1, 7)
QUEUES = [Unit("mercer_fifo", {"WIDTH": 7, "DEPTH": depth}, (WORD,), (Port("m_axis", 1, 7),)) for depth in (1, 2, 3, 8)]
SHORT = replace(QUEUES[2], module="faulty_fifo")
OTHERS = [*QUEUES, Unit("split", {}, (WORD,), tuple(Port(name, 1, 7) for name in "abc")), SHORT]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("streams")
    (directory / "split.sv").write_text(FORK)
    faulty = [*plant(directory, ONE_ENTRY_SHORT), directory / "split.sv"]
    return build_cases(CASES, directory, faulty, OTHERS)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_streams(bench: Bench, seed: int) -> None:
    check(bench, CASES, seed)


def test_two_swapped_table_entries_are_caught(bench: Bench) -> None:
    """The memory is read when the simulation starts, so it may change under a built bench."""
    place = CASES.index(EDGES)
    file = bench.program.parent / f"{place}_table.hex"
    sound = file.read_text()
    lines = sound.splitlines()
    used = EDGES.inputs[0].reshape(-1, 5)[0, 0] + 8
    other = next(index for index, line in enumerate(lines[:16]) if line != lines[used])
    lines[used], lines[other] = lines[other], lines[used]
    file.write_text("\n".join(lines) + "\n")
    try:
        with pytest.raises(AssertionError, match="edges"):
            check(bench, CASES, 1)
    finally:
        file.write_text(sound)
    check(bench, CASES, 1)


def test_queues_and_forks(bench: Bench) -> None:
    """The words come out of each queue and each copy in order; not out of the queue that is one entry short."""
    x = numbers((500, 1), Interval(-64, 63))
    feeds = [[np.zeros((0, port.lanes)) for port in unit.inputs] for unit in bench.units[: len(CASES)]] + [[x]] * len(
        OTHERS
    )
    expected = [[0]] * len(CASES) + [[500] * len(unit.outputs) for unit in OTHERS]
    caught = False
    for seed in range(4):
        flows = bench.run(feeds, expected, seed)[len(CASES) :]
        for unit, (_, given) in zip(OTHERS[:-1], flows[:-1], strict=True):
            assert all(np.array_equal(flow.values, x) for flow in given), unit
        caught = caught or not np.array_equal(flows[-1][1][0].values, x)
    assert caught, "a queue one entry short gives the same words"
