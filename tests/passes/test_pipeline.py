"""The standard pipeline on whole models: every claim of every rewrite is checked, for a symbolic batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mercer.ir.evaluate import evaluate
from mercer.ir.index import Reduce, walk
from mercer.ir.lower import lower
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, DType
from mercer.passes.manager import run_passes
from mercer.passes.pipeline import INFERENCE

Read = Callable[[str], Any]

MODELS = {
    "deformable": """
        model M(x: f32[N, 2, 5, 5]) -> f32[N, 3, 5, 5] {
          a = Conv2d(x; 27, 3, pad = 1)
          return DeformConv2d(x, a[:, :18], sigmoid(a[:, 18:]); 3, 3, pad = 1) |> BatchNorm |> relu
        }""",
    "continuous": "model M(x: f32[N, 1, 6, 6]) -> f32[N, 4, 6] { return FlexConv2d(x; 4, size = 3) |> relu |> mean }",
    "kernel machine": """
        model M(x: f32[N, 4, 4]) -> f32[N, 3] {
          return x |> flatten |> KernelMachine(3, centers = 5, kernel = matern32(length = 3.0))
        }""",
    "transformer": """
        model M(x: f32[N, 4, 8]) -> f32[N, 4, 8] {
          h = LayerNorm(x)
          y = x + MultiheadAttention(h, h, h; heads = 2)
          return y + (y |> RMSNorm |> Linear(12) |> gelu |> Linear(8))
        }""",
    "spline": "model M(x: f32[N, 3]) -> f32[N, 2] { return KANLinear(x; 2) |> softmax }",
    "half": "model M(x: f16[N, 3, 6]) -> f16[N, 4, 6] { return Conv1d(x; 4, 3, pad = 1) |> BatchNorm |> silu }",
    "grouped": """
        model M(x: f32[N, 4, 6, 6]) -> f32[N, 4, 3, 3] {
          return Conv2d(x; 4, 3, pad = 1, groups = 2) |> GroupNorm(groups = 2) |> max_pool2d(k = 2)
        }""",
}


@pytest.mark.parametrize("name", MODELS)
def test_models(model: Read, name: str) -> None:
    program = model(MODELS[name])
    weights = program.weights()
    context = program.context(weights)
    result = run_passes(program.graph, INFERENCE, context)
    assert isinstance(result, Nests)
    assert not context.ledger.warnings
    for batch in (0, 1, 3):
        check_against_the_graph(program, result, weights, batch)


def check_against_the_graph(program: Any, result: Nests, weights: dict[str, Array], batch: int) -> None:
    """The result errs no more than the unchanged program does, both measured in f64."""
    random = np.random.default_rng(batch)
    original = lower(program.graph, program.library)
    inputs = {
        v.name: random.standard_normal([d.value if d.is_constant else batch for d in v.type.shape]).astype(
            v.type.dtype.numpy
        )
        for v in original.inputs
    }
    exact = evaluate(original, inputs, weights, DType.F64)
    before = evaluate(original, inputs, weights)
    after = evaluate(result, inputs, {})
    for left, right, truth in zip(before, after, exact, strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype
        if truth.size:
            eps = float(np.finfo(left.dtype).eps)
            assert np.abs(right - truth).max() <= 2 * np.abs(left - truth).max() + 8 * eps * np.abs(truth).max()


@pytest.mark.parametrize("name", MODELS)
def test_no_nest_gains_a_second_reduction(model: Read, name: str) -> None:
    program = model(MODELS[name])
    before, after = program.nests("bind,lower"), program.nests("bind,lower,fuse")
    assert max(map(len, reductions(after))) <= max(map(len, reductions(before)))
    assert not any(isinstance(below, Reduce) for each in reductions(after) for e in each for below in walk(e.body))


def reductions(nests: Nests) -> list[set[Reduce]]:
    """The distinct reductions of every nest."""
    bodies = [statement.body for statement in nests.statements if isinstance(statement, Nest)]
    return [{expr for expr in walk(body) if isinstance(expr, Reduce)} for body in bodies]


POINTWISE = ("relu({})", "sigmoid({})", "({} + {})", "({} * {})", "-{}", "abs({})", "exp(-abs({}))", "({} - {})")
STRUCTURE = (
    "permute(permute({}; dims = [0, 2, 1]); dims = [0, 2, 1])",
    "reshape(reshape({}; shape = [N, 12]); shape = [N, 3, 4])",
    "flip({}; axis = 1)",
    "softmax({})",
    "unsqueeze(mean({}); axis = 2) * {}",
    "slice_axis(pad_axis({}; axis = 2, before = 1, after = 1); axis = 2, start = 0, stop = 4)",
    "linear({}, w)",
    "BatchNorm({})",
)


def random_program(seed: int) -> str:
    """A chain of operators on f32[N, 3, 4], each on values chosen among those that exist."""
    random = np.random.default_rng(seed)
    names, lines = ["x", "z"], ["const w[i < 4, j < 4] = 0.25*i - 0.5*j"]
    for number in range(8):
        form = str(random.choice(POINTWISE + STRUCTURE))
        operands = [str(random.choice(names)) for _ in range(form.count("{}"))]
        names.append(f"v{number}")
        lines.append(f"v{number} = {form.format(*operands)}")
    body = "\n".join([*lines, f"return {names[-1]}, {names[-3]}"])
    return f"model M(x: f32[N, 3, 4], z: f32[N, 3, 4]) -> (f32[N, 3, 4], f32[N, 3, 4]) {{\n{body}\n}}"


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(model: Read, seed: int) -> None:
    program = model(random_program(seed))
    context = program.context(program.weights())
    run_passes(program.graph, INFERENCE, context)
    assert not context.ledger.warnings
