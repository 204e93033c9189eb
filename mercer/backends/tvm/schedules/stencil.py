"""Sums over windows of one plane: depthwise convolutions and pools.

A unit of work copies a band of the source, zeros around it, into a buffer of its own, with the columns of a stride > 1
sorted by their remainder, so that neighbours in the result read neighbours. A tile of some rows times some vectors of
the result stays in registers; one load from the buffer, at any place, serves every row of the tile that has it in its
window. A long window in one dimension is folded: the rows are then pieces of the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope
from mercer.backends.tvm.schedules import windows
from mercer.backends.tvm.schedules.common import Choice, Problem, Refusal, Schedule, at_outer, count, pick
from mercer.backends.tvm.schedules.stencil_tile import BUFFER, UNROLLED, Group, Line, Plane, band
from mercer.backends.tvm.schedules.windows import BAND, Windows
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.integers import IntExpr
from mercer.ir.types import TensorType

LARGEST = 6144
"""Elements of a band, which should stay in the first-level cache."""

CYCLE = 0.3
"""Nanoseconds."""

LATENCY, OVERHEAD = 4.0, 2.0
"""Cycles: of a dependent multiply-add, of a step of a loop."""

UNIT = 8
"""Lanes of one of the two units that multiply and load: a vector of 16 takes both of them."""

LANES = 16
"""Numbers of a line of the cache: every load of as many at an odd place reads two lines, of UNIT every other one."""

SUMS = 24
"""Vectors of sums of a tile at most: beside more, LLVM finds no registers for what is added to them."""

SHARED = 4.0
"""Cycles of a line of the result that two groups of tiles write, for it comes from the second-level cache twice."""

FEWEST = 4
"""Taps below which a copy of the source does not pay."""


def plan(problem: Problem) -> Schedule | Refusal:
    found = windows.find(problem)
    if isinstance(found, str):
        return Refusal("stencil", found)
    if found.columns.outputs < 4 or problem.target.lanes == 1:
        return Refusal("stencil", "rows too short for vectors")
    if found.taps < FEWEST * (1 if found.weights else 2):
        return Refusal("stencil", f"a window of {found.taps}")
    candidates = _geometries(found, problem.target)
    picked = pick(candidates, lambda each: each.cycles, lambda each: each.choice, problem.choice)
    if picked is None:
        return Refusal("stencil", "a tall window with stride or dilation")
    best, options = picked
    geometry = best.geometry
    outer = found.units(geometry.bands)
    cost = CYCLE * best.cycles / geometry.bands

    def emit(scope: Scope, unit: TirExpr) -> None:
        inside = at_outer(scope, outer, unit)
        band(inside, geometry, inside.indices[BAND])

    size = IntExpr.constant(geometry.size)
    workspace = Operand(BUFFER, TensorType(found.source.dtype, (size,)))
    memory = (workspace,)
    return Schedule("stencil", str(geometry), found.nest, count(outer), cost, emit, workspace=memory, options=options)


@dataclass(frozen=True)
class _Candidate:
    """`cycles` for a plane."""

    geometry: Plane
    cycles: float

    @property
    def choice(self) -> Choice:
        plane = self.geometry
        tiles = [size for group in plane.groups for size in (group.vectors, group.rows)]
        span = plane.span if isinstance(plane, Line) else 0
        return {"family": "stencil", "lanes": plane.lanes, "tiles": tiles, "band": plane.band, "span": span}


def _geometries(found: Windows, target: Target) -> list[_Candidate]:
    """With vectors that fill a register, and with halves of them that still fill a unit."""
    columns, rows = found.columns, found.rows
    result: list[_Candidate] = []
    lanes = target.lanes
    while lanes > columns.outputs:
        lanes //= 2
    widest = lanes
    while lanes == widest or lanes >= UNIT:
        result += _planes(Plane(found, lanes, (), 1 if rows is None else rows.outputs), target)
        if rows is None and columns.stride == 1 and columns.taps >= 2 * lanes:
            result += _lines(found, lanes, target)
        lanes //= 2
    return result


def _planes(plane: Plane, target: Target) -> list[_Candidate]:
    """Tiles side by side that differ by at most one vector."""
    vectors = -(-plane.width // plane.lanes)
    found: list[_Candidate] = []
    for most in range(1, min(vectors, target.registers // 3) + 1):
        tiles = -(-vectors // most)
        small = vectors // tiles
        wide = vectors - small * tiles
        sizes = [(0, wide, small + 1), (wide * (small + 1), tiles - wide, small)]
        groups: list[Group] = []
        cycles = 0.0
        for start, number, size in sizes:
            if number:
                rows, cost = _rows(plane, size, target)
                if not rows:
                    break
                groups.append(Group(start * plane.lanes, number, size, rows))
                cycles += cost * number
        else:
            geometry = replace(plane, groups=tuple(groups))
            cycles += SHARED * plane.height * (len(groups) - 1)
            found.append(_Candidate(replace(geometry, band=_band(geometry, plane.height)), cycles))
    return found


def _lines(found: Windows, lanes: int, target: Target) -> list[_Candidate]:
    result: list[_Candidate] = []
    for vectors in range(1, 5):
        width = vectors * lanes
        if width % found.columns.dilation or width * 2 > found.columns.outputs:
            continue
        line = Line(found, lanes, (), 1, span=width)
        rows, cycles = _rows(line, vectors, target)
        if rows:
            line = replace(line, groups=(Group(0, 1, vectors, rows),))
            size = max(rows, _band(line, line.height) // rows * rows)
            result.append(_Candidate(replace(line, band=min(size, line.height)), cycles))
    return result


def _band(geometry: Plane, height: int) -> int:
    """Rows of a band: as many as the buffer takes, yet at least as many as the window, all bands alike."""
    most = (LARGEST // geometry.pitch - geometry.reach) // geometry.row_stride + 1
    most = max(1, min(height, max(most, geometry.reach, 8)))
    alike = -(-height // -(-height // most))
    return max(alike, *(group.rows for group in geometry.groups), 1)


def _rows(geometry: Plane, vectors: int, target: Target) -> tuple[int, float]:
    """How many rows a tile of so many vectors has, and cycles for all such tiles of a plane; 0 when none fits."""
    best, least = 0, math.inf
    tall, units = geometry.window_rows, max(1.0, geometry.lanes / UNIT)
    load = 0.5 * units * (1.0 + max(UNIT, geometry.lanes) / LANES)
    for rows in range(1, min(geometry.height, 8) + 1):
        accumulators = rows * vectors
        serial = accumulators * tall > UNROLLED
        if accumulators > min(SUMS, target.registers - 2) or (serial and not geometry.slides):
            continue
        loads = len(geometry.steps(rows)) * vectors
        kept = accumulators + 1 + min(rows, tall) < target.registers and not serial
        loads += tall if kept else tall * rows
        cycles = max(units * accumulators * tall / 2, load * loads, LATENCY * tall) + OVERHEAD
        cycles += 2.0 * rows if serial else 0.0
        cycles = geometry.window_columns * cycles + 2.0 * units * accumulators
        total = cycles * -(-geometry.height // rows)
        if total < least:
            best, least = rows, total
    return best, least
