"""From an integer graph to a design that can be simulated and synthesized."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mercer.backends.fpga.bench import cpp_bench
from mercer.backends.fpga.cocotb_bench import cocotb_bench
from mercer.backends.fpga.estimate import estimates
from mercer.backends.fpga.fifos import depths_of, schedule
from mercer.backends.fpga.folding import fold, multipliers_of, parse_target
from mercer.backends.fpga.generate import CLOCK, design_files
from mercer.backends.fpga.lower import lower
from mercer.backends.fpga.network import Network, connect
from mercer.backends.fpga.schematic import schematic
from mercer.ir.graph import Graph
from mercer.ir.library import Library
from mercer.ir.types import Array
from mercer.runtime.simulation import Progress, Simulator, StreamSpec

PATIENCE = 8
"""Samples' worth of cycles without a word after which a simulation is given up."""


@dataclass(frozen=True, eq=False)
class Design:
    """A generated design: `files` by path (`rtl/`, `memory/`, `bench/`, `report.json`, ...) and what is known of it."""

    target: str
    network: Network
    depths: tuple[int, ...]
    files: Mapping[str, bytes]
    report: Mapping[str, Any]
    inputs: tuple[StreamSpec, ...]
    outputs: tuple[StreamSpec, ...]

    def entry(self) -> dict[str, Any]:
        """What an artifact has to know in order to simulate the design."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "cycles_per_sample": self.report["cycles_per_sample"],
            "latency": self.report["latency"],
            "patience": patience(self.report),
        }

    def simulator(self) -> Simulator:
        """A program of this design, built at its first run."""
        return Simulator(self.files, self.inputs, self.outputs, patience(self.report))


def patience(report: Mapping[str, Any]) -> int:
    return PATIENCE * (int(report["cycles_per_sample"]) + int(report["latency"])) + 10_000


def build(
    graph: Graph,
    library: Library,
    target: str = "fpga",
    weights: Mapping[str, Array] | None = None,
) -> Design:
    """Hardware for an integer graph on `fpga:DEVICE` or `fpga:DEVICE:CYCLES`, with at most so many cycles per sample.

    Raises UnsupportedError for a node that has no hardware, FoldingError when the design cannot be so fast or small.
    """
    device, cycles = parse_target(target)
    dataflow = fold(lower(graph, library, weights), device, cycles)
    network = connect(dataflow.inputs, dataflow.stages, dataflow.outputs)
    depths = depths_of(network)
    report = report_of(network, depths, target)
    files = design_files(network, depths)
    files["bench/bench.cpp"] = cpp_bench(network).encode()
    files["report.json"] = json.dumps(report, indent=1).encode()
    files["schematic.svg"] = schematic(network, depths).encode()
    files["constraints.lpf"] = f'FREQUENCY PORT "clk" {CLOCK} MHZ;\n'.encode()
    inputs = [
        replace(spec, lanes=entry.stream.lanes)
        for spec, entry in zip(dataflow.input_specs, network.inputs, strict=True)
    ]
    outputs = [
        replace(spec, lanes=edge.stream.lanes)
        for spec, edge in zip(dataflow.output_specs, network.into(None), strict=True)
    ]
    limit = int(report["cycles_per_sample"]) + int(report["latency"]) + 100
    files |= cocotb_bench(graph, library, weights, inputs, outputs, limit)
    return Design(target, network, depths, files, report, tuple(inputs), tuple(outputs))


def simulate(
    design: Design, inputs: Mapping[str, Array], stalls: int = 0, progress: Progress | None = None
) -> tuple[tuple[Array, ...], list[int]]:
    """Outputs of the Verilator simulation, and for each sample the cycle in which its last word left.

    `stalls` other than 0 seeds random pauses of all inputs and outputs. Raises SimulationError.
    """
    return design.simulator().run(inputs, stalls, progress)


def report_of(network: Network, depths: tuple[int, ...], target: str) -> dict[str, Any]:
    """Cycles per sample, latency, and a row per stage and per queue."""
    first = schedule(network, 2, depths).completion(network, 2)
    counts = {name: dataclasses.asdict(each) for name, each in estimates(network, depths).items()}
    stages = [
        {
            "name": stage.name,
            "module": stage.module,
            "nodes": list(stage.origins),
            "cycles": stage.cycles,
            "latency": stage.timing().latency,
            "multipliers": multipliers_of(stage),
            "estimate": counts.get(stage.name),
            "memory_bits": sum(4 * len(content.replace(b"\n", b"")) for content in stage.memories().values()),
            "parameters": stage.parameters(),
        }
        for stage in network.stages
    ]
    queues = [
        {"from": edge.source, "to": edge.sink or f"output {edge.port}", "width": edge.stream.width, "depth": depth}
        for edge, depth in zip(network.edges, depths, strict=True)
    ]
    return {
        "target": target,
        "clock": CLOCK,
        "cycles_per_sample": network.period,
        "latency": int(first[0]),
        "stages": stages,
        "queues_estimate": counts.get("queues"),
        "queues": queues,
    }
