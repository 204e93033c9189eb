"""LUTs, flip-flops, multiplier blocks and block RAMs of a design on the ECP5, from its parameters alone.

Flip-flops, multipliers and memories are counted as Yosys maps them: its memory_libmap takes what costs least, where a
block RAM counts 128, 16 x 4 bits of LUT RAM 4, a bit of a read-only memory in logic 1/16. LUTs are sums of what the
parts of a module take, with weights fitted to counts of Yosys; `benchmarks/fpga_estimates.py` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil

from mercer.backends.fpga.network import Network
from mercer.backends.fpga.tools import Counts

_BLOCKS = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024))
_BLOCK_COST = 128


def clog2(number: int) -> int:
    return (number - 1).bit_length()


@dataclass(frozen=True)
class Part:
    """What some hardware takes; `saved` are flip-flops behind a memory that are not needed."""

    lut: float = 0.0
    ff: int = 0
    dsp: int = 0
    bram: int = 0
    saved: int = 0


def blocks(width: int, depth: int, ports: int = 1) -> int:
    """Block RAMs of a memory with `ports` read ports; of one written and read, the second port writes."""
    narrow = min(ceil(width / w) * ceil(depth / d) for w, d in _BLOCKS) * ceil(ports / 2)
    return min(narrow, ceil(width / 36) * ceil(depth / 512) * ports)


def read_only(width: int, depth: int, ports: int = 1, registered: bool = True) -> Part:
    """A memory that is filled once; only one that is read into a register can be a block RAM."""
    if depth <= 1:
        return Part(saved=width * ports)
    number = blocks(width, depth, ports)
    if registered and width * depth / 16 > number * _BLOCK_COST:
        return Part(bram=number, saved=width * ports)
    # A short memory has few different columns; equal ones are one.
    distinct = min(width * ports, (1 << min(depth, 20)) - 2)
    return Part(lut=distinct * ceil(depth / 16), saved=width * ports - distinct)


def written(width: int, depth: int, registered: bool = True) -> Part:
    """A memory with a write port and a read port."""
    if depth <= 1:
        return Part(ff=width)
    cells = ceil(depth / 16) * ceil(width / 4)
    columns = ceil(depth / 16) - 1
    number = blocks(width, depth)
    if registered and 4 * cells + 0.75 * columns * width > number * _BLOCK_COST:
        return Part(bram=number, saved=width)
    return Part(lut=4 * cells + 0.6 * columns * width + 2 * columns)


def product(a: int, b: int) -> Part:
    """A multiplication of two's complement numbers: 18 x 18 bits per block, a part of one bit in LUTs."""
    a, b = max(a, b), min(a, b)
    if b < 2:
        return Part()
    wide, high = (1 if a <= 19 else ceil(a / 18)), (1 if b <= 19 else ceil(b / 18))
    extra = 0.0 if a <= 18 else float(a + b - 17 + (b if a == 19 else 0)) * high
    return Part(lut=extra, dsp=wide * high)


@dataclass
class Tally:
    """What a module takes: flip-flops, blocks, and the sizes of the parts that LUTs are made of."""

    ff: int = 0
    dsp: int = 0
    bram: int = 0
    memory_lut: float = 0.0
    sizes: dict[str, float] = field(default_factory=lambda: {"module": 1.0})

    def size(self, **sizes: float) -> None:
        self.sizes |= sizes

    def memory(self, part: Part, register: int = 0) -> None:
        """A memory with a register of so many bits behind it."""
        self.ff += part.ff + max(register - part.saved, 0)
        self.bram += part.bram
        self.memory_lut += part.lut

    def requantize(self, p: Sizes, lanes: int, bits: int) -> None:
        """Products of `bits` bits with the multiplier, kept but for what is shifted out, rounded and held to a code."""
        kept = max(bits + p["MULTIPLIER_BITS"] - p["SHIFT"] + 1, 1)
        factor = product(bits, p["MULTIPLIER_BITS"])
        self.ff += lanes * (kept + min(p["OUT_BITS"], kept + 1))
        self.dsp += lanes * factor.dsp
        self.size(wide=lanes * factor.lut, kept=lanes * kept, code=lanes * p["OUT_BITS"], held=lanes * max(kept - 9, 0))
        self.size(requantizers=lanes)


Sizes = Mapping[str, int]


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _vectors(t: Tally, rows: int, columns: int, pe: int, simd: int, p: Sizes, stored: int) -> None:
    """What fetches the operands of PE x SIMD products: counters, the stored matrix, the copy of the vector."""
    steps, word = rows * columns, simd * p["IN_BITS"]
    t.ff += clog2(columns) + clog2(rows) + (clog2(steps) if rows > 1 and columns > 1 else 0)
    t.ff += (1 + 2 * (columns > 1) + word) if steps > 1 else 0
    t.memory(read_only(pe * simd * stored, steps), pe * simd * stored)
    if rows > 1:
        t.memory(written(word, columns), word)
        t.size(copy=word)


def _mvu(t: Tally, p: Sizes) -> None:
    pe, simd, acc = p["PE"], p["SIMD"], p["ACC_BITS"]
    rows, columns = p["ROWS"] // pe, p["COLS"] // simd
    _vectors(t, rows, columns, pe, simd, p, p["WEIGHT_BITS"])
    term = p["IN_BITS"] + p["WEIGHT_BITS"]
    t.ff += clog2(rows) + 2 + 2 * (columns > 1) + pe * simd * term + pe * acc
    t.dsp += pe * simd
    t.memory(read_only(pe * acc, rows), pe * acc)
    t.size(terms=pe * (simd - 1) * term, carries=pe * max(simd - 2, 0) * acc, lanes=pe, sum=pe * acc * (simd > 1))
    t.size(single=pe * acc * (simd == 1), onto=pe * acc * (columns > 1), weights=pe * simd)
    if p["SCALE"]:
        t.ff += clog2(rows) + 2
        t.memory(read_only(pe * p["MULTIPLIER_BITS"], rows), pe * p["MULTIPLIER_BITS"])
        t.requantize(p, pe, acc)


def _distance(t: Tally, p: Sizes) -> None:
    pe, simd = p["PE"], p["SIMD"]
    rows, columns = p["CENTERS"] // pe, p["DIMENSIONS"] // simd
    _vectors(t, rows, columns, pe, simd, p, p["CENTER_BITS"])
    difference = max(p["IN_BITS"], p["CENTER_BITS"]) + 1
    squares = p["METRIC"] == 0
    term = 2 * difference - 1 if squares else difference
    # The second bit of a square is always 0.
    t.ff += (rows > 1) + 3 + 4 * (columns > 1) + pe * simd * (difference + term - squares) + pe * p["OUT_BITS"]
    t.dsp += pe * simd * squares
    lanes = pe * simd
    t.size(carries=pe * max(simd - 2, 0) * p["OUT_BITS"], onto=pe * p["OUT_BITS"] * (columns > 1))
    t.size(difference=lanes * difference, absolute=lanes * difference * (not squares), terms=pe * (simd - 1) * term)
    t.size(sum=pe * p["OUT_BITS"])


def _vvu(t: Tally, p: Sizes) -> None:
    lanes, acc, weight = p["LANES"], p["ACC_BITS"], p["WEIGHT_BITS"]
    parts, taps = p["CHANNELS"] // lanes, p["TAPS"]
    t.ff += lanes * (p["IN_BITS"] + p["IN_BITS"] + weight + acc) - lanes * weight + 7
    t.ff += 3 * clog2(parts) + clog2(taps) + clog2(parts * taps) * (parts > 1)
    t.dsp += lanes
    t.memory(read_only(lanes * weight, parts * taps), lanes * weight)
    t.memory(read_only(lanes * acc, parts), lanes * acc)
    if parts > 1:
        t.memory(written(lanes * acc, parts, registered=False))
    t.size(sum=lanes * acc, onto=lanes * acc * (parts > 1))
    if p["SCALE"]:
        t.ff += clog2(parts) + 2
        t.memory(read_only(lanes * p["MULTIPLIER_BITS"], parts), lanes * p["MULTIPLIER_BITS"])
        t.requantize(p, lanes, acc)


def _scale(t: Tally, p: Sizes) -> None:
    lanes = p["LANES"]
    parts = p["CHANNELS"] // lanes
    t.ff += 2 + (1 + clog2(parts) + lanes * p["IN_BITS"] if parts > 1 else 0)
    t.memory(read_only(lanes * p["MULTIPLIER_BITS"], parts), lanes * p["MULTIPLIER_BITS"])
    t.requantize(p, lanes, p["IN_BITS"])


def _table(t: Tally, p: Sizes) -> None:
    lanes, depth = p["LANES"], p["CHANNELS"] * p["ENTRIES"]
    t.ff += 1 + (clog2(depth) if p["CHANNELS"] > lanes else 0)
    t.memory(read_only(p["OUT_BITS"], depth, lanes), lanes * p["OUT_BITS"])
    t.size(address=lanes * clog2(depth) if p["CHANNELS"] > 1 or p["LOW"] else 0)


def _width(t: Tally, p: Sizes) -> None:
    before, after = p["IN_LANES"] * p["BITS"], p["OUT_LANES"] * p["BITS"]
    ratio = max(before, after) // min(before, after)
    t.ff += max(before, after) + 1 + clog2(ratio) + (after - before if before < after else 0)
    t.size(module=float(ratio > 1), same=float(ratio == 1))
    if before > after:
        t.size(rest=before - after, long=(before - after) * (ratio >= 8))


def _fork(t: Tally, p: Sizes) -> None:
    t.ff += p["COPIES"]
    t.size(module=0.0, pairs=p["COPIES"] ** 2)


def _fifo(t: Tally, p: Sizes) -> None:
    width, pointer = p["WIDTH"], clog2(p["DEPTH"])
    words = written(width, p["DEPTH"])
    t.memory(words)
    t.ff += 2 * pointer + clog2(p["DEPTH"] + 1) + 2 + (width if words.bram else 0)
    block = float(words.bram > 0)
    t.size(
        pointer=pointer, width=width, block=block * pointer, bypass=block * width, rounds=pointer * (p["DEPTH"] != 16)
    )


def _concat(t: Tally, p: Sizes) -> None:
    step = clog2(p["A_BEATS"] + p["B_BEATS"])
    t.ff += p["LANES"] * p["OUT_BITS"] + 1 + step
    t.size(step=step, width=p["LANES"] * p["OUT_BITS"])


def _argmax(t: Tally, p: Sizes) -> None:
    lanes, bits, place = p["LANES"], p["IN_BITS"], clog2(p["CHANNELS"])
    beats = p["CHANNELS"] // lanes
    t.ff += clog2(beats) + 2 * place + 2 * bits + 2 + (place + 5 if beats > 1 else lanes - 1)
    t.size(module=float(lanes > 1), compare=(lanes - 1) * bits, places=(lanes - 1) * place)
    t.size(largest=bits * (beats > 1), position=place * (beats > 1))


def _pool(t: Tally, p: Sizes) -> None:
    parts, width = p["CHANNELS"] // p["LANES"], p["LANES"] * p["OUT_BITS"]
    t.ff += width + 1 + clog2(parts) + clog2(p["TAPS"])
    if parts > 1:
        t.memory(written(width, parts, registered=False))
    t.size(width=width, counters=clog2(parts) + clog2(p["TAPS"]), sums=width * p["MODE"])


def _add(t: Tally, p: Sizes) -> None:
    lanes, bits = p["LANES"], p["SUM_BITS"]
    t.ff += lanes * bits + 1
    t.dsp += lanes * sum(not _power_of_two(abs(p[f"{name}_FACTOR"])) for name in "AB")
    t.size(module=0.0, sum=lanes * bits, over=lanes * bits * (bits > 18))
    if p["SCALE"]:
        t.ff += 2
        t.requantize(p, lanes, bits)


def _edge_table(t: Tally, p: Sizes) -> None:
    parts, inputs, width = p["OUTPUTS"] // p["PE"], p["INPUTS"], p["PE"] * p["ENTRY_BITS"]
    address = clog2(parts * inputs * p["ENTRIES"])
    t.ff += clog2(inputs) + clog2(parts) + 2 * address - clog2(p["ENTRIES"]) + 3 + 4 * (inputs > 1)
    t.ff += p["PE"] * p["OUT_BITS"]
    t.memory(read_only(width, parts * inputs * p["ENTRIES"]), width)
    if parts > 1:
        t.memory(written(p["IN_BITS"], inputs, registered=False))
    t.size(address=address, sum=p["PE"] * p["OUT_BITS"])


@dataclass(frozen=True)
class _Windows:
    """Widths that mercer_window and mercer_deform share."""

    beats: int
    beat: int
    word: int
    reach: tuple[int, int]
    row: int
    column: int
    counters: int

    @staticmethod
    def of(p: Sizes) -> _Windows:
        beats, bound = p["CHANNELS"] // p["LANES"], p.get("BOUND", 0)
        high = p["DILATION_HEIGHT"] * (p["KERNEL_HEIGHT"] - 1) + 1
        wide = p["DILATION_WIDTH"] * (p["KERNEL_WIDTH"] - 1) + 1
        row = p["HEIGHT"] + p["PAD_TOP"] + p["ROWS"] + high + 3 * bound + p["STRIDE_HEIGHT"]
        column = p["WIDTH"] + p["PAD_LEFT"] + wide + 3 * bound + p["STRIDE_WIDTH"]
        loops = ("OUT_HEIGHT", "OUT_WIDTH", "KERNEL_HEIGHT", "KERNEL_WIDTH")
        counters = sum(clog2(p[name]) for name in loops) + clog2(beats)
        reach = (clog2(high), clog2(wide))
        return _Windows(beats, clog2(beats), p["LANES"] * p["BITS"], reach, clog2(row) + 2, clog2(column) + 2, counters)


def _window(t: Tally, p: Sizes) -> None:
    w = _Windows.of(p)
    depth = p["ROWS"] * p["WIDTH"] * w.beats
    address, offset = clog2(depth), w.column + w.beat
    t.memory(written(w.word, depth), w.word)
    t.ff += w.counters + w.beat + 4 * w.row + clog2(p["WIDTH"]) + 2 * w.column + 3 * address + 2 * offset + 3 + w.word
    t.size(address=address, offset=offset, word=w.word, counters=w.counters, row=w.row, column=w.column)


def _deform(t: Tally, p: Sizes) -> None:
    w = _Windows.of(p)
    slot, moves = clog2(p["ROWS"]), 1 if p["SQUARE"] else 2
    down, across = w.reach
    t.ff += w.counters + 2 * w.beat + 3 * w.row + clog2(p["WIDTH"]) + w.column + slot + down + across
    t.ff += 4 * clog2(max(p["HEIGHT"], p["STRIDE_HEIGHT"]) + 1) + 33 + moves * p["OFFSET_BITS"]
    t.ff += w.row + w.column + slot + down + across + w.beat
    t.ff += clog2((1 << down) + 2 * p["BOUND"]) + 1 + w.column + w.row + slot + w.beat
    t.ff += 2 * slot + 2 * w.column + 4
    if p["SQUARE"]:
        t.ff += 2 * min(clog2(p["KERNEL_HEIGHT"]) + 1, 3)
        t.dsp += 2
    t.size(row=w.row, column=w.column, counters=w.counters, word=w.word, slot=slot)
    t.size(move=2 * max(p["OFFSET_BITS"] + 5, clog2((p["BOUND"] << p["FRACTION"]) + 1) + 2))
    if p["ROUNDED"]:
        depth = p["ROWS"] * p["WIDTH"] * w.beats
        t.memory(written(w.word, depth), w.word)
        t.ff += 2 * clog2(depth) + 5 + w.word - w.column
        t.dsp += not _power_of_two(p["WIDTH"] * w.beats)
        t.size(address=clog2(depth))
        return
    pair = (p["WIDTH"] + 1) // 2 * w.beats
    depth, fraction, near = p["ROWS"] // 2 * pair, p["FRACTION"], p["BITS"] + p["FRACTION"] + 1
    for _ in range(4):
        t.memory(written(w.word, depth), w.word)
    t.ff += 4 * clog2(depth) + 21 + 11 * fraction + 4 * w.word + w.beat + slot
    t.ff += p["LANES"] * (3 * near - 2 + fraction + p["BITS"])
    t.dsp += 3 * p["LANES"] + (0 if _power_of_two(pair) else 3)
    t.size(address=4 * clog2(depth), linear=p["LANES"] * near, corners=4 * w.word)


def _last(t: Tally, p: Sizes) -> None:
    t.ff += clog2(p["WORDS"])
    t.size(module=0.0, words=clog2(p["WORDS"]))


def _slice(t: Tally, p: Sizes) -> None:
    t.ff += p["WIDTH"] + 1 + clog2(p["WORDS"])
    t.size(words=clog2(p["WORDS"]))


MODULES: Mapping[str, Callable[[Tally, Sizes], None]] = {
    "mercer_add": _add,
    "mercer_argmax": _argmax,
    "mercer_concat": _concat,
    "mercer_deform": _deform,
    "mercer_distance": _distance,
    "mercer_edge_table": _edge_table,
    "mercer_fifo": _fifo,
    "mercer_fork": _fork,
    "mercer_last": _last,
    "mercer_mvu": _mvu,
    "mercer_pool": _pool,
    "mercer_scale": _scale,
    "mercer_slice": _slice,
    "mercer_table": _table,
    "mercer_vvu": _vvu,
    "mercer_width": _width,
    "mercer_window": _window,
}

# LUTs per unit of each size, fitted by `benchmarks/fpga_estimates.py --fit`.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "mercer_add": {"held": 2.98, "kept": 2.49, "sum": 1.0, "over": 1.93, "wide": 0.83},
    "mercer_argmax": {"compare": 3.78, "largest": 2.63, "places": 5.06},
    "mercer_concat": {"module": 2.22, "step": 2.1, "width": 1.03},
    "mercer_deform": {"address": 1.02, "corners": 4.48, "linear": 1.33, "row": 49.98, "slot": 23.27},
    "mercer_distance": {"absolute": 2.44, "carries": 1.03, "copy": 3.28, "module": 18.42, "onto": 2.64, "terms": 1.36},
    "mercer_edge_table": {"address": 3.84, "module": 15.99, "sum": 1.52},
    "mercer_fifo": {"block": 4.16, "bypass": 0.57, "module": 4.68, "pointer": 5.02, "rounds": 2.78, "width": 0.05},
    "mercer_fork": {"pairs": 2.22},
    "mercer_last": {"words": 3.0},
    "mercer_mvu": {
        "carries": 0.15,
        "held": 3.47,
        "module": 49.44,
        "single": 4.87,
        "sum": 3.59,
        "terms": 3.34,
        "wide": 0.7,
    },
    "mercer_pool": {"counters": 2.75, "module": 10.75, "width": 2.0},
    "mercer_scale": {"code": 0.19, "kept": 4.56, "module": 1.17, "wide": 0.63},
    "mercer_slice": {"module": 4.0, "words": 4.0},
    "mercer_table": {"address": 2.07, "module": 1.99},
    "mercer_vvu": {"code": 5.2, "kept": 2.54, "onto": 0.15, "sum": 2.08, "wide": 0.2},
    "mercer_width": {"long": 1.58, "module": 7.35, "rest": 0.88, "same": 2.0},
    "mercer_window": {"column": 20.65, "counters": 21.29, "word": 0.64},
}


def tally(module: str, parameters: Sizes) -> Tally:
    """What a module takes, its LUTs by parts. KeyError for a module that is not in MODULES."""
    total = Tally()
    MODULES[module](total, parameters)
    return total


def estimate(module: str, parameters: Sizes) -> Counts:
    """What a module takes on the ECP5 after `tools.synthesize`."""
    total = tally(module, parameters)
    weights = WEIGHTS[module]
    lut = total.memory_lut + sum(weights.get(name, 0.0) * size for name, size in total.sizes.items())
    return Counts(round(lut), total.ff, total.dsp, total.bram)


def estimates(network: Network, depths: tuple[int, ...]) -> dict[str, Counts]:
    """What every stage takes, by name, and all queues together under the name `queues`.

    Stages whose module is not in MODULES are left out.
    """
    found = {s.name: estimate(s.module, s.parameters()) for s in network.stages if s.module in MODULES}
    sizes = Counter((edge.stream.width, depth) for edge, depth in zip(network.edges, depths, strict=True))
    queues = Counts()
    for (width, depth), number in sizes.items():
        one = estimate("mercer_fifo", {"WIDTH": width, "DEPTH": depth})
        queues += Counts(number * one.lut, number * one.ff, number * one.dsp, number * one.bram)
    return found | {"queues": queues}
