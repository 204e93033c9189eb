"""How parameters start: deterministic values from a name and a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, TypeAlias

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Parameter
from mercer.ir.integers import IntExpr
from mercer.ir.types import Array
from mercer.runtime.errors import MercerError, nearest

Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = npt.NDArray[np.floating]


class InitializerError(MercerError):
    """An initializer that does not exist, lacks an attribute or does not fit the shape of its parameter."""


@dataclass(frozen=True)
class Rule:
    """An initializer: `attributes` with defaults (None: required) and `fill(generator, shape, *attributes)` in f64."""

    attributes: dict[str, float | None]
    fill: Callable[Concatenate[np.random.Generator, Shape, ...], Floats]


def initialize(parameter: Parameter, seed: int = 0) -> Array:
    """The first value of a parameter, in its shape and element type.

    It depends on the name, the initializer, the shape and the seed only: the random stream is Philox, keyed by the
    SHA-256 of `seed:name`. Raises InitializerError when the initializer does not exist or does not fit.
    """
    rule, attributes = INITIALIZERS.get(parameter.initializer.name), dict(parameter.initializer.attributes)
    where = f"parameter {parameter.name}: {parameter.initializer.name}"
    if rule is None:
        close = nearest(parameter.initializer.name, INITIALIZERS)
        raise InitializerError(f"{where} is not an initializer", f"did you mean {close}?" if close else None)
    if unknown := attributes.keys() - rule.attributes.keys():
        known = ", ".join(rule.attributes) or "none"
        raise InitializerError(f"{where} has no attribute {min(unknown)}", f"its attributes: {known}")
    arguments: list[float] = []
    for name, default in rule.attributes.items():
        value = attributes.get(name, default)
        if isinstance(value, IntExpr) and value.is_constant:
            value = value.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InitializerError(f"{where} needs a number for {name}, got {value}")
        arguments.append(value)
    if any(not extent.is_constant for extent in parameter.type.shape):
        raise InitializerError(f"{where} needs a fixed shape, got {parameter.type}")
    shape = tuple(extent.value for extent in parameter.type.shape)
    key = hashlib.sha256(f"{seed}:{parameter.name}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    try:
        values = rule.fill(generator, shape, *arguments)
    except ValueError as error:
        raise InitializerError(f"{where} {error}") from error
    return values.astype(parameter.type.dtype.numpy)


def _constant(_: np.random.Generator, shape: Shape, value: float) -> Floats:
    return np.full(shape, value, np.float64)


def _uniform(generator: np.random.Generator, shape: Shape, low: float, high: float) -> Floats:
    return low + (high - low) * generator.random(shape)


def _normal(generator: np.random.Generator, shape: Shape, mean: float, std: float) -> Floats:
    return mean + std * generator.standard_normal(shape)


def _kaiming_uniform(generator: np.random.Generator, shape: Shape, fan_in: float, a: float) -> Floats:
    """He et al. 2015, eq. 15, for a leaky ReLU of slope `a`: variance 2 / ((1 + a^2) fan_in)."""
    bound = math.sqrt(6 / ((1 + a * a) * max(fan_in, 1)))
    return _uniform(generator, shape, -bound, bound)


def _kaiming_normal(generator: np.random.Generator, shape: Shape, fan_in: float, a: float) -> Floats:
    """He et al. 2015, eq. 15."""
    return _normal(generator, shape, 0.0, math.sqrt(2 / ((1 + a * a) * max(fan_in, 1))))


def _xavier_uniform(generator: np.random.Generator, shape: Shape, fan_in: float, fan_out: float) -> Floats:
    """Glorot and Bengio 2010, eq. 16."""
    bound = math.sqrt(6 / max(fan_in + fan_out, 1))
    return _uniform(generator, shape, -bound, bound)


def _xavier_normal(generator: np.random.Generator, shape: Shape, fan_in: float, fan_out: float) -> Floats:
    """Glorot and Bengio 2010, eq. 12."""
    return _normal(generator, shape, 0.0, math.sqrt(2 / max(fan_in + fan_out, 1)))


def _eye(_: np.random.Generator, shape: Shape) -> Floats:
    if len(shape) != 2:
        raise ValueError(f"needs a matrix, got the shape {list(shape)}")
    return np.eye(*shape)


def _linspace(_: np.random.Generator, shape: Shape, start: float, stop: float) -> Floats:
    """Evenly spaced along the last axis, both ends included."""
    if not shape:
        raise ValueError("needs at least one axis")
    return np.broadcast_to(np.linspace(start, stop, shape[-1]), shape)


def _arange(_: np.random.Generator, shape: Shape, start: float, step: float) -> Floats:
    """`start + i * step` along the last axis."""
    if not shape:
        raise ValueError("needs at least one axis")
    return np.broadcast_to(start + step * np.arange(shape[-1]), shape)


INITIALIZERS: dict[str, Rule] = {
    "zeros": Rule({}, lambda generator, shape: _constant(generator, shape, 0.0)),
    "ones": Rule({}, lambda generator, shape: _constant(generator, shape, 1.0)),
    "constant": Rule({"value": None}, _constant),
    "uniform": Rule({"low": 0.0, "high": 1.0}, _uniform),
    "normal": Rule({"mean": 0.0, "std": 1.0}, _normal),
    "kaiming_uniform": Rule({"fan_in": None, "a": math.sqrt(5)}, _kaiming_uniform),
    "kaiming_normal": Rule({"fan_in": None, "a": 0.0}, _kaiming_normal),
    "xavier_uniform": Rule({"fan_in": None, "fan_out": None}, _xavier_uniform),
    "xavier_normal": Rule({"fan_in": None, "fan_out": None}, _xavier_normal),
    "eye": Rule({}, _eye),
    "arange": Rule({"start": 0.0, "step": 1.0}, _arange),
    "linspace": Rule({"start": None, "stop": None}, _linspace),
}
"""Every initializer by name. With a = sqrt(5) `kaiming_uniform` is what PyTorch gives Linear and Conv weights."""
