from __future__ import annotations

import math

import numpy as np
import pytest

from mercer.ir.graph import AttributeValue, Initializer, Parameter
from mercer.ir.initializers import INITIALIZERS, InitializerError, initialize
from mercer.ir.integers import IntExpr
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array, DType, TensorType


def parameter(
    initializer: str, *shape: int, name: str = "w", dtype: DType = DType.F32, **attributes: AttributeValue
) -> Parameter:
    type = TensorType(dtype, tuple(map(IntExpr.constant, shape)))
    return Parameter(name, type, Initializer(initializer, tuple(attributes.items())), True, NOWHERE)


def values(initializer: str, *shape: int, **attributes: AttributeValue) -> Array:
    return initialize(parameter(initializer, *shape, **attributes))


def test_fixed_values() -> None:
    np.testing.assert_array_equal(values("zeros", 2, 3), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(values("ones", 2), np.ones(2, np.float32))
    np.testing.assert_array_equal(values("constant", 2, value=0.1), np.full(2, np.float32(0.1)))
    np.testing.assert_array_equal(values("eye", 3, 2), np.eye(3, 2))
    np.testing.assert_array_equal(values("linspace", 2, 3, start=-1, stop=1), [[-1, 0, 1], [-1, 0, 1]])
    np.testing.assert_array_equal(values("arange", 3), [0, 1, 2])
    assert values("zeros").shape == ()


@pytest.mark.parametrize(
    ("name", "attributes", "mean", "std"),
    [
        ("uniform", {"low": -1.0, "high": 3.0}, 1.0, 4 / math.sqrt(12)),
        ("normal", {"mean": 2.0, "std": 0.5}, 2.0, 0.5),
        ("kaiming_uniform", {"fan_in": 9}, 0.0, 1 / math.sqrt(3 * 9)),  # torch: U(-1/sqrt(fan_in), 1/sqrt(fan_in))
        ("kaiming_normal", {"fan_in": 9}, 0.0, math.sqrt(2 / 9)),
        ("xavier_uniform", {"fan_in": 5, "fan_out": 7}, 0.0, math.sqrt(2 / 12)),
        ("xavier_normal", {"fan_in": 5, "fan_out": 7}, 0.0, math.sqrt(2 / 12)),
    ],
)
def test_moments(name: str, attributes: dict[str, AttributeValue], mean: float, std: float) -> None:
    sample = values(name, 200, 200, **attributes).astype(np.float64)
    assert abs(sample.mean() - mean) < 5 * std / 200
    assert abs(sample.std() / std - 1) < 0.02
    if "uniform" in name:
        assert sample.max() <= mean + math.sqrt(3) * std * (1 + 1e-6)


def test_stream_depends_on_name_and_seed_only() -> None:
    first = initialize(parameter("normal", 4))
    np.testing.assert_array_equal(first, initialize(parameter("normal", 4)))
    assert not np.array_equal(first, initialize(parameter("normal", 4), seed=1))
    assert not np.array_equal(first, initialize(parameter("normal", 4, name="v")))
    # Pinned: a change of these numbers changes every model that is trained from a seed.
    np.testing.assert_allclose(first, PINNED, rtol=1e-6)


PINNED = [-1.3440340757369995, 0.680937647819519, 0.1523434817790985, -0.013360855169594288]


def test_element_type() -> None:
    for dtype in DType:
        assert initialize(parameter("arange", 3, dtype=dtype)).dtype == dtype.numpy


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (parameter("zeroes", 2), "parameter w: zeroes is not an initializer\nhint: did you mean zeros?"),
        (parameter("constant", 2), "needs a number for value"),
        (parameter("normal", 2, sigma=1.0), "no attribute sigma\nhint: its attributes: mean, std"),
        (parameter("eye", 2), "needs a matrix"),
        (parameter("constant", 2, value=True), "needs a number for value"),
    ],
)
def test_errors(bad: Parameter, message: str) -> None:
    with pytest.raises(InitializerError, match="(?s).*" + message):
        initialize(bad)


def test_symbolic_shape_is_refused() -> None:
    bad = Parameter("w", TensorType(DType.F32, (IntExpr.dim("N"),)), Initializer("zeros"), True, NOWHERE)
    with pytest.raises(InitializerError, match="needs a fixed shape"):
        initialize(bad)


def test_every_rule_has_attributes_that_it_takes() -> None:
    for name, rule in INITIALIZERS.items():
        attributes = {k: 1.0 for k, default in rule.attributes.items() if default is None}
        assert values(name, 3, 3, **attributes).shape == (3, 3)
