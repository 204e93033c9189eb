"""Whole nets in integers (W8A8) on one thread, beside our own f32 and int8 of ONNX Runtime and OpenVINO.

python -m benchmarks.int8 [--peers ort,openvino] [--rounds N] [--keep FOLDER] [--target cpu:LEVEL] [NAME ...]

All systems read the same weights and take the same input, on which the ranges are found. The peers run the graph that
ONNX Runtime's static quantization makes: QDQ, scales per channel, 7-bit weights, since 8-bit ones overflow on CPUs
without VNNI. Systems take turns; a figure is the median over all calls of its process time on one thread, in
milliseconds. The last column is the relative L2 distance of Mercer's integers to its f32.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import numpy as np
from rich.console import Console
from rich.table import Table

import mercer
from benchmarks.cpu.peers import OnnxRuntime, OpenVino, Task, torch_module
from benchmarks.cpu.workload import Array, Form, Input, Weights, Workload, random_weights
from benchmarks.cpu.workloads import WORKLOADS

SECONDS = 0.3
"""Of one turn."""


def _mlp(w: Weights, x: Any) -> Any:
    from torch.nn.functional import linear

    for i in range(3):
        x = linear(x, w[f"linears.{i}.linear.weight"], w[f"linears.{i}.linear.bias"]).relu()
    return linear(x, w["head.weight"], w["head.bias"])


MLP = Workload(
    name="mlp",
    family="whole net",
    title="MLP 3 x 512, 1024 rows",
    source="""
model Mlp(x: f32[1024, 512]) -> f32[1024, 10] {
  h = x
  for i in 0..3 as linears { h = h |> Linear(512) as linear |> relu }
  return h |> Linear(10) as head
}
""",
    inputs=(Input((1024, 512)),),
    forms={"plain": _mlp},
)
NETS: dict[str, Workload] = {"mlp": MLP, **{name: WORKLOADS[name] for name in ("mobilenet", "resnet18", "dcnv2")}}
ALONE = frozenset(("dcnv2",))
"""Those that no peer has in integers."""


def quantized_graph(form: Form, weights: dict[str, Array], inputs: tuple[Array, ...], folder: Path) -> None:
    """Write `int8.onnx`."""
    import onnx
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    tensors = tuple(map(torch.from_numpy, inputs))
    module = torch_module(form, weights)
    model = torch.onnx.export(module, tensors, dynamo=True, opset_version=20, verbose=False).model_proto
    model.ir_version = min(model.ir_version, 10)
    plain, prepared = folder / "f32.model", folder / "prepared.model"
    onnx.save(model, plain)
    quant_pre_process(str(plain), str(prepared))
    name = onnx.load(prepared).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: inputs[0]}])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    quantize_static(
        str(prepared),
        str(folder / "int8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def systems(net: Workload, peers: set[str], folder: Path, target: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, a call)"""
    program = mercer.parse_text(net.source)
    weights = random_weights(program.initial())
    inputs = net.arrays()
    for name, scheme in (("mercer f32", None), ("mercer int8", "w8a8")):
        kept = folder / f"{net.name} {scheme or 'f32'} {target.replace(':', '-')}.mrc"
        if not kept.exists():
            data = inputs[0] if scheme else None
            mercer.compile(program, target, weights=weights, data=data, quantize=scheme).save(kept)
        executable = mercer.load(kept)
        executable.threads = 1
        yield name, lambda executable=executable: executable(*inputs)
    graphs = folder / net.name
    if net.name in ALONE:
        return
    if peers:
        graphs.mkdir(exist_ok=True)
        if not (graphs / "int8.onnx").exists():
            (form,) = net.forms.values()
            quantized_graph(form, weights, inputs, graphs)
    task = Task(net.name, inputs, weights, 1, graphs)
    for peer in (OnnxRuntime(), OpenVino()):
        if peer.name in peers:
            for _, build in peer.candidates(task):
                yield f"{peer.name} int8", build()


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                start = time.process_time()
                call()
                found[name].append(time.process_time() - start)
    return {name: 1e3 * float(np.median(times)) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}; default all")
    parser.add_argument("--peers", default="", help="of ort, openvino")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder for what is compiled, which is not compiled again")
    parser.add_argument("--target", default="cpu", help="cpu:avx2: Mercer alone, without AVX-512")
    arguments = parser.parse_args()
    if arguments.peers and arguments.target != "cpu":
        parser.error("other systems use all that this CPU has: no --peers with a --target")
    peers = set(filter(None, arguments.peers.split(",")))
    columns = ["mercer f32", "mercer int8", *(f"{peer} int8" for peer in ("ort", "openvino") if peer in peers)]
    table = Table("net", *columns, "f32 / int8", *(["best peer / int8"] if peers else []), "rel. L2")
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.names or NETS:
            calls = dict(systems(NETS[name], peers, arguments.keep or Path(temporary), arguments.target))
            times = measure(calls, arguments.rounds)
            ours = times["mercer int8"]
            best = min((times[column] for column in columns[2:] if column in times), default=0.0)
            exact, near = (np.asarray(calls[column](), np.float64) for column in columns[:2])
            error = np.linalg.norm(near - exact) / np.linalg.norm(exact)
            ratios = [f"{times['mercer f32'] / ours:.2f}", *([f"{best / ours:.2f}" if best else "-"] if peers else [])]
            shown = (f"{times[column]:.3f}" if column in times else "-" for column in columns)
            table.add_row(name, *shown, *ratios, f"{error:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
