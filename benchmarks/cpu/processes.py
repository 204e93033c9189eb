"""Worker processes from the side of the parent: requests with a time limit; processes that do not work are stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.peers import environment
from benchmarks.cpu.workload import Workload
from mercer.runtime.profile import Roof

ROOT = Path(__file__).parents[2]


def roof_of(threads: int, cores: Sequence[int]) -> Roof:
    """The limits of these cores, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mercer.backends.tvm.roof", str(threads)],
        check=True,
        stdout=subprocess.PIPE,
        env=environment(threads),
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    found = json.loads(done.stdout)
    return Roof(found["threads"], found["flops"], tuple((size, speed) for size, speed in found["bandwidth"]))


class Failed(Exception):
    """A worker that gave an error, died, or took too long."""


class Process:
    """A worker, stopped (SIGSTOP) while it has no request, so that its threads cannot disturb others' timing."""

    def __init__(self, peer: str, workload: Workload, folder: Path, threads: int) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        tolerance = str(workload.tolerance)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu.worker", peer, workload.name, folder, str(threads), tolerance],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=folder,
            env=environment(threads) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            start_new_session=True,
        )
        self._buffer = b""
        self._end = float("inf")

    def send(self, request: dict[str, Any], limit: float) -> None:
        """Starts a request, whose answer is expected within so many seconds."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._end = time.monotonic() + limit
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def receive(self) -> dict[str, Any]:
        """The answer. Raises Failed, after which the process is gone, unless the answer is an error."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = self._end - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self.close()
                raise Failed("took longer than the limit")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                self._died()
            self._buffer += part
        self._signal(signal.SIGSTOP)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer and isinstance(answer["error"], str):
            raise Failed(answer["error"])
        return answer

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        self.send(request, limit)
        return self.receive()

    def close(self) -> None:
        """Ends the process and what it has started."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def output(self) -> str:
        """What it has printed so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def _died(self) -> None:
        self._process.wait(10)
        lines = [line for line in self.output().splitlines() if line.strip()]
        raise Failed(f"the process ended with {self._process.returncode}: {lines[-1][:200] if lines else ''}")

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)
