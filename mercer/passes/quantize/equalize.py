"""Scales move between two linear maps, so that the channels in between have weights of the same size on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.factorize.approximation import Matrix, stored
from mercer.passes.factorize.contractions import known, per_channel
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

_PRODUCERS = {
    "linear": (1, 0),
    "matmul": (1, 1),
    **{f"conv{n}d": (1, 0) for n in (1, 2, 3)},
    "deform_conv2d_v1": (2, 0),
    "deform_conv2d": (3, 0),
}
"""Linear maps: (position of the weight, its axis of outputs). Operand 0 is what they map."""

_ELEMENTWISE = frozenset(("relu", "leaky_relu", "prelu", "dropout"))
_POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2, 3))
_BIASES = frozenset(("bias_add", "add"))
_LARGEST = 2.0**10


@dataclass(frozen=True)
class Equalize(RewritePass):
    """W2 f(W1 x + b) becomes (W2 S) f(S^-1 W1 x + S^-1 b), f positively homogeneous, S diagonal and positive.

    f is a chain of `relu`, `leaky_relu`, `prelu`, pools, `flatten` and means, with biases before; W1 and W2 are linear
    layers and convolutions of any groups. With s = sqrt(r1/r2), where r are the largest weights of a channel, each
    channel has weights as large in W1 as in W2, so that codes with one scale for all of them lose less. A place is
    taken while a channel is off by more than the factor `tolerance`. Needs a Graph after `bind`, `batch_norm` and
    `fold`. Class: real; weights are scaled in f64 and rounded once.
    """

    name: ClassVar[str] = "equalize"
    source: ClassVar[str] = "Nagel et al. 2019, Data-free quantization through weight equalization and bias correction"
    tolerance: float = 1.1

    def rewrites(self) -> Sequence[Rewrite]:
        return (Rewrite("across_layers", any_node(*_PRODUCERS), self._across, Exactness.REAL),)

    def _across(self, match: Match, build: Builder) -> Outcome:
        chain = _chain(match.root, match.scope)
        if chain is None or isinstance(chain, Refusal):
            return chain
        first, second = _ranges(chain, match)
        alive = (first > 0.0) & (second > 0.0)
        scale = np.sqrt(np.where(alive, first / np.where(alive, second, 1.0), 1.0))
        scale = np.clip(scale, 1 / _LARGEST, _LARGEST)
        if np.abs(np.log(scale)).max(initial=0.0) <= np.log(self.tolerance) / 2:
            return None
        match.nodes += chain.nodes
        return _rebuilt(chain, scale, match, build)


@dataclass(frozen=True)
class Chain:
    """From a linear map to the operand of another; `axes` are where its channels lie in the result of each node.

    Each channel of the first map is `repeat` channels of the second.
    """

    nodes: tuple[Node, ...]
    axes: tuple[int, ...]
    repeat: int


def _chain(root: Node, scope: Scope) -> Chain | Refusal | None:
    """What lies before a linear map; None where nothing can be equalized."""
    if _weight(root, scope) is None:
        return None
    nodes: list[Node] = []
    name = root.operands[0]
    while not nodes or nodes[0].operator not in _PRODUCERS:
        node = scope.producer(name)
        if node is None:
            return None
        nodes.insert(0, node)
        if node.operator in _BIASES:
            name = node.operands[scope.constant(node.operands[0]) is not None]
        else:
            name = node.operands[0]
    producer = nodes[0]
    if _weight(producer, scope) is None:
        return None
    axes = [_channels(producer, scope)]
    repeat = 1
    for node in nodes[1:]:
        moved = _moved(node, axes[-1], scope)
        if moved is None:
            return None
        axes.append(moved[0])
        repeat *= moved[1]
    expected = 1 if "conv" in root.operator else scope.type(root.operands[0]).rank - 1
    if axes[-1] != expected:
        return None
    many = next((node for node in nodes if scope.uses(node.name) > 1), None)
    return Refusal(f"%{many.name} has other readers") if many else Chain(tuple(nodes), tuple(axes), repeat)


def _weight(node: Node, scope: Scope) -> Matrix | None:
    """The weight of a linear map, where it is a constant."""
    array = known(node.operands[_PRODUCERS[node.operator][0]], scope)
    return None if array is None or (node.operator == "matmul" and array.ndim != 2) else array


def _channels(producer: Node, scope: Scope) -> int:
    return 1 if "conv" in producer.operator else scope.type(producer.name).rank - 1


def _moved(node: Node, axis: int, scope: Scope) -> tuple[int, int] | None:
    """Where channels lie after a node that keeps factors of them, and how many each becomes; None for other nodes."""
    before, after = scope.type(node.operands[0]), scope.type(node.name)
    if node.operator in _BIASES:
        return None if per_channel(node, axis, scope) is None else (axis, 1)
    if node.operator in _ELEMENTWISE or (node.operator in _POOLS and axis == 1):
        return axis, 1
    if node.operator == "flatten" and axis == 1 and after.rank == 2:
        inner = before.shape[2:]
        constant = all(extent.is_constant for extent in inner)
        return (1, int(np.prod([extent.value for extent in inner]))) if constant else None
    if node.operator in ("mean", "sum"):
        over, kept = node.attribute("axis"), node.attribute("keepdim")
        assert isinstance(over, int)
        over %= before.rank
        return None if over == axis else (axis - (over < axis and not kept), 1)
    return None


def _ranges(chain: Chain, match: Match) -> tuple[Matrix, Matrix]:
    """The largest weight of each channel in the first map and in the second."""
    producer, root = chain.nodes[0], match.root
    before, after = _weight(producer, match.scope), _weight(root, match.scope)
    assert before is not None and after is not None
    rows = np.moveaxis(np.abs(before), _PRODUCERS[producer.operator][1], 0)
    columns = _by_input(np.abs(after), root)
    return rows.reshape(len(rows), -1).max(axis=1), columns.reshape(len(rows), -1).max(axis=1)


def _groups(node: Node) -> int:
    groups = node.attribute("groups") if "conv" in node.operator else 1
    assert isinstance(groups, int)
    return groups


def _by_input(weight: Matrix, node: Node) -> Matrix:
    """weight[inputs, ...] of a linear map."""
    if node.operator == "matmul":
        return weight
    groups = _groups(node)
    split = weight.reshape(groups, -1, weight.shape[1], int(np.prod(weight.shape[2:])))
    return np.moveaxis(split, 2, 1).reshape(groups * weight.shape[1], -1)


def _rebuilt(chain: Chain, scale: Matrix, match: Match, build: Builder) -> str:
    producer, root = chain.nodes[0], match.root
    dtype = match.scope.type(root.name).dtype
    before, after = _weight(producer, match.scope), _weight(root, match.scope)
    assert before is not None and after is not None
    position, axis = _PRODUCERS[producer.operator]
    weight = before / scale.reshape([-1 if a == axis else 1 for a in range(before.ndim)])
    y = _with(build, producer, {position: build.constant(stored(weight, dtype), "weight")})
    for node, place in zip(chain.nodes[1:], chain.axes[1:], strict=True):
        found = per_channel(node, place, match.scope) if node.operator in _BIASES else None
        if found is None:
            y = _with(build, node, {0: y})
            continue
        rank = match.scope.type(node.name).rank
        shape = (-1,) if node.operator == "bias_add" else (-1, *(1,) * (rank - 1 - place))
        bias = (found[1] / np.repeat(scale, found[1].size // scale.size)).reshape(shape)
        y = build.node(node.operator, (y, build.constant(stored(bias, dtype), "bias")), dict(node.attributes))
    wide = np.repeat(scale, chain.repeat)
    if root.operator == "matmul":
        weight = after * wide[:, None]
    else:
        share = after.shape[1]
        owner = np.arange(len(after)) * _groups(root) // len(after)
        columns = wide[owner[:, None] * share + np.arange(share)]
        weight = after * columns.reshape(*columns.shape, *(1,) * (after.ndim - 2))
    return _with(build, root, {0: y, _PRODUCERS[root.operator][0]: build.constant(stored(weight, dtype), "weight")})


def _with(build: Builder, node: Node, operands: dict[int, str]) -> str:
    """The node with other operands at these positions."""
    names = [operands.get(position, name) for position, name in enumerate(node.operands)]
    return build.node(node.operator, names, dict(node.attributes))
