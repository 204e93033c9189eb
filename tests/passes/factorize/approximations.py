"""Running approximating passes, with what they claim measured again from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import default_library, load
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph, Node
from mercer.ir.initializers import initialize
from mercer.ir.lower import lower
from mercer.ir.types import Array, DType
from mercer.passes.bind import Bind
from mercer.passes.fold import Fold
from mercer.passes.ledger import Exactness, Ledger, LedgerEntry
from mercer.passes.manager import Pass, PassContext, run_passes


@dataclass(frozen=True)
class Result:
    """A graph before and after one pass, and what the pass wrote down."""

    before: Graph
    after: Graph
    ledger: Ledger
    outputs: tuple[Array, Array]
    """First outputs before and after, on the odd samples, in f64."""

    @property
    def error(self) -> float:
        """Measured from outside, of a pass that did something."""
        assert self.ledger.fired(), [entry.reason for entry in self.ledger.entries]
        left, right = self.outputs
        return float(np.linalg.norm(right - left) / np.linalg.norm(left))

    @property
    def fired(self) -> LedgerEntry:
        (entry,) = self.ledger.fired()
        return entry

    @property
    def reason(self) -> str:
        """Why the only place was refused."""
        (entry,) = self.ledger.entries
        assert not entry.fired and self.before == self.after
        return entry.reason or ""

    def nodes(self, operator: str) -> list[Node]:
        return [node for node in self.after.nodes if node.operator == operator]


def apply(
    text: str,
    each: Pass,
    x: Array | None,
    weights: Mapping[str, Array] | None = None,
    bind: bool = True,
    verify_each: bool = True,
) -> Result:
    """Run one pass on a model with the input `x`; the error that it writes down is that of the odd samples of x.

    Weights that are not given have their initial values.
    """
    loaded = load(text, "model.mer")
    library = default_library().extended(loaded.definitions)
    graph = elaborate(library, find_model(loaded.definitions, None, loaded.file), {})
    values = {p.name: initialize(p, 0) for p in graph.parameters} | dict(weights or {})
    data = None if x is None else {graph.inputs[0].name: x}
    context = PassContext(library, weights=values if bind else None, verify_each=verify_each, data=data)
    before = run_passes(graph, (Bind(), Fold()), PassContext(library, weights=values)) if bind else graph
    after = run_passes(before, (each,), context)
    assert isinstance(before, Graph) and isinstance(after, Graph)
    left, right = ((run(p, x, values, library) if x is not None else np.zeros(0)) for p in (before, after))
    result = Result(before, after, context.ledger, (left, right))
    for entry in context.ledger.fired():
        assert entry.cost_before and entry.cost_after
        assert entry.cost_after.flops < entry.cost_before.flops or entry.cost_before.flops <= 0  # dims count as 1
        assert entry.measured == (entry.exactness is Exactness.APPROX) == (entry.error is not None)
    if x is not None and len(context.ledger.fired()) == 1 and result.fired.error is not None:
        assert abs(result.fired.error - result.error) <= 1e-9 + 1e-9 * result.error
    return result


def run(graph: Graph, x: Array, values: Mapping[str, Array], library: object) -> Array:
    """The first output on the odd samples."""
    nests = lower(graph, library)  # type: ignore[arg-type]
    return evaluate(nests, {graph.inputs[0].name: x[1::2]}, values, DType.F64)[0]


def twice(x: Array) -> Array:
    """Every sample two times, so that the odd samples are all of them."""
    return np.repeat(x, 2, axis=0).astype(np.float32)
