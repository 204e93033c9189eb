"""Every operator through TVM: one binary for each family of operators, in f32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mercer.compiler import Program, compile
from tests.operators.records import FAMILIES
from tests.operators.run import LIBRARY, graph_of, largest_error, single

TOLERANCE = 1e-5
"""Relative to the largest value; f32 has 6e-8."""


@pytest.mark.parametrize("family", FAMILIES)
def test_binary_agrees_with_independent_formula(family: str) -> None:
    calls = [
        (r, i, single(s.arrays(f"{r.name}-{i}"), "float32")) for r in FAMILIES[family] for i, s in enumerate(r.samples)
    ]
    graph, inputs = graph_of([(r.name, arrays, r.samples[i].attributes) for r, i, arrays in calls])
    results = compile(Program(graph, LIBRARY), target="cpu")(**inputs)
    errors: dict[str, float] = {}
    for (record, number, arrays), actual in zip(calls, results, strict=True):
        tensors = map(torch.from_numpy, map(np.asarray, single(arrays, "float64")))
        wanted = np.asarray(record.reference(*tensors, **record.samples[number].attributes))
        error = largest_error(actual, wanted)
        if error > TOLERANCE:
            errors[f"{record.name}-{number}"] = error
    assert errors == {}
