"""Stages and the streams between them, every stream with one writer, one reader and a number of lanes both agree on."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mercer.backends.fpga.stages import Fork, Stage, Stream, Width


def identifier(name: str) -> str:
    """A name of the graph as Verilog spells it."""
    return re.sub(r"\W", "_", name)


@dataclass(frozen=True)
class Input:
    """What arrives at the border of the design."""

    name: str
    stream: Stream


@dataclass(frozen=True)
class Edge:
    """A queue: `source` is an input or stage (`copy` of a fork), `sink` a stage or None for output `port`."""

    source: str
    copy: int
    sink: str | None
    port: int
    stream: Stream


@dataclass(frozen=True)
class Network:
    """Stages in topological order; edges in the order of their sinks, the outputs of the design last."""

    inputs: tuple[Input, ...]
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[str, ...]

    def into(self, sink: str | None) -> list[Edge]:
        return sorted((e for e in self.edges if e.sink == sink), key=lambda e: e.port)

    def out_of(self, source: str) -> list[Edge]:
        return sorted((e for e in self.edges if e.source == source), key=lambda e: e.copy)

    @property
    def period(self) -> int:
        """Cycles per sample in steady state: those of the slowest stage, border included."""
        border = [i.stream.beats for i in self.inputs] + [e.stream.beats for e in self.into(None)]
        return max([stage.cycles for stage in self.stages] + border)


def connect(inputs: Sequence[Input], stages: Sequence[Stage], outputs: Sequence[str]) -> Network:
    """Put a fork where several read one stream and lane converters where reader and writer differ."""
    readers = Counter([source for stage in stages for source in stage.sources] + list(outputs))
    streams: dict[str, Stream] = {i.name: i.stream for i in inputs}
    placed: list[Stage] = []
    edges: list[Edge] = []
    taken: Counter[str] = Counter()
    heads: dict[str, str] = {}

    def settle(name: str, stream: Stream) -> None:
        """Where readers of `name` find it: itself or its fork."""
        streams[name] = stream
        heads[name] = name
        if readers[name] > 1:
            fork = Fork(name=f"{name}_fork", sources=(name,), input=stream, copies=readers[name])
            placed.append(fork)
            edges.append(Edge(name, 0, fork.name, 0, stream))
            heads[name] = fork.name

    def read(name: str, sink: str | None, port: int, lanes: int | None) -> None:
        """An edge from `name` to a port of `sink`, through converters where the lanes differ."""
        source, stream = heads[name], streams[name]
        copy = taken[source]
        taken[source] += 1
        lanes = stream.lanes if lanes is None else lanes
        wide = math.lcm(stream.lanes, lanes)
        for step in [wide] * (wide not in (lanes, stream.lanes)) + [lanes] * (lanes != stream.lanes):
            width = Width(name=f"{sink or name}_width{len(placed)}", sources=(source,), input=stream, lanes=step)
            placed.append(width)
            edges.append(Edge(source, copy, width.name, 0, stream))
            source, copy, stream = width.name, 0, width.gives
        edges.append(Edge(source, copy, sink, port, stream))

    for entry in inputs:
        settle(entry.name, entry.stream)
    for stage in stages:
        for port, (source, wanted) in enumerate(zip(stage.sources, stage.takes, strict=True)):
            read(source, stage.name, port, wanted.lanes)
        placed.append(stage)
        settle(stage.name, stage.gives)
    for port, name in enumerate(outputs):
        read(name, None, port, None)
    return Network(tuple(inputs), tuple(placed), tuple(edges), tuple(outputs))
