"""A bench of any stream modules: many instances in one Verilator build, each fed from arrays, with random stalls.

Every cycle a source that holds no word offers its next one with a probability drawn per stream, and a sink is ready
with a probability drawn per stream; seed 0 never stalls. A word that is offered stays until it is taken, as AXI-Stream
asks.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mercer.backends.fpga
from mercer.backends.fpga import tools

RTL = Path(mercer.backends.fpga.__file__).parent / "rtl"


@dataclass(frozen=True)
class Port:
    """A stream of words of `lanes` numbers of `bits` bits; `name` is the prefix of its wires."""

    name: str
    lanes: int
    bits: int = 8
    signed: bool = True

    @property
    def width(self) -> int:
        return self.lanes * self.bits

    def encode(self, values: np.ndarray) -> bytes:
        """The words of values[beats, lanes], each filled up to whole 32-bit words."""
        values = np.asarray(values, np.int64).reshape(-1, self.lanes)
        bits = (values[:, :, None] >> np.arange(self.bits)) & 1
        flat = bits.reshape(len(values), self.width).astype(np.uint8)
        padded = np.pad(flat, ((0, 0), (0, -self.width % 32)))
        return np.packbits(padded, axis=1, bitorder="little").tobytes()

    def decode(self, data: bytes) -> np.ndarray:
        """values[beats, lanes] of what `encode` writes."""
        size = (self.width + 31) // 32 * 4
        rows = np.frombuffer(data, np.uint8).reshape(-1, size)
        bits = np.unpackbits(rows, axis=1, bitorder="little")[:, : self.width]
        bits = bits.reshape(-1, self.lanes, self.bits).astype(np.int64)
        weights = 1 << np.arange(self.bits, dtype=np.int64)
        if self.signed:
            weights[-1] = -weights[-1]
        return bits @ weights


@dataclass(frozen=True)
class Unit:
    """One instance of a module with its streams."""

    module: str
    parameters: Mapping[str, int | str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True)
class Flow:
    """What passed through one stream: values[beats, lanes] and the cycle in which each beat was taken."""

    values: np.ndarray
    cycles: np.ndarray


@dataclass(frozen=True)
class Bench:
    """A built simulation of `units`."""

    units: Sequence[Unit]
    program: Path

    def run(
        self, feeds: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[int]], seed: int = 0
    ) -> list[tuple[list[Flow], list[Flow]]]:
        """Per unit the flows of its inputs and of its outputs, for `feeds` ([beats, lanes] per input) until each output
        has given its `expected` number of beats and a hundred cycles more, which show a beat too many."""
        directory = self.program.parent
        sources = [port for unit in self.units for port in unit.inputs]
        for index, (port, values) in enumerate(zip(sources, (v for feed in feeds for v in feed), strict=True)):
            (directory / f"in{index}.bin").write_bytes(port.encode(values))
        counts = [str(number) for numbers in expected for number in numbers]
        command = [str(self.program), str(seed), *counts]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        flows: list[tuple[list[Flow], list[Flow]]] = []
        starts = {"in": 0, "out": 0}
        for unit in self.units:
            sides: list[list[Flow]] = []
            for side, ports in (("in", unit.inputs), ("out", unit.outputs)):
                names = [f"{side}{starts[side] + offset}" for offset in range(len(ports))]
                starts[side] += len(ports)
                sides.append([_flow(directory, name, port) for name, port in zip(names, ports, strict=True)])
            flows.append((sides[0], sides[1]))
        return flows


def _flow(directory: Path, name: str, port: Port) -> Flow:
    cycles = np.frombuffer((directory / f"{name}.cycles").read_bytes(), np.uint32).astype(np.int64)
    data = (directory / f"{name}.taken").read_bytes() if name.startswith("out") else b""
    return Flow(port.decode(data), cycles)


def build(
    units: Sequence[Unit], directory: Path, faulty: Sequence[Path] = (), netlist: Path | None = None, level: int = 0
) -> Bench:
    """All `units` in one simulation of Mercer's modules and those in the files `faulty`, or of those in a netlist.

    `level` is how much the C++ compiler optimizes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.sv").write_text(_top(units))
    (directory / "bench.cpp").write_text(_program(units))
    options = ["--cc", "--exe", "--build", "-Wall", "--x-assign", "unique", "--x-initial", "unique", "--Mdir", "obj"]
    # Split files would need precompiled headers, which this packaging of Verilator does not find.
    options += ["--output-split", "0"]
    options += [
        "-MAKEFLAGS",
        f"OPT_FAST=-O{level} OPT_SLOW=-O0 OPT_GLOBAL=-O{level}",
        "--top-module",
        "bench",
        "-Wno-UNUSEDSIGNAL",
        "-Wno-DECLFILENAME",
        "-Wno-MULTITOP",
    ]
    sources = (
        [*sorted(RTL.glob("*.sv")), *faulty]
        if netlist is None
        else ["-Wno-lint", "-Wno-style", "-Wno-UNOPTFLAT", netlist]
    )
    tools.run("verilator-cli", [*options, *sources, "bench.sv", "bench.cpp"], directory)
    program = directory / "program"
    (directory / "obj" / "Vbench").rename(program)
    return Bench(units, program)


def plant(directory: Path, wrong: Mapping[str, tuple[str, str]], *others: str, name: str = "faulty") -> list[Path]:
    """Copies of the modules `wrong` and `others`, called `name` instead of mercer and using each other; in each of
    `wrong` one text is replaced by another."""
    texts = {module: (RTL / f"{module}.sv").read_text() for module in (*wrong, *others)}
    for module, (old, new) in wrong.items():
        assert texts[module].count(old) == 1, f"{old} is not in {module}"
        texts[module] = texts[module].replace(old, new)
    paths: list[Path] = []
    for module, text in texts.items():
        for used in texts:
            text = re.sub(rf"\b{used}\b", used.replace("mercer", name), text)
        paths.append(directory / f"{module.replace('mercer', name)}.sv")
        paths[-1].write_text(text)
    return paths


def _ports(units: Sequence[Unit]) -> list[tuple[str, Port, int]]:
    """(name on the bench, port, number of the unit) of every stream: in0, in1, ... and out0, out1, ..."""
    named: list[tuple[str, Port, int]] = []
    for side in ("in", "out"):
        sides = [(p, n) for n, unit in enumerate(units) for p in (unit.inputs if side == "in" else unit.outputs)]
        named += [(f"{side}{index}", port, number) for index, (port, number) in enumerate(sides)]
    return named


def _top(units: Sequence[Unit]) -> str:
    wires: list[str] = []
    connections: list[list[str]] = [[".clk(clk)", ".rst(rst)"] for _ in units]
    for name, port, number in _ports(units):
        source = name.startswith("in")
        there, back = ("input wire", "output wire") if source else ("output wire", "input wire")
        wires += [f"{there} [{port.width - 1}:0] {name}_data", f"{there} {name}_valid", f"{back} {name}_ready"]
        for wire in ("data", "valid", "ready"):
            connections[number].append(f".{port.name}_t{wire}({name}_{wire})")
    lines = [f"module bench (input wire clk, input wire rst,\n  {', '.join(wires)});"]
    for number, unit in enumerate(units):
        lines.append(instance(unit, f"u{number}", connections[number]))
    return "\n".join([*lines, "endmodule\n"])


def instance(unit: Unit, name: str, connections: Sequence[str]) -> str:
    values = [f'.{k}("{v}")' if isinstance(v, str) else f".{k}({v})" for k, v in unit.parameters.items()]
    chosen = f" #({', '.join(values)})" if values else ""
    return f"  {unit.module}{chosen} {name} ({', '.join(connections)});"


def _program(units: Sequence[Unit]) -> str:
    before, after, declarations = [], [], []
    for name, port, _ in _ports(units):
        kind, words = ("Source" if name.startswith("in") else "Sink"), (port.width + 31) // 32
        declarations.append(f'  {kind} {name}("{name}", {words}, random{"" if kind == "Source" else ", counts"});')
        if kind == "Source":
            before.append(f"    {name}.offer(top.{name}_data, top.{name}_valid);")
            after.append(f"    {name}.taken(top.{name}_ready, cycle);")
        else:
            before.append(f"    {name}.offer(top.{name}_ready);")
            after.append(f"    missing += {name}.take(top.{name}_data, top.{name}_valid, cycle);")
    text = PROGRAM
    for mark, lines in (("@streams", declarations), ("@before", before), ("@after", after)):
        text = text.replace(mark, "\n".join(lines))
    return text


PROGRAM = r"""
#include "Vbench.h"
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

using Words = std::vector<uint32_t>;

static void put(CData& port, const uint32_t* words) { port = words[0]; }
static void put(SData& port, const uint32_t* words) { port = words[0]; }
static void put(IData& port, const uint32_t* words) { port = words[0]; }
static void put(QData& port, const uint32_t* words) { port = words[0] | (uint64_t(words[1]) << 32); }
template <std::size_t N> static void put(VlWide<N>& port, const uint32_t* words) {
  for (std::size_t i = 0; i < N; ++i) port[i] = words[i];
}
static void get(QData port, int count, Words& words) {
  for (int i = 0; i < count; ++i) words.push_back(uint32_t(port >> (32 * i)));
}
template <std::size_t N> static void get(const VlWide<N>& port, int, Words& words) {
  for (std::size_t i = 0; i < N; ++i) words.push_back(port[i]);
}
static void save(const std::string& name, const Words& words) {
  FILE* file = fopen(name.c_str(), "wb");
  if (fwrite(words.data(), 4, words.size(), file) != words.size()) exit(3);
  fclose(file);
}

struct Coin {
  std::mt19937& random;
  uint32_t chance;
  Coin(std::mt19937* random) : random(*random), chance((*random)() % 7 + 2) {}
  bool flip(bool stalls) { return !stalls || random() % 8 < chance; }
};
static bool stalls = false;
static uint32_t moved = 0;  // the last cycle in which a word was taken

struct Source {
  std::string name;
  int width;
  Coin coin;
  Words words, cycles, nothing;
  size_t next = 0;
  bool valid = false;
  Source(const char* name, int width, std::mt19937* random) : name(name), width(width), coin(random), nothing(width) {
    FILE* file = fopen((this->name + ".bin").c_str(), "rb");
    uint32_t word;
    while (fread(&word, 4, 1, file) == 1) words.push_back(word);
    fclose(file);
  }
  template <class Port> void offer(Port& data, CData& port) {
    if (!valid) valid = next < words.size() && coin.flip(stalls);
    put(data, valid ? &words[next] : nothing.data());
    port = valid;
  }
  void taken(bool ready, uint32_t cycle) {
    if (!valid || !ready) return;
    moved = cycle;
    cycles.push_back(cycle);
    next += width;
    valid = false;
  }
  ~Source() { save(name + ".cycles", cycles); }
};

struct Sink {
  std::string name;
  int width;
  Coin coin;
  size_t expected;
  Words words, cycles;
  bool ready = false;
  Sink(const char* name, int width, std::mt19937* random, char**& counts)
      : name(name), width(width), coin(random), expected(atol(*counts++)) {}
  void offer(CData& port) { port = ready = coin.flip(stalls); }
  template <class Port> bool take(const Port& data, bool valid, uint32_t cycle) {
    if (valid && ready) {
      moved = cycle;
      get(data, width, words);
      cycles.push_back(cycle);
    }
    return cycles.size() < expected;
  }
  ~Sink() { save(name + ".taken", words), save(name + ".cycles", cycles); }
};

int main(int argc, char** argv) {
  const int seed = atoi(argv[1]);
  char** counts = argv + 2;
  std::mt19937 engine(seed), *random = &engine;
  stalls = seed != 0;
  VerilatedContext context;
  context.randReset(2);
  context.randSeed(seed + 1);
  Vbench top(&context);
@streams
  top.rst = 1;
  for (int i = 0; i < 4; ++i) top.clk = 0, top.eval(), top.clk = 1, top.eval();
  top.rst = 0;
  uint32_t quiet = 0;
  for (uint32_t cycle = 0; quiet < 100; ++cycle) {
    if (cycle - moved > 20000) return printf("nothing moves after cycle %u\n", moved), 1;
@before
    top.clk = 0;
    top.eval();
    size_t missing = 0;
@after
    quiet = missing ? 0 : quiet + 1;
    top.clk = 1;
    top.eval();
  }
  top.final();
  return 0;
}
"""
