"""A picture of the stream graph: a box per stage from top to bottom, a line per queue."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import networkx as nx

from mercer.backends.fpga.network import Edge, Network
from mercer.backends.fpga.stages import Stage, Stream

BOX = (230, 46)
GAP = (40, 44)
_FOLDING = ("PE", "SIMD", "LANES", "IN_LANES", "OUT_LANES")


def schematic(network: Network, depths: Sequence[int]) -> str:
    """SVG text: boxes name stages with their folding and cycles per sample, lines the width and depth of queues."""
    graph = nx.DiGraph([(edge.source, _sink(edge)) for edge in network.edges])
    rows = [sorted(row) for row in nx.topological_generations(graph)]
    places = {name: (column, row) for row, names in enumerate(rows) for column, name in enumerate(names)}
    stages = {stage.name: stage for stage in network.stages}
    streams = {entry.name: entry.stream for entry in network.inputs}
    width = max(map(len, rows)) * (BOX[0] + GAP[0]) + GAP[0]
    height = len(rows) * (BOX[1] + GAP[1]) + GAP[1]
    lines = [_line(edge, depth, places) for edge, depth in zip(network.edges, depths, strict=True)]
    boxes = [_box(name, place, stages.get(name), streams.get(name)) for name, place in places.items()]
    body = "\n".join([*lines, *boxes])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _sink(edge: Edge) -> str:
    return edge.sink or f"output {edge.port}"


def _corner(place: tuple[int, int]) -> tuple[int, int]:
    column, row = place
    return GAP[0] + column * (BOX[0] + GAP[0]), GAP[1] // 2 + row * (BOX[1] + GAP[1])


def _line(edge: Edge, depth: int, places: dict[str, tuple[int, int]]) -> str:
    (x, y), (u, v) = _corner(places[edge.source]), _corner(places[_sink(edge)])
    x, y, u = x + BOX[0] // 2, y + BOX[1], u + BOX[0] // 2
    middle = (y + v) // 2
    path = f"M{x} {y} C{x} {middle} {u} {middle} {u} {v}"
    label = f"{edge.stream.width} bits, {depth} deep"
    return (
        f'<path d="{path}" fill="none" stroke="#888"/>'
        f'<text x="{(x + u) // 2 + 6}" y="{middle + 4}" font-size="10" fill="#888">{label}</text>'
    )


def _box(name: str, place: tuple[int, int], stage: Stage | None, stream: Stream | None) -> str:
    x, y = _corner(place)
    title, detail = name.rsplit(".", 1)[-1], ""
    if stage is not None:
        folding = [f"{key} {value}" for key, value in stage.parameters().items() if key in _FOLDING]
        title = stage.module.removeprefix("mercer_") + ": " + title
        detail = ", ".join([*folding, f"{stage.cycles} cycles"])
    elif stream is not None:
        detail = f"{stream.pixels} x {stream.channels}, {stream.bits} bits"
    fill = "#eef4ff" if stage is not None else "#f4f4f4"
    return (
        f'<g><title>{escape(name)}</title><rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="4" '
        f'fill="{fill}" stroke="#446"/><text x="{x + 8}" y="{y + 18}" font-size="12">{escape(title)}</text>'
        f'<text x="{x + 8}" y="{y + 36}" font-size="10" fill="#555">{escape(detail)}</text></g>'
    )
