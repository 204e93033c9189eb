"""Latency of an artifact and its peers side by side."""

from __future__ import annotations

import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mercer.commands.peers import PEERS, TimedCall
from mercer.compiler import UsageError
from mercer.ir.types import Array
from mercer.runtime.artifact import DTYPES, Signature, evaluate_dim, free_symbols
from mercer.runtime.errors import nearest
from mercer.runtime.session import Executable

if TYPE_CHECKING:
    from mercer.compiler import Progress

Name = TypeVar("Name")

ROUNDS = 5
BLOCK_SECONDS = 0.05


@dataclass(frozen=True)
class Latency:
    """Median time of one call in microseconds and the threads it took; `missing` says why there is none.

    `batch` is None where all sizes are known.
    """

    system: str
    batch: int | None
    microseconds: float | None
    threads: int | None = None
    missing: str = ""


def interleaved(calls: Mapping[Name, Callable[[], object]]) -> dict[Name, float]:
    """Median microseconds of each callable, measured in turns so that a busy moment of the machine meets all of them.

    A turn is a block of calls of one kind, since threads that wait actively would disturb the next call of another.
    """
    samples: dict[Name, list[int]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):  # the first round warms up
        for name, call in calls.items():
            call()
            block: list[int] = []
            end = time.perf_counter() + BLOCK_SECONDS
            while not block or time.perf_counter() < end:
                start = time.perf_counter_ns()
                call()
                block.append(time.perf_counter_ns() - start)
            if number:
                samples[name] += block
    return {name: statistics.median(times) / 1e3 for name, times in samples.items()}


def side_by_side(
    executable: Executable, inputs: Sequence[Array], peers: Mapping[str, TimedCall]
) -> dict[str, tuple[float, int]]:
    """Median microseconds and threads of the executable, called `mercer`, and of its peers.

    Each gets one thread and all of them, and what is faster counts: with little to do, or on a busy machine, threads
    mostly wait for each other.
    """
    threads = current = executable.threads
    counts = sorted({1, threads})

    def mercer(count: int) -> Callable[[], object]:
        def limited() -> object:
            nonlocal current
            if current != count:
                executable.threads = current = count
            return executable(*inputs)

        return limited

    calls = {("mercer", count): mercer(count) for count in counts}
    calls |= {(name, count): functools.partial(call, count) for name, call in peers.items() for count in counts}
    found: dict[str, tuple[float, int]] = {}
    with torch_threads(threads, peers):
        for (name, count), time in interleaved(calls).items():
            found[name] = min(found.get(name, (time, count)), (time, count))
    executable.threads = threads
    return found


def random_inputs(signature: Signature, sizes: Mapping[str, int], seed: int = 0) -> tuple[Array, ...]:
    """Inputs that fit the signature: floats in 0..1, integers 0 and 1."""
    generator = np.random.default_rng(seed)

    def draw(dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        return (generator.random(shape) if dtype.kind in "fc" else generator.integers(0, 2, shape)).astype(dtype)

    return tuple(draw(DTYPES[s.dtype], [evaluate_dim(d, sizes) for d in s.shape]) for s in signature.inputs)


def bench(
    executable: Executable,
    against: Sequence[str],
    batches: Sequence[int],
    sizes: Mapping[str, int],
    progress: Progress | None = None,
) -> list[Latency]:
    """Latency of the artifact and of every peer that this machine has, for each batch size, in one run.

    Every symbolic dim takes the batch size unless `sizes` gives it; without such dims there is one measurement. Raises
    UsageError for an unknown peer or dim.
    """
    for name in against:
        if name not in PEERS:
            near = nearest(name, PEERS)
            raise UsageError(
                f"there is no peer `{name}`", f"did you mean `{near}`?" if near else f"one of {', '.join(PEERS)}"
            )
    symbols = {symbol for s in executable.signature.inputs for dim in s.shape for symbol in free_symbols(str(dim))}
    for name in sizes:
        if name not in symbols:
            raise UsageError(
                f"there is no dim `{name}`", f"the dims are {', '.join(sorted(symbols)) or 'all constant'}"
            )
    rows: list[Latency] = []
    measured = batches if symbols - sizes.keys() else [None]
    for number, batch in enumerate(measured):
        if progress is not None:
            progress(number, len(measured), "" if batch is None else f"batch {batch}")
        given = dict(sizes) if batch is None else dict.fromkeys(symbols, batch) | dict(sizes)
        inputs = random_inputs(executable.signature, given)
        found = {name: PEERS[name](executable.artifact, inputs) for name in against}
        peers = {name: peer for name, peer in found.items() if not isinstance(peer, str)}
        times = side_by_side(executable, inputs, peers)
        rows += [Latency(name, batch, *time) for name, time in times.items()]
        rows += [Latency(name, batch, None, missing=why) for name, why in found.items() if isinstance(why, str)]
    return rows


@contextmanager
def torch_threads(count: int, needed: object = True) -> Generator[None]:
    """PyTorch with `count` threads; when it is not needed or not there, nothing happens."""
    if not needed or importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
