"""How long each step of an artifact takes on this machine, beside the least time that the machine allows for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mercer.commands.bench import random_inputs
from mercer.compiler import UsageError
from mercer.runtime.artifact import Artifact, evaluate_dim, free_symbols
from mercer.runtime.errors import InputError, MercerError
from mercer.runtime.profile import Roof
from mercer.runtime.session import Executable


@dataclass(frozen=True)
class StepTime:
    """Median microseconds of a step, and their share of a call. `flops` and `bytes` are what it cannot do without;
    `roof` is the least time for them over the measured one, None where the roof is not known. `binds` says which of the
    two takes longer."""

    microseconds: float
    share: float
    flops: int
    bytes: int
    roof: float | None
    binds: str


@dataclass(frozen=True)
class Times:
    """The steps of one call on so many threads for `sizes` of the symbolic dims; without steps, `missing` says why.
    `other_microseconds` of the call are spent outside of steps."""

    sizes: Mapping[str, int]
    threads: int
    microseconds: float
    other_microseconds: float
    steps: tuple[StepTime, ...]
    roof: Roof | None
    missing: str = ""


def without(reason: str) -> Times:
    return Times({}, 0, 0.0, 0.0, (), None, reason)


def measure(artifact: Artifact, sizes: Mapping[str, int], threads: int | None = None) -> Times:
    """Calls with random inputs, for about a second; dims that `sizes` does not give are 1, or 64 where inputs of 1 are
    too small. Raises UsageError for an unknown dim; what cannot run here has no times."""
    kind = artifact.manifest.target.partition(":")[0]
    if kind == "fpga":
        return without("an FPGA design has cycles, which stand below")
    if kind == "torch":
        return without("`mercer run OUT.mrc --input X.npz --profile` times the operators of PyTorch")
    symbols = {s for spec in artifact.manifest.signature.inputs for d in spec.shape for s in free_symbols(str(d))}
    if unknown := sorted(set(sizes) - symbols):
        hint = f"the dims are {', '.join(sorted(symbols)) or 'all constant'}"
        raise UsageError(f"there is no dim `{unknown[0]}`", hint)
    steps: Sequence[Mapping[str, Any]] = artifact.manifest.entry.get("steps", ())
    try:
        executable = Executable(artifact)
        if threads is not None:
            executable.threads = threads
        try:
            return _measured(executable, steps, dict.fromkeys(sorted(symbols), 1) | dict(sizes))
        except InputError:
            return _measured(executable, steps, dict.fromkeys(sorted(symbols), 64) | dict(sizes))
    except MercerError as error:
        return without(error.message)


def _measured(executable: Executable, steps: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> Times:
    *rows, other = executable.profile(*random_inputs(executable.signature, sizes))
    if [row.name for row in rows] != [step["function"] for step in steps]:
        return without("its steps are not those that the manifest lists")
    if any("flops" not in step for step in steps):
        return without("it was compiled before operations and bytes were counted; compile it again")
    counts = [(evaluate_dim(step["flops"], sizes), evaluate_dim(step["bytes"], sizes)) for step in steps]
    roof = _roof(executable, [moved for _, moved in counts])
    found = [
        StepTime(
            row.microseconds,
            row.share,
            flops,
            moved,
            None if roof is None or not row.microseconds else roof.seconds(flops, moved) * 1e6 / row.microseconds,
            "operations" if roof is None or roof.counts_operations(flops, moved) else "bytes",
        )
        for row, (flops, moved) in zip(rows, counts, strict=True)
    ]
    whole = sum(row.microseconds for row in (*rows, other))
    return Times(sizes, executable.threads, whole, other.microseconds, tuple(found), roof)


def _roof(executable: Executable, needed: Sequence[int]) -> Roof | None:
    """That of the CPU; there is none for a GPU yet."""
    if not executable.target.startswith("cpu"):
        return None
    from mercer.backends.tvm.roof import quick

    return quick(executable.threads, needed)
