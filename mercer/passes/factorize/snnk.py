"""Scalable neural network kernels: layers as dot products of features of x and features of the weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Graph, Node
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType, TensorType
from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, array_of, one_of, solved, stored
from mercer.passes.factorize.couplings import COUPLINGS, normal_rows
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match, any_node
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite

FEATURES = ("fourier", "rectified", "positive")
ACTIVATIONS = frozenset(
    "relu relu6 leaky_relu elu selu celu gelu sigmoid logsigmoid tanh silu mish softplus softsign hardsigmoid "
    "hardswish hardtanh tanhshrink abs square exp expm1 erf sin cos".split()
)
AFFINE = frozenset({"add", "sub", "mul", "div", "bias_add"})
"""With a constant that is the same for every row."""


@dataclass(frozen=True)
class Snnk(Approximation):
    """An activation of a linear layer becomes a linear function of `count` random features of its input.

    f(w . x + b) is nearly Phi(x) . Psi(w, b), which takes apart input and weights (Sehanobish et al. 2024). Phi are
    `fourier` features cos(g . x), sin(g . x), `rectified` ones max(g . x + c, 0), or `positive` ones exp(g . x -
    |x|**2/2); vectors g are drawn with `coupling` and `seed` and have the second moments of the rows of the weight.

    With `refit`, Psi and a bias are those that fit the even samples of the data by least squares with a `ridge`, for
    any activation; with `bundle` also for a chain of layers at once, which thereby become one (section 3.3 there).
    Without, Psi of positive features has a closed form for exp, sin and cos, since the mean of exp(g . (x + iw)) over
    standard normal g is exp(|x|**2/2 - |w|**2/2 + i x . w); its error falls as 1/sqrt(count).

    count (d + o) multiply-adds per row take the place of those of all layers. Class: approx, measured; with `refit`
    exact for data of at most `count` different rows.
    """

    name: ClassVar[str] = "snnk"
    source: ClassVar[str] = "Sehanobish et al. 2024, Scalable neural network kernels"
    count: int = 64
    features: str = "fourier"
    coupling: str = "orthogonal"
    refit: bool = True
    bundle: bool = True
    ridge: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self, "features", FEATURES)
        one_of(self, "coupling", COUPLINGS)

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        chains = {chain.nodes[-1].name: chain for chain in find_chains(calibration.graph, self.bundle and self.refit)}

        def replace(match: Match, build: Builder) -> Outcome:
            chain = chains[match.root.name]
            match.nodes[:] = reversed(chain.nodes)
            return self._replace(chain, calibration, match, build)

        pattern = any_node(test=lambda node, _: node.name in chains)
        return (Rewrite("features", pattern, replace, Exactness.APPROX),)

    def _replace(self, chain: Chain, calibration: Calibration, match: Match, build: Builder) -> Outcome:
        if chain.weight is None:
            return Refusal(f"the weight %{chain.nodes[0].operands[1]} is not a constant")
        if self.count < 2 or self.count % 2:
            return Refusal(f"{self.count} features are not pairs")
        dim = chain.weight.shape[1]
        if self.coupling == "simplex" and dim < 2:
            return Refusal("a simplex needs at least 2 dimensions")
        random = np.random.default_rng(self.seed)
        features = Features(chain.x, build.type(chain.x).dtype, dim)
        if not self.refit:
            return self._closed_form(chain, calibration, build, features, random)
        if not calibration.given:
            return Refusal("there are no data to fit on")
        if calibration.halves is None:
            return Refusal("the data are not a batch of samples that could be told apart")
        even = calibration.halves[0]
        x = even.value(chain.x).astype(np.float64).reshape(-1, dim)
        y = even.value(match.root.name).astype(np.float64).reshape(len(x), -1)
        if len(x) <= self.count:
            return Refusal(f"{len(x)} rows of data do not determine {self.count} features")
        mapped, values = self._mapped(features, chain, build, x, random)
        psi, bias = fitted(values, y, self.ridge)
        dtype = features.dtype
        product = build.node("linear", (mapped, build.constant(stored(psi.T, dtype), "psi")))
        return build.node("add", (product, build.constant(stored(bias, dtype), "bias")))

    def _mapped(
        self, features: Features, chain: Chain, build: Builder, x: Matrix, random: np.random.Generator
    ) -> tuple[str, Matrix]:
        """The features as a node, and their values on the rows of x."""
        assert chain.weight is not None
        count = self.count // 2 if self.features == "fourier" else self.count
        spread = _root(chain.weight.T @ chain.weight / len(chain.weight)) * chain.scale
        vectors = normal_rows(self.coupling, count, features.dim, random) @ spread
        if self.features == "fourier":
            return features.fourier(build, vectors, x)
        if self.features == "rectified":
            return features.rectified(build, vectors, random.standard_normal(count) * np.linalg.norm(spread), x)
        return features.positive(build, vectors, 1.0, x)

    def _closed_form(
        self, chain: Chain, calibration: Calibration, build: Builder, features: Features, random: np.random.Generator
    ) -> Outcome:
        activation = chain.nodes[-1].operator
        if self.features != "positive" or activation not in ("exp", "sin", "cos"):
            return Refusal(f"{self.features} features have no closed form for {activation}: use refit")
        if chain.weight is None or chain.bias is None:
            return Refusal("what stands between the linear layer and the activation is not a bias")
        weight = chain.weight * chain.scale
        x = calibration.judge.value(chain.x).astype(np.float64).reshape(-1, features.dim)
        balance = math.sqrt(_length(weight) / max(_length(x), 1e-30))
        vectors = normal_rows(self.coupling, self.count, features.dim, random)
        mapped, _ = features.positive(build, vectors * balance, balance, x)
        weight = weight / balance
        products = vectors @ weight.T
        half = 0.5 * np.sum(weight**2, axis=1)
        if activation == "exp":
            psi = np.exp(products - half + chain.bias)
        else:
            psi = (np.sin if activation == "sin" else np.cos)(products + chain.bias) * np.exp(half)
        return build.node("linear", (mapped, build.constant(stored(psi.T / self.count, features.dtype), "psi")))


@dataclass(frozen=True)
class Features:
    """Feature maps of x, as nodes, with their values on given rows."""

    x: str
    dtype: DType
    dim: int

    def fourier(self, build: Builder, vectors: Matrix, rows: Matrix) -> tuple[str, Matrix]:
        frequency = self._kept(np.concatenate([vectors, vectors]))
        phase = self._kept(np.repeat([0.0, -0.5 * math.pi], len(vectors)))
        constants = build.constant(self._stored(frequency), "frequency"), build.constant(self._stored(phase), "phase")
        mapped = build.node("random_fourier_features", (self.x, *constants))
        return mapped, np.sqrt(2.0 / len(frequency)) * np.cos(rows @ frequency.T + phase)

    def rectified(self, build: Builder, vectors: Matrix, shift: Matrix, rows: Matrix) -> tuple[str, Matrix]:
        vectors, shift = self._kept(vectors), self._kept(shift)
        product = build.node("linear", (self.x, build.constant(self._stored(vectors), "vectors")))
        shifted = build.node("add", (product, build.constant(self._stored(shift), "shift")))
        return build.node("relu", (shifted,)), np.maximum(rows @ vectors.T + shift, 0.0)

    def positive(self, build: Builder, vectors: Matrix, balance: float, rows: Matrix) -> tuple[str, Matrix]:
        """exp(vectors . x - |balance x|**2/2)"""
        vectors, half = self._kept(vectors), self._kept(np.full((1, self.dim), 0.5 * balance**2))
        product = build.node("linear", (self.x, build.constant(self._stored(vectors), "vectors")))
        squares = build.node("square", (self.x,))
        length = build.node("linear", (squares, build.constant(self._stored(half), "half")))
        mapped = build.node("exp", (build.node("sub", (product, length)),))
        return mapped, np.exp(rows @ vectors.T - rows**2 @ half.T)

    def _stored(self, values: Matrix) -> npt.NDArray[np.generic]:
        return stored(values, self.dtype)

    def _kept(self, values: Matrix) -> Matrix:
        """As the program will hold them."""
        return self._stored(values).astype(np.float64)


def fitted(values: Matrix, targets: Matrix, ridge: float) -> tuple[Matrix, Matrix]:
    """Weights [features, o] and bias [o] of the least-squares fit; `ridge` is a part of the features' mean square."""
    center, mean = values.mean(axis=0), targets.mean(axis=0)
    centered = values - center
    penalty = math.sqrt(ridge * float(np.sum(centered**2)) / values.shape[1])
    matrix = np.concatenate([centered, penalty * np.eye(values.shape[1])])
    right = np.concatenate([targets - mean, np.zeros((values.shape[1], targets.shape[1]))])
    weights = solved(matrix, right, 1e-14)
    return weights, mean - center @ weights


# --- chains of layers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Nodes from a linear layer to the last thing that is done to each row alone.

    `weight` is that of the first layer, None when it is not known; up to the first activation comes `scale` (weight x)
    + `bias`, or something else when `bias` is None.
    """

    x: str
    nodes: tuple[Node, ...]
    weight: Matrix | None
    scale: float
    bias: Matrix | None


def find_chains(graph: Graph, bundle: bool) -> Iterator[Chain]:
    """Every chain with an activation; with `bundle` they are as long as they can be, else they end at the first one."""
    known = {constant.name: constant for constant in graph.constants}
    uses = Counter(name for node in graph.nodes for name in node.operands) + Counter(graph.outputs)
    reader = {name: node for node in graph.nodes for name in node.operands}
    fixed = {constant.name for constant in (*graph.constants, *graph.parameters)}
    types = graph.types()
    inside: set[str] = set()
    for first in graph.nodes:
        if first.operator != "linear" or first.name in inside:
            continue
        nodes = [first]
        while bundle or nodes[-1].operator not in ACTIVATIONS:
            follower = reader.get(nodes[-1].name)
            if follower is None or uses[nodes[-1].name] != 1 or not _by_row(follower, nodes[-1].name, types, fixed):
                break
            nodes.append(follower)
        inside |= {node.name for node in nodes} if bundle else set()
        place = next((i for i, node in enumerate(nodes) if node.operator in ACTIVATIONS), None)
        if place is not None:
            weight = known.get(first.operands[1])
            matrix = None if weight is None else array_of(weight)
            scale, bias = _affine(nodes[1:place], graph)
            yield Chain(first.operands[0], tuple(nodes), matrix, scale, bias)


def _by_row(node: Node, name: str, types: Mapping[str, TensorType], constants: Container[str]) -> bool:
    """Whether a node does the same to every row of the value `name`, and needs nothing else that is not constant."""
    if node.operator in ACTIVATIONS:
        return True
    others = [operand for operand in node.operands if operand != name]
    if len(others) != 1 or others[0] not in constants:
        return False
    rank, fixed = types[name].rank, types[others[0]]
    if node.operator == "linear":
        return node.operands[0] == name
    if node.operator == "bias_add":
        return rank == 2
    one = IntExpr.constant(1)
    return node.operator in AFFINE and fixed.rank <= rank and all(extent == one for extent in fixed.shape[:-1])


def _affine(nodes: Sequence[Node], graph: Graph) -> tuple[float, Matrix | None]:
    """What additions of constants and multiplications by numbers do together; None for anything else."""
    known = {constant.name: array for constant in graph.constants if (array := array_of(constant)) is not None}
    scale, bias = 1.0, np.zeros(1)
    for node in nodes:
        arrays = [known[name] for name in node.operands if name in known]
        if node.operator == "mul" and arrays and arrays[0].size == 1:
            factor = float(arrays[0].reshape(()))
            scale, bias = scale * factor, bias * factor
        elif node.operator in ("add", "bias_add") and arrays:
            bias = bias + arrays[0].reshape(-1)
        else:
            return scale, None
    return scale, bias


def _root(moments: Matrix) -> Matrix:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T).astype(np.float64)


def _length(rows: Matrix) -> float:
    """The root mean square length."""
    return float(np.linalg.norm(rows)) / math.sqrt(len(rows))
