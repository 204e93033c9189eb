"""Small artifacts: a TVM one that is built once per run, a torch one, and one whose binary never runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mercer.runtime import Artifact, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "f32", ("N", 4)),), (TensorSpec("y", "f32", ("N", 3)),))
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 7 - 0.5
BIAS = np.array([0.5, -1.0, 0.25], np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    """relu(x @ WEIGHT + BIAS)"""
    return np.maximum(x @ WEIGHT + BIAS, 0)


@pytest.fixture
def tiny() -> Artifact:
    """Under 4 KB, so that each of its bytes can be flipped."""
    return Artifact.create(
        target="cpu",
        signature=SIGNATURE,
        members={"lib.so": bytes(range(64)), "ir/graph.mir": b"graph tiny\n", "weights.safetensors": b"\0" * 16},
        version="0.1.0",
        entry={"weights": ["w"]},
        ledger=[{"rewrite": "fold", "class": "real"}],
    )


@pytest.fixture(scope="session")
def tvm_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """relu(x @ w + b) with symbolic batch; the weights are trailing arguments."""
    tvm = pytest.importorskip("tvm")
    from tvm import relax

    batch = tvm.tirx.Var("n", "int64")
    x, w, b = (
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in (("x", (batch, 4)), ("w", (4, 3)), ("b", (3,)))
    )
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w, b]):
        with builder.dataflow():
            product = builder.emit(relax.op.add(relax.op.matmul(x, w), b))
            result = builder.emit_output(relax.op.nn.relu(product))
        builder.emit_func_output(result)
    library = Path(tmp_path_factory.mktemp("tvm"), "lib.so")
    tvm.compile(builder.get(), target="llvm").export_library(str(library))
    return Artifact.create(
        target="cpu",
        signature=SIGNATURE,
        members={"lib.so": library.read_bytes(), "weights.safetensors": save({"b": BIAS, "w": WEIGHT})},
        version="0.1.0",
        entry={"weights": ["w", "b"], "sources": {"matmul": "tiny.mer:2:7", "relu": "tiny.mer:3:7"}},
    )


MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(4, 3))
        self.b = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.relu(x @ self.w + self.b)
"""


@pytest.fixture(scope="session")
def torch_artifact() -> Artifact:
    pytest.importorskip("torch")
    return Artifact.create(
        target="torch",
        signature=SIGNATURE,
        members={"model.py": MODEL.encode(), "weights.safetensors": save({"b": BIAS, "w": WEIGHT})},
        version="0.1.0",
        entry={"class": "Tiny"},
    )
