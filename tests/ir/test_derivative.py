"""The gradient of every operator against PyTorch's, and of every scalar function against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from mercer.frontend.library import load
from mercer.ir.derivative import gradient
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Value
from mercer.ir.index import FUNCTIONS
from mercer.ir.integers import IntExpr
from mercer.ir.library import Instance
from mercer.ir.nests import Nests
from mercer.ir.partials import PARTIALS
from mercer.ir.printer import print_statement
from mercer.ir.reverse import DerivativeError
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


TWICE = (
    "pow gelu softmax logsumexp prod norm matmul conv2d conv_transpose2d layer_norm group_norm max_pool2d attention "
    "kan_linear grid_sample deform_conv2d embedding cumprod cholesky selective_scan scatter_add fft_conv"
)


@pytest.mark.parametrize("record", [r for r in RECORDS if r.name in TWICE.split()], ids=lambda r: r.name)
def test_second_derivative(record: Record) -> None:
    """The gradient of the gradient, along two directions, against differences of the gradient."""
    sample = record.samples[0]
    arrays = sample.arrays(f"{record.name}-0")
    types = [TensorType.of(np.asarray(a)) for a in arrays]
    position = next(k for k, t in enumerate(types) if t.dtype.is_float and k not in record.fixed)
    instance = LIBRARY.instantiate(record.name, types, sample.attributes, NOWHERE)
    rng = np.random.default_rng(2)
    cotangent = rng.standard_normal(run(instance, types, arrays).shape)
    a, b = (rng.standard_normal(arrays[position].shape) for _ in range(2))
    first = gradient(record.name, instance, types, position, 0, instance.results[0])
    inner = [*types, instance.results[0]]
    second = gradient(record.name, first, inner, position, 0, first.results[0])
    found = run(second, [*inner, first.results[0]], [*arrays, cotangent, a])

    def along(x: Array) -> Array:
        return run(first, inner, [*(x if k == position else v for k, v in enumerate(arrays)), cotangent])

    wanted = np.vdot(a, slope(along, arrays[position], b))
    scale = max(abs(wanted), np.abs(found).max(initial=0.0), 1e-3)
    assert abs(np.vdot(found, b) - wanted) <= (1e-2 if "fft" in record.name else 1e-6) * scale


def test_every_function_has_a_rule() -> None:
    assert PARTIALS.keys() == FUNCTIONS.keys()


def statements(operator: str, shapes: Sequence[tuple[int, ...]], wrt: int, **attributes: object) -> list[str]:
    """The text of the gradient's statements."""
    types = [TensorType(DType.F32, tuple(map(IntExpr.constant, shape))) for shape in shapes]
    instance = LIBRARY.instantiate(operator, types, attributes, NOWHERE)  # type: ignore[arg-type]
    made = gradient(operator, instance, types, wrt, 0, instance.results[0])
    return [" ".join(print_statement(s, ()).split()) for s in made.statements]


@pytest.mark.parametrize(
    ("operator", "shapes", "wrt", "attributes", "expected"),
    [
        ("sin", [(3, 4)], 0, {}, "%x.grad[i0 < 3, i1 < 4]: f32 = %cotangent[i0, i1] * cos(%x[i0, i1])"),
        ("relu", [(3,)], 0, {}, "%x.grad[i0 < 3]: f32 = where(%x[i0] > 0.0, %cotangent[i0], 0.0)"),
        ("add", [(3, 4), (4,)], 1, {}, "%b.grad[i0 < 4]: f32 = sum[i_0 < 3](%cotangent[i_0, i0])"),
        (
            "matmul",
            [(3, 4), (4, 5)],
            0,
            {},
            "%a.grad[i0 < 3, i1 < 4]: f32 = sum[n < 5](%cotangent[i0, n] * %b[i1, n])",
        ),
        (
            "conv_transpose1d",
            [(2, 4, 8), (4, 6, 3)],
            0,
            {"stride": 2, "pad": 1},
            (
                "%x.grad[i0 < 2, i1 < 4, i2 < 8]: f32 = "
                "sum[o < 6, i < 3](%cotangent[i0, o, i + 2*i2 - 1; pad = 0.0] * %weight[i1, o, i])"
            ),
        ),
        (
            "conv1d",
            [(2, 4, 8), (6, 2, 3)],
            0,
            {"stride": 2, "pad": 1, "groups": 2},
            (
                "%x.grad[i0 < 2, i1 < 4, i2 < 8]: f32 = sum[i < 3, r0 < 3](where([(-i + i2 + 1)%2] == [0], "
                "%cotangent[i0, 3*(i1/2) + r0, (-i + i2 + 1)/2; pad = 0.0], 0.0) * %weight[3*(i1/2) + r0, i1%2, i])"
            ),
        ),
        (
            "conv1d",
            [(2, 4, 8), (6, 2, 3)],
            1,
            {"groups": 2},
            (
                "%weight.grad[i0 < 6, i1 < 2, i2 < 3]: f32 = "
                "sum[n < 2, p < 6](%cotangent[n, i0, p] * %x[n, 2*(i0/3) + i1, i2 + p; pad = 0.0])"
            ),
        ),
        (
            "upsample_nearest2d",
            [(1, 1, 2, 2)],
            0,
            {"scale": 2},
            (
                "%x.grad[i0 < 1, i1 < 1, i2 < 2, i3 < 2]: f32 = "
                "sum[r0 < 2, r1 < 2](%cotangent[i0, i1, 2*i2 + r0, 2*i3 + r1])"
            ),
        ),
        ("flatten", [(2, 3, 4)], 0, {}, "%cotangent.reshape: f32[2, 3, 4] = reshape(%cotangent)"),
        ("floor", [(3,)], 0, {}, "%x.grad[i0 < 3]: f32 = 0.0"),
    ],
)
def test_no_loop_is_left_that_the_position_decides(
    operator: str, shapes: list[tuple[int, ...]], wrt: int, attributes: dict[str, object], expected: str
) -> None:
    assert statements(operator, shapes, wrt, **attributes) == [expected]


def test_computed_positions_are_added_up_row_by_row() -> None:
    types = [
        TensorType(DType.I32, (IntExpr.constant(6),)),
        TensorType(DType.F32, (IntExpr.constant(9), IntExpr.constant(4))),
    ]
    instance = LIBRARY.instantiate("embedding", types, {}, NOWHERE)
    made = gradient("embedding", instance, types, 1, 0, instance.results[0])
    assert [" ".join(print_statement(s, ()).split()) for s in made.statements] == [
        "%weight.rows[a_0 < 6]: i32 = [{cast:i32(%indices[a_0])}]",
        "%weight.values[a_0 < 6, i1 < 4]: f32 = %cotangent[a_0, i1]",
        "%weight.base[i0 < 9, i1 < 4]: f32 = 0.0",
        "%weight.added: f32[9, 4] = scatter_add(%weight.base, %weight.rows, %weight.values)",
    ]


@pytest.mark.parametrize(
    ("operator", "x", "expected"),
    [
        ("relu", [-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
        ("abs", [-2.0, 0.0, 3.0], [-1.0, 0.0, 1.0]),
        ("hardtanh", [-1.0, 0.5, 1.0], [0.0, 1.0, 0.0]),
        ("max", [1.0, 3.0, 3.0, 0.0], [0.0, 0.5, 0.5, 0.0]),
        ("prod", [2.0, 0.0, 3.0], [0.0, 6.0, 0.0]),
        ("prod", [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
        ("round", [0.4, 1.5], [0.0, 0.0]),
    ],
)
def test_where_derivatives_jump(operator: str, x: list[float], expected: list[float]) -> None:
    array = np.array(x)
    types = [TensorType.of(array)]
    instance = LIBRARY.instantiate(operator, types, {}, NOWHERE)
    made = gradient(operator, instance, types, 0, 0, instance.results[0])
    found = run(made, [*types, instance.results[0]], [array, np.ones(run(instance, types, [array]).shape)])
    assert found.tolist() == expected


def test_a_branch_that_is_not_taken_passes_nothing_on() -> None:
    """sqrt has the derivative inf at 0; where(x > 0, sqrt(x), 0) has 0 there, not NaN."""
    text = "op positive_root(x: T[n]) -> T[n] { return y[n] = where(x[n] > 0, sqrt(x[n]), 0) }"
    library = LIBRARY.extended(load(text, "positive_root.mer").definitions)
    types = [TensorType.of(np.zeros(2))]
    instance = library.instantiate("positive_root", types, {}, NOWHERE)
    made = gradient("positive_root", instance, types, 0, 0, types[0])
    assert run(made, [*types, *types], [np.array([0.0, 4.0]), np.ones(2)]).tolist() == [0.0, 0.25]


def test_what_has_no_derivative_is_refused() -> None:
    types = [TensorType.of(np.zeros((2, 3)))]
    instance = LIBRARY.instantiate("argmax", types, {}, NOWHERE)
    with pytest.raises(DerivativeError, match=r"`argmax` has no derivative here: its result is i32\[2\]"):
        gradient("argmax", instance, types, 0, 0, types[0])
    text = """op positive_root(x: T[n]) -> T[n] {
      iterate k < 9 { carry r[n] = x[n]
        r[n] = 0.5*(r[n] + x[n]/r[n])
        until all[n] (abs(r[n]*r[n] - x[n]) < 1e-9) }
      return r
    }"""
    library = LIBRARY.extended(load(text, "positive_root.mer").definitions)
    types = [TensorType.of(np.ones(2))]
    instance = library.instantiate("positive_root", types, {}, NOWHERE)
    with pytest.raises(DerivativeError, match="its `iterate` may end after any step"):
        gradient("positive_root", instance, types, 0, 0, types[0])
