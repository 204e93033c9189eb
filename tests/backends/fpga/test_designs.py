"""Whole nets: the simulated design against the reference, bit for bit under stalls and cycle for cycle without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import mercer
from mercer.backends.fpga.design import Design, build, simulate
from mercer.backends.fpga.fifos import schedule
from mercer.backends.fpga.folding import DEVICES, FoldingError
from mercer.backends.fpga.implement import implement
from mercer.backends.fpga.lowering import UnsupportedError
from mercer.compiler import Program, compile, parse_text
from mercer.runtime.errors import MercerError
from mercer.runtime.simulation import SimulationError

SAMPLES = 12

PERCEPTRON = """
model Perceptron(x: f32[N, 12]) -> f32[N, 5] {
  param w1: i8[16, 12] = zeros()
  param b1: i32[16] = zeros()
  param m1: i32[16] = zeros()
  param table: i8[256] = zeros()
  param w2: i8[5, 16] = zeros()
  param b2: i32[5] = zeros()
  q = quantize(x; scale = 0.05, zero = 3)
  h = linear(widen(q; zero = 3), widen(w1)) + b1
  t = lookup(requantize(h, m1; shift = 20, zero = -5), table)
  y = linear(widen(t; zero = 7), widen(w2)) + b2
  return dequantize(y; scale = 0.01)
}
"""

RESIDUAL = """
model Residual(x: f32[N, 3, 6, 6]) -> i32[N] {
  param w1: i8[4, 3, 3, 3] = zeros()
  param b1: i32[4] = zeros()
  param m1: i32[4, 1, 1] = zeros()
  param wd: i8[4, 1, 3, 3] = zeros()
  param md: i32[4, 1, 1] = zeros()
  param wp: i8[4, 4, 1, 1] = zeros()
  param ma: i32[1] = zeros()
  param w2: i8[10, 36] = zeros()
  q = quantize(x; scale = 0.02, zero = -4)
  a = requantize(bias_add(conv2d(widen(q; zero = -4), widen(w1); pad = 1), b1), m1; shift = 18, zero = 2, low = 2)
  d = requantize(conv2d(widen(a; zero = 2), widen(wd); pad = 1, groups = 4), md; shift = 18, zero = 1)
  p = requantize(conv2d(widen(d; zero = 1), widen(wp)), m1; shift = 16)
  s = requantize(widen(p) * 3000 + widen(a; zero = 2) * -1700, ma; shift = 25, zero = 5)
  y = linear(widen(flatten(max_pool2d(s; k = 2)); zero = 5), widen(w2))
  return argmax(y)
}
"""

BRANCHES = """
model Branches(x: i8[N, 4, 7], z: f32[N, 2, 7]) -> (i8[N, 7, 6], i32[N, 4], i32[N, 4, 7]) {
  param w: i8[4, 2, 3] = zeros()
  param m: i32[4, 1] = zeros()
  param tables: i8[4, 256] = zeros()
  param mw: i32[4, 1] = zeros()
  a = widen(x; zero = 9)
  c = conv1d(a, widen(w); pad = 2, dilation = 2, groups = 2)
  b = requantize(c, m; shift = 19, low = -8, high = 7)
  t = channel_lookup(requantize(c, mw; shift = 19), tables)
  g = sum(a - widen(t); axis = -1)
  q = quantize(z; scale = 0.1, low = -8, high = 7)
  return permute(concat(b, q; axis = 1); dims = [0, 2, 1]), g, wrap(c, mw; shift = 12, bits = 10)
}
"""

VECTORS = """
model Vectors(x: f32[N, 6, 2]) -> (
    i32[N, 5], i32[N, 3], i32[N, 12], i32[N, 5], i32[N, 2, 2], i8[N, 1, 2], i32[N, 2, 4]) {
  param w: i8[5, 12] = zeros()
  param ws: i8[5, 12] = zeros()
  param m: i32[1] = zeros()
  param te: i8[3, 12, 256] = zeros()
  param wc: i8[6, 6, 1] = zeros()
  param b: i32[2, 1] = zeros()
  i = quantize(x; scale = 0.05, zero = 3)
  q = flatten(i)
  d = squared_distances(widen(q; zero = 3), widen(w; zero = 3))
  l = l1_distances(widen(q; zero = 3), widen(w; zero = 3))
  z = integer_normalize(widen(q; zero = 3); fraction = 9, eps = 700)
  e = weighted_squared_distances(widen(q; zero = 3), widen(w; zero = 3), widen(ws))
  y = conv1d(widen(i; zero = 3), widen(wc))
  r = integer_normalize(permute(y[:, 1:5]; dims = [0, 2, 1]); centered = false)
  return rescale(d, m; shift = 12) + l, edge_lookup(q, te), z, e, y[:, 3:5] + b, i[:, 2:3], r
}
"""

DEFORMABLE = """
model Deformable(x: f32[N, 2, 5, 6]) -> (i32[N, 3, 5, 6], i32[N, 2, 3, 3]) {
  param w: i8[27, 2, 3, 3] = zeros()
  param m: i32[1] = zeros()
  param wo: i8[3, 2, 3, 3] = zeros()
  param wd: i8[2, 1, 3, 3] = zeros()
  i = quantize(x; scale = 0.05, zero = 3)
  y = conv2d(widen(i; zero = 3), widen(w); pad = 1)
  offset = rescale(y[:, :18], m; shift = 22, low = -128, high = 127)
  mask = rescale(y[:, 18:], m; shift = 21, low = 0, high = 128)
  z = conv2d(widen(i; zero = 3), widen(w); pad = 1, stride = 2)
  large = rescale(z[:, 9:], m; shift = 19, low = -600, high = 600)
  return fixed_deform_conv2d(i, offset, mask, wo; pad = 1, fraction = 6, zero = 3, mask_fraction = 7),
    fixed_deform_conv2d_v1(i, large, wd; pad = 1, stride = 2, groups = 2, fraction = 7, zero = 3)
}
"""


def weights(program: Program) -> dict[str, np.ndarray]:
    """Random codes, biases and multipliers, by the first letter of their names."""
    random = np.random.default_rng(0)
    bounds = {"w": (-8, 8), "t": (-128, 128), "m": (1000, 60000), "b": (-500, 500)}
    return {
        p.name: random.integers(*bounds[p.name[0]], [d.value for d in p.type.shape]).astype(p.type.dtype.numpy)
        for p in program.parameters
    }


def inputs(program: Program) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    drawn = {}
    for value in program.graph.inputs:
        x = random.normal(0, 2, (SAMPLES, *(d.value for d in value.type.shape[1:])))
        drawn[value.name] = x.astype(np.float32) if value.type.dtype.is_float else (x * 40).clip(-128, 127).astype("i1")
    return drawn


def made(text: str, target: str = "fpga") -> tuple[Program, Design]:
    program = parse_text(text)
    return program, build(program.graph, program.library, target, weights(program))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (PERCEPTRON, "fpga:generic:1"),
        (PERCEPTRON, "fpga:ecp5-25k:24"),
        (RESIDUAL, "fpga:ecp5-85k"),
        (BRANCHES, "fpga:generic"),
        (VECTORS, "fpga:ecp5-85k"),
        (DEFORMABLE, "fpga:ecp5-85k"),
    ],
)
def test_a_net_gives_the_bits_of_the_reference_in_the_cycles_of_the_model(text: str, target: str) -> None:
    program, design = made(text, target)
    x = inputs(program)
    wanted = program.evaluate(*x.values(), weights=weights(program))
    simulator = design.simulator()
    for stalls in (0, 1, 2):
        given, cycles = simulator.run(x, stalls)
        for mine, theirs in zip(given, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs, f"stalls {stalls}")
        if stalls == 0:
            predicted = schedule(design.network, SAMPLES, design.depths).completion(design.network, SAMPLES)
            np.testing.assert_array_equal(cycles, predicted)
            assert cycles[0] == design.report["latency"]
            assert cycles[-1] - cycles[-2] == design.report["cycles_per_sample"]


def changed(design: Design, name: str, old: bytes, new: bytes) -> Design:
    assert design.files[name].count(old) == 1, f"{old!r} in {name}"
    return replace(design, files={**design.files, name: design.files[name].replace(old, new)})


def swapped(design: Design, name: str) -> Design:
    """Two different entries of a memory exchanged."""
    lines = design.files[name].splitlines()
    other = next(i for i, line in enumerate(lines) if line != lines[120])
    lines[120], lines[other] = lines[other], lines[120]
    return replace(design, files={**design.files, name: b"\n".join(lines) + b"\n"})


def test_faults_change_the_result() -> None:
    """A wrong rounding bit and two exchanged table entries: the comparison above catches both."""
    program, design = made(PERCEPTRON)
    x = inputs(program)
    (wanted,) = program.evaluate(*x.values(), weights=weights(program))
    table = next(name for name in design.files if name.endswith("_table.hex"))
    rounding = changed(design, "rtl/mercer_product.sv", b"<<< (SHIFT - 1))", b"<<< (SHIFT - 2))")
    for faulty in (rounding, swapped(design, table)):
        ((given,), _) = simulate(faulty, x)
        assert not np.array_equal(given, wanted)


def test_queues_without_room_stop_the_design() -> None:
    """The residual branch waits in a queue while the other one is computed: without it nothing moves."""
    program, design = made(RESIDUAL)
    waits = max(range(len(design.depths)), key=design.depths.__getitem__)
    deep = f".DEPTH({design.depths[waits]})".encode()
    with pytest.raises(SimulationError, match="no word moved"):
        simulate(changed(design, "rtl/mercer_top.sv", deep, b".DEPTH(2)"), inputs(program))


def test_a_float_model_compiles_runs_and_travels(tmp_path: Path) -> None:
    """The artifact gives what the integer program gives on the CPU, after it was written and read."""
    program = parse_text(
        """
        model Net(x: f32[N, 1, 6, 6]) -> f32[N, 3] {
          h = x |> Conv2d(4, 3, pad = 1) |> silu
          h = h + (h |> Conv2d(4, 1) |> relu)
          return avg_pool2d(h; k = 3) |> flatten |> Linear(3)
        }
        """
    )
    x = np.random.default_rng(0).normal(size=(20, 1, 6, 6)).astype(np.float32)
    executable = compile(program, "fpga:ecp5-25k", data=x, quantize="w4a8")
    executable.save(tmp_path / "net.mrc")
    loaded = mercer.load(tmp_path / "net.mrc")
    np.testing.assert_array_equal(loaded(x), compile(program, "cpu", data=x, quantize="w4a8")(x))
    simulation = loaded.simulation
    assert simulation is not None and len(simulation.cycles) == 20
    picture = ET.fromstring(loaded.artifact.member("fpga/schematic.svg"))
    report = json.loads(loaded.artifact.member("fpga/report.json"))
    boxes = picture.findall("{http://www.w3.org/2000/svg}g")
    assert len(boxes) == len(report["stages"]) + 2
    seen: list[tuple[int, int]] = []
    simulation.progress = lambda done, samples: seen.append((done, samples))
    assert loaded(x[:0]).shape == (0, 3)
    loaded(x[:2])
    assert seen == [(1, 2), (2, 2)]


REFUSED: Mapping[str, tuple[str, str]] = {
    "sqrt(x)": ("`sqrt` cannot be put into hardware: there is no module for it", "--quantize"),
    "adaptive_avg_pool2d(x; size = 2)": (
        "`adaptive_avg_pool2d` cannot be put into hardware",
        "avg_pool2d with a window",
    ),
    "relu(x)": ("`relu` cannot be put into hardware: it computes in real numbers", "--quantize"),
    "dequantize(widen(c) * widen(c); scale = 1.0)": ("`mul` .* both operands are computed", "a constant factor"),
    "f32(conv2d(widen(c), widen(w)))": ("`conv2d` .* its window is 15 x 15", "at most 13 x 13"),
    "f32(widen(c) + widen(flip(c; axis = 3)))": ("`add` .* other shapes or orders", "of one shape"),
    "f32(sum(widen(c); axis = 2))": ("`sum` .* axis 2 does not come last", "over the last pixel axis"),
    "f32(lookup(c, t))": ("codes of -128..127 leave its table of -128..-125", "a table of all codes"),
}


@pytest.mark.parametrize("formula", REFUSED)
def test_what_hardware_cannot_take_is_refused_by_name(formula: str) -> None:
    program = parse_text(
        f"""
        model Refused(x: f32[N, 2, 16, 16]) {{
          param w: i8[1, 2, 15, 15] = zeros()
          param t: i8[4] = zeros()
          c = quantize(x; scale = 0.1)
          return {formula}
        }}
        """
    )
    reason, hint = REFUSED[formula]
    with pytest.raises(UnsupportedError, match=reason) as error:
        build(program.graph, program.library, weights=weights(program))
    assert hint in str(error.value.hint)


@pytest.mark.slow
def test_a_small_net_becomes_a_bitstream_for_an_ecp5() -> None:
    """Yosys finds the multipliers that folding counted on, nextpnr a clock, and both tools take the generated files."""
    _, design = made(PERCEPTRON, "fpga:ecp5-25k:96")
    result = implement(design.files, DEVICES["ecp5-25k"])
    counted = sum(stage["multipliers"] for stage in design.report["stages"])
    assert 0 < result.counts.dsp <= counted <= DEVICES["ecp5-25k"].multipliers
    assert result.clock is not None and result.clock > 30
    assert result.bitstream is not None and len(result.bitstream) > 10_000


def test_targets_that_do_not_exist_or_do_not_suffice() -> None:
    program = parse_text(RESIDUAL)
    for target, reason in (("fpga:ecp5-85", "no FPGA device `ecp5-85`"), ("fpga:generic:0", "`0` is no number")):
        with pytest.raises(MercerError, match=reason):
            build(program.graph, program.library, target, weights(program))
    with pytest.raises(FoldingError, match="324 cycles are the fewest"):
        build(program.graph, program.library, "fpga:generic:100", weights(program))
