"""Bind weights to parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.ir.graph import Constant, Graph, Parameter
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import Level, Pass, PassContext
from mercer.runtime.errors import MercerError, nearest


class WeightError(MercerError):
    """Weights that do not fit the parameters of the model."""


@dataclass(frozen=True)
class Bind(Pass):
    """Parameters become constants with the values in `context.weights`.

    Needs a Graph; without weights it stays as it is. Class: bit. Raises WeightError that lists every missing, extra,
    mis-shaped or mistyped weight. A weight with NaN or infinite elements is a warning in the ledger.
    """

    name: ClassVar[str] = "bind"
    level: ClassVar[Level] = Level.GRAPH

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        if context.weights is None:
            return graph
        weights = {name: np.asarray(array) for name, array in context.weights.items()}
        check_weights(graph.parameters, weights)
        for parameter in graph.parameters:
            self._record(parameter, weights[parameter.name], context)
        bound = tuple(Constant(p.name, p.type, Data(weights[p.name])) for p in graph.parameters)
        return replace(graph, parameters=(), constants=(*bound, *graph.constants))

    def _record(self, parameter: Parameter, array: Array, context: PassContext) -> None:
        if parameter.type.dtype.is_float and not (finite := np.isfinite(array)).all():
            count = int(finite.size - np.count_nonzero(finite))
            context.ledger.warn(self.name, parameter.name, f"{count} of {finite.size} elements are not finite")
        context.record(
            LedgerEntry(self.name, "bind", parameter.name, "parameter", parameter.span, Exactness.BIT, fired=True)
        )


def check_weights(parameters: tuple[Parameter, ...], weights: Mapping[str, Array]) -> None:
    """Raise WeightError unless there is exactly one array of the right shape and element type for every parameter."""
    declared = {p.name: p.type for p in parameters}
    missing = [name for name in declared if name not in weights]
    extra = [name for name in weights if name not in declared]
    problems = [f"missing `{name}` ({declared[name]})" for name in missing]
    problems += [f"extra `{name}`" for name in extra]
    problems += [_misfit(name, kind, weights[name]) for name, kind in declared.items() if name in weights]
    problems = [problem for problem in problems if problem]
    if not problems:
        return
    pairs = [(name, nearest(name, missing) or nearest(name, declared)) for name in extra]
    close = [f"`{name}` may be `{near}`" for name, near in pairs if near]
    shown = problems[:8] + ([f"{len(problems) - 8} more"] if len(problems) > 8 else [])
    hint = "; ".join(close[:8]) if close else "the names are those of `state_dict` of the generated torch module"
    raise WeightError(f"the weights do not fit the model: {'; '.join(shown)}", hint)


def _misfit(name: str, kind: TensorType, array: Array) -> str:
    """What is wrong with an array, or an empty string."""
    try:
        actual = DType.of(array)
    except KeyError:
        return f"`{name}` has the element type {array.dtype}, which Mercer does not know"
    fits = len(array.shape) == kind.rank and all(
        not declared.is_constant or declared.value == size
        for declared, size in zip(kind.shape, array.shape, strict=True)
    )
    if fits and actual.numpy == kind.dtype.numpy:
        return ""
    return f"`{name}` is {actual}{list(array.shape)}, expected {kind}"
