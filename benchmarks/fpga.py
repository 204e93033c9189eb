"""The FPGA target in figures, each computed by this run: whole nets simulated, and what restricted sampling saves.

    python benchmarks/fpga.py [--json] [--route] [digits] [jets] [deform] [units]

`digits`: examples/digits.mer trained on the digits of scikit-learn, W4A8, on an ECP5-85k: the accuracy of f32, of the
integer program on the CPU and of the simulated design on the test split, whether the last two have equal bits for every
stall, predicted and simulated cycles. `--route` adds Yosys, nextpnr and the bitstream, which takes many minutes.
`jets`: the dense net 16-64-32-32-5 with relu that hls4ml tags jets with (Duarte et al. 2018), W8A8, a multiplier per
weight; random weights and inputs.
`deform`: a BoundedDeformConv2d of 16 x 16 pixels of 16 channels by a window of 3 x 3, W8A8, its forms by CoDeNet (Dong
et al. 2021), each with four lanes and four multipliers for the products: bytes of the line buffer, cycles per image,
and what Yosys counts for the ECP5 of the sampling and of the products.
`units`: a small design per operator on 10,000 random inputs, without stalls and with random ones of all streams: how
many numbers differ from the integer reference. Minutes, and only done when it is named.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fpga_estimates import Design, counted
from fpga_units import UNITS, compare

import mercer
from mercer.backends.fpga.folding import DEVICES
from mercer.backends.fpga.implement import implement
from mercer.backends.fpga.lower import lower
from mercer.backends.fpga.stages import Depthwise, MatrixVector
from mercer.backends.fpga.stages_spatial import Deform
from mercer.commands import demo
from mercer.ir.graph import Graph
from mercer.passes.manager import Lower, PassContext, run_passes
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.quantize import Quantize
from mercer.runtime.session import Executable

EXAMPLES = Path(__file__).parent.parent / "examples"
SEED = 0
CALIBRATION = 512
"""Samples that the ranges are found on."""
STALLS = (1, 2)
"""Seeds of random pauses of both sides."""

JETS = """
model Jets(x: f32[N, 16]) -> f32[N, 5] {
  return x |> Linear(64) |> relu |> Linear(32) |> relu |> Linear(32) |> relu |> Linear(5)
}
"""
JET_SAMPLES = 1000
JET_LATENCY = 20

Row = dict[str, Any]


def member(executable: Executable, name: str) -> Any:
    return json.loads(executable.artifact.member(f"fpga/{name}"))


def simulated(design: Executable, x: np.ndarray, expected: np.ndarray) -> tuple[Row, np.ndarray]:
    """What the report says against what the simulation of `x` does, and its outputs."""
    report = member(design, "report.json")
    simulation = design.simulation
    assert simulation is not None
    start = time.perf_counter()
    simulation.stalls = 0
    given = np.array(design(x))
    cycles = list(simulation.cycles)
    equal = {0: np.array_equal(given, expected)}
    for stalls in STALLS:
        simulation.stalls = stalls
        equal[stalls] = np.array_equal(design(x), expected)
    steps = np.diff(cycles)
    return {
        "samples": len(x),
        "bits equal": equal[0],
        "bits equal with stalls": all(equal[stalls] for stalls in STALLS),
        "cycles per sample predicted": report["cycles_per_sample"],
        "cycles per sample simulated": sorted({int(step) for step in steps[len(steps) // 2 :]}),
        "latency predicted": report["latency"],
        "latency simulated": cycles[0],
        "seconds simulated": round(time.perf_counter() - start, 1),
    }, given


def digits(route: bool) -> Row:
    torch.set_num_threads(1)
    split, program = demo.digits(), mercer.parse(EXAMPLES / "digits.mer")
    net = demo.train(program, split)
    weights = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    samples = split.train_x[:: max(1, len(split.train_x) // CALIBRATION)]
    whole, integers, design = (
        mercer.compile(program, target, weights, data=samples, quantize=quantize)
        for target, quantize in (("cpu", None), ("cpu", "w4a8"), ("fpga:ecp5-85k", "w4a8"))
    )
    expected = np.array(integers(split.test_x))
    row, given = simulated(design, split.test_x, expected)
    scores = {"f32": np.array(whole(split.test_x)), "cpu w4a8": expected, "fpga w4a8": given}
    row = {f"accuracy {name} %": round(100 * demo.accuracy(y, split.test_y), 2) for name, y in scores.items()} | row
    report = member(design, "report.json")
    for kind in ("lut", "ff", "dsp", "bram"):
        parts = [*(stage["estimate"] for stage in report["stages"]), report["queues_estimate"]]
        row[f"{kind} estimated"] = sum(part[kind] for part in parts if part)
    return row | (routed(design) if route else {})


def routed(design: Executable) -> Row:
    print("Yosys and nextpnr work on the digits design: this takes many minutes", file=sys.stderr, flush=True)
    start = time.perf_counter()
    members = design.artifact.members
    files = {name.removeprefix("fpga/"): design.artifact.member(name) for name in members if name.startswith("fpga/")}
    made = implement(files, DEVICES["ecp5-85k"])
    assert made.clock is not None and made.bitstream is not None
    return {
        **{f"{kind} yosys": number for kind, number in vars(made.counts).items()},
        "clock MHz": round(made.clock, 1),
        "frames per second": round(1e6 * made.clock / member(design, "report.json")["cycles_per_sample"]),
        "bitstream bytes": len(made.bitstream),
        "seconds routed": round(time.perf_counter() - start),
    }


def jets() -> Row:
    program = mercer.parse_text(JETS)
    x = np.random.default_rng(SEED).normal(size=(JET_SAMPLES, 16)).astype(np.float32)
    integers, design = (
        mercer.compile(program, target, program.initial(SEED), data=x[:CALIBRATION], quantize="w8a8")
        for target in ("cpu", "fpga:generic:1")
    )
    row, _ = simulated(design, x, np.array(integers(x)))
    multipliers = sum(stage["multipliers"] for stage in member(design, "report.json")["stages"])
    return row | {
        "latency bar": JET_LATENCY,
        "met": row["latency simulated"] <= JET_LATENCY,
        "multipliers": multipliers,
    }


SIZE, CHANNELS, LANES = 16, 16, 4
CONVOLUTION = f"""
model Convolution(x: f32[N, {CHANNELS}, {SIZE}, {SIZE}]; bound = 2, square = false, rounded = false, groups = 1) {{
  offset = x |> Conv2d(1 if square else 18, 3, pad = 1)
  return BoundedDeformConv2d(x, 100.0*offset; {CHANNELS}, 3, bound, 1, 1, groups = groups, square = square,
                             rounded = rounded)
}}
"""
FREE = SIZE - 1
"""Pixels that an offset may move so that every tap of a pixel reaches every other pixel."""

FORMS: dict[str, Row] = {
    "free": {"bound": FREE},
    "bounded 2": {"bound": 2},
    "bounded 2, rounded": {"bound": 2, "rounded": True},
    "bounded 2, square": {"bound": 2, "square": True},
    "bounded 2, square, rounded": {"bound": 2, "square": True, "rounded": True},
    "bounded 2, depthwise": {"bound": 2, "groups": CHANNELS},
    "bounded 2, square, rounded, depthwise": {"bound": 2, "square": True, "rounded": True, "groups": CHANNELS},
}


def convolution(**form: Any) -> tuple[Deform, MatrixVector | Depthwise]:
    """The stage that samples and the one that multiplies, of a model in integers of eight bits."""
    program = mercer.parse_text(CONVOLUTION, **form)
    x = np.random.default_rng(SEED).normal(size=(8, CHANNELS, SIZE, SIZE)).astype(np.float32)
    passes = quantized(Quantize.scheme("w8a8"))
    before = next(place for place, each in enumerate(passes) if isinstance(each, Lower))
    context = PassContext(program.library, weights=program.initial(SEED), data={"x": x})
    graph = run_passes(program.graph, passes[:before], context)
    assert isinstance(graph, Graph)
    stages = lower(graph, program.library).stages
    samples = next(stage for stage in stages if isinstance(stage, Deform))
    products = next(stage for stage in stages if stage.sources == (samples.name,))
    samples = replace(samples, lanes=LANES)
    if isinstance(products, Depthwise):
        return samples, replace(products, lanes=LANES)
    assert isinstance(products, MatrixVector)
    return samples, replace(products, simd=LANES)


def forms() -> list[Row]:
    made = [convolution(**how) for how in FORMS.values()]
    counts = counted([Design.of(stage) for stages in made for stage in stages])
    return [
        {
            "form": name,
            "buffer bytes": samples.rows * SIZE * CHANNELS,
            "offsets": samples.offsets.channels,
            "cycles": max(samples.cycles, products.cycles),
            **{kind.upper(): number for kind, number in vars(sampling).items()},
            **{f"products {kind.upper()}": number for kind, number in vars(multiplying).items()},
        }
        for name, (samples, products), sampling, multiplying in zip(FORMS, made, counts[::2], counts[1::2], strict=True)
    ]


UNIT_INPUTS = 10_000


def units() -> list[Row]:
    rows: list[Row] = []
    for name in UNITS:
        result = compare(name, UNIT_INPUTS)
        rows.append(
            {
                "operator": name,
                "inputs": result.inputs,
                "numbers": result.numbers,
                "mismatches": result.mismatches,
                "with stalls": result.mismatches_stalled,
                "cycles as predicted": result.cycles_predicted,
            }
        )
        print(name, f"{result.seconds:.0f} s", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row]) -> str:
    lines = [[str(key) for key in rows[0]], *([f"{value}" for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
    return "\n".join(shown)


def listing(row: Row) -> str:
    return "\n".join(f"  {key:<30} {value}" for key, value in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="digits, jets, deform, units; or the first three")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--route", action="store_true")
    options = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "digits": lambda: digits(options.route),
        "jets": jets,
        "deform": forms,
        "units": units,
    }
    if unknown := set(options.names) - set(parts):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    results: dict[str, Any] = {}
    for name in options.names or [name for name in parts if name != "units"]:
        results[name] = parts[name]()
        if not options.json:
            shown = table(results[name]) if isinstance(results[name], list) else listing(results[name])
            print(f"{name}\n{shown}", flush=True)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
