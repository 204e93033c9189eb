"""Parallel branches of convolutions become one convolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import gcd, prod
from typing import ClassVar

import numpy as np

from mercer.ir.graph import AttributeValue, Node
from mercer.ir.types import DType, TensorType
from mercer.passes.factorize.approximation import Matrix, operations, stored
from mercer.passes.factorize.contractions import geometry_of, grouped, known, per_axis, per_channel, shared
from mercer.passes.factorize.convolutions import SPATIAL, Geometry
from mercer.passes.ledger import Exactness
from mercer.passes.manager import RewritePass
from mercer.passes.patterns import Match, Scope, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

POOLS = {"avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3}


@dataclass(frozen=True)
class MergeBranches(RewritePass):
    """A sum of convolutions of the same input becomes one convolution.

    A window dilated by r is a larger one with zeros between its taps, so weights add up once their taps are aligned; a
    dilation that all branches share stays. Branches are convolutions of any window, dilation and number of groups,
    average pooling, and the input itself, each with or without a bias and a scale per channel (layer scale, or what
    `batch_norm` leaves). A merge is refused when it would do more than `growth` times the operations of its branches,
    as with distant taps. Needs a Graph after `bind` and `batch_norm`. Class: real; weights are added in f64 and rounded
    once.
    """

    name: ClassVar[str] = "merge_branches"
    source: ClassVar[str] = "Ding et al. 2021, RepVGG; Ding et al. 2024, UniRepLKNet"
    growth: float = 1.0

    def rewrites(self) -> Sequence[Rewrite]:
        return (Rewrite("merge_branches", any_node("add"), self._merge, Exactness.REAL),)

    def _merge(self, match: Match, build: Builder) -> Outcome:
        terms, additions = _terms(match.root, match.scope)
        kind = match.scope.type(match.root.name)
        refusal: Refusal | None = None
        for first, second in combinations(range(len(terms)), 2):
            for left, right in product(*(_branches(terms[i], kind, match.scope) for i in (first, second))):
                if left.x != right.x or not (left.is_convolution or right.is_convolution):
                    continue
                merged = self._merged(left, right, match, build)
                if isinstance(merged, Refusal):
                    refusal = refusal or merged
                    continue
                match.nodes += [*additions[1:], *left.nodes, *right.nodes]
                total = merged.build(build)
                for term in (*terms[:first], *terms[first + 1 : second], *terms[second + 1 :]):
                    total = build.node("add", (total, term))
                return total
        return refusal

    def _merged(self, left: Branch, right: Branch, match: Match, build: Builder) -> Branch | Refusal:
        if reason := left.obstacle or right.obstacle:
            return Refusal(reason)
        merged = added(left, right)
        if isinstance(merged, Refusal):
            return merged
        trial = Builder(build.library, {left.x: match.scope.type(left.x)}, set(), "merged", match.root.span)
        merged.build(trial)
        nodes = (match.root, *left.nodes, *right.nodes)
        before = operations(nodes, match.scope.type, build.library, {})
        after = operations(trial.nodes, trial.type, build.library, {})
        if after > self.growth * before:
            window = " x ".join(map(str, merged.window))
            return Refusal(f"one window of {window} would take {after:,} operations for the {before:,} of its branches")
        return merged


@dataclass(frozen=True)
class Branch:
    """weight[o, c/groups, window...] over `x`, plus bias[o], and the nodes that say so.

    An `obstacle` is the reason why they must stay.
    """

    x: str
    dtype: DType
    weight: Matrix
    bias: Matrix | None
    geometry: Geometry
    groups: int
    nodes: tuple[Node, ...] = ()
    is_convolution: bool = False
    obstacle: str | None = None

    @property
    def window(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def offsets(self, axis: int) -> range:
        """Where the taps of a spatial axis lie, relative to the position that the stride gives."""
        dilation, pad = self.geometry.dilation[axis], self.geometry.pad[axis]
        return range(-pad, dilation * self.window[axis] - pad, dilation)

    def build(self, build: Builder) -> str:
        """The convolution, and its bias if there is one."""
        attributes: dict[str, AttributeValue] = {
            "stride": self.geometry.stride,
            "pad": self.geometry.pad,
            "dilation": self.geometry.dilation,
            "groups": self.groups,
        }
        weight = build.constant(stored(self.weight, self.dtype), "weight")
        convolved = build.node(f"conv{len(self.window)}d", (self.x, weight), attributes)
        if self.bias is None:
            return convolved
        return build.node("bias_add", (convolved, build.constant(stored(self.bias, self.dtype), "bias")))


def added(left: Branch, right: Branch) -> Branch | Refusal:
    """One convolution that gives the sum of two with results of the same shape; says why there is none.

    Its window reaches from the first tap of both to the last. The pad that this takes gives the same shape again:
    lying between those of the branches, first + last tap decides how many positions there are.
    """
    stride = left.geometry.stride
    if stride != right.geometry.stride:
        return Refusal(f"the strides {list(stride)} and {list(right.geometry.stride)} differ")
    axes = range(len(stride))
    starts = [min(left.offsets(i)[0], right.offsets(i)[0]) for i in axes]
    ends = [max(left.offsets(i)[-1], right.offsets(i)[-1]) for i in axes]
    steps = [
        gcd(*(offset - start for b in (left, right) for offset in b.offsets(i))) or 1
        for i, start in zip(axes, starts, strict=True)
    ]
    groups = gcd(left.groups, right.groups)
    window = [(end - start) // step + 1 for start, end, step in zip(starts, ends, steps, strict=True)]
    weight = np.zeros((len(left.weight), left.weight.shape[1] * (left.groups // groups), *window))
    for branch in (left, right):
        taps = [[(offset - starts[i]) // steps[i] for offset in branch.offsets(i)] for i in axes]
        weight[np.ix_(range(weight.shape[0]), range(weight.shape[1]), *taps)] += grouped(
            branch.weight, branch.groups, groups
        )
    biases = [branch.bias for branch in (left, right) if branch.bias is not None]
    bias = np.sum(biases, axis=0) if biases else None
    geometry = Geometry(stride, tuple(-start for start in starts), tuple(steps))
    return replace(left, weight=weight, bias=bias, geometry=geometry, groups=groups)


def _terms(root: Node, scope: Scope) -> tuple[list[str], list[Node]]:
    """The terms of a tree of additions, in order, and its nodes, the root first.

    Additions below the root that have its type and that nobody else reads belong to the tree.
    """
    kind = scope.type(root.name)
    terms: list[str] = []
    nodes = [root]
    pending = list(reversed(root.operands))
    while pending:
        name = pending.pop()
        feeder = scope.producer(name)
        if feeder is not None and feeder.operator == "add" and scope.uses(name) == 1 and scope.type(name) == kind:
            nodes.append(feeder)
            pending += reversed(feeder.operands)
        else:
            terms.append(name)
    return terms, nodes


# --- reading branches -------------------------------------------------------------------------------------------------


def _branches(name: str, kind: TensorType, scope: Scope) -> Iterator[Branch]:
    """Every way to see a term of a sum of this type as a convolution: by what makes it, and as an input itself."""
    if kind.rank - 2 not in SPATIAL.values() or scope.type(name) != kind or not kind.dtype.is_float:
        return
    for branch in _made(name, scope):
        yield replace(branch, obstacle=branch.obstacle or shared(branch.nodes, scope))
    if kind.shape[1].is_constant:
        yield _diagonal(name, kind)


def _made(name: str, scope: Scope) -> Iterator[Branch]:
    """What makes a value, as a convolution of another one: biases and scales per channel are part of it."""
    feeder = scope.producer(name)
    if feeder is None:
        return
    kind = scope.type(feeder.operands[0])
    if feeder.operator in SPATIAL:
        yield _convolution(feeder, kind, scope)
    elif feeder.operator in POOLS and kind.shape[1].is_constant:
        yield from _pool(feeder, kind)
    elif feeder.operator in ("add", "bias_add", "mul"):
        found = per_channel(feeder, 1, scope)
        if found is None and feeder.operator == "bias_add":
            obstacle = f"the bias %{feeder.operands[1]} is not a constant"
            yield from (replace(branch, obstacle=obstacle) for branch in _made(feeder.operands[0], scope))
        if found is not None:
            x, numbers = found
            for branch in (*_made(x, scope), _diagonal(x, scope.type(x))):
                yield _with(branch, feeder, numbers)


def _with(branch: Branch, node: Node, numbers: Matrix) -> Branch:
    """The branch with the scale or the bias that follows it."""
    if branch.obstacle is not None:
        return replace(branch, nodes=(node, *branch.nodes))
    weight, bias = branch.weight, branch.bias
    if node.operator == "mul":
        weight = weight * numbers.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = None if bias is None else bias * numbers
    else:
        bias = numbers if bias is None else bias + numbers
    return replace(branch, weight=weight, bias=bias, nodes=(node, *branch.nodes))


def _convolution(feeder: Node, kind: TensorType, scope: Scope) -> Branch:
    weight, groups = known(feeder.operands[1], scope), feeder.attribute("groups")
    assert isinstance(groups, int)
    obstacle = f"the weight %{feeder.operands[1]} is not a constant" if weight is None else None
    array = np.zeros(()) if weight is None else weight
    return Branch(feeder.operands[0], kind.dtype, array, None, geometry_of(feeder), groups, (feeder,), True, obstacle)


def _diagonal(x: str, kind: TensorType) -> Branch:
    """The input itself, as a convolution with a window of one tap."""
    axes, channels = kind.rank - 2, kind.shape[1].value
    geometry = Geometry((1,) * axes, (0,) * axes, (1,) * axes)
    return Branch(x, kind.dtype, np.ones((channels, 1, *(1,) * axes)), None, geometry, channels)


def _pool(feeder: Node, kind: TensorType) -> Iterator[Branch]:
    """An average as a convolution; none where positions outside do not count."""
    axes, channels = POOLS[feeder.operator], kind.shape[1].value
    window = per_axis(feeder.attribute("k"), axes)
    stride = window if feeder.attribute("stride") is None else per_axis(feeder.attribute("stride"), axes)
    pad = per_axis(feeder.attribute("pad"), axes)
    if not any(pad) or feeder.attribute("count_include_pad") is True:
        weight, geometry = np.full((channels, 1, *window), 1.0 / prod(window)), Geometry(stride, pad, (1,) * axes)
        yield Branch(feeder.operands[0], kind.dtype, weight, None, geometry, channels, (feeder,))
