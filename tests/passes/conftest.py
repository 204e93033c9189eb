"""Programs for tests of passes: written in the language, compiled to a Graph with the standard library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import default_library, load
from mercer.ir.graph import Graph
from mercer.ir.library import Library
from mercer.ir.nests import Nests
from mercer.ir.types import Array
from mercer.passes.ledger import LedgerEntry
from mercer.passes.manager import PassContext, Program, run_passes
from mercer.passes.pipeline import parse


@dataclass(frozen=True)
class Model:
    """A program with what is needed to run passes on it."""

    graph: Graph
    library: Library

    def weights(self, seed: int = 0) -> dict[str, Array]:
        """Values for every parameter; all are positive, so that they also do as variances."""
        random = np.random.default_rng(seed)
        shapes = {p.name: (p.type.dtype, [dim.value for dim in p.type.shape]) for p in self.graph.parameters}
        return {name: random.uniform(0.25, 2.0, shape).astype(dtype.numpy) for name, (dtype, shape) in shapes.items()}

    def context(self, weights: Mapping[str, Array] | None = None, verify_each: bool = True) -> PassContext:
        return PassContext(self.library, weights=weights, verify_each=verify_each)

    def run(self, pipeline: str, context: PassContext | None = None) -> Program:
        """The program after a pipeline, with every claim checked; weights are bound unless a context is given."""
        return run_passes(self.graph, parse(pipeline), context or self.context(self.weights()))

    def nests(self, pipeline: str, context: PassContext | None = None) -> Nests:
        result = self.run(pipeline, context)
        assert isinstance(result, Nests)
        return result

    def changed(self, pipeline: str, context: PassContext | None = None) -> Graph:
        result = self.run(pipeline, context)
        assert isinstance(result, Graph)
        return result


@pytest.fixture
def model() -> Callable[..., Model]:
    """From the text of a file with one model."""
    return read_model


def read_model(text: str, name: str = "model.mer") -> Model:
    loaded = load(text, name)
    library = default_library().extended(loaded.definitions)
    return Model(elaborate(library, find_model(loaded.definitions, None, loaded.file), {}), library)


@pytest.fixture
def refusals() -> Callable[[PassContext], dict[str, LedgerEntry]]:
    """The refused entries of a context, by rewrite and node."""
    return lambda context: {f"{entry.rewrite} {entry.node}": entry for entry in context.ledger.refused()}
