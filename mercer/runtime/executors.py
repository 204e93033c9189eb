"""Engines: each runs the binaries of one kind of target and imports what it needs when the first one is loaded."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .artifact import DTYPES, Artifact, bind_symbols
from .errors import ArtifactError, MercerError, first_line
from .profile import median_microseconds
from .simulation import FpgaExecutor
from .weights import ALIGNMENT, MEMBER as WEIGHTS, restore

Array: TypeAlias = npt.NDArray[Any]


class Executor(Protocol):
    """Runs the binary of one target on checked inputs."""

    @property
    def threads(self) -> int: ...

    def set_threads(self, count: int) -> None: ...

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Fresh output arrays; inputs may be strided."""
        ...

    def profile(self, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        """One run: (operator, microseconds) in execution order."""
        ...


def executor_of(artifact: Artifact) -> Executor:
    manifest = artifact.manifest
    kind = re.split(r"[\s:]", manifest.target)[0]
    if kind not in EXECUTORS:
        raise ArtifactError(
            f"{artifact.origin}: target {manifest.target!r} is unknown to this runtime",
            f"it runs {', '.join(EXECUTORS)}",
        )
    artifact.check_cpu()
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.dtype not in DTYPES:
            raise ArtifactError(
                f"{artifact.origin}: {spec} has a dtype that NumPy cannot hold", "cast to f32 at the model's border"
            )
    return EXECUTORS[kind](artifact)


CPU, CUDA = 1, 2
POOLED_ALLOCATOR = 2
BIG_CORES = 1

PART = "part"
"""The function for a part of a batch."""

SPINS = 500
"""Rounds, some half a millisecond: longer than the gaps within a call, short for what wants the cores after it."""


class TvmExecutor:
    """Runs `lib.so`, an executable of the TVM Relax virtual machine, on the CPU or a CUDA GPU.

    `entry["function"]` (default `main`) takes the inputs, then the tensors that `entry["weights"]` names, then a shape
    of the dimensions that `entry["symbols"]` names, if any; it may call a function `part` for each of `entry["parts"]`
    parts of a batch. On the CPU nothing is copied: the binary reads contiguous
    inputs where they lie (its loads need no alignment), and outputs are views of tensors that nothing else refers to.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._origin = artifact.origin
        self._on_host = not artifact.manifest.target.startswith("cuda")
        self._device = CPU if self._on_host else CUDA
        binary = artifact.member("lib.so")
        self._ffi = tvm_runtime()
        if not self._on_host:
            load_cuda(artifact.origin)
        with tempfile.TemporaryDirectory(prefix="mercer-") as folder:
            path = Path(folder, "lib.so")
            path.write_bytes(binary)
            try:
                self._library = self._ffi.load_module(str(path))
            except Exception as error:
                raise ArtifactError(
                    f"{artifact.origin}: lib.so cannot be loaded: {first_line(error)}", "compile it on this machine"
                ) from error
        self._function: str = artifact.manifest.entry.get("function", "main")
        self._main = self._machine()[self._function]
        names: Sequence[str] = artifact.manifest.entry.get("weights", ())
        weights = _weights(artifact) if names else {}
        if lost := [name for name in names if name not in weights]:
            raise ArtifactError(f"{artifact.origin}: weights.safetensors has no {', '.join(lost)}", "compile it again")
        self._symbols: Sequence[str] = artifact.manifest.entry.get("symbols", ())
        self._parts: int = artifact.manifest.entry.get("parts", 1)
        self._inputs = artifact.manifest.signature.inputs
        self._complex = [DTYPES[spec.dtype].kind == "c" for spec in artifact.manifest.signature.outputs]
        self._copy = self._ffi.get_global_func("runtime.TVMTensorCopyFromTo")
        self._weights = [self._place(weights[name]) for name in names]
        self._layout: object = None
        self._sizes: tuple[Any, ...] = ()
        self._lock = threading.Lock()

    @property
    def threads(self) -> int:
        return int(self._ffi.get_global_func("runtime.NumThreads")())

    def set_threads(self, count: int) -> None:
        self._ffi.get_global_func("runtime.config_threadpool")(BIG_CORES, count)

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return self._call(self._main, inputs)

    def profile(self, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        """Operators that call each other count without what they call. The shortest span of the run is measuring alone
        and is taken off every span; `(other)` is what a run without measuring spends outside operators."""
        spans: list[tuple[str, int]] = []
        open_calls: list[list[int]] = []

        def instrument(_function: object, name: str, before: bool, _value: object, *_arguments: object) -> int:
            if before:
                open_calls.append([time.perf_counter_ns(), 0])
                return 0
            if not self._on_host:
                self._synchronize()
            begin, inside = open_calls.pop()
            spent = time.perf_counter_ns() - begin
            if open_calls:
                open_calls[-1][1] += spent
            spans.append((name, spent - inside))
            return 0

        machine = self._machine()
        machine["set_instrument"](self._ffi.convert(instrument))
        self._call(machine[self._function], inputs)
        measuring = min((span for _, span in spans), default=0)
        hidden = ("vm.builtin.", "shape_func")
        rows = [(name, (span - measuring) / 1e3) for name, span in spans if not name.startswith(hidden)]
        rows = _summed(rows, self._parts, len(self._complex))
        whole = median_microseconds(lambda: self.run(inputs), repeat=3, warmup=0)
        return [*rows, ("(other)", max(0.0, whole - sum(span for _, span in rows)))]

    def _call(self, function: Callable[..., Any], inputs: Sequence[Array]) -> tuple[Array, ...]:
        with self._lock:
            layout = [array.shape for array in inputs]
            if layout != self._layout:
                self._sizes, self._layout = self._shape(layout), layout
            arguments = [self._to_device(self._tensor(array)) for array in inputs]
            try:
                result = function(*arguments, *self._weights, *self._sizes)
            except Exception as error:
                raise MercerError(f"{self._origin}: failed while running: {first_line(error)}") from error
            results = (result,) if isinstance(result, self._ffi.Tensor) else tuple(result)
            return tuple(
                _joined(self._fetch(item)) if complex_ else self._fetch(item)
                for item, complex_ in zip(results, self._complex, strict=True)
            )

    def _shape(self, layout: Sequence[tuple[int, ...]]) -> tuple[Any, ...]:
        """The sizes that the binary cannot read off one axis, such as K of an input f32[N, 2*K], as one shape."""
        if not self._symbols:
            return ()
        values = bind_symbols([spec.shape for spec in self._inputs], layout)
        return (self._ffi.Shape(tuple(values[name] for name in self._symbols)),)

    def _machine(self) -> Any:
        machine = self._library["vm_load_executable"]()
        devices = (CPU,) if self._on_host else (self._device, CPU)
        machine["vm_initialization"](*(part for device in devices for part in (device, 0, POOLED_ALLOCATOR)))
        return machine

    def _tensor(self, array: Array) -> Any:
        """The array as a tensor of the host, without a copy where DLPack can express it."""
        if not (array.flags.c_contiguous and array.flags.writeable):
            array = np.array(array, order="C")
        if array.size == 0:
            array = array.reshape(-1).reshape(array.shape)  # NumPy may give it strides of 0, which TVM refuses
        return self._ffi.from_dlpack(_pairs(array) if array.dtype.kind == "c" else array)

    def _place(self, array: Array) -> Any:
        """A weight on the device; on the host it stays where it is if it lies well there."""
        if self._on_host and array.size and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0:
            return self._ffi.from_dlpack(array)
        buffer, tensor = _aligned(self._ffi, array.shape, array.dtype)
        np.copyto(buffer, array)
        placed = self._to_device(tensor)
        self._synchronize()
        return placed

    def _to_device(self, tensor: Any) -> Any:
        if self._on_host:
            return tensor
        allocate = self._ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        placed = allocate(tensor.shape, tensor.dtype, self._ffi.device(self._device, 0), None)
        self._copy(tensor, placed)
        return placed

    def _fetch(self, tensor: Any) -> Array:
        if self._on_host:
            return np.from_dlpack(tensor)
        dtype = np.dtype(str(tensor.dtype))
        buffer, host = _aligned(self._ffi, tuple(tensor.shape), dtype)
        self._copy(tensor, host)
        self._synchronize()
        return buffer

    def _synchronize(self) -> None:
        self._ffi.get_global_func("runtime.Device_StreamSync")(self._ffi.device(self._device, 0), 0)


def _summed(rows: list[tuple[str, float]], parts: int, joins: int) -> list[tuple[str, float]]:
    """The spans of a run with one row for each step of a part, over all parts; steps that join results come last."""
    if parts == 1:
        return rows
    own = [row for row in rows if row[0] != PART]
    inner, last = own[: len(own) - joins], own[len(own) - joins :]
    steps = len(inner) // parts
    return [*((inner[k][0], sum(time for _, time in inner[k::steps])) for k in range(steps)), *last]


def _aligned(ffi: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Any]:
    """An aligned NumPy array and the TVM tensor over the same memory; complex numbers are pairs of f32."""
    if dtype.kind == "c":
        pairs, tensor = _aligned(ffi, (*shape, 2), np.dtype(np.float32))
        return _joined(pairs), tensor
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array = memory[start : start + size].view(dtype).reshape(shape)
    return array, ffi.from_dlpack(array)


def _pairs(array: Array) -> Array:
    """Complex numbers as pairs of f32 along a new last axis."""
    return array.view(np.float32).reshape(*array.shape, 2)


def _joined(pairs: Array) -> Array:
    """Pairs of f32 along the last axis as complex numbers."""
    return pairs.view(np.complex64)[..., 0]


@contextlib.contextmanager
def without_torch() -> Generator[None]:
    """Imports inside find no PyTorch: tvm_ffi would load it, which takes seconds, for tensors that never pass here."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = cast("Any", None)  # an import of it fails
    try:
        yield
    finally:
        del sys.modules["torch"]


def tvm_ffi() -> Any:
    """TVM's foreign function interface, without what it would import beside; raises ImportError when it is missing."""
    with without_torch():
        return importlib.import_module("tvm_ffi")


@functools.cache
def tvm_runtime() -> Any:
    """TVM's runtime behind its function interface; the compiler half of TVM and its Python stay unloaded.

    Raises MercerError when the package is missing.
    """
    settle_threads()
    try:
        ffi = tvm_ffi()
        for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
            ctypes.CDLL(str(_tvm_library(name)), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise MercerError(
            f"this artifact runs on the TVM runtime, which cannot be loaded: {first_line(error)}",
            "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post0",
        ) from error
    return ffi


def load_cuda(origin: str) -> None:
    """Load TVM's CUDA half. Raises ArtifactError when this machine has no usable CUDA GPU."""
    hint = "compile it with --target cpu, or run it on a machine with an NVIDIA GPU and driver"
    try:
        ctypes.CDLL(str(_tvm_library("libtvm_runtime_cuda.so")))
        exists = tvm_runtime().get_global_func("runtime.GetDeviceAttr")(CUDA, 0, 0)
    except Exception as error:
        raise ArtifactError(f"{origin}: needs a CUDA GPU, none can be used here: {first_line(error)}", hint) from error
    if not exists:
        raise ArtifactError(f"{origin}: needs a CUDA GPU, this machine has none", hint)


def _tvm_library(name: str) -> Path:
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("no module named 'tvm'")
    return Path(spec.submodule_search_locations[0], "lib", name)


def settle_threads() -> None:
    """Settle what TVM reads about threads before its first call. Its pool has `default_threads`.

    Threads without work sleep after TVM_THREAD_POOL_SPIN_COUNT rounds: SPINS unless set, where TVM takes 300,000. All
    threads, the caller's above all, keep the processors that they may use: unless TVM_BIND_THREADS is set, TVM does not
    bind them.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", str(SPINS))
    default_threads()


def default_threads() -> int:
    """Threads of an executable until it is told otherwise: TVM_NUM_THREADS, and that is all physical cores unless set.

    TVM itself would take half of the processors, so this comes before its first call. Raises MercerError when the
    variable is no positive number.
    """
    given = os.environ.get("TVM_NUM_THREADS")
    if given is None:
        given = os.environ["TVM_NUM_THREADS"] = str(physical_cores())
    if not re.fullmatch(r"[1-9]\d{0,5}", given):
        raise MercerError(f"TVM_NUM_THREADS is {given!r}: expected a number of threads", "unset it to use all cores")
    return int(given)


def physical_cores() -> int:
    """Physical cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    try:
        blocks = Path("/proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return len(allowed)
    cores: set[tuple[str, ...]] = set()
    for block in blocks:
        fields = dict(re.findall(r"^(processor|physical id|core id)\s*:\s*(\d+)", block, re.MULTILINE))
        if int(fields.get("processor", -1)) in allowed:
            cores.add((fields.get("physical id", ""), fields.get("core id", f"processor {fields['processor']}")))
    return len(cores) or len(allowed)


class _Source(importlib.abc.InspectLoader):
    """Imports a module from its source text."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source


class TorchExecutor:
    """Runs `model.py`, the generated PyTorch module of class `entry["class"]`, on the CPU without gradients."""

    def __init__(self, artifact: Artifact) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError as error:
            raise MercerError("this artifact runs on PyTorch, which is not installed", "pip install torch") from error
        self._origin = artifact.origin
        loader = _Source(artifact.member("model.py").decode())
        spec = importlib.util.spec_from_loader("mercer_model", loader, origin="model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            self._model = getattr(module, artifact.manifest.entry["class"])().eval()
            arrays = {name: np.require(array, requirements="W") for name, array in _weights(artifact).items()}
            self._model.load_state_dict({name: self._torch.from_numpy(array) for name, array in arrays.items()})
        except Exception as error:
            reason = f"model.py cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
            raise ArtifactError(f"{artifact.origin}: {reason}", "compile it again") from error

    @property
    def threads(self) -> int:
        return int(self._torch.get_num_threads())

    def set_threads(self, count: int) -> None:
        self._torch.set_num_threads(count)

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        try:
            with self._torch.inference_mode():
                result = self._model(*(self._torch.from_numpy(np.array(array, order="C")) for array in inputs))
        except Exception as error:
            raise MercerError(f"{self._origin}: failed while running: {first_line(error)}") from error
        outputs = cast("Sequence[Any]", result if isinstance(result, tuple | list) else (result,))
        return tuple(np.array(output.numpy()) for output in outputs)

    def profile(self, inputs: Sequence[Array]) -> list[tuple[str, float]]:
        """The ATen operators that the module calls itself, each with all that it calls in turn."""
        profiler = self._torch.profiler
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as trace:
            self.run(inputs)
        events = [event for event in trace.events() if event.cpu_parent is None and event.name.startswith("aten::")]
        events.sort(key=lambda event: event.time_range.start)
        return [(event.name.removeprefix("aten::"), float(event.cpu_time_total)) for event in events]


EXECUTORS: dict[str, Callable[[Artifact], Executor]] = {
    "cpu": TvmExecutor,
    "cuda": TvmExecutor,
    "torch": TorchExecutor,
    "fpga": FpgaExecutor,
}


def _weights(artifact: Artifact) -> dict[str, Array]:
    """All tensors of the member WEIGHTS; none when the artifact has no such member."""
    content = artifact.members.get(WEIGHTS)
    return {} if content is None else restore(content, artifact.manifest.entry.get("narrow", {}))
