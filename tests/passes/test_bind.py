"""Weights that fit, and every way in which they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mercer.passes.bind import WeightError

TEXT = "model M(x: f32[N, 4]) -> f32[N, 3] { return x |> Linear(3) |> BatchNorm }"
Read = Callable[[str], Any]


def test_parameters_become_constants(model: Read) -> None:
    program = model(TEXT)
    weights = program.weights()
    graph = program.changed("bind", program.context(weights))
    assert not graph.parameters
    bound = {c.name: c.data.array for c in graph.constants}
    assert bound.keys() == weights.keys()
    assert all(np.array_equal(bound[name], weights[name]) for name in weights)


def test_without_weights_parameters_stay(model: Read) -> None:
    program = model(TEXT)
    assert program.changed("bind", program.context()) == program.graph


def without(weights: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: array for key, array in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda w: without(w, "linear.bias"), "missing `linear.bias` (f32[3])", "state_dict"),
        (lambda w: {**w, "extra": w["linear.bias"]}, "extra `extra`", "state_dict"),
        (
            lambda w: {**without(w, "linear.bias"), "linear.bais": w["linear.bias"]},
            "missing `linear.bias` (f32[3]); extra `linear.bais`",
            "`linear.bais` may be `linear.bias`",
        ),
        (
            lambda w: {**w, "linear.bias": w["linear.bias"][:2]},
            "`linear.bias` is f32[2], expected f32[3]",
            "state_dict",
        ),
        (lambda w: {**w, "linear.bias": np.ones(3)}, "`linear.bias` is f64[3], expected f32[3]", "state_dict"),
        (lambda w: {**w, "linear.bias": np.array(["a"] * 3)}, "the element type <U1, which Mercer does not know", ""),
    ],
)
def test_weights_that_do_not_fit(model: Read, change: Callable[[Any], Any], message: str, hint: str) -> None:
    program = model(TEXT)
    with pytest.raises(WeightError) as error:
        program.run("bind", program.context(change(program.weights())))
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert hint in (error.value.hint or "")


def test_all_problems_are_listed_at_once(model: Read) -> None:
    program = model(TEXT)
    weights = without(program.weights(), "linear.bias") | {"linear.weight": np.ones((1, 1), np.float32)}
    with pytest.raises(WeightError) as error:
        program.run("bind", program.context(weights))
    assert "linear.bias" in error.value.message and "linear.weight" in error.value.message


def test_a_weight_that_is_not_finite_is_a_warning(model: Read) -> None:
    program = model(TEXT)
    weights = program.weights()
    weights["linear.bias"][1] = np.nan
    context = program.context(weights)
    program.run("bind", context)
    (warning,) = context.ledger.warnings
    assert (warning.subject, warning.message) == ("linear.bias", "1 of 3 elements are not finite")
