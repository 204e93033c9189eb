"""Every operator of the standard library against an independent formula, on every backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mercer.ir.integers import IntExpr
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType, TensorType
from mercer.runtime.errors import MercerError
from tests.operators.records import RECORDS, Bad, Record
from tests.operators.records.record import Array
from tests.operators.run import LIBRARY, largest_error, on_reference

SAMPLES = [pytest.param(r, i, id=f"{r.name}-{i}") for r in RECORDS for i in range(len(r.samples))]
REFUSALS = [pytest.param(r.name, b, id=f"{r.name}-{i}") for r in RECORDS for i, b in enumerate(r.bad)]


def operands(record: Record, number: int) -> tuple[Array, ...]:
    return record.samples[number].arrays(f"{record.name}-{number}")


def expected(record: Record, number: int, arrays: tuple[Array, ...]) -> Array:
    result = record.reference(*map(torch.from_numpy, map(np.asarray, arrays)), **record.samples[number].attributes)
    return result.numpy() if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize(("record", "number"), SAMPLES)
def test_reference_agrees_with_independent_formula(record: Record, number: int) -> None:
    arrays = operands(record, number)
    actual = on_reference(record.name, arrays, record.samples[number].attributes)
    wanted = expected(record, number, arrays)
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    assert largest_error(actual, wanted) <= record.tolerance


@pytest.mark.parametrize(("name", "case"), REFUSALS)
def test_bad_operands_are_refused_with_numbers(name: str, case: Bad) -> None:
    types = [TensorType(DType.F32, tuple(map(IntExpr.constant, shape))) for shape in case.shapes]
    with pytest.raises(MercerError) as refused:
        LIBRARY.instantiate(name, types, case.attributes, NOWHERE)
    assert case.message in str(refused.value)


def test_every_operator_has_a_record() -> None:
    recorded = [record.name for record in RECORDS]
    assert sorted(recorded) == sorted(LIBRARY.operators())
