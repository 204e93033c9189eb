"""Every operator of the standard library against an independent formula, on every backend."""

from __future__ import annotations

import itertools

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
    names = itertools.cycle(case.dtypes.split())
    types = [TensorType(DType(next(names)), tuple(map(IntExpr.constant, shape))) for shape in case.shapes]
    with pytest.raises(MercerError) as refused:
        LIBRARY.instantiate(name, types, case.attributes, NOWHERE)
    assert case.message in str(refused.value)


BATCHED = {
    1: "relu gelu softmax bias_add linear flatten transpose conv1d conv2d conv3d conv_transpose2d flex_conv2d "
    "batch_norm layer_norm group_norm instance_norm rms_norm max_pool2d avg_pool2d adaptive_avg_pool2d "
    "adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d pad pixel_shuffle kernel_machine kernel_matrix "
    "random_fourier_features rbf_field kan_linear embedding",
    2: "add concat grid_sample deform_unfold deform_conv2d_v1",
    3: "attention deform_conv2d where",
}
"""Operators whose first operands share a batch in front, by the number of these operands."""


@pytest.mark.parametrize(
    ("count", "name"), [(count, name) for count, names in BATCHED.items() for name in names.split()]
)
def test_symbolic_batch(count: int, name: str) -> None:
    """The first sample with a symbolic batch has the same result, and a shape that begins with it."""
    record = next(r for r in RECORDS if r.name == name)
    attributes, arrays = record.samples[0].attributes, operands(record, 0)
    if name in ("add", "where", "concat"):  # broadcasting and other axes would hide the batch
        shape, attributes = (3, 2), {"axis": 1} if name == "concat" else {}
        arrays = tuple(np.resize(a, shape) for a in arrays)
    batch = IntExpr.dim("N")
    types = [TensorType.of(a) for a in arrays]
    types[:count] = [TensorType(t.dtype, (batch, *t.shape[1:])) for t in types[:count]]
    instance = LIBRARY.instantiate(name, types, attributes, NOWHERE)
    concrete = LIBRARY.instantiate(name, [TensorType.of(a) for a in arrays], attributes, NOWHERE)
    assert instance.results[0].shape == (batch, *concrete.results[0].shape[1:])
    assert np.array_equal(on_reference(name, arrays, attributes, types), on_reference(name, arrays, attributes))


def test_every_operator_has_a_record() -> None:
    recorded = [record.name for record in RECORDS]
    assert sorted(recorded) == sorted(LIBRARY.operators())


def test_planted_faults_are_caught() -> None:
    """A wrong digit, a NaN, an infinity, a wrong shape, and a wrong operator."""
    right = np.linspace(-1.0, 1.0, 12).reshape(3, 4)
    for fault in (1e-8, np.nan, np.inf):
        wrong = right.copy()
        wrong[1, 2] += fault
        assert largest_error(wrong, right) > 1e-9
    assert largest_error(right.T, right) > 1e-9
    record = next(r for r in RECORDS if r.name == "trunc")
    arrays = operands(record, 0)
    assert largest_error(on_reference("floor", arrays, {}), expected(record, 0, arrays)) > record.tolerance
