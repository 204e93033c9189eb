"""An approximation that says less than its true error is caught, and data that do not fit are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

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


def test_halves_need_a_batch() -> None:
    result = apply("model M(x: f32[16, 24]) -> f32[16, 20] { return Linear(x; 20, bias = false) }", SvdLinear(4), None)
    assert result.fired.error
    calibration = Calibration(result.before, None, {"x": X})  # type: ignore[arg-type]
    assert calibration.halves is None and calibration.judge is calibration


@pytest.mark.parametrize("each", [SvdLinear(4, max_error=0.5), Snnk(8, "positive", refit=False), Thinning(seed=3)])
def test_text_of_a_pass_reads_back(each: Pass) -> None:
    assert parse(str(each)) == (each,)
