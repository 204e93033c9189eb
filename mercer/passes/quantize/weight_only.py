"""Weights of four bits, as indices into a table of numbers, while what they are multiplied with stays real."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Graph, Node
from mercer.passes.calibration import Calibration, relative_error
from mercer.passes.factorize.approximation import Matrix, one_of
from mercer.passes.factorize.contractions import known
from mercer.passes.ledger import Exactness
from mercer.passes.manager import Level, Pass, PassContext, PipelineError
from mercer.passes.patterns import Match, any_node
from mercer.passes.quantize.code_books import CODES, in_pairs
from mercer.passes.quantize.ranges import Codes
from mercer.passes.quantize.rotate import is_rotation
from mercer.passes.quantize.rounding import ROUNDINGS, rounded, seen
from mercer.passes.quantize.translation import Options
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite, apply_rewrites

_WEIGHTS = {
    "linear": 1,
    "matmul": 1,
    **{f"conv{n}d": 1 for n in (1, 2, 3)},
    "deform_conv2d_v1": 2,
    "deform_conv2d": 3,
}
"""Linear maps, and which operand is the weight."""


@dataclass(frozen=True)
class WeightOnly(Pass):
    """A constant weight becomes codes of four bits, two in a byte, a table of up to 16 numbers and a scale per output.

    `bits` (2 to 4), `codes` and `rounding` are as in `quantize`. Codes in pairs are points of the plane: an index of
    one takes a half byte with two bits, a byte with three or four. A rotation keeps its codes, and weights with less
    than `least` elements stay. Nothing else is rounded. What is stored is an eighth of f32, for pairs of two bits a
    sixteenth; the weight is computed from it each time that it is read.
    Needs a Graph after `bind` and `fold`, right before `lower`, and data for `gptq` (else standard normal inputs).
    Class: approx, measured.
    """

    name: ClassVar[str] = "weight_only"
    level: ClassVar[Level] = Level.GRAPH
    source: ClassVar[str] = "Frantar et al. 2023, GPTQ; Yvinec et al. 2023, NUPES; Malinovskii et al. 2025, HIGGS"
    bits: int = 4
    codes: str = "power"
    rounding: str = "gptq"
    least: int = 256

    def __post_init__(self) -> None:
        one_of(self, "codes", CODES)
        one_of(self, "rounding", ROUNDINGS)
        if not 2 <= self.bits <= 4:
            raise PipelineError(f"the option `bits` of `weight_only` is {self.bits}", "2 to 4")

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        calibration = Calibration(graph, context.library, context.data, context.weights)
        done: set[str] = set()

        def function(match: Match, build: Builder) -> Outcome:
            if match.root.name in done:
                return None
            outcome = self._stored(match, build, calibration)
            if isinstance(outcome, str):
                done.add(match.root.name)
            return outcome

        rewrite = Rewrite("table", any_node(*_WEIGHTS), function, Exactness.APPROX)
        outcome = apply_rewrites(graph, (rewrite,), context.library, self.name)
        context.statistics.update(outcome.statistics)
        fired = [entry for entry in outcome.entries if entry.fired]
        judge = calibration.judge
        error = relative_error(judge.outputs(graph), judge.outputs(outcome.graph)) if fired else 0.0
        for entry in outcome.entries:
            share = error if fired and entry is fired[-1] else 0.0
            context.ledger.add(replace(entry, error=share, measured=True) if entry.fired else entry)
        return outcome.graph

    def _stored(self, match: Match, build: Builder, calibration: Calibration) -> Outcome:
        root = match.root
        place = _WEIGHTS[root.operator]
        weight = known(root.operands[place], match.scope)
        if weight is None or (root.operator == "matmul" and weight.ndim != 2):
            return None
        if weight.size < self.least:
            return Refusal(f"its weight has {weight.size} elements, less than {self.least}")
        inputs = [calibration.value(name).astype(np.float64) for name in root.operands[:place]]
        rows = seen(build.library, root, inputs, weight.shape)
        assert rows is not None
        aligned = weight.T if root.operator == "matmul" else weight
        kind = "ternary" if is_rotation(weight) else self.codes
        options = Options(self.bits, 8, "mse", 100.0, True, False, 10, self.rounding, kind)
        codes, scales = rounded(options, aligned.reshape(len(rows), -1, rows.shape[2]), rows)
        pairs = in_pairs(kind, self.bits, rows.shape[2])
        return _decoded(root, place, codes, scales, weight, pairs, build)


def _decoded(root: Node, place: int, codes: Codes, scales: Matrix, weight: Matrix, pairs: bool, build: Builder) -> str:
    """The node with a weight that is looked up and scaled."""
    flat = codes.reshape(len(scales), -1)
    y = _from_points(flat, build) if pairs else _from_levels(flat, build)
    y = build.node("dequantize_channels", (y, build.constant(scales[:, None].astype(np.float32), "scale")))
    if root.operator == "matmul":
        y = build.node("transpose", (y,))
    elif weight.ndim > 2:
        y = build.node("reshape", (y,), {"shape": weight.shape})
    operands = [y if position == place else name for position, name in enumerate(root.operands)]
    return build.node(root.operator, operands, dict(root.attributes))


def _from_levels(codes: Codes, build: Builder) -> str:
    """Codes[o, k] as half bytes, which are looked up in a table of at most 16."""
    levels, index = np.unique(codes, return_inverse=True)
    return _half_bytes(index.reshape(codes.shape), [levels], build)[0]


def _from_points(codes: Codes, build: Builder) -> str:
    """Codes[o, k] as indices of points, half bytes or bytes, which are looked up in a table for each coordinate."""
    rows = codes.reshape(len(codes), 2, -1).swapaxes(1, 2)
    points, index = np.unique(rows.reshape(-1, 2), axis=0, return_inverse=True)
    index = index.reshape(len(codes), -1)
    if len(points) <= 16:
        parts = _half_bytes(index, points.T, build)
    else:
        stored = build.constant((index - 128).astype(np.int8), "codes")
        tables = points.T.astype(np.int32)  # wider than the indices, which `fold` keeps then
        parts = [build.node("lookup", (stored, build.constant(table.copy(), "table"))) for table in tables]
    return build.node("concat", parts, {"axis": 1})


def _half_bytes(index: npt.NDArray[np.integer], tables: Iterable[Codes], build: Builder) -> list[str]:
    """What index[o, k], stored two in a byte, gives in each table."""
    pairs = np.pad(index.astype(np.uint8), ((0, 0), (0, index.shape[1] % 2))).reshape(len(index), -1, 2)
    packed = build.constant((pairs[..., 0] | pairs[..., 1] << 4).view(np.int8), "codes")
    found = [build.constant(np.ascontiguousarray(table), "table") for table in tables]
    return [build.node("unpack4", (packed, table), {"count": index.shape[1]}) for table in found]
