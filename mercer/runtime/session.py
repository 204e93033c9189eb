"""Executables: an artifact, its input checks, and the engine that runs its target.

NumPy in, NumPy out. Engines (`Executor`) are chosen by the target's first word; each imports what it needs only when
an artifact of its target is loaded.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .artifact import DTYPES, Artifact, Dim, Signature, TensorSpec, bind_dim, evaluate_dim, free_symbols
from .errors import InputError, first_line, nearest
from .executors import Executor, executor_of
from .profile import OpTime, summarize
from .simulation import FpgaExecutor

Array: TypeAlias = npt.NDArray[Any]

PROFILE_RUNS, FEWEST_RUNS = 10, 2
PROFILE_SECONDS = 1.0


def load(path: str | os.PathLike[str]) -> Executable:
    """Read a `.mrc` file, check all of it, and make it ready to run. Raises ArtifactError."""
    return Executable(Artifact.load(path))


class Executable:
    """A compiled model that can be called: `y = exe(x)`, `y = exe(x=x)`, several outputs give a tuple.

    Inputs are NumPy arrays or DLPack objects on the CPU, of exactly the dtype in `signature`, contiguous or not.
    Outputs are fresh NumPy arrays. Calls from several threads take turns.
    """

    def __init__(self, artifact: Artifact, start: bool = True) -> None:
        """`start = False` leaves the engine to the first call: an artifact may be made for another machine."""
        self.artifact = artifact
        if start:
            _ = self._executor
        self._specs = artifact.manifest.signature.inputs
        self._checked: object = None

    @functools.cached_property
    def _executor(self) -> Executor:
        return executor_of(self.artifact)

    @property
    def signature(self) -> Signature:
        """Names, dtypes and shapes of inputs and outputs."""
        return self.artifact.manifest.signature

    @property
    def target(self) -> str:
        return self.artifact.manifest.target

    @property
    def threads(self) -> int:
        """How many CPU threads the engine uses; what is set holds for all executables of the process."""
        return self._executor.threads

    @threads.setter
    def threads(self, count: int) -> None:
        if count < 1:
            raise InputError(f"an executable runs on at least 1 thread, not {count}")
        self._executor.set_threads(count)

    @property
    def simulation(self) -> FpgaExecutor | None:
        """What simulates an FPGA design: random stalls, progress, cycles of the last call. None for other targets."""
        return self._executor if isinstance(self._executor, FpgaExecutor) else None

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Run the model. Raises InputError when an argument does not fit the signature."""
        outputs = self._executor.run(self._bind(arrays, named))
        return outputs[0] if len(outputs) == 1 else outputs

    def profile(self, *arrays: Any, **named: Any) -> list[OpTime]:
        """Median time per operator over ten runs, fewer of a slow model: (name, microseconds, share, source) in
        execution order."""
        inputs = self._bind(arrays, named)
        self._executor.run(inputs)
        runs: list[list[tuple[str, float]]] = []
        end = time.monotonic() + PROFILE_SECONDS
        while len(runs) < FEWEST_RUNS or (len(runs) < PROFILE_RUNS and time.monotonic() < end):
            runs.append(self._executor.profile(inputs))
        return summarize(runs, self.artifact.manifest.entry.get("sources", {}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the `.mrc` file whole or not at all. Raises ArtifactError."""
        self.artifact.save(path)

    def __repr__(self) -> str:
        return f"<Executable {self.target} {self.signature}>"

    def _bind(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Array, ...]:
        if named or len(arrays) != len(self._specs):
            arrays = order_inputs(self._specs, arrays, named)
        inputs = tuple(
            array if type(array) is np.ndarray else as_array(spec, array)
            for spec, array in zip(self._specs, arrays, strict=True)
        )
        layout = [(array.shape, array.dtype) for array in inputs]
        if layout != self._checked:
            check_outputs(self.signature.outputs, check_inputs(self._specs, inputs))
            self._checked = layout
        return inputs


# --- inputs against the signature -------------------------------------------------------------------------------------


def order_inputs(specs: Sequence[TensorSpec], arrays: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments by position and by name, in the order of the signature. Raises InputError."""
    names = [spec.name for spec in specs]
    for name in named:
        if name not in names:
            close = nearest(name, names)
            hint = f"did you mean {close!r}?" if close else f"the inputs are {', '.join(names)}"
            raise InputError(f"there is no input {name!r}", hint)
        if name in names[: len(arrays)]:
            raise InputError(f"input {name!r} is given twice, by position and by name")
    if missing := [name for name in names[len(arrays) :] if name not in named]:
        found = len(arrays) + len(named)
        raise InputError(
            f"expected {_count(len(specs))}, found {found}: {', '.join(missing)} not given",
            f"the inputs are {', '.join(map(str, specs))}",
        )
    if len(arrays) > len(specs):
        raise InputError(
            f"expected {_count(len(specs))}, found {len(arrays)}", f"the inputs are {', '.join(map(str, specs))}"
        )
    return (*arrays, *(named[name] for name in names[len(arrays) :]))


def _count(number: int) -> str:
    return f"{number} input" if number == 1 else f"{number} inputs"


def as_array(spec: TensorSpec, value: Any) -> Array:
    """A NumPy array over a NumPy scalar, an array subclass or a DLPack object. Raises InputError for anything else."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(cast("Any", value))
    if not hasattr(value, "__dlpack__"):
        dtype = DTYPES[spec.dtype].name
        raise InputError(
            f"input {spec.name!r}: expected a NumPy array or a DLPack object, found {type(value).__name__}",
            f"np.asarray(..., dtype=np.{dtype})",
        )
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"input {spec.name!r}: this {type(value).__name__} cannot be read by NumPy: {first_line(error)}",
            "give a CPU tensor without gradient: .detach().cpu()",
        ) from error


def check_inputs(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> dict[str, int]:
    """Check dtypes, ranks and dims; returns the value of every symbol. Raises InputError that names what disagrees."""
    for spec, array in zip(specs, arrays, strict=True):
        if array.dtype != (dtype := DTYPES[spec.dtype]):
            raise InputError(
                f"input {spec.name!r}: expected dtype {dtype}, found {array.dtype}",
                f"cast it yourself: {spec.name}.astype(np.{dtype.name})",
            )
        if array.ndim != len(spec.shape):
            hint = f"for a batch of one: {spec.name}[np.newaxis]" if array.ndim + 1 == len(spec.shape) else None
            expected = f"rank {len(spec.shape)} [{', '.join(map(str, spec.shape))}]"
            raise InputError(f"input {spec.name!r}: expected {expected}, found rank {array.ndim} {_text(array)}", hint)

    symbols: dict[str, int] = {}
    binder: dict[str, str] = {}
    faults: dict[int, list[str]] = {}
    dims = [
        (position, axis, dim, arrays[position].shape[axis])
        for position, spec in enumerate(specs)
        for axis, dim in enumerate(spec.shape)
    ]
    dims.sort(key=lambda row: isinstance(row[2], str) and not row[2].isidentifier())
    for position, axis, dim, size in dims:
        expected = bind_dim(dim, size, symbols)
        for symbol in symbols.keys() - binder.keys():
            binder[symbol] = specs[position].name
        if expected is not None and expected != size:
            faults.setdefault(position, []).append(f"dim {axis} is {size}, {_wanted(dim, expected, symbols, binder)}")
    for position, reasons in sorted(faults.items()):
        spec = specs[position]
        expected = f"[{', '.join(map(str, spec.shape))}]"
        raise InputError(
            f"input {spec.name!r}: expected {expected}, found {_text(arrays[position])}: {'; '.join(reasons)}"
        )
    return symbols


def check_outputs(specs: Sequence[TensorSpec], symbols: Mapping[str, int]) -> None:
    """Raises InputError when the inputs are so small that an output would have a negative size."""
    for spec in specs:
        for dim in spec.shape:
            if isinstance(dim, int) or not free_symbols(dim) <= symbols.keys():
                continue
            size = evaluate_dim(dim, symbols)
            if size >= 0:
                continue
            values = ", ".join(f"{name} = {symbols[name]}" for name in sorted(free_symbols(dim)))
            raise InputError(f"the inputs are too small: {dim} = {size} in the output {spec} ({values})")


def _wanted(dim: Dim, expected: int, symbols: Mapping[str, int], binder: Mapping[str, str]) -> str:
    if isinstance(dim, int):
        return f"not {dim}"
    origins = sorted({f"{name} = {symbols[name]} from input {binder[name]!r}" for name in free_symbols(dim)})
    return f"but {dim} = {expected}" + (f" ({', '.join(origins)})" if dim not in symbols else f" from {binder[dim]!r}")


def _text(array: Array) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
