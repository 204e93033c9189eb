"""Convolutions with a constant weight, as the factorizing passes read and build them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.types import DType
from mercer.passes.factorize.approximation import Matrix, known_array, stored
from mercer.passes.patterns import Match, NodePattern, node, value
from mercer.passes.rewrite import Builder, Refusal

SPATIAL = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
"""Operators, and how many spatial axes they have."""


def convolution(*operators: str) -> NodePattern:
    """One of these convolutions (none given: any) of a value `x` with a `weight`."""
    return node(operators or tuple(SPATIAL), value("x"), value("weight"))


@dataclass(frozen=True)
class Geometry:
    """Stride, pad and dilation, one of each per spatial axis."""

    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def only(self, *axes: int) -> Geometry:
        """The same along some spatial axes, and nothing along the others."""
        spatial = range(len(self.stride))
        return Geometry(
            tuple(self.stride[i] if i in axes else 1 for i in spatial),
            tuple(self.pad[i] if i in axes else 0 for i in spatial),
            tuple(self.dilation[i] if i in axes else 1 for i in spatial),
        )


@dataclass(frozen=True)
class Convolution:
    """A convolution node: weight[o, c/groups, window...] in f64, and how it moves over the input."""

    operator: str
    x: str
    weight: Matrix
    dtype: DType
    geometry: Geometry
    groups: int

    @staticmethod
    def of(match: Match) -> Convolution | Refusal:
        """What `convolution` has matched; a refusal says which of its numbers are not known."""
        weight = known_array(match, "weight")
        if isinstance(weight, Refusal):
            return weight
        return Convolution.over(match, match.root.operator, weight, match.type("weight").dtype)

    @staticmethod
    def over(match: Match, operator: str, weight: Matrix, dtype: DType) -> Convolution | Refusal:
        """The matched node as a convolution with a weight that is known otherwise."""
        geometry = geometry_of(match.root, SPATIAL[operator])
        groups = match.root.attribute("groups")
        if geometry is None or not isinstance(groups, int):
            return Refusal("stride, pad, dilation and groups are not all numbers")
        return Convolution(operator, match["x"], weight, dtype, geometry, groups)

    @property
    def window(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def build(
        self, build: Builder, x: str, weight: npt.NDArray[np.float64], geometry: Geometry, groups: int = 1
    ) -> str:
        """A convolution of the same operator with another weight."""
        attributes: dict[str, AttributeValue] = {
            "stride": geometry.stride,
            "pad": geometry.pad,
            "dilation": geometry.dilation,
            "groups": groups,
        }
        return build.node(self.operator, (x, build.constant(stored(weight, self.dtype), "weight")), attributes)

    def pointwise(self, build: Builder, x: str, matrix: Matrix, groups: int = 1) -> str:
        """A convolution with a window of one element; `matrix` is [o, c/groups]."""
        weight = matrix.reshape(*matrix.shape, *(1 for _ in self.window))
        return self.build(build, x, weight, self.geometry.only(), groups)


def geometry_of(convolved: Node, spatial: int | None = None) -> Geometry | None:
    """How a convolution node moves; None when its attributes are not numbers."""
    count = SPATIAL[convolved.operator] if spatial is None else spatial
    found = [_numbers(convolved.attribute(name), count) for name in ("stride", "pad", "dilation")]
    stride, pad, dilation = found
    return Geometry(stride, pad, dilation) if stride and pad and dilation else None


def _numbers(attribute: AttributeValue, count: int) -> tuple[int, ...] | None:
    items = attribute if isinstance(attribute, tuple) else (attribute,) * count
    numbers = tuple(item for item in items if isinstance(item, int))
    return numbers if len(numbers) == count else None
