"""Approximations end to end: the binary is as far from the model as the ledger says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mercer.commands.zoo_passes import Example
from mercer.compiler import UsageError, compile, parse, parse_text
from mercer.ir.types import DType
from mercer.passes.factorize.approximation import Approximation
from mercer.passes.ledger import Ledger
from mercer.passes.pipeline import FACTORIZE, INFERENCE

EXAMPLES = Path(__file__).parents[3] / "zoo" / "passes"
NAMES = [each.name for each in FACTORIZE if issubclass(each, Approximation)]
TEXT = "model M(x: f32[N, 24], y: f32[N, 24]) -> f32[N, 20] { return Linear(x + y; 20) }"


@pytest.mark.parametrize("name", NAMES)
def test_the_binary_has_the_error_of_the_ledger(name: str) -> None:
    example = Example.read(EXAMPLES / f"{name}.mer")
    program = parse(example.path)
    samples = example.samples(program)
    executable = compile(program, pipeline=(*example.passes(), *INFERENCE[1:]), data=samples)
    ledger = Ledger.from_json(executable.artifact.manifest.ledger)
    (stated,) = [entry.error for entry in ledger.fired() if entry.pass_name == name]
    odd = [array[1::2] for array in samples.values()]
    (expected,) = program.evaluate(*odd, precision=DType.F64)
    result = executable(*odd)
    error = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    assert stated is not None and error == pytest.approx(stated, rel=1e-3, abs=2e-6)
    assert ledger.error() == pytest.approx(stated)


def test_data_by_name() -> None:
    program = parse_text(TEXT)
    data = {name: np.ones((4, 24), np.float32) for name in "xy"}
    executable = compile(program, pipeline="bind,svd_linear{rank=4}", data=data)
    assert not Ledger.from_json(executable.artifact.manifest.ledger).warnings[1:]


@pytest.mark.parametrize("data", [np.ones((4, 24)), {"x": np.ones((4, 24))}, {"x": 1, "y": 1, "z": 1}])
def test_data_of_other_inputs(data: object) -> None:
    with pytest.raises(UsageError, match=r"data are given for .*, not for x, y"):
        compile(parse_text(TEXT), data=data)
