"""The limits of this machine, measured: fused multiply-adds per second, and bytes per second by size of the data.

`python -m mercer.backends.tvm.roof THREADS` prints them as JSON. Both are loops in TIR for the CPU level that Mercer
uses: independent chains of fused multiply-adds in registers, and a sum over an array that is read again and again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.target import parse
from mercer.runtime.profile import Roof

CHAINS = 12
"""Enough to cover a latency of 4 cycles on 2 or 3 ports, and few enough for 16 registers."""
STEPS = 200_000
SIZES = (1 << 17, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28)
REPEATS = 15
READ = 1 << 27
"""Bytes that one repeat reads at least."""


def measured(threads: int, sizes: Sequence[int] = SIZES, repeats: int = REPEATS, read: int = READ) -> Roof:
    """Of so many threads of this process, whose thread pool has them; the best of `repeats` counts."""
    machine = _machine(threads, repeats)
    bandwidth: list[tuple[int, float]] = []
    for size in sizes:
        passes = max(1, read // size)
        data = np.ones(size // 4, np.float32)
        bandwidth.append((size, threads * (size // threads) * passes / machine.read(data, passes)))
    flops = threads * STEPS * CHAINS * machine.lanes * 2 / machine.multiply()
    return Roof(threads, flops, tuple(bandwidth))


def quick(threads: int, needed: Iterable[float]) -> Roof:
    """Within some tenths of a second: a few repeats, for data of the needed sizes in bytes, memory taken as 64 MiB."""
    known = [size for size in SIZES if size <= 1 << 26]
    sizes = {next((size for size in known if size >= least), known[-1]) for least in needed} or {known[0]}
    return measured(threads, sorted(sizes), repeats=4, read=1 << 25)


def main() -> None:
    print(json.dumps(asdict(measured(int(sys.argv[1])))))


@dataclass(frozen=True)
class _Machine:
    """The compiled loops: `read(data, passes)` and `multiply()` give the least seconds of some repeats."""

    lanes: int
    read: Callable[[Any, int], float]
    multiply: Callable[[], float]


def _machine(threads: int, repeats: int) -> _Machine:
    target = parse("cpu")
    lanes = target.lanes

    def chains() -> list[Any]:
        return [T.alloc_buffer((lanes,), "float32", scope="global") for _ in range(CHAINS)]

    def ramp(start: Any) -> Any:
        return T.ramp(start, 1, lanes)

    def fill(buffers: list[Any], value: Any) -> None:
        for buffer in buffers:
            T.buffer_store(buffer, T.broadcast(value, lanes), [ramp(0)])

    def spill(buffers: list[Any], out: Any, thread: Any) -> None:
        total = buffers[0][ramp(0)]
        for buffer in buffers[1:]:
            total = total + buffer[ramp(0)]
        T.buffer_store(out, total, [ramp(thread * lanes)])

    def function(name: str, body: Callable[[], None]) -> Any:
        with IRBuilder() as builder:
            with T.prim_func():
                T.func_name(name)
                T.func_attr({"global_symbol": name, "tirx.noalias": True})
                body()
        return builder.get()

    def multiply() -> None:
        scale = T.arg("scale", T.buffer((2,), "float32"))
        out = T.arg("out", T.buffer((threads * lanes,), "float32"))
        with T.parallel(0, threads) as thread:
            buffers = chains()
            fill(buffers, scale[0])
            with T.serial(0, STEPS):
                for buffer in buffers:
                    value = buffer[ramp(0)] * T.broadcast(scale[0], lanes) + T.broadcast(scale[1], lanes)
                    T.buffer_store(buffer, value, [ramp(0)])
            spill(buffers, out, thread)

    def read() -> None:
        size = T.int32()
        data = T.arg("data", T.buffer((size,), "float32"))
        passes = T.arg("passes", T.int32())
        out = T.arg("out", T.buffer((threads * lanes,), "float32"))
        with T.parallel(0, threads) as thread:
            buffers = chains()[:8]
            fill(buffers, T.float32(0))
            with T.serial(0, passes):
                with T.serial(0, size // (threads * 8 * lanes)) as block:
                    start = (thread * (size // (threads * 8 * lanes)) + block) * (8 * lanes)
                    for number, buffer in enumerate(buffers):
                        T.buffer_store(buffer, buffer[ramp(0)] + data[ramp(start + number * lanes)], [ramp(0)])
            spill(buffers, out, thread)

    module = tvm.compile(
        tvm.IRModule({"multiply": function("multiply", multiply), "read": function("read", read)}), target.tvm()
    )
    out = tvm.runtime.tensor(np.zeros(threads * lanes, np.float32))
    scale = tvm.runtime.tensor(np.array([0.5, 0.25], np.float32))

    def least(call: Callable[[], object]) -> float:
        times: list[float] = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    def read_time(array: Any, passes: int) -> float:
        data = tvm.runtime.tensor(array)
        return least(lambda: module["read"](data, passes, out))

    return _Machine(lanes, read_time, lambda: least(lambda: module["multiply"](scale, out)))


if __name__ == "__main__":
    main()
