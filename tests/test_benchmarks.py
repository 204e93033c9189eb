"""The benchmark on the CPU: what it measures is the same computation everywhere, and wrong numbers are never timed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mercer
from benchmarks.cpu import report
from benchmarks.cpu.figures import best_peer, geometric_mean, ratio, share
from benchmarks.cpu.peers import Call, Candidate, Task, Torch, numpy_of
from benchmarks.cpu.plot import svg
from benchmarks.cpu.processes import Failed, Process
from benchmarks.cpu.run import Measured, Row, Settings, measure
from benchmarks.cpu.worker import Reference, Worker, relative_error
from benchmarks.cpu.workloads import WORKLOADS
from mercer.runtime.profile import Roof

SMALL = WORKLOADS["depthwise-3"]
CORE = (0,)
SETTINGS = Settings(peers=("mercer", "torch"), threads=(1,), cores=CORE, other_cores=CORE, rounds=2, block=0.002)


@pytest.mark.slow
def test_a_workload_from_start_to_end() -> None:
    (row,) = measure(SMALL, SETTINGS)
    assert row.missing == ""
    assert row.flops == 2 * 64 * 56 * 56 * 9
    assert row.bytes == 4 * (2 * 64 * 56 * 56 + 64 * 9)
    for name in ("mercer", "torch"):
        measured = row.measured[name]
        assert measured.missing == "" and measured.calls >= 2
        assert 0 < measured.least <= measured.seconds < 1
        assert measured.error < SMALL.tolerance
    assert row.measured["torch"].candidate.startswith("plain")
    assert row.measured["mercer"].kernels
    assert ratio(row) == pytest.approx(row.measured["torch"].seconds / row.measured["mercer"].seconds)


class Wrong(Torch):
    """Adds a little to one number of the result, or drops a row of it."""

    def __init__(self, shift: float, rows: int | None = None) -> None:
        self.shift, self.rows = shift, rows

    def candidates(self, task: Task) -> Iterator[Candidate]:
        def planted(build: Callable[[], Call]) -> Call:
            call = build()

            def wrong() -> np.ndarray:
                y = numpy_of(call()).copy()
                y.flat[0] += self.shift
                return y[..., : self.rows]

            return wrong

        for name, build in super().candidates(task):
            yield name, lambda build=build: planted(build)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    Reference(SMALL, tmp_path).prepare({"onnx": False})
    with np.load(tmp_path / "inputs.npz") as inputs, np.load(tmp_path / "weights.npz") as weights:
        return Task(SMALL.name, list(inputs.values()), dict(weights), 1, tmp_path)


@pytest.mark.parametrize(("shift", "rows", "right"), [(0.0, None, True), (0.1, None, False), (0.0, 55, False)])
def test_wrong_numbers_are_refused(task: Task, shift: float, rows: int | None, right: bool) -> None:
    worker = Worker(Wrong(shift, rows), task, np.load(task.folder / "reference.npy"), SMALL.tolerance)
    answer = worker.prepare({})
    assert bool(answer["right"]) == right
    assert bool(answer["failures"]) != right
    for why in answer["failures"].values():
        assert why.startswith("wrong numbers: relative error")


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -3.0]), reference) == 0.25
    assert relative_error(np.array([1.0, np.nan]), reference) == float("inf")
    assert relative_error(np.array([[1.0, -4.0]]), reference) == float("inf")


def test_a_process_that_dies_or_is_late(tmp_path: Path) -> None:
    process = Process("torch", SMALL, tmp_path, 1)  # there is no data in the folder
    with pytest.raises(Failed, match="the process ended with 1: FileNotFoundError"):
        process.ask({"do": "prepare"}, 100)
    late = Process("reference", SMALL, tmp_path, 1)
    with pytest.raises(Failed, match="longer than the limit"):
        late.ask({"do": "prepare", "onnx": False}, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_a_program_on_its_inputs(name: str) -> None:
    workload = WORKLOADS[name]
    signature = mercer.parse_text(workload.source).signature
    assert [spec.shape for spec in signature.inputs] == [item.shape for item in workload.inputs]
    assert len(signature.outputs) == 1


def test_workloads_cover_the_families_and_both_batches() -> None:
    families = {workload.family for workload in WORKLOADS.values()}
    assert families >= {"convolution", "depthwise", "deformable", "kernel machine", "KAN", "neural field", "whole net"}
    assert {workload.inputs[0].shape[0] for workload in WORKLOADS.values()} >= {1, 16}
    assert 5 < sum(workload.quick for workload in WORKLOADS.values()) < len(WORKLOADS) / 2


# --- figures ----------------------------------------------------------------------------------------------------------

ROOF = Roof(threads=1, flops=1e9, bandwidth=((1000, 1e9), (10_000, 1e8)))


def row(own: float | None, **others: float | None) -> Row:
    seconds = {"mercer": own, **others}
    return Row(SMALL, 1, 1e6, 5000, {name: Measured(name, seconds=time) for name, time in seconds.items()})


def test_figures() -> None:
    found = row(0.002, torch=0.006, ort=0.004, iree=None)
    assert best_peer(found).peer == "ort"
    assert ratio(found) == 2.0
    assert share(found, ROOF) == 0.5  # 1e6 operations take 1 ms, 5000 bytes 0.05 ms
    assert ROOF.bytes_per_second(500) == 1e9 and ROOF.bytes_per_second(5e7) == 1e8
    assert ratio(row(None, ort=0.004)) is None and ratio(row(0.002)) is None
    assert geometric_mean([1.0, 4.0]) == 2.0 and geometric_mean([]) is None


def test_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(0.002, torch=0.006, ort=0.004), replace(row(0.002, torch=0.001), missing="")]
    rows[0].measured["ort"].kernels = []
    rows[1].measured["iree"] = Measured("iree", missing="no such operator")
    report.write_json(tmp_path / "a" / "cpu.json", rows, {1: ROOF})
    assert report.read_json([tmp_path / "a" / "cpu.json"] * 2) == ([*rows, *rows], {1: ROOF})
    content = json.loads((tmp_path / "a" / "cpu.json").read_text())
    assert [item["ratio"] for item in content["rows"]] == [2.0, 0.5]
    assert content["rows"][1]["systems"]["iree"]["missing"] == "no such operator"
    report.print_tables(rows, {1: ROOF})
    printed = capsys.readouterr().out
    assert "2.00×" in printed and "0.50×" in printed
    assert "1) iree: no such operator" in printed
    assert "1.00×" in printed  # the geometric mean
    picture = ET.fromstring(svg(rows))
    texts = [item.text for item in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "2.00× ort" in texts and "0.50× torch" in texts
