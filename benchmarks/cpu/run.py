"""One workload: the reference, then for each thread count all systems prepared, and timed in turns."""

from __future__ import annotations

import contextlib
import fcntl
import statistics
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cpu.processes import Failed, Process
from benchmarks.cpu.workload import FFT, Workload

FAR = 3.0
"""A system that takes so much longer than the best one is called in FEW rounds."""
FEW = 2
LONG = 6.0
"""Seconds of timing after which a system has been called in enough rounds, if there were SOME."""
SOME = 3
KEEPS_CORES = {"openvino"}
"""Systems whose threads go back to the cores on which they were made."""
READS_ONNX = {"ort", "openvino", "iree"}


@dataclass(frozen=True)
class Settings:
    """How to measure: `cores` are for timing with all threads, `other_cores` for everything else. A system that has not
    compiled after `limit` seconds is given up. `lock` names a file that is held while timing."""

    peers: tuple[str, ...]
    threads: tuple[int, ...]
    cores: tuple[int, ...]
    other_cores: tuple[int, ...]
    rounds: int = 9
    block: float = 0.06
    limit: float = 120.0
    lock: Path | None = None
    verbose: bool = False


@dataclass
class Measured:
    """One system on one workload: median and least seconds of a call, or why there are none."""

    peer: str
    version: str = ""
    seconds: float | None = None
    least: float | None = None
    calls: int = 0
    candidate: str = ""
    error: float | None = None
    missing: str = ""
    failures: dict[str, str] = field(default_factory=dict[str, str])
    kernels: list[str] = field(default_factory=list[str])


@dataclass
class Row:
    """A workload on so many threads."""

    workload: Workload
    threads: int
    flops: float = 0.0
    bytes: int = 0
    measured: dict[str, Measured] = field(default_factory=dict[str, Measured])
    missing: str = ""


def measure(workload: Workload, settings: Settings) -> Generator[Row]:
    """A row for each thread count. Never raises for what a system does: that stands in its place of the row."""
    with tempfile.TemporaryDirectory(prefix="mercer-bench-") as name:
        folder = Path(name)
        process = Process("reference", workload, folder, len(settings.other_cores))
        onnx = bool(READS_ONNX & set(settings.peers))
        try:
            request = {"do": "prepare", "onnx": onnx, "cores": settings.other_cores}
            reference = process.ask(request, 2 * settings.limit)
        except Failed as error:
            for threads in settings.threads:
                yield Row(workload, threads, missing=f"no reference: {error}")
            return
        finally:
            if settings.verbose:
                print(process.output())
            process.close()
        for threads in settings.threads:
            row = Row(workload, threads, reference["flops"], reference["bytes"])
            with contextlib.ExitStack() as stack:
                running: dict[str, Process] = {}
                for peer in settings.peers:
                    row.measured[peer] = Measured(peer)
                    if peer == "torch.fft" and not any(form.startswith(FFT) for form in workload.forms):
                        continue
                    if peer in READS_ONNX:
                        row.measured[peer].failures = {
                            f"export of {k}": why for k, why in reference["failures"].items()
                        }
                    running[peer] = Process(peer, workload, folder, threads)
                    stack.callback(running[peer].close)
                _prepare(row, settings, running)
                _time(row, settings, running)
            yield row


def _prepare(row: Row, settings: Settings, running: dict[str, Process]) -> None:
    """Compiles, as many systems at once as there are cores."""
    waiting = list(running)
    count = max(len(settings.other_cores), 1)
    while waiting:
        batch, waiting = waiting[:count], waiting[count:]
        for peer in batch:
            with contextlib.suppress(Failed):
                cores = settings.cores[-row.threads :] if peer in KEEPS_CORES else settings.other_cores
                running[peer].send({"do": "prepare", "cores": cores}, settings.limit)
        for peer in batch:
            measured = row.measured[peer]
            try:
                answer = running[peer].receive()
                measured.version = answer["version"]
                measured.failures |= answer["failures"]
                if not answer["right"]:
                    measured.missing = next(iter(measured.failures.values()), "there is nothing that it can read")
            except Failed as error:
                measured.missing = str(error)
            if settings.verbose:
                print(running[peer].output())
            if measured.missing:
                running.pop(peer).close()


def _time(row: Row, settings: Settings, running: dict[str, Process]) -> None:
    samples: dict[str, list[float]] = {peer: [] for peer in running}
    estimates: dict[str, float] = {}
    cores = settings.cores[-row.threads :]
    for peer in list(running):
        with held(settings.lock):
            answer = _ask(row, running, peer, {"do": "choose", "cores": cores}, settings.limit)
        if answer is None:
            continue
        measured = row.measured[peer]
        measured.candidate, measured.error, measured.kernels = answer["candidate"], answer["error"], answer["kernels"]
        estimates[peer] = answer["seconds"]
    far = FAR * min(estimates.values(), default=0.0)
    for number in range(settings.rounds):
        with held(settings.lock):
            for peer in list(running):
                slow = number >= FEW and estimates[peer] > far
                if slow or (number >= SOME and sum(samples[peer]) > LONG):
                    continue
                answer = _ask(row, running, peer, {"do": "time", "seconds": settings.block}, settings.limit)
                samples[peer] += answer["times"] if answer else []
    for peer in running:
        measured, times = row.measured[peer], samples[peer]
        measured.seconds, measured.least, measured.calls = statistics.median(times), min(times), len(times)


def _ask(
    row: Row, running: dict[str, Process], peer: str, request: dict[str, Any], limit: float
) -> dict[str, Any] | None:
    try:
        return running[peer].ask(request, limit)
    except Failed as error:
        row.measured[peer].missing = str(error)
        running.pop(peer).close()
        return None


@contextlib.contextmanager
def held(lock: Path | None) -> Generator[None]:
    """The lock file, if there is one, for as long as the block takes."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
