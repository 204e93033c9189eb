"""The pass that turns a program in real numbers into one in integers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.ir.analysis import live
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph, Node
from mercer.ir.index import Index, Read, Reduce, walk
from mercer.ir.lower import lower
from mercer.ir.nests import Nest
from mercer.ir.types import Array
from mercer.passes.calibration import Calibration, relative_error
from mercer.passes.factorize.approximation import one_of
from mercer.passes.ledger import Exactness, LayerError, LedgerEntry
from mercer.passes.manager import Level, Pass, PassContext, PipelineError
from mercer.passes.quantize.code_books import CODES
from mercer.passes.quantize.layers import LayerBits
from mercer.passes.quantize.ranges import CALIBRATIONS, Matrix, Point
from mercer.passes.quantize.rounding import ROUNDINGS
from mercer.passes.quantize.rules import RULES
from mercer.passes.quantize.translation import (
    Coded,
    Form,
    Function,
    NoIntegerForm,
    Options,
    QuantizeError,
    Real,
    Sums,
    Translation,
)

_SCHEME = re.compile(r"w(?P<weights>\d+)a(?P<activations>\d+)(:(?P<layers>.+))?")


@dataclass(frozen=True)
class Plan:
    """Ranges by the name of their value, and the nodes that stay in real numbers."""

    points: Mapping[str, Point]
    kept: frozenset[str]


@dataclass(frozen=True)
class Quantize(Pass):
    """Real numbers become integer codes between inputs and outputs.

    Weights get symmetric codes of `weights` bits (1 to 8), one scale per output channel unless `per_channel` is off;
    `layers` names layers with other bits, see `LayerBits`.
    Activations get codes of `activations` bits (2 to 8) with a zero point; their range comes from the data by
    `calibration`: `minmax`, `percentile`, `mse` or `entropy`. With `rounding` = `gptq` the errors of the codes of a
    row make up for each other on the data, with `nearest` each code is the closest; `auto` is `gptq` up to six bits.
    `codes` are `uniform`, `ternary`, `power_of_two` or `power`, see `code_books`. Linear maps are computed in i32 and
    are proved not to overflow; functions are tables of 2**`table_bits` codes; what has no integer form stays in real
    numbers, and the ledger says why. With `bias_correction` the mean error of each quantized weight is taken back
    (Nagel et al. 2019).

    Needs a Graph after `bind`, `batch_norm` and `fold`, and data, or ranges from training with fake quantization: then
    codes of weights are the nearest and no error is taken back, since the weights were trained with theirs. Class:
    approx, measured where there are data.
    """

    name: ClassVar[str] = "quantize"
    level: ClassVar[Level] = Level.GRAPH
    source: ClassVar[str] = "Jacob et al. 2018, Quantization and training of neural networks for integer inference"
    weights: int = 8
    activations: int = 8
    calibration: str = "mse"
    percentile: float = 99.99
    per_channel: bool = True
    bias_correction: bool = True
    table_bits: int = 10
    rounding: str = "auto"
    codes: str = "uniform"
    layers: str = ""

    def __post_init__(self) -> None:
        one_of(self, "calibration", CALIBRATIONS)
        one_of(self, "rounding", ROUNDINGS)
        one_of(self, "codes", CODES)
        limits = {"weights": (1, 8), "activations": (2, 8), "table_bits": (4, 16)}
        for option, (low, high) in limits.items():
            if not low <= getattr(self, option) <= high:
                raise PipelineError(
                    f"the option `{option}` of `quantize` is {getattr(self, option)}", f"{low} to {high}"
                )
        if not 50.0 < self.percentile <= 100.0:
            raise PipelineError(f"the option `percentile` of `quantize` is {self.percentile}", "above 50, at most 100")
        LayerBits.parse(self.layers)

    @staticmethod
    def scheme(text: str) -> Quantize:
        """`w4a8:first=8,last=8`: the bits of weights and of activations, and those of layers. Raises PipelineError."""
        found = _SCHEME.fullmatch(text)
        if found is None:
            hint = "bits of weights and activations: w8a8, w4a8, w4a8:first=8,last=8"
            raise PipelineError(f"`{text}` is no scheme of quantization", hint)
        return Quantize(int(found["weights"]), int(found["activations"]), layers=found["layers"] or "")

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        calibration = _data(graph, context)
        trained = context.ranges is not None
        t, kept = _translation(graph, context, calibration, self.options(trained), self.bits(graph))
        outputs = tuple(map(t.real, graph.outputs))
        constants = (*graph.constants, *t.constants)
        result = live(replace(graph, constants=constants, nodes=tuple(t.nodes), outputs=outputs))
        self._report(graph, result, t, kept, calibration, context)
        return result

    def plan(self, graph: Graph, context: PassContext) -> Plan:
        """What the translation rounds, without a choice of codes that would look at the data."""
        t, kept = _translation(graph, context, _data(graph, context), self.options(trained=True), self.bits(graph))
        return Plan(t.points, frozenset(kept))

    def bits(self, graph: Graph) -> dict[str, int]:
        """Of the weights of layers that are named, by node."""
        return LayerBits.parse(self.layers).of(graph)

    def options(self, trained: bool) -> Options:
        """What a translation is asked for; weights that were trained with their codes keep the nearest ones."""
        return Options(
            self.weights,
            self.activations,
            self.calibration,
            self.percentile,
            self.per_channel,
            self.bias_correction and not trained,
            self.table_bits,
            "nearest" if trained else self.rounding,
            self.codes,
        )

    def _report(
        self,
        before: Graph,
        after: Graph,
        t: Translation,
        kept: Mapping[str, str],
        calibration: Calibration | None,
        context: PassContext,
    ) -> None:
        """Layers with bits of their own, why a node stays as it is, and, with data, the error of each layer."""
        nodes = {node.name: node for node in before.nodes}
        for name, bits in self.bits(before).items():
            context.record(replace(self._entry(nodes[name], None, None), rewrite=f"{bits}-bit weights"))
        if calibration is None:
            for node in before.nodes:
                if node.name in kept:
                    context.record(self._entry(node, kept[node.name], None))
            context.record(self._entry(before.nodes[-1], None, None))
            return
        present = {value.name for value in after.values()}
        forms = {n.name: f for n in before.nodes if isinstance(f := t.forms.get(n.name), Coded | Sums)}
        shown = {name: form for name, form in forms.items() if form.name in present}
        outputs = tuple(form.name for form in shown.values())
        arrays = evaluate(lower(replace(after, outputs=outputs), context.library), calibration.inputs, {})
        values = dict(zip(shown, arrays, strict=True))
        judge = calibration.judge
        total = relative_error(judge.outputs(before), judge.outputs(after))
        for node in before.nodes:
            if node.name in kept:
                context.record(self._entry(node, kept[node.name], None))
            elif node.name in shown:
                error = relative_error([t.samples[node.name]], [_decoded(shown[node.name], values[node.name])])
                bits = self.activations if isinstance(shown[node.name], Coded) else 32
                context.ledger.layers.append(LayerError(node.name, node.operator, node.span, bits, error))
        last = before.nodes[-1]
        context.record(self._entry(last, None, total))

    def _entry(self, node: Node, reason: str | None, error: float | None) -> LedgerEntry:
        return LedgerEntry(
            self.name,
            "integers",
            node.name,
            node.operator,
            node.span,
            Exactness.APPROX,
            reason is None,
            reason,
            error,
            measured=error is not None,
        )


def _decoded(form: Form, array: Array) -> Matrix:
    if isinstance(form, Coded):
        return form.encoding.decode(array)  # pyright: ignore[reportArgumentType]
    assert isinstance(form, Sums)
    return array.astype(np.float64) * form.scale + form.offset


def _translation(
    graph: Graph, context: PassContext, calibration: Calibration | None, options: Options, bits: Mapping[str, int]
) -> tuple[Translation, dict[str, str]]:
    """The program, node by node, and why some stay as they are."""
    samples = _samples(graph, calibration) if calibration is not None else {}
    t = Translation(graph, context.library, options, samples, context.ranges)
    for value in graph.inputs:
        if value.type.dtype.is_float:
            t.forms[value.name] = Real(value.name)
    kept: dict[str, str] = {}
    for node in graph.nodes:
        t.begin(node)
        t.options = replace(options, weights=bits.get(node.name, options.weights))
        _translate(t, node, kept)
    return t, kept


def _samples(graph: Graph, calibration: Calibration) -> dict[str, Matrix]:
    """Every value of the program on the data."""
    names = [value.name for node in graph.nodes for value in node.results]
    found = dict(zip(names, calibration.outputs(replace(graph, outputs=tuple(names))), strict=True))
    return {name: np.asarray(array, np.float64) for name, array in (calibration.inputs | found).items()}


def _data(graph: Graph, context: PassContext) -> Calibration | None:
    """The data, without which ranges must be given; raises QuantizeError for none, or when they are not numbers."""
    if context.data is None and context.ranges is not None:
        return None
    if context.data is None:
        raise QuantizeError("quantization needs data: the ranges of its codes come from them", "--data X.npz, or data=")
    for value in graph.inputs:
        array = np.asarray(context.data[value.name])
        if array.size == 0:
            raise QuantizeError(f"the data of {value.name} are empty")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            place = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise QuantizeError(f"the data of {value.name} are not finite, first at {place}")
    return Calibration(graph, context.library, context.data, context.weights)


def _translate(t: Translation, node: Node, kept: dict[str, str]) -> None:
    """Set the form of what the node computes."""
    computed = [name for name in dict.fromkeys(node.operands) if name in t.forms]
    reason = None
    if len(node.results) == 1 and computed and t.real_types[node.name].dtype.is_float:
        try:
            t.forms[node.name] = _integer_form(t, node, computed)
            return
        except NoIntegerForm as refusal:
            reason = str(refusal)
    elif computed:
        reason = "it has no integer form"
    t.keep(node, [t.real(name) for name in node.operands])
    for value in node.results:
        if value.type.dtype.is_float:
            t.forms[value.name] = Real(value.name)
    if reason is not None:
        kept[node.name] = reason


def _integer_form(t: Translation, node: Node, computed: list[str]) -> Form:
    forms = [t.forms[name] for name in computed]
    variables = {f.variable if isinstance(f, Function) else name for name, f in zip(computed, forms, strict=True)}
    (variable, *others) = variables
    rule = RULES.get(node.operator)
    single = not others and not isinstance(t.forms[variable], Real) and _elementwise(t, node, computed)
    if single and (rule is None or any(isinstance(form, Function) for form in forms)):
        nodes = dict.fromkeys(n for form in forms if isinstance(form, Function) for n in form.nodes)
        return Function(variable, (*nodes, node))
    if rule is None:
        raise NoIntegerForm(f"{node.operator} has no integer form")
    return rule(t, node)


def _elementwise(t: Translation, node: Node, computed: list[str]) -> bool:
    """Whether each element of the result depends on the same element of the operands, and on single constants."""
    kind = t.real_types[node.name]
    for name in node.operands:
        if name not in computed:
            array = t.known(name)
            if array is None or array.size != 1:
                return False
        elif t.real_types[name] != kind:
            return False
    operands = [t.real_types[name] for name in node.operands]
    instance = t.library.instantiate(node.operator, operands, dict(node.attributes), node.span)
    moving = set(instance.operands) - {
        name for name, given in zip(instance.operands, node.operands, strict=True) if given not in computed
    }
    for statement in instance.statements:
        if not isinstance(statement, Nest):
            return False
        place = tuple(axis.name for axis in statement.axes)
        for part in walk(statement.body):
            if isinstance(part, Reduce | Index):
                return False
            if isinstance(part, Read) and part.tensor in moving and tuple(map(str, part.indices)) != place:
                return False
        moving.add(statement.target)
    return True
