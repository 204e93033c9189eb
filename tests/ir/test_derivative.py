"""The gradient of every operator against PyTorch's, and of every scalar function against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from mercer.ir.derivative import gradient
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Value
from mercer.ir.library import Instance
from mercer.ir.nests import Nests
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType, TensorType
from mercer.ir.verify import verify
from tests.operators.records import RECORDS, Record
from tests.operators.records.record import Array
from tests.operators.run import LIBRARY, largest_error

REFERENCES = {"complex_power": lambda z, n: z**n}
"""In PyTorch, where the record has another."""

SAMPLES = [pytest.param(r, i, id=f"{r.name}-{i}") for r in RECORDS for i in range(len(r.samples)) if r.differentiable]


def program(instance: Instance, types: Sequence[TensorType]) -> Nests:
    inputs = tuple(map(Value, instance.operands, types))
    nests = Nests("Gradient", inputs, (), instance.constants, instance.statements, instance.outputs)
    verify(nests)
    return nests


def run(instance: Instance, types: Sequence[TensorType], arrays: Sequence[Array]) -> Array:
    given = dict(zip(instance.operands, arrays, strict=True))
    return evaluate(program(instance, types), given, precision=DType.F64)[0]


def slope(f: Callable[[Array], Array], x: Array, direction: Array, step: float = 1e-5) -> Array:
    """The derivative of f at x along a direction, by central differences."""
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


@pytest.mark.parametrize(("record", "number"), SAMPLES)
def test_operator(record: Record, number: int) -> None:
    sample = record.samples[number]
    arrays = sample.arrays(f"{record.name}-{number}")
    types = [TensorType.of(np.asarray(a)) for a in arrays]
    instance = LIBRARY.instantiate(record.name, types, sample.attributes, NOWHERE)
    forward = run(instance, types, arrays)
    rng = np.random.default_rng(1)
    cotangent = rng.standard_normal(forward.shape)
    if forward.dtype.kind == "c":
        cotangent = cotangent + 1j * rng.standard_normal(forward.shape)
    real = [k for k, t in enumerate(types) if t.dtype.rounds and k not in record.fixed]
    tensors = [torch.tensor(a, requires_grad=k in real) for k, a in enumerate(arrays)]
    reference = REFERENCES.get(record.name, record.reference)
    try:
        result = reference(*tensors, **sample.attributes)
    except RuntimeError:  # the reference takes NumPy arrays
        result = None
    if isinstance(result, torch.Tensor) and result.requires_grad:
        result.backward(torch.from_numpy(cotangent).to(result.dtype))
    for position in real:
        made = gradient(record.name, instance, types, position, 0, instance.results[0])
        found = run(made, [*types, instance.results[0]], [*arrays, cotangent])
        if isinstance(result, torch.Tensor) and tensors[position].grad is not None:
            wanted, tolerance = tensors[position].grad.numpy(), record.gradient_tolerance
            if "c" in (forward.dtype.kind, wanted.dtype.kind):
                tolerance = max(tolerance, 1e-6)  # c64 stays c64
        else:
            direction = rng.standard_normal(arrays[position].shape)

            def along(x: Array, position: int = position) -> Array:
                return run(instance, types, [x if k == position else a for k, a in enumerate(arrays)])

            wanted = np.vdot(cotangent, slope(along, arrays[position], direction)).real
            found, tolerance = np.vdot(found, direction).real, 1e-6
        assert largest_error(np.asarray(found), np.asarray(wanted)) <= tolerance, position
