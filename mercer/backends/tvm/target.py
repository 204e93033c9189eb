"""What to compile for: `cpu`, `cpu:avx2`, `cpu:avx512`, `cpu:vnni`, `cpu:generic`, `cuda`, `cuda:sm_90`."""

from __future__ import annotations

import functools
import re
import shutil
from dataclasses import dataclass
from typing import Any

from mercer.ir.packed import BYTES_FEATURE
from mercer.runtime.artifact import cpu_features
from mercer.runtime.errors import MercerError, nearest

_AVX2 = ("avx2", "fma", "f16c", "bmi2")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")


class TargetError(MercerError):
    """A target that does not exist or cannot be built here."""


@dataclass(frozen=True)
class Target:
    """`lanes` float32 per vector register, `registers` of them, and the CPU `features` that the binary needs."""

    name: str
    kind: str
    lanes: int = 1
    registers: int = 16
    cpu: str = "x86-64"
    features: tuple[str, ...] = ()
    arch: str = ""

    @property
    def level(self) -> str:
        """What stands behind the colon: `avx2`."""
        return self.name.partition(":")[2]

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    def tvm(self) -> Any:
        """The `tvm.target.Target`."""
        import tvm

        host = {"kind": "llvm", "mcpu": self.cpu}
        device = {"kind": "cuda", "arch": self.arch, "max_num_threads": 1024, "thread_warp_size": 32}
        return tvm.target.Target(device, host=host) if self.is_cuda else tvm.target.Target(host)


_CPUS = {
    "generic": Target("cpu:generic", "cpu", lanes=4, registers=16),
    "avx2": Target("cpu:avx2", "cpu", lanes=8, registers=16, cpu="haswell", features=_AVX2),
    "avx512": Target("cpu:avx512", "cpu", lanes=16, registers=32, cpu="skylake-avx512", features=_AVX512),
    "vnni": Target("cpu:vnni", "cpu", lanes=16, registers=32, cpu="cascadelake", features=(*_AVX512, BYTES_FEATURE)),
}
_DEFAULT_ARCH = "sm_90"


def parse(text: str) -> Target:
    """The target of that name; plain `cpu` is the best level that this machine has.

    Raises TargetError for an unknown name.
    """
    kind, _, detail = text.partition(":")
    if kind == "cpu":
        level = detail or host_level()
        if level in _CPUS:
            return _CPUS[level]
        guess = nearest(level, _CPUS) or "avx2"
        raise TargetError(f"unknown CPU level {level!r} in target {text!r}", hint=f"did you mean cpu:{guess}?")
    if kind == "cuda":
        arch = detail or gpu_arch() or _DEFAULT_ARCH
        if re.fullmatch(r"sm_\d{2,3}a?", arch):
            return Target(f"cuda:{arch}", "cuda", arch=arch)
        raise TargetError(f"unknown GPU architecture {arch!r} in target {text!r}", hint="write it as cuda:sm_90")
    guess = nearest(kind, ("cpu", "cuda")) or "cpu"
    raise TargetError(f"unknown target {text!r}", hint=f"did you mean {guess}? known: cpu, cpu:LEVEL, cuda, cuda:sm_NN")


def host_level() -> str:
    """The best CPU level that this machine has."""
    present = cpu_features() or frozenset[str]()
    for level in ("vnni", "avx512", "avx2"):
        if present.issuperset(_CPUS[level].features):
            return level
    return "generic"


@functools.cache
def gpu_arch() -> str | None:
    """`sm_90` and the like of the first GPU, None where there is no GPU or no driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    import subprocess

    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    found = re.match(r"(\d+)\.(\d+)", result.stdout)
    return f"sm_{found[1]}{found[2]}" if result.returncode == 0 and found else None


def require_tools(target: Target) -> None:
    """Raises TargetError when a compiler that the target needs is not on the PATH."""
    for tool, needed in (("nvcc", target.is_cuda), ("g++", True)):
        if needed and shutil.which(tool) is None:
            hint = "`mercer doctor` lists what this machine can build"
            raise TargetError(f"target {target.name} needs {tool}, which is not on the PATH", hint=hint)


@dataclass(frozen=True)
class Availability:
    """Whether a kind of target can be built and run on this machine, and what is missing."""

    target: str
    builds: bool
    runs: bool
    reason: str


def available() -> tuple[Availability, ...]:
    """For `mercer doctor`: one row for each kind of target."""
    compiler = shutil.which("nvcc") is not None
    linker = shutil.which("g++") is not None
    gpu = gpu_arch()
    missing = [] if compiler else ["no nvcc on the PATH"]
    missing += [] if gpu else ["no NVIDIA GPU or driver here"]
    level = host_level()
    cpu = f"vector level {level}" if linker else "no g++ on the PATH"
    return (
        Availability("cpu", linker, True, cpu),
        Availability("cuda", compiler and linker, gpu is not None, "; ".join(missing) or f"GPU is {gpu}"),
    )
