"""The search: candidates of every kernel against what the cost model takes, the heaviest kernels first."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mercer.backends.tvm.schedules.common import Choice
from mercer.backends.tvm.tuning.database import Machine, Record
from mercer.backends.tvm.tuning.tasks import Task
from mercer.backends.tvm.tuning.worker import ROUNDS, Loaded, Worker, compare, random_inputs, same
from mercer.ir.types import Array

Progress = Callable[[int, int, str], None]
"""Called with (candidates measured, all candidates, the kernel at work)."""

TOGETHER = 5
"""Candidates that are measured in turns with the one of the cost model and the best so far."""

GAIN = 0.98
"""A candidate is better than another one when its least and its median time are below this share of the other's."""

PATIENCE = 0.1
"""Seconds between two looks at what the workers have done."""


@dataclass
class Found:
    """What is known of a task on one kind of machine; times are seconds, geometric means over the batch sizes."""

    task: Task
    machine: Machine
    threads: int
    left: deque[Choice]
    best: Choice
    untuned: float = 0.0
    tuned: float = 0.0
    measured: int = 0
    rounds: int = 0
    busy: bool = False
    wrong: list[Choice] = field(default_factory=list[Choice])
    """Candidates that computed other numbers: a fault of Mercer's."""

    @property
    def weight(self) -> float:
        """What measuring more of it promises."""
        return math.inf if not self.rounds else self.untuned * self.task.calls / 4**self.rounds

    def record(self, version: str) -> Record:
        return Record(
            machine=self.machine,
            threads=self.threads,
            kernel=self.task.kernel,
            choice=self.best,
            nanoseconds=round(self.tuned * 1e9, 1),
            untuned=round(self.untuned * 1e9, 1),
            operators=self.task.operators,
            mercer=version,
        )


class Tuner:
    """Shares the tasks among workers until the candidates or the time are at an end."""

    def __init__(self, tasks: Sequence[Task], sizes: Sequence[int], known: Sequence[Record] = ()) -> None:
        """`sizes` are what symbolic dims are set to; a choice in `known` stays until another one is better."""
        self.tasks, self.sizes = tasks, sizes
        self.known = {record.key: record.choice for record in known}
        self.found: dict[tuple[Machine, int], list[Found]] = {}
        self.faults: list[str] = []
        self._stop = threading.Event()
        self._compiling = threading.Lock()
        self._state = threading.Lock()

    def run(self, workers: Sequence[Callable[[], Worker]], seconds: float, progress: Progress | None = None) -> None:
        """Measure on all workers, each made and used in a thread of its own. Raises what the last one fails with.

        An interruption stops the workers and goes on to the caller; what was found until then is kept.
        """
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=self._serve, args=(make, deadline), daemon=True) for make in workers]
        self._errors: list[Exception] = []
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(PATIENCE)
                self._report(progress)
        except KeyboardInterrupt:
            self._stop.set()
            for thread in threads:
                thread.join()
            raise
        if len(self._errors) == len(threads):
            raise self._errors[0]
        self.faults += [f"a worker was lost: {error}" for error in self._errors]

    def _report(self, progress: Progress | None) -> None:
        if progress is not None:
            every = [each for known in self.found.values() for each in known]
            busy = [each.task.operators for each in every if each.busy]
            total = sum(len(each.task.choices) - 1 for each in every)
            progress(sum(each.measured for each in every), total, ", ".join(busy[:2]))

    def _serve(self, make: Callable[[], Worker], deadline: float) -> None:
        try:
            worker = make()
            with self._state:
                new = [self._start(task, worker.machine, worker.threads) for task in self.tasks]
                found = self.found.setdefault((worker.machine, worker.threads), new)
            while not self._stop.is_set() and (each := self._next(found, deadline)) is not None:
                try:
                    self._measure(each, worker, deadline)
                finally:
                    each.busy = False
        except Exception as error:  # of TVM, of the connection: the other workers go on
            self._errors.append(error)

    def _start(self, task: Task, machine: Machine, threads: int) -> Found:
        first, *others = task.choices
        before = self.known.get((machine, threads, task.kernel))
        best = before if before in others else first
        return Found(task, machine, threads, deque(choice for choice in others if choice != best), best)

    def _next(self, found: Sequence[Found], deadline: float) -> Found | None:
        with self._state:
            open_ = [each for each in found if not each.busy and (each.left or not each.rounds)]
            if not open_ or time.monotonic() > deadline:
                return None
            best = max(open_, key=lambda each: each.weight)
            best.busy = True
            return best

    def _measure(self, found: Found, worker: Worker, deadline: float) -> None:
        """One comparison: the cost model's choice, the best so far, and some more."""
        task, first = found.task, found.task.choices[0]
        inputs = [random_inputs(task.nests, size) for size in self.sizes]
        compared: list[tuple[Choice, list[Loaded]]] = []
        expected: list[tuple[Array, ...]] = []

        def add(choice: Choice) -> None:
            with self._compiling:  # TVM builds one program at a time
                compiled = task.compile(choice)
            kernels = [worker.load(compiled, arrays) for arrays in inputs]
            outputs = [kernel.outputs() for kernel in kernels]
            expected.extend([] if expected else outputs)
            if all(same(each, right) for each, right in zip(outputs, expected, strict=True)):
                compared.append((choice, kernels))
            else:
                found.wrong.append(choice)

        add(first)
        if found.best != first:
            add(found.best)
        if found.rounds:
            while found.left and len(compared) <= TOGETHER and not self._over(deadline):
                add(found.left.popleft())
                found.measured += 1
        scores = _scores([kernels for _, kernels in compared])
        best = _best(scores)
        winner, untuned, tuned = compared[best][0], scores[0][0], scores[best][0]
        if best:  # the best of many may have been lucky: once more, these two alone
            again = _scores([compared[0][1], compared[best][1]], 3 * ROUNDS)
            winner = winner if _best(again) else first
            untuned, tuned = again[0][0], again[_best(again)][0]
        found.best, found.tuned, found.untuned = winner, tuned, untuned
        found.rounds += 1

    def _over(self, deadline: float) -> bool:
        return self._stop.is_set() or time.monotonic() > deadline


def _scores(kernels: Sequence[Sequence[Loaded]], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """(least, median) seconds of candidates that are loaded for each batch size."""
    times = [compare(alike, rounds) for alike in zip(*kernels, strict=True)]
    return [(_mean([each[n][0] for each in times]), _mean([each[n][1] for each in times])) for n in range(len(kernels))]


def _best(scores: Sequence[tuple[float, float]]) -> int:
    """The place of the candidate that beats the first one most, 0 where none does."""
    faster = [n for n, score in enumerate(scores) if all(a < GAIN * b for a, b in zip(score, scores[0], strict=True))]
    return min(faster, key=lambda n: scores[n][0], default=0)


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
