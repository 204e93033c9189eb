"""How parallel each stage is: least hardware for a number of cycles per sample, or fewest cycles on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mercer.backends.fpga.lower import Dataflow
from mercer.backends.fpga.network import Input
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Rescale, Stage, divisors
from mercer.runtime.errors import MercerError, nearest

OPERAND_BITS = 18
"""Width of the operands of a hardware multiplier."""


class FoldingError(MercerError):
    """A throughput that no folding reaches, or a device that the smallest design does not fit."""


@dataclass(frozen=True)
class Device:
    """What a chip has; `family` is the name of its synthesis flow. Designs for a `pipelined` one have registers behind
    its memories and multipliers, and so a higher clock and more latency."""

    name: str
    family: str
    luts: int
    multipliers: int
    block_rams: int
    pipelined: bool = True


DEVICES = {
    d.name: d
    for d in (
        Device("ecp5-25k", "ecp5", 24_288, 28, 56),
        Device("ecp5-85k", "ecp5", 83_640, 156, 208),
        Device("xcup", "xcup", 70_560, 360, 432),
        Device("generic", "generic", 1_000_000, 1024, 4096, pipelined=False),
    )
}
"""ECP5 LFE5U-25F and -85F; Zynq UltraScale+ ZU3; a device without a name for simulation."""


def parse_target(target: str) -> tuple[Device, int | None]:
    """The device and the cycles per sample of `fpga`, `fpga:DEVICE` or `fpga:DEVICE:CYCLES`. Raises MercerError.

    `fpga` alone is the generic device; without cycles a sample takes as few as the device allows.
    """
    name, _, cycles = target.partition(":")[2].partition(":")
    name = name or "generic"
    if name not in DEVICES:
        near = nearest(name, DEVICES)
        hint = f"did you mean fpga:{near}?" if near else f"one of {', '.join(f'fpga:{d}' for d in DEVICES)}"
        raise MercerError(f"there is no FPGA device `{name}`", hint)
    if cycles and not (cycles.isascii() and cycles.isdigit() and int(cycles)):
        raise MercerError(f"`{cycles}` is no number of cycles per sample", f"such as fpga:{name}:100")
    return DEVICES[name], int(cycles) if cycles else None


def multipliers_of(stage: Stage) -> int:
    """Hardware multipliers that a stage takes: products, and the products of its scale, which are wider."""
    match stage:
        case MatrixVector():
            lanes, operands = stage.pe, (stage.sums.bits,)
        case Depthwise():
            lanes, operands = stage.lanes, (stage.sums.bits,)
        case Rescale():
            lanes, operands = stage.lanes, (stage.input.bits,)
        case _:
            return stage.multipliers
    products = 0 if isinstance(stage, Rescale) else stage.multipliers
    if stage.scale is None:
        return products
    parts = math.ceil(operands[0] / OPERAND_BITS) * math.ceil(stage.scale.bits / OPERAND_BITS)
    return products + lanes * parts


@dataclass(frozen=True)
class _Choice:
    stage: Stage
    cycles: int
    multipliers: int


def fold(dataflow: Dataflow, device: Device, cycles: int | None = None) -> Dataflow:
    """Choose a folding for every stage, and lanes for every input.

    Every stage gets the least hardware that keeps it within `cycles` per sample; without `cycles`, within the fewest
    for which the multipliers of the device are enough. Raises FoldingError.
    """
    tables = [[_Choice(s, s.cycles, multipliers_of(s)) for s in stage.foldings()] for stage in dataflow.stages]
    fastest = [min(choice.cycles for choice in table) for table in tables]
    floor = max([*fastest, *(entry.stream.pixels for entry in dataflow.inputs)])
    if cycles is not None and cycles < floor:
        raise FoldingError(f"no folding gives a sample per {cycles} cycles", f"{floor} cycles are the fewest")
    if cycles is None:
        goals = sorted({max(choice.cycles, floor) for table in tables for choice in table} | {floor})
        fitting = [goal for goal in goals if _total(tables, goal) <= device.multipliers]
        if not fitting:
            least = _total(tables, goals[-1])
            raise FoldingError(
                f"the smallest design takes {least} multipliers, {device.name} has {device.multipliers}",
                "take a larger device, such as fpga:ecp5-85k, or fpga:generic",
            )
        cycles = fitting[0]
    chosen = tuple(replace(_cheapest(table, cycles).stage, pipelined=device.pipelined) for table in tables)
    inputs = tuple(_within(entry, cycles) for entry in dataflow.inputs)
    return replace(dataflow, stages=chosen, inputs=inputs)


def _cheapest(table: Sequence[_Choice], cycles: int) -> _Choice:
    """The first of the least hardware: tables list the least parallel first."""
    return min((choice for choice in table if choice.cycles <= cycles), key=lambda choice: choice.multipliers)


def _total(tables: Sequence[Sequence[_Choice]], cycles: int) -> int:
    return sum(_cheapest(table, cycles).multipliers for table in tables)


def _within(entry: Input, cycles: int) -> Input:
    lanes = next(n for n in divisors(entry.stream.channels) if entry.stream.elements // n <= cycles)
    return replace(entry, stream=replace(entry.stream, lanes=lanes))
