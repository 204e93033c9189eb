"""From a design to a chip: synthesis by Yosys, placement and routing by nextpnr, the bitstream by ecppack."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mercer.backends.fpga import tools
from mercer.backends.fpga.folding import Device, FoldingError
from mercer.backends.fpga.generate import CLOCK, TOP

Progress = Callable[[int, int, str], None]
"""Called with (steps done, all steps, what comes next)."""

_ROUTED = {"ecp5-25k": "25k", "ecp5-85k": "85k"}
"""The devices that nextpnr places and routes, by the name that it knows them by."""


@dataclass(frozen=True)
class Implementation:
    """What a design takes of its device; on an ECP5 also the clock in MHz, (used, available) cells and the bits."""

    counts: tools.Counts
    clock: float | None = None
    utilization: Mapping[str, tuple[int, int]] | None = None
    bitstream: bytes | None = None

    def to_json(self) -> bytes:
        """Counts, clock and utilization."""
        known = {"counts": asdict(self.counts), "clock": self.clock, "utilization": self.utilization}
        return json.dumps(known, indent=1, sort_keys=True).encode()


def implement(files: Mapping[str, bytes], device: Device, progress: Progress | None = None) -> Implementation:
    """Synthesize the `rtl/` and `memory/` files of a design, and route it where an open router knows the device.

    Takes minutes for a whole net. Raises FoldingError when it is too large, ToolError when a tool is missing or fails.
    """
    report = progress or _silent
    routed = device.name in _ROUTED
    steps = 3 if routed else 1
    with tempfile.TemporaryDirectory(prefix="mercer-fpga-") as name:
        folder = Path(name)
        sources = [_written(folder, path, files[path]) for path in files if path.startswith(("rtl/", "memory/"))]
        netlist = folder / "netlist.json" if routed else None
        report(0, steps, "synthesis")
        counts = tools.synthesize(sources, TOP, _family(device), netlist=netlist)
        limits = {"LUTs": (counts.lut, device.luts), "multipliers": (counts.dsp, device.multipliers)}
        for kind, (used, available) in (limits | {"block RAMs": (counts.bram, device.block_rams)}).items():
            if used > available:
                raise FoldingError(
                    f"the design takes {used} {kind}, {device.name} has {available}",
                    "allow more cycles per sample, as in fpga:DEVICE:CYCLES, or take a larger device",
                )
        if netlist is None:
            return Implementation(counts)
        report(1, steps, "placement and routing")
        result = tools.place_and_route(netlist, _ROUTED[device.name], clock=CLOCK)
        report(2, steps, "bitstream")
        return Implementation(counts, result.clock, result.utilization, tools.pack(result.configuration))


def _silent(done: int, total: int, what: str) -> None:
    del done, total, what


def _written(folder: Path, path: str, content: bytes) -> Path:
    file = folder / Path(path).name
    file.write_bytes(content)
    return file


def _family(device: Device) -> tools.Family:
    assert device.family in ("ecp5", "xcup", "generic")
    return device.family
