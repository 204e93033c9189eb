"""LUTs, flip-flops, multiplier blocks and block RAMs of a design on the ECP5, from its parameters alone.

Flip-flops, multipliers and memories are counted as Yosys maps them. LUTs are sums of what the parts of a module take,
with weights fitted to counts of Yosys; `benchmarks/fpga_estimates.py` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from math import ceil

from mercer.backends.fpga.estimate_windows import deform, window
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lut_weights import WEIGHTS
from mercer.backends.fpga.network import Network
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Stage
from mercer.backends.fpga.tally import Sizes, Tally, clog2, power_of_two, product, read_only, written
from mercer.backends.fpga.tools import Counts


def _vectors(t: Tally, rows: int, columns: int, pe: int, simd: int, p: Sizes, stored: int, delay: int) -> None:
    """What fetches the operands of PE x SIMD products: counters, the stored matrix, the copy of the vector; and what
    tells the sum, `delay` cycles later, where it begins and ends."""
    steps, word, pipeline = rows * columns, simd * p["IN_BITS"], p["PIPELINE"]
    fetched = steps > 1
    t.ff += clog2(columns) + clog2(rows) + (clog2(steps) if rows > 1 and columns > 1 else 0)
    t.ff += (3 if columns > 1 else 2) * (fetched * (1 + pipeline) + delay) + 1
    t.ff += fetched * word * (1 + pipeline)
    t.memory(read_only(pe * simd * stored, steps), pe * simd * stored, pipeline)
    t.size(steps=clog2(steps))
    if rows > 1:
        t.memory(written(word, columns), word)
        t.size(copy=word)


def _tree(t: Tally, lanes: int, count: int, bits: int, widest: int) -> None:
    """Sums of `count` numbers two by two, with a register behind each."""
    level, nodes, adders = 0, count, 0
    while nodes > 1:
        level += 1
        width = min(bits + level, widest)
        adders += nodes // 2 * width
        nodes = ceil(nodes / 2)
        t.ff += lanes * nodes * width
    t.size(adders=lanes * adders)


def _mvu(t: Tally, p: Sizes) -> None:
    pe, simd, acc, pipeline = p["PE"], p["SIMD"], p["ACC_BITS"], p["PIPELINE"]
    rows, columns = p["ROWS"] // pe, p["COLS"] // simd
    term = p["IN_BITS"] + p["WEIGHT_BITS"]
    levels = pipeline * clog2(simd)
    _vectors(t, rows, columns, pe, simd, p, p["WEIGHT_BITS"], 1 + levels)
    t.ff += pe * simd * min(term, acc) + pe * acc
    t.dsp += pe * simd
    if rows > 1:
        t.ff += clog2(rows) * (1 + levels)
    bias = pe * min(acc, p.get("BIAS_BITS", acc))
    t.memory(read_only(bias, rows), bias, pipeline)
    if pipeline:
        _tree(t, pe, simd, term, acc)
        t.size(sum=pe * acc)
    else:
        t.size(terms=pe * (simd - 1) * term, carries=pe * max(simd - 2, 0) * acc, sum=pe * acc * (simd > 1))
        t.size(single=pe * acc * (simd == 1))
    t.size(onto=pe * acc * (columns > 1))
    if p["SCALE"]:
        t.ff += clog2(rows) + 2 + pipeline
        t.memory(read_only(pe * p["MULTIPLIER_BITS"], rows), pe * p["MULTIPLIER_BITS"], pipeline)
        t.requantize(p, pe, acc)


def _distance(t: Tally, p: Sizes) -> None:
    pe, simd, pipeline, out = p["PE"], p["SIMD"], p["PIPELINE"], p["OUT_BITS"]
    rows, columns = p["CENTERS"] // pe, p["DIMENSIONS"] // simd
    lanes = pe * simd
    difference = max(p["IN_BITS"], p["CENTER_BITS"]) + 1
    squares = p["METRIC"] == 0
    term = 2 * difference - 1 if squares else difference
    _vectors(t, rows, columns, pe, simd, p, p["CENTER_BITS"], 2 + pipeline * clog2(simd))
    # The second bit of a square is always 0.
    t.ff += (rows > 1) + lanes * (difference + term - squares) + pe * out
    t.dsp += lanes * squares
    if pipeline:
        _tree(t, pe, simd, term, out)
    else:
        t.size(terms=pe * (simd - 1) * term, carries=pe * max(simd - 2, 0) * out)
    t.size(difference=lanes * difference, absolute=lanes * difference * (not squares))
    t.size(sum=pe * out, onto=pe * out * (columns > 1))


def _vvu(t: Tally, p: Sizes) -> None:
    lanes, acc, weight, pipeline = p["LANES"], p["ACC_BITS"], p["WEIGHT_BITS"], p["PIPELINE"]
    parts, taps = p["CHANNELS"] // lanes, p["TAPS"]
    steps = parts * taps
    held = pipeline * (steps > 1)
    t.ff += clog2(parts) + clog2(taps) + clog2(steps) * (parts > 1 and taps > 1)
    t.ff += clog2(parts) * (2 + held) + (3 if taps > 1 else 2) * ((steps > 1) + held + 1) + 1
    t.ff += lanes * (p["IN_BITS"] * ((steps > 1) + held) + min(p["IN_BITS"] + weight, acc) + acc)
    t.dsp += lanes
    t.memory(read_only(lanes * weight, steps), lanes * weight, held)
    bias = lanes * min(acc, p.get("BIAS_BITS", acc))
    t.memory(read_only(bias, parts), bias, held)
    if parts > 1 and taps > 1:
        t.memory(written(lanes * acc, parts, registered=False))
    t.size(sum=lanes * acc, onto=lanes * acc * (taps > 1), several=lanes * acc * (parts > 1), steps=clog2(steps))
    if p["SCALE"]:
        t.ff += clog2(parts) + 2 + pipeline
        t.memory(read_only(lanes * p["MULTIPLIER_BITS"], parts), lanes * p["MULTIPLIER_BITS"], pipeline)
        t.requantize(p, lanes, acc)


def _scale(t: Tally, p: Sizes) -> None:
    lanes, pipeline = p["LANES"], p["PIPELINE"]
    parts = p["CHANNELS"] // lanes
    t.ff += 2 + pipeline + (clog2(parts) + (1 + lanes * p["IN_BITS"]) * (1 + pipeline) if parts > 1 else 0)
    t.memory(read_only(lanes * p["MULTIPLIER_BITS"], parts), lanes * p["MULTIPLIER_BITS"], pipeline)
    t.requantize(p, lanes, p["IN_BITS"])


def _table(t: Tally, p: Sizes) -> None:
    lanes, depth = p["LANES"], p["CHANNELS"] * p["ENTRIES"]
    t.ff += 1 + (clog2(depth) if p["CHANNELS"] > lanes else 0)
    t.memory(read_only(p["OUT_BITS"], depth, lanes), lanes * p["OUT_BITS"])
    # Offsets that are multiples of a power of two leave the bits below it alone.
    offset = (p["LOW"] | (p["ENTRIES"] if p["CHANNELS"] > 1 else 0)) % (1 << clog2(depth))
    aligned = (offset & -offset).bit_length() if offset else clog2(depth)
    t.size(address=lanes * (clog2(depth) - aligned) if p["CHANNELS"] > lanes or p["LOW"] else 0)


def _width(t: Tally, p: Sizes) -> None:
    before, after = p["IN_LANES"] * p["BITS"], p["OUT_LANES"] * p["BITS"]
    ratio = max(before, after) // min(before, after)
    t.ff += max(before, after) + 1 + clog2(ratio) + (after - before if before < after else 0)
    t.size(module=float(ratio > 1), same=float(ratio == 1))
    if before > after:
        t.size(rest=before - after, long=(before - after) * (ratio >= 8))


def _fork(t: Tally, p: Sizes) -> None:
    t.ff += p["COPIES"]
    t.size(module=0.0, copies=p["COPIES"] ** 3)


def _fifo(t: Tally, p: Sizes) -> None:
    width, pointer = p["WIDTH"], clog2(p["DEPTH"])
    words = written(width, p["DEPTH"])
    t.memory(words)
    t.ff += 2 * pointer + clog2(p["DEPTH"] + 1) + 2 + (width if words.bram else pointer)
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
    t.size(width=width, counters=clog2(parts) + clog2(p["TAPS"]), sums=width * p["MODE"] * (p["ZERO"] != 0))


def _add(t: Tally, p: Sizes) -> None:
    lanes, bits, pipeline = p["LANES"], p["SUM_BITS"], p["PIPELINE"]
    factors = [(abs(p[f"{name}_FACTOR"]), p[f"{name}_BITS"]) for name in "AB"]
    t.ff += lanes * bits + 1
    t.dsp += lanes * sum(product(clog2(f) + 1, width).dsp for f, width in factors if not power_of_two(f))
    if pipeline:
        widths = [width + (1 if power_of_two(f) else clog2(f) + 1) - 1 for f, width in factors]
        t.ff += lanes * (sum(width for _, width in factors) + sum(widths)) + 2
    # A third operand makes two additions of the one.
    t.size(module=0.0, sum=lanes * bits, biased=lanes * bits * (p["BIAS"] != 0))
    if p["SCALE"]:
        t.ff += 2 + pipeline
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


def _last(t: Tally, p: Sizes) -> None:
    t.ff += clog2(p["WORDS"])
    t.size(module=0.0, words=clog2(p["WORDS"]))


def _slice(t: Tally, p: Sizes) -> None:
    words = clog2(p["WORDS"])
    t.ff += p["WIDTH"] + 1 + words
    t.size(words=words, first=words * (p["FIRST"] > 0), last=words * (p["LAST"] < p["WORDS"] - 1))


def _modulate(t: Tally, p: Sizes) -> None:
    lanes, a, b, fraction = p["LANES"], p["A_BITS"] + 1, p["B_BITS"], p["FRACTION"]
    several = p["BLOCKS"] > 1
    t.ff += clog2(p["BLOCKS"]) + 2 + b * several + lanes * (a + b - fraction + 1 + p["OUT_BITS"])
    t.dsp += lanes
    t.size(
        sample=lanes * a * (p["ZERO"] != 0), mask=b * several, rounded=lanes * p["OUT_BITS"], blocks=clog2(p["BLOCKS"])
    )


def _normalize(t: Tally, p: Sizes) -> None:
    size, bits, centered, power = p["SIZE"], p["IN_BITS"], p["CENTERED"], p["POWER_BITS"]
    share, root, quotient = clog2(size), power // 2, p["QUOTIENT_BITS"]
    total, squares = bits + share + 1, 2 * bits + share
    deviation = total + 1 if centered else bits
    numerator = min(deviation + p["FRACTION"] + 6, root + quotient + 2)
    # The mean of squares is shifted by 12 bits.
    mean = power - 12 if centered else squares
    longest = max(root, quotient + 3)
    t.ff += 4 + share + clog2(longest) + 2 * bits + squares + power + 4 * root + quotient + 1 + p["OUT_BITS"]
    t.ff += deviation + numerator + mean
    t.ff += (total + min(squares, mean) + min(2 * total - 1, mean)) if centered else 0
    t.memory(written(bits, size, registered=False))
    t.dsp += product(bits, bits).dsp + (product(total, total).dsp if centered else 0)
    if centered and not power_of_two(size):
        t.dsp += product(squares, share + 1).dsp + product(bits, share + 1).dsp
    sums = squares + power + (root + 3) + 2 * numerator + (root + 2) + p["OUT_BITS"]
    sums += (total + mean + deviation) if centered else 0
    t.size(sums=sums, chosen=squares + 2 * root + quotient + p["OUT_BITS"] + (total if centered else 0))
    t.size(counters=share + clog2(longest))


MODULES: Mapping[str, Callable[[Tally, Sizes], None]] = {
    "mercer_add": _add,
    "mercer_argmax": _argmax,
    "mercer_concat": _concat,
    "mercer_deform": deform,
    "mercer_distance": _distance,
    "mercer_edge_table": _edge_table,
    "mercer_fifo": _fifo,
    "mercer_fork": _fork,
    "mercer_last": _last,
    "mercer_modulate": _modulate,
    "mercer_mvu": _mvu,
    "mercer_normalize": _normalize,
    "mercer_pool": _pool,
    "mercer_scale": _scale,
    "mercer_slice": _slice,
    "mercer_table": _table,
    "mercer_vvu": _vvu,
    "mercer_width": _width,
    "mercer_window": window,
}


def tally(module: str, parameters: Sizes) -> Tally:
    """What a module takes, its LUTs by parts. KeyError for a module that is not in MODULES."""
    total = Tally()
    MODULES[module](total, parameters)
    return total


def sizes(stage: Stage) -> dict[str, int]:
    """The parameters of a stage, and the width of its biases."""
    if isinstance(stage, MatrixVector | Depthwise):
        return stage.parameters() | {"BIAS_BITS": Interval.of(stage.bias).bits}
    return stage.parameters()


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
    found = {s.name: estimate(s.module, sizes(s)) for s in network.stages if s.module in MODULES}
    depth_counts = Counter((edge.stream.width, depth) for edge, depth in zip(network.edges, depths, strict=True))
    queues = Counts()
    for (width, depth), number in depth_counts.items():
        one = estimate("mercer_fifo", {"WIDTH": width, "DEPTH": depth})
        queues += Counts(number * one.lut, number * one.ff, number * one.dsp, number * one.bram)
    return found | {"queues": queues}
