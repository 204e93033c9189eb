"""Linear layers and convolutions with nothing between them become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from typing import ClassVar

import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.passes.factorize.approximation import Matrix, operations, stored
from mercer.passes.factorize.contractions import geometry_of, grouped, known, per_channel, shared
from mercer.passes.factorize.convolutions import SPATIAL, Geometry
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class Collapse(RewritePass):
    """A linear layer of a linear layer becomes one, and so does a convolution of a convolution.

    W2 (W1 x + b1) = (W2 W1) x + W2 b1. A scale per channel counts as a diagonal W1. Two windows of k and l taps make
    one of k + l - 1 (at stride and dilation 1). Where the second convolution pads, it sees zeros that one window would
    not see, so the first may have no bias and must pad by its whole reach (1 x 1 does). A collapse is refused when it
    would do more than `growth` times the operations: what goes through a bottleneck stays. Needs a Graph after `bind`.
    Class: real; products are computed in f64 and rounded once.
    """

    name: ClassVar[str] = "collapse"
    source: ClassVar[str] = "Saxe et al. 2014, deep linear networks; Guo et al. 2020, ExpandNets"
    growth: float = 1.0

    def rewrites(self) -> Sequence[Rewrite]:
        return (
            Rewrite("linear_of_linear", any_node("linear"), self._linear, Exactness.REAL),
            Rewrite("convolution_of_convolution", any_node(*SPATIAL), self._convolution, Exactness.REAL),
        )

    def _linear(self, match: Match, build: Builder) -> Outcome:
        found = _read(match)
        if not isinstance(found, tuple):
            return found
        first, second = found
        weight = second.weight @ (first.weight if first.weight.ndim == 2 else np.diag(first.weight))
        dtype = match.scope.type(match.root.name).dtype
        y = build.node("linear", (first.x, build.constant(stored(weight, dtype), "weight")))
        if first.bias is not None:
            bias = second.weight @ first.bias
            y = build.node("add", (y, build.constant(stored(bias, dtype), "bias")))
        return self._cheaper(match, build, first, y)

    def _convolution(self, match: Match, build: Builder) -> Outcome:
        found = _read(match)
        if not isinstance(found, tuple):
            return found
        first, second = found
        if reason := _border(match.root, first, second):
            return Refusal(reason)
        both = composed(first, second)
        attributes: dict[str, AttributeValue] = {
            "stride": both.geometry.stride,
            "pad": both.geometry.pad,
            "dilation": both.geometry.dilation,
            "groups": both.groups,
        }
        dtype = match.scope.type(match.root.name).dtype
        weight = build.constant(stored(both.weight, dtype), "weight")
        y = build.node(match.root.operator, (both.x, weight), attributes)
        if both.bias is not None:
            y = build.node("bias_add", (y, build.constant(stored(both.bias, dtype), "bias")))
        if build.type(y) != match.scope.type(match.root.name):
            return Refusal(f"one convolution gives {build.type(y)}")
        return self._cheaper(match, build, first, y)

    def _cheaper(self, match: Match, build: Builder, first: Step, y: str) -> Outcome:
        before = operations((match.root, *first.nodes), match.scope.type, build.library, {})
        after = operations(build.nodes, build.type, build.library, {})
        if after > self.growth * before:
            return Refusal(f"one step would take {after:,} operations in place of {before:,}")
        match.nodes += first.nodes
        return y


NO_WINDOW = Geometry((), (), ())


@dataclass(frozen=True)
class Step:
    """A linear map of `x`, then a bias: weight[o, d], or the diagonal of one; of convolutions [o, c/groups, window...].

    `nodes` are what spells it.
    """

    x: str
    weight: Matrix
    bias: Matrix | None = None
    geometry: Geometry = NO_WINDOW
    groups: int = 1
    nodes: tuple[Node, ...] = ()


def composed(first: Step, second: Step) -> Step:
    """The convolution that does both: first the one, then the other, where the border does not tell them apart.

    With strides s and dilations d, tap i of the second lies i d2 s1 after that of the first.
    """
    axes = range(len(first.geometry.stride))
    groups = gcd(first.groups, second.groups)
    inner, outer = grouped(first.weight, first.groups, groups), grouped(second.weight, second.groups, groups)
    windows = inner.shape[2:], outer.shape[2:]
    stretched = [d * s for d, s in zip(second.geometry.dilation, first.geometry.stride, strict=True)]
    apart = [first.geometry.dilation, stretched]
    steps = [gcd(*(apart[which][i] for which in (0, 1) if windows[which][i] > 1)) or 1 for i in axes]
    taps = [[range(0, apart[w][i] * windows[w][i], apart[w][i]) for i in axes] for w in (0, 1)]
    window = [(taps[0][i][-1] + taps[1][i][-1]) // steps[i] + 1 for i in axes]
    weight = np.zeros((len(outer), inner.shape[1], *window))
    inner_groups, outer_groups = (w.reshape(groups, -1, *w.shape[1:]) for w in (inner, outer))
    for i in product(*(range(k) for k in windows[0])):
        for j in product(*(range(k) for k in windows[1])):
            place = tuple((taps[0][a][i[a]] + taps[1][a][j[a]]) // steps[a] for a in axes)
            paired = np.einsum("gom,gmc->goc", outer_groups[(..., *j)], inner_groups[(..., *i)])
            weight[(..., *place)] += paired.reshape(weight.shape[:2])
    bias = None
    if first.bias is not None:
        sums = outer_groups.reshape(*outer_groups.shape[:3], -1).sum(axis=-1)
        bias = np.einsum("gom,gm->go", sums, first.bias.reshape(groups, -1)).reshape(-1)
    (s1, p1), (s2, p2) = ((g.stride, g.pad) for g in (first.geometry, second.geometry))
    stride, pad = tuple(s1[i] * s2[i] for i in axes), tuple(p1[i] + p2[i] * s1[i] for i in axes)
    return Step(first.x, weight, bias, Geometry(stride, pad, tuple(steps)), groups)


def _border(root: Node, first: Step, second: Step) -> str | None:
    """Why the padding between the two matters."""
    if not any(second.geometry.pad):
        return None
    if first.bias is not None:
        return f"%{root.name} pads with zeros where one convolution would see the bias"
    reaches = zip(first.geometry.pad, first.geometry.dilation, first.weight.shape[2:], strict=True)
    if any(pad < dilation * (k - 1) for pad, dilation, k in reaches):
        return f"%{root.name} pads with zeros where one convolution would see the border of its input"
    return None


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(match: Match) -> tuple[Step, Step] | Refusal | None:
    """The step before the root, and the root; None when there is none before."""
    scope, root = match.scope, match.root
    axis = -1 if root.operator == "linear" else 1
    feeder, bias = scope.producer(root.operands[0]), None
    nodes: tuple[Node, ...] = ()
    while feeder is not None and feeder.operator in ("add", "bias_add"):
        found = per_channel(feeder, axis, scope)
        if found is None:
            return None
        bias = found[1] if bias is None else bias + found[1]
        nodes, feeder = (*nodes, feeder), scope.producer(found[0])
    if feeder is None or feeder.operator not in (root.operator, "mul"):
        return None
    nodes = (*nodes, feeder)
    first = _scale(feeder, axis, scope) if feeder.operator == "mul" else _step(feeder, scope)
    second = _step(root, scope)
    if first is None and feeder.operator == "mul":
        return None
    if first is None or second is None:
        return Refusal(f"the weight %{(feeder if first is None else root).operands[1]} is not a constant")
    if reason := shared(nodes, scope):
        return Refusal(reason)
    return replace(first, bias=bias, nodes=nodes), second


def _step(node: Node, scope: Scope) -> Step | None:
    weight = known(node.operands[1], scope)
    if weight is None or node.operator == "linear":
        return None if weight is None else Step(node.operands[0], weight)
    groups = node.attribute("groups")
    assert isinstance(groups, int)
    return Step(node.operands[0], weight, None, geometry_of(node), groups)


def _scale(node: Node, axis: int, scope: Scope) -> Step | None:
    """A product with one constant factor per channel; for a convolution it has a window of one tap."""
    found = per_channel(node, axis, scope)
    if found is None:
        return None
    x, factors = found
    if axis == -1:
        return Step(x, factors)
    axes = scope.type(x).rank - 2
    geometry = Geometry((1,) * axes, (0,) * axes, (1,) * axes)
    return Step(x, factors.reshape(-1, 1, *(1,) * axes), None, geometry, len(factors))
