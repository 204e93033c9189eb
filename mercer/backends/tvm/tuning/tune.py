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
from mercer.backends.tvm.tuning.worker import Loaded, Worker, compare, random_inputs, same
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
        times = [compare([kernels[k] for _, kernels in compared]) for k in range(len(inputs))]
        scores = [tuple(_mean([each[n][k] for each in times]) for k in (0, 1)) for n in range(len(compared))]
        best = 0
        for n in sorted(range(1, len(scores)), key=lambda n: scores[n][0]):
            if all(new < GAIN * old for new, old in zip(scores[n], scores[best], strict=True)):
                best = n
        found.best, found.tuned, found.untuned = compared[best][0], scores[best][0], scores[0][0]
        found.rounds += 1

    def _over(self, deadline: float) -> bool:
        return self._stop.is_set() or time.monotonic() > deadline


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
