"""One system on one workload in a process of its own, which answers requests, one JSON object per line.

    {"do": "prepare"}              compile every candidate and compare its result with the reference
    {"do": "choose"}               keep the fastest one with right numbers
    {"do": "time", "seconds": s}   call it for that long, at least once: seconds of each call

The peer `reference` computes the result in float64, counts FLOPs and exports the forms to ONNX.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.cpu.peers import PEERS, Call, Peer, Task, numpy_of, torch_module
from benchmarks.cpu.workload import Array, Workload, random_weights

SLOWER = 10.0
"""A candidate that takes so much longer than another in its check is not timed again."""


def first_line(error: BaseException) -> str:
    """What an error says first; of a compiler's report the first line that calls itself an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return f"{type(error).__name__}: {(marked or lines or [''])[0]}"[:200]


@dataclass
class Chosen:
    """A candidate with right numbers: its relative error and the seconds of its best call so far."""

    name: str
    call: Call
    error: float
    seconds: float


class Worker:
    def __init__(self, peer: Peer, task: Task, reference: Array, tolerance: float) -> None:
        self.peer, self.task, self.reference, self.tolerance = peer, task, reference, tolerance
        self.right: list[Chosen] = []

    def prepare(self, _request: dict[str, Any]) -> dict[str, Any]:
        failures: dict[str, str] = {}
        for name, build in self.peer.candidates(self.task):
            try:
                call = build()
                result = numpy_of(call())
                start = time.perf_counter()
                call()
                seconds = time.perf_counter() - start
            except Exception as error:
                traceback.print_exc()
                failures[name] = first_line(error)
                continue
            error = relative_error(result, self.reference)
            if error <= self.tolerance:
                self.right.append(Chosen(name, call, error, seconds))
            else:
                failures[name] = f"wrong numbers: relative error {error:.2g}"
        return {"version": self.peer.version(), "right": [c.name for c in self.right], "failures": failures}

    def choose(self, _request: dict[str, Any]) -> dict[str, Any]:
        bound = SLOWER * min(chosen.seconds for chosen in self.right)
        self.right = [chosen for chosen in self.right if chosen.seconds <= bound]
        for chosen in self.right:
            chosen.seconds = min(timed(chosen.call, 0.1 if len(self.right) > 1 else 0.0))
        best = min(self.right, key=lambda chosen: chosen.seconds)
        self.right = [best]
        return {
            "candidate": best.name,
            "error": best.error,
            "seconds": best.seconds,
            "kernels": getattr(self.peer, "kernels", []),
        }

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        (chosen,) = self.right
        if chosen.seconds < 0.2:
            chosen.call()
        return {"times": timed(chosen.call, request["seconds"])}


def timed(call: Call, seconds: float) -> list[float]:
    """Seconds of each call, for that long."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def relative_error(result: Array, reference: Array) -> float:
    """max |result - reference| / max |reference|; infinite for another shape or for what is not a number."""
    if result.shape != reference.shape or not np.all(np.isfinite(result)):
        return float("inf")
    return float(np.max(np.abs(result - reference)) / np.max(np.abs(reference)))


# --- the reference ----------------------------------------------------------------------------------------------------


class Reference:
    """Writes weights, the result in float64 and ONNX graphs into the folder."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self.workload, self.folder = workload, folder

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        import mercer

        workload, inputs = self.workload, self.workload.arrays()
        np.savez(self.folder / "inputs.npz", *inputs)
        weights = random_weights(mercer.parse_text(workload.source).initial())
        if workload.values is not None:
            weights |= {name: array.astype(np.float32) for name, array in workload.values().items()}
        own = dict(weights)
        if workload.derived is not None:
            precise = {name: array.astype(np.float64) for name, array in weights.items()}
            for name, array in workload.derived(precise).items():
                single = np.complex64 if np.iscomplexobj(array) else np.float32
                weights[name] = array.astype(single)
        np.savez(self.folder / "weights.npz", **weights)
        module = torch_module(workload.judge, weights | _precise(workload, own), torch.float64)
        with torch.inference_mode():
            result = module(*(torch.from_numpy(x).double() for x in inputs)).contiguous().numpy()
        np.save(self.folder / "reference.npy", result)
        counter = FlopCounterMode(display=False)
        if workload.flops is None:
            with torch.inference_mode(), counter:
                torch_module(workload.judge, weights)(*map(torch.from_numpy, inputs))
        failures: dict[str, str] = {}
        if request["onnx"]:
            failures = self._export(own, weights, inputs)
        return {
            "flops": workload.flops or counter.get_total_flops(),
            "bytes": sum(x.nbytes for x in (*inputs, *own.values())) + result.size * 4,
            "failures": failures,
        }

    def _export(self, own: dict[str, Array], weights: dict[str, Array], inputs: tuple[Array, ...]) -> dict[str, str]:
        import onnx
        import torch

        failures: dict[str, str] = {}
        if self.workload.onnx is not None:
            onnx.save(self.workload.onnx(own), self.folder / "onnx.onnx")
        for name, form in self.workload.forms.items():
            try:
                with torch.inference_mode():
                    program = torch.onnx.export(
                        torch_module(form, weights),
                        tuple(map(torch.from_numpy, inputs)),
                        dynamo=True,
                        opset_version=20,
                        verbose=False,
                    )
                model = program.model_proto
                model.ir_version = min(model.ir_version, 10)
                onnx.save(model, self.folder / f"{name}.onnx")
            except Exception as error:
                traceback.print_exc()
                failures[name] = first_line(error)
        return failures


def _precise(workload: Workload, own: dict[str, Array]) -> dict[str, Array]:
    """Derived weights as they are before rounding."""
    if workload.derived is None:
        return {}
    return dict(workload.derived({name: array.astype(np.float64) for name, array in own.items()}))


# --- the process ------------------------------------------------------------------------------------------------------


def pin(cores: list[int]) -> None:
    """Every thread of this process runs on these cores only."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), cores)
        except ProcessLookupError:
            continue


def die_with_parent() -> None:
    """A stopped process would outlive a parent that was killed (prctl PR_SET_PDEATHSIG of Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve(channel: TextIO, handler: Any) -> None:
    """Answers the requests that stand on standard input, until it ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "cores" in request:
            pin(request["cores"])
        action: Callable[[dict[str, Any]], dict[str, Any]] = getattr(handler, request["do"])
        try:
            answer = action(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": first_line(error)}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def main() -> None:
    """`python -m benchmarks.cpu.worker PEER WORKLOAD FOLDER THREADS TOLERANCE`; what libraries print goes to stderr."""
    peer, name, folder, threads, tolerance = sys.argv[1:]
    die_with_parent()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    path = Path(folder)
    if peer == "reference":
        from benchmarks.cpu.workloads import WORKLOADS

        serve(channel, Reference(WORKLOADS[name], path))
        return
    with np.load(path / "inputs.npz") as inputs, np.load(path / "weights.npz") as weights:
        task = Task(name, list(inputs.values()), dict(weights), int(threads), path)
    serve(channel, Worker(PEERS[peer](), task, np.load(path / "reference.npy"), float(tolerance)))


if __name__ == "__main__":
    main()
