"""One small integer program per operator that hardware takes, for comparing simulated designs with the reference."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mercer.backends.fpga.design import Design, build
from mercer.backends.fpga.fifos import schedule
from mercer.compiler import Program, parse_text

BATCH = 1000
"""Samples that the reference takes at once."""


@dataclass(frozen=True)
class Unit:
    """A program `(inputs) -> outputs { parameters; body }` and the cycles per sample that folding aims at."""

    inputs: str
    outputs: str
    parameters: str
    body: str
    cycles: int | None = None

    def program(self) -> Program:
        lines = [
            f"param {parameter.strip()} = zeros()" for parameter in self.parameters.split(";") if parameter.strip()
        ]
        lines += [line.strip() for line in self.body.strip().splitlines()]
        return parse_text(f"model Unit({self.inputs}) -> {self.outputs} {{\n" + "\n".join(lines) + "\n}\n")

    @property
    def target(self) -> str:
        return "fpga:generic" if self.cycles is None else f"fpga:generic:{self.cycles}"


UNITS: Mapping[str, Unit] = {
    "linear": Unit(
        "x: i8[N, 12]", "i8[N, 6]", "w: i8[6, 12]; b: i32[6]; m: i32[6]",
        "return requantize(linear(widen(x; zero = 3), widen(w)) + b, m; shift = 22, zero = -5)", 24,
    ),
    "linear, power of two weights": Unit(
        "x: i8[N, 8]", "i32[N, 4]", "p: i8[4, 8]", "return linear(widen(x; zero = -7), widen(p))", 4,
    ),
    "conv2d 3 x 3, pad": Unit(
        "x: i8[N, 2, 4, 5]", "i8[N, 3, 4, 5]", "w: i8[3, 2, 3, 3]; b: i32[3]; m: i32[3, 1, 1]",
        "return requantize(bias_add(conv2d(widen(x; zero = 4), widen(w); pad = 1), b), m; shift = 22)", 360,
    ),
    "conv2d 13 x 13, pad": Unit(
        "x: i8[N, 1, 3, 3]", "i32[N, 1, 3, 3]", "w: i8[1, 1, 13, 13]",
        "return conv2d(widen(x; zero = -9), widen(w); pad = 6)",
    ),
    "conv2d, stride and dilation": Unit(
        "x: i8[N, 2, 7, 6]", "i32[N, 2, 3, 2]", "w: i8[2, 2, 2, 3]",
        "return conv2d(widen(x), widen(w); stride = [2, 1], dilation = [1, 2])", 100,
    ),
    "conv2d, groups": Unit(
        "x: i8[N, 4, 4, 4]", "i32[N, 4, 4, 4]", "w: i8[4, 2, 3, 3]",
        "return conv2d(widen(x; zero = 1), widen(w); pad = 1, groups = 2)",
    ),
    "conv2d, depthwise": Unit(
        "x: i8[N, 4, 4, 4]", "i8[N, 4, 4, 4]", "w: i8[4, 1, 3, 3]; m: i32[4, 1, 1]",
        "return requantize(conv2d(widen(x; zero = 2), widen(w); pad = 1, groups = 4), m; shift = 20, zero = 1)", 400,
    ),
    "conv1d": Unit(
        "x: i8[N, 3, 9]", "i32[N, 2, 5]", "w: i8[2, 3, 3]",
        "return conv1d(widen(x; zero = 5), widen(w); pad = 1, stride = 2)",
    ),
    "max pool": Unit("x: i8[N, 4, 4, 6]", "i8[N, 4, 2, 3]", "", "return max_pool2d(x; k = 2)"),
    "sum pool": Unit("x: i8[N, 2, 6, 6]", "i32[N, 2, 2, 2]", "", "return sum_pool2d(widen(x; zero = 9); k = 3)"),
    "global pool": Unit(
        "x: i8[N, 4, 9]", "i32[N, 4]", "", "return sum(widen(x; zero = -3); axis = -1)",
    ),
    "residual add": Unit(
        "x: i8[N, 4, 3, 3]", "i8[N, 4, 3, 3]", "w: i8[4, 4, 3, 3]; m: i32[4, 1, 1]; ma: i32[1]",
        """p = requantize(conv2d(widen(x; zero = 2), widen(w); pad = 1), m; shift = 20)
        return requantize(widen(p) * 3000 + widen(x; zero = 2) * -1700, ma; shift = 25, zero = 5)""", 400,
    ),
    "concat": Unit("x: i8[N, 4, 5], z: i8[N, 2, 5]", "i8[N, 6, 5]", "", "return concat(x, z; axis = 1)"),
    "slice": Unit("x: i8[N, 6, 4]", "i8[N, 2, 4]", "", "return x[:, 2:4]"),
    "table": Unit("x: i8[N, 3, 4]", "i8[N, 3, 4]", "t: i8[256]", "return lookup(x, t)"),
    "table per channel": Unit("x: i8[N, 4, 4]", "i8[N, 4, 4]", "t: i8[4, 256]", "return channel_lookup(x, t)"),
    "requantize": Unit(
        "x: i8[N, 4, 3]", "i8[N, 4, 3]", "m: i32[4, 1]",
        "return requantize(widen(x; zero = 7), m; shift = 15, zero = 3)",
    ),
    "arg-max": Unit("x: i8[N, 10]", "i32[N]", "", "return argmax(x)"),
    "deformable, full, with masks": Unit(
        "x: i8[N, 2, 3, 3], offset: i8[N, 18, 3, 3], mask: i8[N, 9, 3, 3]", "i32[N, 2, 3, 3]", "w: i8[2, 2, 3, 3]",
        """return fixed_deform_conv2d(x, widen(offset), widen(mask), w; pad = 1, fraction = 6, zero = 3,
          mask_fraction = 7)""",
    ),
    "deformable, depthwise": Unit(
        "x: i8[N, 2, 4, 4], offset: i8[N, 18, 2, 2]", "i32[N, 2, 2, 2]", "w: i8[2, 1, 3, 3]",
        """return fixed_deform_conv2d_v1(x, widen(offset), w; pad = 1, stride = 2, groups = 2, fraction = 7,
          zero = -4)""",
    ),
    "deformable, rounded": Unit(
        "x: i8[N, 2, 4, 4], offset: i8[N, 18, 4, 4]", "i32[N, 3, 4, 4]", "w: i8[3, 2, 3, 3]",
        "return fixed_deform_conv2d_v1(x, widen(offset), w; pad = 1, fraction = 0, zero = 5)",
    ),
    "deformable, square": Unit(
        "x: i8[N, 2, 4, 4], t: i8[N, 1, 4, 4]", "i32[N, 2, 4, 4]", "w: i8[2, 2, 3, 3]",
        "return fixed_deform_conv2d_v1(x, square_offsets(widen(t); window = 3), w; pad = 1, fraction = 5)",
    ),
    "deformable, square, rounded, depthwise": Unit(
        "x: i8[N, 2, 5, 4], t: i8[N, 1, 3, 4]", "i32[N, 2, 3, 4]", "w: i8[2, 1, 5, 3]",
        """return fixed_deform_conv2d_v1(x, square_offsets(widen(t); window = [5, 3]), w; pad = [2, 1], stride = [2, 1],
          groups = 2, fraction = 0, zero = -4)""",
    ),
    "deformable, offset groups": Unit(
        "x: i8[N, 4, 3, 3]", "i32[N, 2, 3, 3]", "wo: i8[36, 4, 1, 1]; m: i32[1]; w: i8[2, 4, 3, 3]",
        """offset = rescale(conv2d(widen(x), widen(wo)), m; shift = 20, low = -128, high = 127)
        return fixed_deform_conv2d_v1(x, offset, w; pad = 1, offset_groups = 2, fraction = 6)""",
    ),
    "kernel machine, squares": Unit(
        "x: i8[N, 6]", "i32[N, 3]", "w: i8[8, 6]; m: i32[1]; t: i8[256]; wo: i8[3, 8]",
        """d = squared_distances(widen(x; zero = 3), widen(w; zero = 3))
        k = lookup(rescale(d, m; shift = 24, low = 0, high = 255), t; low = 0)
        return linear(widen(k), widen(wo))""", 24,
    ),
    "kernel machine, sizes": Unit(
        "x: i8[N, 5]", "i32[N, 4]", "w: i8[4, 5]", "return l1_distances(widen(x), widen(w; zero = -2))", 10,
    ),
    "radial basis field": Unit(
        "x: i8[N, 3]", "i32[N, 2]", "w: i8[6, 3]; ws: i8[6, 3]; m: i32[1]; t: i8[256]; wo: i8[2, 6]",
        """d = weighted_squared_distances(widen(x), widen(w), widen(ws))
        k = lookup(rescale(d, m; shift = 23, low = -128, high = 127), t)
        return linear(widen(k), widen(wo))""", 18,
    ),
    "random features": Unit(
        "x: i8[N, 6]", "i32[N, 3]", "w: i8[8, 6]; b: i32[8]; m: i32[1]; t: i8[1024]; wo: i8[3, 8]",
        """p = wrap(linear(widen(x), widen(w)) + b, m; shift = 16, bits = 10)
        return linear(widen(lookup(p, t; low = 0)), widen(wo))""", 24,
    ),
    "random features, Sigma-Delta": Unit(
        "x: i8[N, 6]", "i32[N, 3]", "w: i8[32, 6]; b: i32[32]; m: i32[1]; t: i8[1024]; wo: i8[3, 4]",
        """p = wrap(linear(widen(x), widen(w)) + b, m; shift = 16, bits = 10)
        sums = condense(sigma_delta(i32(lookup(p, t; low = 0)); high = 127, block = 8); block = 8)
        return linear(sums, widen(wo))""", 48,
    ),
    "Sigma-Delta codes": Unit(
        "x: i8[N, 16]", "i8[N, 16]", "", "return sigma_delta(i32(x); high = 100, order = 2, bits = 3, block = 8)", 4,
    ),
    "SIREN": Unit(
        "x: i8[N, 2]", "i8[N, 3]", "w: i8[8, 2]; m: i32[8]; t: i8[256]; wh: i8[8, 8]; wo: i8[3, 8]; mo: i32[3]",
        """h = lookup(wrap(linear(widen(x), widen(w)), m; shift = 14, bits = 8), t; low = 0)
        h = lookup(wrap(linear(widen(h), widen(wh)), m; shift = 16, bits = 8), t; low = 0)
        return requantize(linear(widen(h), widen(wo)), mo; shift = 20)""", 32,
    ),
    "Kolmogorov-Arnold layer": Unit(
        "x: i8[N, 4]", "i32[N, 6]", "t: i8[6, 4, 256]", "return edge_lookup(x, t)", 8,
    ),
    "layer norm": Unit(
        "x: i8[N, 8]", "i32[N, 8]", "", "return integer_normalize(widen(x; zero = 3); fraction = 9, eps = 700)",
    ),
    "rms norm": Unit(
        "x: i8[N, 4]", "i32[N, 4]", "", "return integer_normalize(widen(x); centered = false)",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Outputs and cycles of a simulated design against the reference and the cycle model."""

    inputs: int
    numbers: int
    mismatches: int
    mismatches_stalled: int
    cycles_predicted: bool
    seconds: float


def contents(program: Program) -> dict[str, np.ndarray]:
    """Random codes, biases and multipliers, by the first letter of their names; p are signed powers of two."""
    random = np.random.default_rng(0)
    bounds = {"w": (-8, 8), "t": (-128, 128), "m": (1000, 60000), "b": (-500, 500), "p": (-7, 8)}
    values: dict[str, np.ndarray] = {}
    for parameter in program.parameters:
        numbers = random.integers(*bounds[parameter.name[0]], [d.value for d in parameter.type.shape])
        if parameter.name[0] == "p":
            numbers = np.sign(numbers) << np.maximum(np.abs(numbers) - 1, 0)
        values[parameter.name] = numbers.astype(parameter.type.dtype.numpy)
    return values


def design_of(name: str) -> tuple[Program, dict[str, np.ndarray], Design]:
    """The program of an operator, its parameters and its hardware."""
    program = UNITS[name].program()
    weights = contents(program)
    return program, weights, build(program.graph, program.library, UNITS[name].target, weights)


def compare(name: str, samples: int, seed: int = 1) -> Comparison:
    """The design of an operator on `samples` random inputs, without stalls and with those of `seed` on all streams,
    number by number against the reference."""
    start = time.perf_counter()
    program, weights, design = design_of(name)
    random = np.random.default_rng([zlib.crc32(name.encode()), seed])
    x: dict[str, np.ndarray] = {}
    for value in program.graph.inputs:
        x[value.name] = random.integers(-128, 128, (samples, *(d.value for d in value.type.shape[1:])), np.int8)
        # The ends of the range, and constant samples.
        x[value.name][0], x[value.name][1], x[value.name][2] = -128, 127, 0
    parts = [
        program.evaluate(*(each[begin : begin + BATCH] for each in x.values()), weights=weights)
        for begin in range(0, samples, BATCH)
    ]
    wanted = [np.concatenate(each) for each in zip(*parts, strict=True)]
    simulator = design.simulator()
    given, cycles = simulator.run(x, 0)
    stalled, _ = simulator.run(x, seed)
    short = min(samples, 12)
    predicted = schedule(design.network, short, design.depths).completion(design.network, short)
    steady = cycles[-1] - cycles[-2] == design.report["cycles_per_sample"]
    return Comparison(
        samples,
        sum(each.size for each in wanted),
        sum(int(np.count_nonzero(a != b)) for a, b in zip(given, wanted, strict=True)),
        sum(int(np.count_nonzero(a != b)) for a, b in zip(stalled, wanted, strict=True)),
        bool(steady and np.array_equal(cycles[:short], predicted)),
        time.perf_counter() - start,
    )
