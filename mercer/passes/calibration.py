"""Data that approximations are fitted on and judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from mercer.ir.analysis import live
from mercer.ir.evaluate import bind_dims, evaluate
from mercer.ir.graph import Graph, Value
from mercer.ir.integers import Dim
from mercer.ir.library import Library
from mercer.ir.lower import lower
from mercer.ir.types import Array, DType

SYMBOLIC_EXTENT = 16
"""Of every symbolic dim, when there is no data."""


@dataclass(frozen=True)
class Calibration:
    """A batch of inputs of a graph, and what the reference computes on it in f64.

    Without `data` the inputs are standard normal (integers: 0 to 3) and every symbolic dim is SYMBOLIC_EXTENT. Raises
    EvaluationError, when something is computed, for data that do not fit the inputs.
    """

    graph: Graph
    library: Library
    data: Mapping[str, Array] | None = None
    weights: Mapping[str, Array] | None = None
    seed: int = 0
    _known: dict[str, Array] = field(default_factory=dict[str, Array], init=False, repr=False, compare=False)

    @property
    def given(self) -> bool:
        """Whether the data are the user's."""
        return self.data is not None

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """Arrays for the inputs of the graph, by name."""
        if self.data is not None:
            return {name: np.asarray(array) for name, array in self.data.items()}
        random = np.random.default_rng(self.seed)
        return {value.name: _draw(value, random) for value in self.graph.inputs}

    @cached_property
    def dims(self) -> dict[str, int]:
        """The symbolic dims of these inputs."""
        return bind_dims((v, self.inputs[v.name].shape) for v in self.graph.inputs if v.name in self.inputs)

    def outputs(self, graph: Graph) -> tuple[Array, ...]:
        """What `graph`, which has the same inputs, gives."""
        return evaluate(lower(graph, self.library), self.inputs, self.weights or {}, DType.F64)

    def value(self, name: str) -> Array:
        """What the graph computes under this name."""
        if name not in self._known:
            (self._known[name],) = self.outputs(live(replace(self.graph, outputs=(name,))))
        return self._known[name]

    @cached_property
    def halves(self) -> tuple[Calibration, Calibration] | None:
        """The even samples, to fit on, and the odd ones, to judge by.

        Samples lie along the symbolic first axis that inputs have in common; other inputs belong to every sample. None
        when there is no such axis, when its extent is less than 2, or when it appears in another place as well.
        """
        extents = {value.name: value.type.shape for value in self.graph.inputs}
        first = {shape[0] for shape in extents.values() if shape and isinstance(shape[0].single, Dim)}
        if len(first) != 1:
            return None
        (batch,) = first
        (dim,) = batch.dims()
        others = [extent for shape in extents.values() for extent in (shape[1:] if shape[:1] == (batch,) else shape)]
        if self.dims.get(dim, 0) < 2 or any(dim in extent.dims() for extent in others):
            return None
        split = {name for name, shape in extents.items() if shape[:1] == (batch,)}
        even, odd = (
            {name: array[start::2] if name in split else array for name, array in self.inputs.items()}
            for start in (0, 1)
        )
        return replace(self, data=even), replace(self, data=odd)

    @property
    def judge(self) -> Calibration:
        """What errors are measured on: the odd samples, or all when they cannot be told apart."""
        return self.halves[1] if self.halves else self


def relative_error(before: Iterable[Array], after: Iterable[Array]) -> float:
    """The largest relative L2 error of an output; elements that are not finite before do not count."""
    return max((_relative(left, right) for left, right in zip(before, after, strict=True)), default=0.0)


def _relative(left: Array, right: Array) -> float:
    finite = np.isfinite(left)
    expected, actual = left[finite].astype(np.complex128), right[finite].astype(np.complex128)
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def _draw(value: Value, random: np.random.Generator) -> Array:
    dtype = value.type.dtype
    shape = tuple(int(extent.evaluate(lambda _: SYMBOLIC_EXTENT)) for extent in value.type.shape)
    if dtype is DType.BOOL or dtype.is_integer:
        return random.integers(0, 2 if dtype is DType.BOOL else 4, shape).astype(dtype.numpy)
    return random.standard_normal(shape).astype(dtype.numpy)
