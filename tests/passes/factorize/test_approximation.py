"""An approximation that says less than its true error is caught, and data that do not fit are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from mercer.compiler import parse_text
from mercer.ir.evaluate import EvaluationError
from mercer.ir.graph import Graph
from mercer.passes.calibration import Calibration
from mercer.passes.exactness import ExactnessError
from mercer.passes.factorize.snnk import Snnk
from mercer.passes.factorize.svd_linear import SvdLinear
from mercer.passes.factorize.thinning import Thinning
from mercer.passes.manager import Pass, PassContext
from mercer.passes.pipeline import parse
from tests.passes.factorize.approximations import apply

Shapes = tuple[tuple[int, ...], ...]
MODEL = "model M(x: f32[N, 24]) -> f32[N, 20] { return Linear(x; 20, bias = false) }"
X = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)


@dataclass(frozen=True)
class Flattering(SvdLinear):
    """Writes down a little less than what it has measured."""

    name: ClassVar[str] = "flattering"

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        result = super().on_graph(graph, context)
        (entry,) = context.ledger.entries
        context.ledger.entries[:] = [replace(entry, error=0.99 * (entry.error or 0.0))]
        return result


def test_a_flattering_error_is_caught() -> None:
    apply(MODEL, SvdLinear(rank=4), X)
    with pytest.raises(ExactnessError, match="the pass flattering is off by"):
        apply(MODEL, Flattering(rank=4), X)


@pytest.mark.parametrize("x", [X[:, :-1], X[0]])
def test_data_of_another_shape(x: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match="%x is f32"):
        apply(MODEL, SvdLinear(rank=4), x)


def test_errors_are_those_of_outputs() -> None:
    """What the rest of the model hides does not count."""
    text = MODEL.replace("Linear(x; 20, bias = false)", "0.0 * Linear(x; 20, bias = false) + 1.0")
    assert apply(text, SvdLinear(rank=4), X).fired.error == 0.0


def test_without_a_batch_all_data_judge() -> None:
    text = "model M(x: f32[16, 24]) -> f32[16, 20] { return Linear(x; 20, bias = false) }"
    assert apply(text, SvdLinear(4), None).fired.error


@pytest.mark.parametrize(
    ("x", "y", "shapes", "halves"),
    [
        ("N, 4", "N", ((6, 4), (6,)), ((3, 4), (3,))),
        ("N, 4", "4", ((6, 4), (4,)), ((3, 4), (4,))),
        ("N, 4", "", ((6, 4), ()), ((3, 4), ())),
        ("N, 4", "4", ((1, 4), (4,)), None),
        ("4", "4", ((4,), (4,)), None),
        ("N, 4", "K, 4", ((6, 4), (6, 4)), None),
        ("N, N", "N", ((6, 6), (6,)), None),
        ("N, 4", "2*N", ((6, 4), (12,)), None),
    ],
)
def test_halves(
    x: str, y: str, shapes: tuple[tuple[int, ...], ...], halves: tuple[tuple[int, ...], ...] | None
) -> None:
    program = parse_text(f"model M(x: f32[{x}], y: f32[{y}]) -> f32[{x}] {{ return relu(x) }}")
    data = {name: np.zeros(shape) for name, shape in zip("xy", shapes, strict=True)}
    calibration = Calibration(program.graph, program.library, data)
    if halves is None:
        assert calibration.halves is None and calibration.judge is calibration
    else:
        assert calibration.halves is not None
        found = [tuple(array.shape for array in half.inputs.values()) for half in calibration.halves]
        assert found == [halves] * 2


@pytest.mark.parametrize("each", [SvdLinear(4, max_error=0.5), Snnk(8, "positive", refit=False), Thinning(seed=3)])
def test_text_of_a_pass_reads_back(each: Pass) -> None:
    assert parse(str(each)) == (each,)
