"""The systems side by side: each turns a workload into candidates, of which the fastest one with right numbers counts.

A candidate is a name and a function that builds a call; the call runs once on the inputs and gives what it computed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.cpu.workload import FFT, Array, Form, Workload

Call = Callable[[], Any]
Candidate = tuple[str, Callable[[], Call]]


@dataclass(frozen=True)
class Task:
    """A workload with its data, on so many threads; `folder` holds what the reference process wrote."""

    name: str
    inputs: Sequence[Array]
    weights: dict[str, Array]
    threads: int
    folder: Path

    @functools.cached_property
    def workload(self) -> Workload:
        """With its forms, which import PyTorch; engines that read graphs do without."""
        from benchmarks.cpu.workloads import WORKLOADS

        return WORKLOADS[self.name]

    @property
    def graphs(self) -> list[Path]:
        """ONNX graphs: made by hand, and exported from the forms."""
        return sorted(self.folder.glob("*.onnx"))


class Peer(Protocol):
    name: str

    def version(self) -> str: ...

    def candidates(self, task: Task) -> Iterator[Candidate]: ...


def numpy_of(result: Any) -> Array:
    """What a call gave, as an array."""
    if hasattr(result, "detach"):
        result = result.detach().contiguous()
    if isinstance(result, list | tuple):
        (result,) = result
    return np.asarray(result() if callable(result) else result)


def torch_module(form: Form, weights: dict[str, Array], dtype: Any = None) -> Any:
    """An nn.Module of a form, with the weights as buffers."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, array in weights.items():
                tensor = torch.from_numpy(np.ascontiguousarray(array))
                if dtype is not None and tensor.is_floating_point():
                    tensor = tensor.to(dtype)
                self.register_buffer(name.replace(".", "__"), tensor)

        def forward(self, *x: torch.Tensor) -> torch.Tensor:
            return form({name: getattr(self, name.replace(".", "__")) for name in weights}, *x)

    return Net().eval()


# --- Mercer -----------------------------------------------------------------------------------------------------------


class Mercer:
    name = "mercer"

    def __init__(self) -> None:
        self.kernels: list[str] = []

    def version(self) -> str:
        from mercer.version import VERSION

        return VERSION

    def candidates(self, task: Task) -> Iterator[Candidate]:
        def build() -> Call:
            import mercer

            weights = {name: x for name, x in task.weights.items() if name in names}
            executable = mercer.compile(program, weights=weights)
            executable.threads = task.threads
            steps = executable.artifact.manifest.entry.get("steps", ())
            self.kernels = [f"{step['family']} ({step['detail']})" for step in steps]
            return lambda: executable(*task.inputs)

        import mercer

        program = mercer.parse_text(task.workload.source)
        names = {parameter.name for parameter in program.parameters}
        yield "mercer", build


# --- PyTorch ----------------------------------------------------------------------------------------------------------


class Torch:
    """Eager mode, with contiguous and with channels-last images."""

    name = "torch"
    fft = False

    def version(self) -> str:
        import torch

        return torch.__version__

    def candidates(self, task: Task) -> Iterator[Candidate]:
        for name, form in task.workload.forms.items():
            if name.startswith(FFT) == self.fft:
                yield name, lambda form=form: self._build(task, form, last=False)
                if task.inputs[0].ndim == 4 and not self.fft and task.workload.images:
                    yield f"{name}, channels last", lambda form=form: self._build(task, form, last=True)

    def _build(self, task: Task, form: Form, last: bool) -> Call:
        import torch

        torch.set_num_threads(task.threads)
        module = torch_module(form, task.weights)
        inputs = [torch.from_numpy(x) for x in task.inputs]
        if last:
            module = module.to(memory_format=torch.channels_last)
            inputs = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        module = self._made(module, inputs)

        def call() -> Any:
            with torch.inference_mode():
                return module(*inputs)

        return call

    def _made(self, module: Any, inputs: Sequence[Any]) -> Any:
        del inputs
        return module


class TorchFFT(Torch):
    """Forms by torch.fft, with the spectra of weights computed beforehand."""

    name = "torch.fft"
    fft = True


class Inductor(Torch):
    """torch.compile, frozen, with max-autotune."""

    name = "inductor"

    def candidates(self, task: Task) -> Iterator[Candidate]:
        import torch

        for name, form in task.workload.forms.items():
            if not name.startswith(FFT):
                last = task.workload.images and task.inputs[0].ndim == 4
                yield name + ", channels last" * last, lambda form=form, last=last: self._build(task, form, last)
                torch.compiler.reset()

    def _made(self, module: Any, inputs: Sequence[Any]) -> Any:
        import torch
        from torch._inductor import config

        config.freezing = True
        config.max_autotune = True
        config.max_autotune_gemm_backends = "CPP,ATEN"
        config.cpp.threads = torch.get_num_threads()
        compiled = torch.compile(module, fullgraph=True, dynamic=False)
        with torch.inference_mode():
            compiled(*inputs)
        return compiled


# --- engines that read ONNX -------------------------------------------------------------------------------------------


class OnnxRuntime:
    name = "ort"

    def version(self) -> str:
        import onnxruntime

        return onnxruntime.__version__

    def candidates(self, task: Task) -> Iterator[Candidate]:
        for path in task.graphs:
            yield path.stem, lambda path=path: self._build(task, path)

    def _build(self, task: Task, path: Path) -> Call:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for spec, array in zip(session.get_inputs(), task.inputs, strict=True):
            binding.bind_ortvalue_input(spec.name, ort.OrtValue.ortvalue_from_numpy(array))
        output = session.get_outputs()[0]
        binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        binding.bind_ortvalue_output(output.name, binding.get_outputs()[0])

        def call() -> Any:
            session.run_with_iobinding(binding)
            return binding.get_outputs()[0].numpy

        return call


class OpenVino:
    name = "openvino"

    def version(self) -> str:
        import openvino

        return openvino.__version__.partition("-")[0]

    def candidates(self, task: Task) -> Iterator[Candidate]:
        for path in task.graphs:
            yield path.stem, lambda path=path: self._build(task, path)
        if not task.graphs:
            for name, form in task.workload.forms.items():
                yield f"{name}, from torch", lambda form=form: self._build(task, form)

    def _build(self, task: Task, source: Path | Form) -> Call:
        import openvino as ov

        core = ov.Core()
        if isinstance(source, Path):
            model = core.read_model(source)
        else:
            import torch

            module = torch_module(source, task.weights)
            model = ov.convert_model(module, example_input=tuple(torch.from_numpy(x) for x in task.inputs))
            model.reshape({i: list(x.shape) for i, x in enumerate(task.inputs)})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": task.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for position, array in enumerate(task.inputs):
            request.set_input_tensor(position, ov.Tensor(array, shared_memory=True))

        output = request.get_output_tensor(0)

        def result() -> Array:
            return output.data.copy()

        def call() -> Any:
            request.infer()
            return result

        return call


class Iree:
    name = "iree"

    def version(self) -> str:
        from importlib.metadata import version

        return version("iree-base-compiler")

    def candidates(self, task: Task) -> Iterator[Candidate]:
        for path in task.graphs:
            yield path.stem, lambda path=path: self._build(task, path)

    def _build(self, task: Task, path: Path) -> Call:
        import iree.runtime as rt
        from iree.compiler.tools import compile_file
        from iree.compiler.tools.import_onnx import __main__ as importer

        text = path.with_suffix(".mlir")
        arguments = importer.parse_arguments([str(path), "-o", str(text), "--opset-version", "22"])
        if importer.main(arguments):
            raise RuntimeError("the ONNX import failed")
        flags = ["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"]
        binary = compile_file(str(text), target_backends=["llvm-cpu"], input_type="onnx", extra_args=flags)
        driver = "local-sync" if task.threads == 1 else "local-task"
        if task.threads > 1:
            rt.flags.parse_flags(f"--task_topology_group_count={task.threads}")
        config = rt.Config(driver)
        module = rt.VmModule.copy_buffer(config.vm_instance, binary)
        context = rt.SystemContext(vm_modules=[module], config=config)
        bound = next(m for name, m in context.modules.items() if name not in {"hal", "io_parameters"})
        function = next(bound[n] for n in bound.vm_module.function_names if not n.startswith("__") and "$" not in n)
        inputs = [rt.asdevicearray(config.device, x) for x in task.inputs]

        def call() -> Any:
            result = function(*inputs)
            return result.to_host

        return call


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Mercer, Torch, TorchFFT, Inductor, OnnxRuntime, OpenVino, Iree)
}


def environment(threads: int) -> dict[str, str]:
    """Variables that keep every library to so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads)) | {"TORCHINDUCTOR_FREEZING": "1", "PYTHONWARNINGS": "ignore"}
