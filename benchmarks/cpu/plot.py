"""Bars of Mercer's speed over that of the best peer of each row, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.cpu.figures import best_peer, ratio
from benchmarks.cpu.run import Row

LABEL, WIDTH, STEP, TOP = 260, 560, 18, 56
LOW, HIGH = 0.25, 32.0
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32)
MET, MISSED = "#2a7f62", "#c0562f"


def write_svg(path: Path, rows: Sequence[Row]) -> None:
    """One bar per row and thread count from 1× on a logarithmic axis; a small line marks the bar that is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(rows), encoding="utf-8")


def svg(rows: Sequence[Row]) -> str:
    found = [(row, value) for row in rows if (value := ratio(row)) is not None]
    height = TOP + STEP * len(found) + 12
    size = f'width="{LABEL + WIDTH + 110}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="11">',
        f'<rect {size} fill="white"/>',
        '<text x="8" y="18" font-size="14">Speed of Mercer over the fastest other system (1T, 2T: threads)</text>',
    ]
    for tick in TICKS:
        lines.append(_line(tick, TOP - 8, height - 8, "#444" if tick == 1 else "#ddd"))
        lines.append(f'<text x="{_x(tick):.1f}" y="{TOP - 14}" text-anchor="middle">{tick:g}×</text>')
    for number, (row, value) in enumerate(found):
        y, best = TOP + STEP * number, best_peer(row)
        left, right = sorted((_x(1.0), _x(value)))
        box = f'x="{left:.1f}" y="{y + 3}" width="{max(right - left, 1):.1f}" height="{STEP - 6}"'
        name, peer = f"{row.workload.name} {row.threads}T", best.peer if best else ""
        lines.append(f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect {box} fill="{MET if value >= row.workload.bar else MISSED}"/>')
        lines.append(_line(row.workload.bar, y + 1, y + STEP - 1, "black"))
        lines.append(f'<text x="{right + 5:.1f}" y="{y + 12}">{value:.2f}× {escape(peer)}</text>')
    return "\n".join([*lines, "</svg>\n"])


def _line(value: float, top: float, bottom: float, colour: str) -> str:
    x = f"{_x(value):.1f}"
    return f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'


def _x(value: float) -> float:
    position = math.log(min(max(value, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LABEL + WIDTH * position
