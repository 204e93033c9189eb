"""The systems that an artifact is compared with, each on the optimized graph as PyTorch runs it or exports it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np

from mercer.compiler import library_of, parse_ir
from mercer.ir.graph import Constant, Graph
from mercer.ir.types import Array, Data
from mercer.runtime.artifact import Artifact
from mercer.runtime.errors import first_line

TimedCall = Callable[[int], object]
"""Runs once with so many threads."""

ONNX_OPSET, ONNX_IR = 20, 10
"""What released engines read."""


def on_torch(call: Callable[[], object]) -> TimedCall:
    """A call within PyTorch."""

    def limited(threads: int) -> object:
        import torch

        torch.set_num_threads(threads)
        return call()

    return limited


def _eager(artifact: Artifact, inputs: Sequence[Array]) -> TimedCall | str:
    return _torch(artifact, inputs, compiled=False)


def _inductor(artifact: Artifact, inputs: Sequence[Array]) -> TimedCall | str:
    if shutil.which("g++") is None:
        return "torch.compile needs g++, which is not on the PATH"
    return _torch(artifact, inputs, compiled=True)


def _torch(artifact: Artifact, inputs: Sequence[Array], compiled: bool) -> TimedCall | str:
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    on_gpu = artifact.manifest.target.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        return "this PyTorch has no CUDA"
    device = "cuda" if on_gpu else "cpu"
    net = _module(artifact).to(device)
    if compiled:
        net = torch.compile(net)
    tensors = [torch.from_numpy(x).to(device) for x in inputs]

    def call() -> object:
        with torch.inference_mode():
            result = net(*tensors)
        if on_gpu:
            torch.cuda.synchronize()
        return result

    return on_torch(call)


def _onnxruntime(artifact: Artifact, inputs: Sequence[Array]) -> TimedCall | str:
    graph = _onnx(artifact, inputs, "onnxruntime")
    if isinstance(graph, str):
        return graph
    engine: Any = importlib.import_module("onnxruntime")

    @functools.cache
    def session(threads: int) -> Any:
        options = engine.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return engine.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    try:
        names = [spec.name for spec in session(1).get_inputs()]
    except Exception as error:
        return f"ONNX Runtime cannot take it: {first_line(error)}"
    feeds = dict(zip(names, inputs, strict=True))
    return lambda threads: session(threads).run(None, feeds)


def _openvino(artifact: Artifact, inputs: Sequence[Array]) -> TimedCall | str:
    graph = _onnx(artifact, inputs, "openvino")
    if isinstance(graph, str):
        return graph
    engine: Any = importlib.import_module("openvino")
    core = engine.Core()

    @functools.cache
    def request(threads: int) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        found = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
        for position, array in enumerate(inputs):
            found.set_input_tensor(position, engine.Tensor(array, shared_memory=True))
        return found

    try:
        request(1).infer()
    except Exception as error:
        return f"OpenVINO cannot take it: {first_line(error)}"
    return lambda threads: request(threads).infer()


PEERS: dict[str, Callable[[Artifact, Sequence[Array]], TimedCall | str]] = {
    "torch": _eager,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""What gives a call on the given inputs, or says why it cannot be had here."""


# --- the graph of an artifact -----------------------------------------------------------------------------------------


def _module(artifact: Artifact) -> Any:
    from mercer.backends.torch import module

    graph = graph_of(artifact)
    weights = {p.name: np.zeros([d.value for d in p.type.shape], p.type.dtype.numpy) for p in graph.parameters}
    return module(graph, library_of(graph), weights).eval()


def _onnx(artifact: Artifact, inputs: Sequence[Array], engine: str) -> bytes | str:
    """The module in ONNX for these shapes, or why an engine cannot have it."""
    missing = [name for name in (engine, "torch", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install 'mercer[bench]'"
    if not artifact.manifest.target.startswith("cpu"):
        return f"it is compared on the CPU, not on {artifact.manifest.target}"
    import torch

    tensors = tuple(torch.from_numpy(x) for x in inputs)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            program: Any = torch.onnx.export(
                _module(artifact), tensors, dynamo=True, opset_version=ONNX_OPSET, verbose=False
            )
    except Exception as error:
        return f"PyTorch cannot export it: {first_line(error)}"
    graph = program.model_proto
    graph.ir_version = min(graph.ir_version, ONNX_IR)
    return graph.SerializeToString()


def graph_of(artifact: Artifact) -> Graph:
    """The optimized graph of an artifact. Contents that the binary keeps in another form are replaced by random ones:
    the graph is there to be timed, and no time depends on them."""
    from safetensors.numpy import load

    stored = load(bytes(artifact.members.get("weights.safetensors", b"")))
    graph, _ = parse_ir(artifact.member("ir/graph.mir").decode(), "ir/graph.mir")
    assert isinstance(graph, Graph)
    generator = np.random.default_rng(0)

    def filled(constant: Constant) -> Constant:
        if constant.data.array is not None:
            return constant
        array = stored.get(constant.name)
        if array is None or Data(array).digest != constant.data.digest:
            shape = [extent.value for extent in constant.type.shape]
            array = (0.1 * generator.standard_normal(shape)).astype(constant.type.dtype.numpy)
        return replace(constant, data=Data(array))

    return replace(graph, constants=tuple(map(filled, graph.constants)))
