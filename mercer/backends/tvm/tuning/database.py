"""The database of measured choices: a JSON file of records, read whole, checked, and written whole or not at all."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import tvm

from mercer.backends.tvm.schedules.common import Choice, Options
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.tuning.kernel import Kernel
from mercer.runtime.cache import user_folder
from mercer.runtime.errors import MercerError
from mercer.runtime.executors import default_threads

SCHEMA, VERSION = "mercer.tuned", 1

NEAREST = 2.0
"""No size may differ by more than this factor for a choice to be taken over."""

NEIGHBOURS = 3
"""Near shapes that are tried, from the nearest on."""

CLEAR = 1.1
"""What the choice for another shape must have gained there to be taken over."""

TUNED, NEAR = "tuned", "tuned for a near shape"


class DatabaseError(MercerError):
    """A file that is no database of this version; it is left as it is."""


@dataclass(frozen=True)
class Machine:
    """A CPU: LLVM's name of it, and the vector level that the code was compiled for (`avx2`)."""

    cpu: str
    level: str

    @staticmethod
    def here(target: Target) -> Machine:
        return Machine(str(tvm.get_global_func("target.llvm_get_system_cpu")()), target.level)


@dataclass(frozen=True)
class Record:
    """What was found for a kernel: `nanoseconds` of the choice and of what the cost model takes, on `threads` threads.

    `operators` says what the kernel computes, for people; `mercer` is the version that measured.
    """

    machine: Machine
    threads: int
    kernel: Kernel
    choice: Choice
    nanoseconds: float
    untuned: float
    operators: str
    mercer: str

    @property
    def key(self) -> tuple[Machine, int, Kernel]:
        return self.machine, self.threads, self.kernel

    @property
    def gain(self) -> float:
        return self.untuned / self.nanoseconds

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "choice": dict(self.choice)}

    @staticmethod
    def from_json(value: Any) -> Record:
        """Raises KeyError, TypeError or ValueError."""
        fields = dict(cast("dict[str, Any]", value))
        machine = Machine(**fields.pop("machine"))
        kernel = Kernel(str(fields["kernel"]["structure"]), tuple(int(size) for size in fields.pop("kernel")["sizes"]))
        record = Record(machine=machine, kernel=kernel, **fields)
        texts: list[Any] = [machine.cpu, machine.level, kernel.structure, record.operators, record.mercer]
        choice: Any = record.choice
        if not all(isinstance(text, str) for text in texts) or not isinstance(choice, dict):
            raise ValueError("a name is no text, or a choice no map")
        if not all(float(number) > 0 for number in (record.nanoseconds, record.untuned, record.threads)):
            raise ValueError("a time or a number of threads is not positive")
        return record


def default_path() -> Path:
    """Where results go unless a file is given: MERCER_DATABASE, else a file in the user's cache folder."""
    if given := os.environ.get("MERCER_DATABASE"):
        return Path(given)
    return user_folder() / "tuned.json"


def load(path: Path) -> tuple[Record, ...]:
    """The records of a file; none when it does not exist. Raises DatabaseError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DatabaseError(f"cannot read {path}: {error.strerror}", "--database names another file") from error
    return _parse(content, str(path))


def _parse(content: bytes, origin: str) -> tuple[Record, ...]:
    hint = "it was left as it is; move it away, or name another file with --database"
    try:
        value: Any = json.loads(content)
    except ValueError as error:
        raise DatabaseError(f"{origin} is no tuning database: not JSON ({error})", hint) from error
    if not isinstance(value, dict) or cast("dict[str, Any]", value).get("schema") != SCHEMA:
        raise DatabaseError(f'{origin} is no tuning database: it has no "schema": "{SCHEMA}"', hint)
    fields = cast("dict[str, Any]", value)
    if fields.get("version") != VERSION:
        found = f"version {fields.get('version')}, this Mercer reads {VERSION}"
        raise DatabaseError(f"{origin} is a tuning database of another version: {found}", hint)
    try:
        return tuple(Record.from_json(record) for record in fields["records"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DatabaseError(f"{origin} is a damaged tuning database: a record cannot be read ({what})", hint) from error


def to_bytes(records: Iterable[Record]) -> bytes:
    """One record a line, sorted: equal records give equal bytes."""
    lines = sorted(json.dumps(record.to_json(), sort_keys=True, ensure_ascii=False) for record in records)
    head = f'{{"schema": "{SCHEMA}", "version": {VERSION}, "records": ['
    return "\n".join([head, ",\n".join(lines), "]}", ""]).encode()


def merge(path: Path, records: Iterable[Record]) -> None:
    """Add records to a file, or make it; a new one replaces the old one of its key.

    Whoever else writes waits or is waited for, and readers see the file before or after. Raises DatabaseError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            merged = {record.key: record for record in (*load(path), *records)}
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                temporary.write_bytes(to_bytes(merged.values()))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DatabaseError(f"cannot write {path}: {error.strerror}", "--database names another file") from error


@functools.cache
def defaults(level: str) -> tuple[Record, ...]:
    """What ships with Mercer for a vector level; kernels of f32 are the same with VNNI and without."""
    name = "avx512" if level == "vnni" else level
    return load(Path(__file__).parents[1] / "tuned" / f"{name}.json")


# --- choosing ---------------------------------------------------------------------------------------------------------


class Candidate(Protocol):
    """Work for a kernel that says what else could have been chosen."""

    @property
    def options(self) -> Options: ...


W = TypeVar("W", bound=Candidate)


class Tuned:
    """Records to choose from, in the order of trust: those of this machine, then what ships for its vector level."""

    def __init__(self, *sources: Sequence[Record]) -> None:
        self._sources: list[dict[str, list[Record]]] = []
        for records in sources:
            by_structure: dict[str, list[Record]] = {}
            for record in records:
                by_structure.setdefault(record.kernel.structure, []).append(record)
            self._sources.append(by_structure)

    def __bool__(self) -> bool:
        return any(self._sources)

    @staticmethod
    def of(target: Target, path: Path | None = None) -> Tuned:
        """What is known for a target: records of `path`, else of the user's file, then what ships; those for as many
        threads as an executable takes come first.
        """
        if target.is_cuda:
            return Tuned()
        machine, threads = Machine.here(target), default_threads()
        own = [record for record in load(path or default_path()) if record.machine == machine]
        shipped = [replace(record, machine=machine) for record in defaults(target.level)]
        return Tuned(*(sorted(each, key=lambda r: abs(r.threads - threads)) for each in (own, shipped)))

    def choose(self, kernel: Callable[[], Kernel], make: Callable[[Choice | None], W]) -> tuple[W, str]:
        """The work of the best record that fits, and what that was; else that of the cost model."""
        if self:
            for choice, how in self._records(kernel()):
                work = make(choice)
                if work.options.choice == choice:
                    return work, how
        return make(None), ""

    def _records(self, kernel: Kernel) -> Iterator[tuple[Choice, str]]:
        """Choices for the kernel itself, then those for near ones that were better than the cost model's."""
        alike = [source.get(kernel.structure, []) for source in self._sources]
        for records in alike:
            yield from ((record.choice, TUNED) for record in records if record.kernel == kernel)
        for records in alike:
            others = (record for record in records if record.kernel != kernel and record.gain >= CLEAR)
            near = [(kernel.distance(record.kernel), record) for record in others]
            ordered = sorted((pair for pair in near if pair[0] <= NEAREST), key=lambda pair: pair[0])
            yield from ((record.choice, NEAR) for _, record in ordered[:NEIGHBOURS])


UNTUNED = Tuned()
