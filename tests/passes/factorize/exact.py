"""Running exact passes: the reference before and after, and what the ledger says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph
from mercer.ir.lower import lower
from mercer.ir.types import Array, DType
from mercer.passes.calibration import relative_error
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import Program, run_passes
from mercer.passes.pipeline import parse
from tests.passes.conftest import read_model

ROUNDED = 1e-6
"""Relative L2 error that the rounding of new f32 constants may cause."""


@dataclass(frozen=True)
class Result:
    """Programs before and after the passes under test, and the entries that these wrote."""

    before: Program
    after: Program
    entries: tuple[LedgerEntry, ...]
    error: float
    outputs: tuple[tuple[Array, ...], tuple[Array, ...]]

    @property
    def fired(self) -> tuple[LedgerEntry, ...]:
        return tuple(entry for entry in self.entries if entry.fired)

    @property
    def reasons(self) -> str:
        """Why places were refused; nothing may have fired."""
        assert not self.fired and self.before == self.after
        return "; ".join(entry.reason or "" for entry in self.entries)

    @property
    def operators(self) -> list[str]:
        return [node.operator for node in self.graph.nodes]

    @property
    def graph(self) -> Graph:
        """The result of passes on the upper level."""
        assert isinstance(self.after, Graph)
        return self.after

    @property
    def saved(self) -> bool:
        """Whether every step that fired says that it costs no more than before."""
        costs = [(entry.cost_before, entry.cost_after) for entry in self.fired]
        return all(a is not None and b is not None and b.flops <= a.flops for a, b in costs)


def run(
    text: str,
    passes: str,
    weights: Mapping[str, Array] | None = None,
    sizes: Mapping[str, int] | None = None,
    prepare: str = "bind,fold",
    seed: int = 0,
) -> Result:
    """Run `prepare`, then the passes under test with every claim verified, and compare the outputs in f64.

    Weights that are not given are normal, squared where they are variances; inputs are normal, and symbolic dims 5
    where `sizes` does not say.
    """
    model = read_model(text)
    random = np.random.default_rng(seed)
    values = {p.name: random.normal(size=[d.value for d in p.type.shape]) for p in model.graph.parameters}
    values = {n: (v * v + 0.1 if n.endswith("running_var") else v).astype(np.float32) for n, v in values.items()}
    values |= {name: np.asarray(array, np.float32) for name, array in (weights or {}).items()}
    before = run_passes(model.graph, parse(prepare), model.context(values))
    context = model.context(values)
    after = run_passes(before, parse(passes), context)
    known = dict(sizes or {})
    shapes = {v.name: [int(d.evaluate(lambda a: known.get(str(a), 5))) for d in v.type.shape] for v in before.inputs}
    inputs = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nests = [lower(each, model.library) if isinstance(each, Graph) else each for each in (before, after)]
    left, right = (evaluate(each, inputs, values, DType.F64) for each in nests)
    error = relative_error(left, right)
    entries = tuple(entry for entry in context.ledger.entries if entry.pass_name != "fold")
    claim = Exactness.weakest(entry.exactness for entry in entries if entry.fired)
    assert error <= {Exactness.BIT: 0.0, Exactness.REAL: ROUNDED}[claim]
    return Result(before, after, entries, error, (left, right))
