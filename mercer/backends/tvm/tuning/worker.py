"""Where kernels run: this process, or a machine behind TVM's RPC tracker. Both take the same calls."""

from __future__ import annotations

import logging
import socket
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm import relax

from mercer.backends.tvm.build import Compiled
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.tuning.database import Machine
from mercer.ir.nests import Nests
from mercer.ir.types import Array
from mercer.runtime.errors import MercerError
from mercer.runtime.executors import settle_threads

ROUNDS, BLOCK = 5, 0.01
"""Rounds of a comparison, and seconds for which a candidate runs in one."""

CONNECT = 5.0
"""Seconds to wait for a tracker."""


class WorkerError(MercerError):
    """A tracker that does not answer, or that knows no machine."""


class Worker:
    """A machine that measures on `threads` threads, all that its pool has when None, and never on more than these. It
    is used from one thread only."""

    def __init__(self, session: Any, target: Target, threads: int | None) -> None:
        self.session = session
        self.device = session.cpu(0)
        cpu = session.get_function("target.llvm_get_system_cpu")()
        self.machine = Machine(str(cpu), target.level)
        self._count = 0
        if threads is not None:
            session.get_function("runtime.config_threadpool")(1, threads)
        self.threads = int(session.get_function("runtime.NumThreads")())

    def load(self, compiled: Compiled, inputs: Sequence[Array]) -> Loaded:
        """The code on the machine, with its arguments."""
        self._count += 1
        name = f"kernel{self._count}.so"
        with tempfile.TemporaryDirectory(prefix="mercer-") as folder:
            path = Path(folder, name)
            path.write_bytes(compiled.library)
            self.session.upload(str(path))
        machine = relax.VirtualMachine(self.session.load_module(name), self.device)
        self.session.remove(name)
        arrays = [*inputs, *(array for _, array in compiled.constants)]
        return Loaded(machine, self.device, compiled.entry, arrays)


class Loaded:
    """A kernel on a worker."""

    def __init__(self, machine: Any, device: Any, entry: str, arrays: Sequence[Array]) -> None:
        import tvm

        self._machine, self._device, self._entry = machine, device, entry
        self._arguments = [tvm.runtime.tensor(np.ascontiguousarray(array), device) for array in arrays]
        self._machine.set_input(entry, *self._arguments)
        self._calls = 1

    def outputs(self) -> tuple[Array, ...]:
        self._machine.invoke_stateful(self._entry)
        found = self._machine.get_outputs(self._entry)
        return tuple(each.numpy() for each in (found if isinstance(found, list | tuple) else (found,)))

    def seconds(self) -> float:
        """Mean of the calls of one block, after one that does not count."""
        timer = self._machine.module.time_evaluator("invoke_stateful", self._device, number=self._calls, repeat=1)
        found = float(timer(self._entry).mean)
        self._calls = max(1, min(1 << 16, int(BLOCK / max(found, 1e-7))))
        return found


def compare(kernels: Sequence[Loaded], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """(least, median) seconds of each, measured in turns."""
    times: list[list[float]] = [[] for _ in kernels]
    for number in range(rounds + 1):  # the first round finds how many calls fill a block
        for kernel, found in zip(kernels, times, strict=True):
            seconds = kernel.seconds()
            if number:
                found.append(seconds)
    return [(min(found), statistics.median(found)) for found in times]


def random_inputs(nests: Nests, size: int, seed: int = 0) -> list[Array]:
    """For the inputs, every symbolic dim being `size`: floats in 0..1, integers 0 and 1, which are good positions."""
    generator = np.random.default_rng(seed)
    arrays: list[Array] = []
    for value in nests.inputs:
        shape = [int(extent.evaluate(lambda _: size)) for extent in value.type.shape]
        dtype = value.type.dtype.numpy
        drawn = generator.random(shape) if dtype.kind in "fc" else generator.integers(0, 2, shape)
        arrays.append(np.asarray(drawn).astype(dtype))
    return arrays


def same(found: Sequence[Array], expected: Sequence[Array]) -> bool:
    """Equal integers; floats within 1e-4 of the largest number (half precision 1e-2)."""
    return all(_same(a, b) for a, b in zip(found, expected, strict=True))


def _same(found: Array, expected: Array) -> bool:
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(found, expected))
    tolerance = 1e-4 if expected.dtype.itemsize >= 4 else 1e-2
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return False
    difference = np.abs(found[finite] - expected[finite]).max(initial=0.0)
    return bool(difference <= tolerance * np.abs(expected[finite]).max(initial=0.0))


# --- machines ---------------------------------------------------------------------------------------------------------


def local(target: Target, threads: int | None) -> Worker:
    """This process."""
    from tvm.rpc import LocalSession

    logging.getLogger("RPCServer").setLevel(logging.WARNING)  # else it says what it loads
    settle_threads()
    return Worker(LocalSession(), target, threads)


def waiting(tracker: str, key: str) -> int:
    """How many machines wait at a tracker `HOST:PORT` under a key. Raises WorkerError."""
    summary = _tracker(tracker).summary()
    known: Mapping[str, Any] = summary["queue_info"]
    count = int(known[key]["free"]) if key in known else 0
    if not count:
        others = ", ".join(sorted(name for name, info in known.items() if info["free"])) or "none at all"
        start = f"python -m tvm.exec.rpc_server --tracker {tracker} --key {key}"
        raise WorkerError(f"no machine waits at the tracker {tracker} under the key {key} ({others})", start)
    return count


def remote(tracker: str, key: str, target: Target, threads: int | None) -> Worker:
    """One of the machines that wait. Raises WorkerError."""
    try:
        session = _tracker(tracker).request(key, session_timeout=0, max_retry=2)
    except Exception as error:
        raise WorkerError(f"no machine of the tracker {tracker} could be had: {error}") from error
    return Worker(session, target, threads)


def _tracker(tracker: str) -> Any:
    from tvm import rpc

    host, colon, port = tracker.rpartition(":")
    if not colon or not port.isdigit():
        raise WorkerError(
            f"`{tracker}` is not the address of a tracker", "write it as HOST:PORT, such as 10.0.0.1:9190"
        )
    address = host or "127.0.0.1", int(port)
    try:
        socket.create_connection(address, CONNECT).close()  # TVM would try for a minute
        return rpc.connect_tracker(*address)
    except Exception as error:
        raise WorkerError(
            f"no tracker answers at {tracker}", f"python -m tvm.exec.rpc_tracker --port {port}"
        ) from error
