"""Stages against their references: values for any stalls, and the cycle of every word without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mercer.backends.fpga.stages import Stage, Stream
from mercer.backends.fpga.timing import Events, Timing
from tests.backends.fpga.bench import Bench, Flow, Port, Unit, build


@dataclass(frozen=True, eq=False)
class Case:
    """A stage, what it takes ([samples, elements] per input) and what it must give ([samples, elements]).

    With `fault` it is a module with a planted fault, called `planted` instead of mercer.
    """

    stage: Stage
    inputs: Sequence[np.ndarray]
    output: np.ndarray
    fault: bool = False
    planted: str = "faulty"

    def unit(self, directory: Path, number: int) -> Unit:
        files: dict[str, str] = {}
        for parameter, content in self.stage.memories().items():
            path = directory / f"{number}_{parameter.lower()}.hex"
            path.write_bytes(content)
            files[parameter] = path.name
        takes = self.stage.takes
        names = ["s_axis"] if len(takes) == 1 else [f"s_axis_{letter}" for letter in "ab"]
        inputs = tuple(port(name, stream) for name, stream in zip(names, takes, strict=True))
        module = self.stage.module.replace("mercer", self.planted if self.fault else "mercer")
        return Unit(module, self.stage.parameters() | files, inputs, (port("m_axis", self.stage.gives),))


def pipelined(cases: Sequence[Case]) -> list[Case]:
    """The cases, and those whose modules can have more registers with them."""
    more = [replace(case, stage=replace(case.stage, pipelined=True)) for case in cases]
    return [*cases, *(case for case in more if "PIPELINE" in case.stage.parameters())]


def port(name: str, stream: Stream) -> Port:
    return Port(name, stream.lanes, stream.bits)


def build_cases(
    cases: Sequence[Case],
    directory: Path,
    faulty: Sequence[Path] = (),
    others: Sequence[Unit] = (),
    level: int = 0,
) -> Bench:
    """One bench of all cases, the units of `others` behind them; `faulty` are files besides Mercer's modules."""
    units = [case.unit(directory, number) for number, case in enumerate(cases)]
    return build([*units, *others], directory, faulty, level=level)


def check(bench: Bench, cases: Sequence[Case], seed: int = 0) -> None:
    """Every case gives its output under the stalls of `seed`, with seed 0 in exactly the predicted cycles; those with a
    fault do not."""
    others = bench.units[len(cases) :]
    feeds = [case.inputs for case in cases] + [[np.zeros((0, port.lanes)) for port in u.inputs] for u in others]
    expected = [[case.output.size // case.stage.gives.lanes] for case in cases] + [[0] * len(u.outputs) for u in others]
    flows = bench.run(feeds, expected, seed)
    for case, (taken, (given,)) in zip(cases, flows[: len(cases)], strict=True):
        if case.fault:
            assert not np.array_equal(given.values.reshape(-1), case.output.reshape(-1)), (
                f"{case.stage.name}: not caught"
            )
            continue
        label = f"{case.stage.name}: {case.stage.parameters()}"
        np.testing.assert_array_equal(given.values.reshape(-1), case.output.reshape(-1), label)
        if seed == 0:
            _check_cycles(case, taken, given, label)


def _check_cycles(case: Case, taken: Sequence[Flow], given: Flow, label: str) -> None:
    samples = len(case.output)
    timing = case.stage.timing()
    times = firings(timing, samples)
    for flow, takes in zip(taken, timing.takes, strict=True):
        np.testing.assert_array_equal(flow.cycles, moved(times, takes, samples), label)
    np.testing.assert_array_equal(given.cycles, moved(times, timing.issues, samples) + timing.latency, label)
    last = given.cycles.reshape(samples, -1)[:, -1]
    assert last[-1] - last[-2] == case.stage.cycles, label


def firings(timing: Timing, samples: int) -> list[list[int]]:
    """The cycle of each firing of each process, when there is always input and room."""
    times: list[list[int]] = [[] for _ in timing.firings]
    waits = [[wait for wait in timing.waits if wait.later == process] for process in range(len(timing.firings))]
    totals = [count * samples for count in timing.firings]
    cycle = 0
    while any(len(done) < total for done, total in zip(times, totals, strict=True)):
        for process, done in enumerate(times):
            if len(done) == totals[process]:
                continue
            sample, place = divmod(len(done), timing.firings[process])
            for wait in waits[process]:
                needed = int(wait.needed[place]) + sample * timing.firings[wait.earlier]
                if needed >= 0 and (
                    len(times[wait.earlier]) <= needed or times[wait.earlier][needed] + wait.delay > cycle
                ):
                    break
            else:
                done.append(cycle)
        cycle += 1
        assert cycle < 1000000, "the firings of this timing wait for each other"
    return times


def moved(times: list[list[int]], events: Events, samples: int) -> np.ndarray:
    rows = np.array(times[events.process]).reshape(samples, -1)
    return rows[:, events.firings].reshape(-1)
