"""Schedules: when every firing of a design happens, how deep its queues must be, and how long a sample takes.

Firing times are the least solution of `time[later] >= time[earlier] + delay` over all waits, found by sweeps of running
maxima in the order of the stages. Depths: let the samples arrive one per `period`, evenly, and let every queue be as
long as it likes; the most words that are ever in it is its depth. That schedule is then one of the design with these
depths, and since a design that starts every firing as soon as it can is never later than any other schedule of it
(marked graphs are monotone, Commoner et al. 1971), it neither stops nor falls below one sample per period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mercer.backends.fpga.network import Edge, Network
from mercer.backends.fpga.timing import Timing, elementwise
from mercer.runtime.errors import MercerError

Times = npt.NDArray[np.int64]
LEAST_DEPTH = 2
QUEUE_LATENCY = 1
MOST_SAMPLES = 40
"""Samples after which a schedule must repeat itself: as many as are ever in flight at once."""


class ScheduleError(MercerError):
    """A design whose queues can never move: a bug in a stage's timing, or depths given by hand that are too small."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Firing times of every process; `Edge` order for the word times: when it is written, when it is taken."""

    firings: Mapping[str, tuple[Times, ...]]
    written: tuple[Times, ...]
    taken: tuple[Times, ...]

    def completion(self, network: Network, samples: int) -> Times:
        """The cycle in which the last word of each sample leaves the design, counted from the first word's arrival."""
        first = min(int(self.firings[i.name][0][0]) for i in network.inputs)
        ends = [
            taken.reshape(samples, -1)[:, -1]
            for edge, taken in zip(network.edges, self.taken, strict=True)
            if edge.sink is None
        ]
        return np.max(ends, axis=0) - first


def schedule(
    network: Network,
    samples: int,
    depths: Sequence[int] | None = None,
    arrivals: Mapping[str, Times] | None = None,
) -> Schedule:
    """Every firing as soon as it can. Without `depths` queues never fill, without `arrivals` inputs never miss."""
    timings = _timings(network)
    latest = {name: [_start(n, samples) for n in t.firings] for name, t in timings.items()}
    for name, times in (arrivals or {}).items():
        latest[name][0] = np.maximum(latest[name][0], times)
    waits = _waits(network, timings, samples, depths)
    limit = sum(times.size for each in latest.values() for times in each)
    for _ in range(limit + 2):
        moved = False
        for target, sources in waits.items():
            name, process = target
            times = latest[name][process]
            wanted = times
            for (source, earlier), needed, delay in sources:
                before = latest[source][earlier]
                wanted = np.maximum(wanted, np.where(needed >= 0, before[np.maximum(needed, 0)] + delay, 0))
            if wanted is times:
                continue
            wanted = _in_order(wanted)
            if not np.array_equal(wanted, times):
                latest[name][process] = wanted
                moved = True
        if not moved:
            return _result(network, timings, latest, samples)
    raise ScheduleError("the queues of this design block each other")


def depths_of(network: Network) -> tuple[int, ...]:
    """The depth of each edge's queue with which one sample leaves per period."""
    for samples in range(3, MOST_SAMPLES, 2):
        period = network.period
        arrivals = {
            i.name: np.repeat(np.arange(samples, dtype=np.int64) * period, i.stream.beats)
            + np.tile(np.arange(i.stream.beats, dtype=np.int64) * period // i.stream.beats, samples)
            for i in network.inputs
        }
        found = schedule(network, samples, arrivals=arrivals)
        if _repeats(found, samples, period):
            return _fullest(network, found)
    raise ScheduleError(f"this design does not come to a sample per {network.period} cycles")


def _fullest(network: Network, found: Schedule) -> tuple[int, ...]:
    """The most words in each queue, which counts a word from the firing that issues it."""
    depths: list[int] = []
    timings = _timings(network)
    for edge, written, taken in zip(network.edges, found.written, found.taken, strict=True):
        issued = written - timings[edge.source].latency
        # A word that leaves makes room in the next cycle.
        left = np.searchsorted(taken, issued, side="left")
        most = int(np.max(np.arange(1, issued.size + 1) - left))
        depths.append(max(LEAST_DEPTH, most))
    return tuple(depths)


def _repeats(found: Schedule, samples: int, period: int) -> bool:
    """Whether the last sample is a copy of the one before it, a period later."""
    for each in found.firings.values():
        for times in each:
            rows = times.reshape(samples, -1)
            if not np.array_equal(rows[-1], rows[-2] + period):
                return False
    return True


def _timings(network: Network) -> dict[str, Timing]:
    inputs = {i.name: elementwise(i.stream.beats, 0) for i in network.inputs}
    sinks = {_sink(edge): elementwise(edge.stream.beats, 0) for edge in network.into(None)}
    return inputs | {stage.name: stage.timing() for stage in network.stages} | sinks


def _sink(edge: Edge) -> str:
    return edge.sink if edge.sink is not None else f"output {edge.port}"


def _start(firings: int, samples: int) -> Times:
    return np.arange(firings * samples, dtype=np.int64)


def _in_order(times: Times) -> Times:
    """At most one firing per cycle."""
    steps = np.arange(times.size, dtype=np.int64)
    return np.maximum.accumulate(times - steps) + steps


_Place = tuple[str, int]


def _waits(
    network: Network, timings: Mapping[str, Timing], samples: int, depths: Sequence[int] | None
) -> dict[_Place, list[tuple[_Place, Times, int]]]:
    """For every process: (process it waits for, index of the firing needed by each firing or -1, delay)."""
    waits: dict[_Place, list[tuple[_Place, Times, int]]] = {
        (name, process): [] for name, t in timings.items() for process in range(len(t.firings))
    }

    def all_samples(listed: npt.NDArray[np.int64], firings: int) -> Times:
        return (np.arange(samples, dtype=np.int64)[:, np.newaxis] * firings + listed).reshape(-1)

    for name, timing in timings.items():
        for wait in timing.waits:
            needed = all_samples(wait.needed, timing.firings[wait.earlier])
            waits[name, wait.later].append(((name, wait.earlier), np.maximum(needed, -1), wait.delay))
    for index, edge in enumerate(network.edges):
        writer, reader = timings[edge.source], timings[_sink(edge)]
        takes = reader.takes[edge.port if edge.sink is not None else 0]
        issues = writer.issued(edge.copy)
        issue = (edge.source, issues.process)
        take = (_sink(edge), takes.process)
        issued = all_samples(issues.firings, writer.firings[issue[1]])
        taken = all_samples(takes.firings, reader.firings[take[1]])
        if issued.size != taken.size:
            raise ScheduleError(f"{edge.source}: {issued.size} words are written and {taken.size} read")
        needed = np.full(reader.firings[take[1]] * samples, -1, np.int64)
        needed[taken] = issued
        waits[take].append((issue, needed, writer.latency + QUEUE_LATENCY))
        if depths is not None:
            room = np.full(writer.firings[issue[1]] * samples, -1, np.int64)
            depth = depths[index]
            room[issued[depth:]] = taken[:-depth] if depth < taken.size else taken[:0]
            leave = (_sink(edge), takes.process if takes.until is None else takes.until)
            waits[issue].append((leave, room, 1 - writer.latency))
    return waits


def _result(
    network: Network, timings: Mapping[str, Timing], latest: Mapping[str, list[Times]], samples: int
) -> Schedule:
    written: list[Times] = []
    taken: list[Times] = []
    for edge in network.edges:
        writer, reader = timings[edge.source], timings[_sink(edge)]
        takes = reader.takes[edge.port if edge.sink is not None else 0]
        issues = writer.issued(edge.copy)
        rows = latest[edge.source][issues.process].reshape(samples, -1)
        written.append(rows[:, issues.firings].reshape(-1) + writer.latency)
        leaves = takes.process if takes.until is None else takes.until
        taken.append(latest[_sink(edge)][leaves].reshape(samples, -1)[:, takes.firings].reshape(-1))
    return Schedule({name: tuple(each) for name, each in latest.items()}, tuple(written), tuple(taken))
