"""Rotations that spread outliers over all channels before they are quantized."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.ir.graph import Graph, Node
from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Matrix, stored
from mercer.passes.factorize.contractions import known, per_channel
from mercer.passes.ledger import Exactness
from mercer.passes.manager import PassContext, PipelineError, RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.quantize.learned_rotation import learned, noise, unchanged
from mercer.passes.quantize.ranges import encoding
from mercer.passes.quantize.translation import Form, Real, Sums, Translation
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

_WIDE = 1 << 15
"""What is rotated has sixteen bits, or the eight of an input."""
_ROWS = 1024
"""Samples that a rotation is learned on."""


@dataclass(frozen=True)
class Rotate(RewritePass):
    """W x becomes (W H^T) (H x) before a quantizer sees x, H a Hadamard matrix with random signs over its size.

    H x has no outliers, whatever x has. Where x is W1 z + b, H goes into W1 and b and costs nothing; elsewhere it is a
    `linear` with weights -1, 0 and 1, which `quantize` computes on integers that are finer than the codes. Channels are
    rotated in blocks of the largest power of two that divides them, at least `least` of them. With data, x is left
    alone when its largest element in units of its root mean square would not become less by the factor `gain`.

    With data and `steps`, what goes into W1 and b is learned from there in so many steps, as `Transform` has it: an
    orthogonal matrix and scales, for any number of channels. It is taken when the noise of codes becomes less by the
    factor `gain`. Needs a Graph after `bind` and `fold`. Class: real; weights are rotated in f64 and rounded once.
    """

    name: ClassVar[str] = "rotate"
    source: ClassVar[str] = "Ashkboos et al. 2024, QuaRot; Hu et al. 2025, OSTQuant"
    least: int = 16
    gain: float = 1.5
    seed: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise PipelineError(f"the option `steps` of `rotate` is {self.steps}", "0 or more")
        if self.least < 2:
            raise PipelineError(f"the option `least` of `rotate` is {self.least}", "2 or more")

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        places = {node.name: node.operands[0] for node in graph.nodes if node.operator in ("linear", "matmul")}
        gains: dict[str, float] = {}
        samples: dict[str, Matrix] = {}
        if context.data is not None:
            names = tuple(dict.fromkeys(places.values()))
            calibration = Calibration(graph, context.library, context.data, context.weights)
            arrays = calibration.outputs(replace(graph, outputs=names))
            values = {name: array.astype(np.float64) for name, array in zip(names, arrays, strict=True)}
            found = {name: self._gain(array) for name, array in values.items()}
            gains = {place: found[name] for place, name in places.items()}
            samples = {place: _thinned(values[name]) for place, name in places.items()}
        return _Rotation(self, set(places), gains, samples).on_graph(graph, context)

    def _gain(self, x: Matrix) -> float:
        """How much less the largest element is after the rotation."""
        matrix = rotation(x.shape[-1], self.least, self.seed)
        largest = float(np.abs(x).max(initial=0.0))
        if matrix is None or not largest:
            return 0.0
        return largest / float(np.abs(x @ matrix.T).max() / np.sqrt(_block(x.shape[-1])))


@dataclass(frozen=True)
class _Rotation(RewritePass):
    """The rewrites of one run: each of `places` is tried once; `gains` and `samples` of what is rotated are known with
    data. Class: real."""

    name: ClassVar[str] = Rotate.name
    options: Rotate
    places: set[str]
    gains: dict[str, float]
    samples: dict[str, Matrix]

    def rewrites(self) -> tuple[Rewrite, ...]:
        maps = any_node("linear", "matmul")
        learned = (Rewrite("learned", maps, self._learn, Exactness.REAL),) if self.options.steps else ()
        return (*learned, Rewrite("hadamard", maps, self._rotate, Exactness.REAL))

    def _rows(self, match: Match) -> Matrix | None:
        """The rows of the weight, where the input can be rotated and is not yet."""
        root, scope = match.root, match.scope
        weight = known(root.operands[1], scope)
        if root.name not in self.places or weight is None or weight.ndim != 2:
            return None
        feeder = scope.producer(root.operands[0])
        if is_rotation(weight) or (feeder is not None and _turns(feeder, scope)):
            return None
        return weight if root.operator == "linear" else weight.T

    def _rotate(self, match: Match, build: Builder) -> Outcome:
        root, rows = match.root, self._rows(match)
        if rows is None:
            return None
        self.places.remove(root.name)
        matrix = rotation(rows.shape[1], self.options.least, self.options.seed)
        if matrix is None:
            return Refusal(f"{rows.shape[1]} channels have no block of {self.options.least} or more")
        gain = self.gains.get(root.name)
        if gain is not None and gain < self.options.gain:
            return Refusal(f"the largest element of its input would become less by {gain:.2g} only")
        block, before = _block(rows.shape[1]), _before(match)
        if before is not None:
            x, norm = _folded(match, build, before, matrix / np.sqrt(block)), np.sqrt(block)
        else:
            turns = build.constant(stored(matrix, match.scope.type(root.name).dtype), "rotation")
            x, norm = build.node("linear", (root.operands[0], turns)), block
        return _rotated(match, build, x, rows @ matrix.T / norm)

    def _learn(self, match: Match, build: Builder) -> Outcome:
        name, rows, before = match.root.name, self._rows(match), _before(match)
        if rows is None or before is None or name not in self.samples:
            return None
        self.places.remove(name)
        channels, x = rows.shape[1], self.samples[name]
        found = learned(x, rows, _orthogonal(channels, self.options), self.options.steps)
        gain = np.sqrt(noise(unchanged(channels), x, rows) / max(noise(found, x, rows), 1e-300))
        if gain < self.options.gain:
            return Refusal(f"the noise of its codes would become less by {gain:.2g} only")
        y = _folded(match, build, before, found.scale[:, None] * found.rotation)
        return _rotated(match, build, y, found.back(rows))


def _rotated(match: Match, build: Builder, x: str, rows: Matrix) -> str:
    """The root on something else, with other rows."""
    root, dtype = match.root, match.scope.type(match.root.name).dtype
    weight = rows if root.operator == "linear" else rows.T
    return build.node(root.operator, (x, build.constant(stored(weight, dtype), "weight")), dict(root.attributes))


def _turns(node: Node, scope: Scope) -> bool:
    """Whether the node is a rotation."""
    weight = known(node.operands[1], scope) if node.operator == "linear" else None
    return weight is not None and is_rotation(weight)


@dataclass(frozen=True)
class Before:
    """A linear map, with a bias or not, whose result goes into the root alone; `nodes` compute it."""

    node: Node
    weight: Matrix
    bias: Matrix | None
    nodes: tuple[Node, ...]


def _before(match: Match) -> Before | None:
    """What comes before the root, if a rotation can go into it."""
    scope = match.scope
    name = match.root.operands[0]
    nodes: list[Node] = []
    bias: Matrix | None = None
    node = scope.producer(name)
    if node is not None and node.operator in ("add", "bias_add") and scope.uses(name) == 1:
        found = per_channel(node, scope.type(name).rank - 1, scope)
        if found is None or scope.type(name).rank != 2:
            return None
        nodes.append(node)
        name, bias = found
        node = scope.producer(name)
    if node is None or node.operator not in ("linear", "matmul") or scope.uses(name) != 1:
        return None
    weight = known(node.operands[1], scope)
    if weight is None or weight.ndim != 2:
        return None
    return Before(node, weight, bias, (node, *nodes))


def _folded(match: Match, build: Builder, before: Before, matrix: Matrix) -> str:
    """The operand of the root times the matrix, which goes into the weight that makes it."""
    node, dtype = before.node, match.scope.type(before.node.name).dtype
    turned = matrix @ before.weight if node.operator == "linear" else before.weight @ matrix.T
    y = build.node(node.operator, (node.operands[0], build.constant(stored(turned, dtype), "weight")))
    if before.bias is not None:
        y = build.node("add", (y, build.constant(stored(matrix @ before.bias, dtype), "bias")))
    match.nodes += before.nodes
    return y


def _thinned(x: Matrix) -> Matrix:
    """Some of the rows, evenly spaced."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: -(-len(rows) // _ROWS)] if len(rows) else rows


def _orthogonal(channels: int, options: Rotate) -> Matrix:
    """Where learning starts: the Hadamard rotation, or another one where there is none."""
    matrix = rotation(channels, options.least, options.seed)
    if matrix is not None:
        return matrix / np.sqrt(_block(channels))
    found = np.linalg.qr(np.random.default_rng(options.seed).standard_normal((channels, channels)))[0]
    return np.asarray(found, np.float64)


def _block(channels: int) -> int:
    """The largest power of two that divides the channels."""
    return channels & -channels


def rotation(channels: int, least: int, seed: int) -> Matrix | None:
    """Blocks of a Hadamard matrix on the diagonal, with columns of random signs; entries are -1, 0 and 1.

    Its rows are orthogonal, with as many ones as a block has. None when the blocks have less than `least` rows.
    """
    block = _block(channels)
    if block < least:
        return None
    matrix: Matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], channels)
    return np.asarray(np.kron(np.eye(channels // block), matrix) * signs, np.float64)


def is_rotation(weight: Matrix) -> bool:
    """Whether a matrix is one of those of `rotation`."""
    if weight.ndim != 2 or len(weight) != weight.shape[1] or not np.isin(weight, (-1, 0, 1)).all():
        return False
    square = weight @ weight.T
    return square[0, 0] > 1 and np.array_equal(square, square[0, 0] * np.eye(len(weight)))


# --- in integers ------------------------------------------------------------------------------------------------------


def rotated(t: Translation, node: Node, weight: Matrix) -> Form:
    """Sums of integers that are finer than codes: outliers are not clipped before they are spread."""
    (name, _), form = node.operands, t.forms[node.operands[0]]
    if isinstance(form, Real):
        codes = encoding(*t.extent(name), 8)
        coded = t.emit("quantize", form.name, scale=codes.scale, zero=codes.zero, low=codes.low, high=codes.high)
        x, unit, reach = t.emit("widen", coded, zero=codes.zero), codes.scale, max(-codes.reach[0], codes.reach[1])
    else:
        unit, reach = (max(map(abs, t.extent(name))) or 1.0) / _WIDE, _WIDE
        x = t.units(name, unit, -_WIDE, _WIDE)
    bound = t.bounded(int(np.abs(weight).sum(axis=1).max()) * reach, weight.shape[1])
    wide = t.emit("widen", t.constant(weight.astype(np.int8), "rotation"))
    return Sums(t.emit("linear", x, wide), np.asarray(unit), -bound, bound)
