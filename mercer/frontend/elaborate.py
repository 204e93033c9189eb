"""Models and layers: from syntax to a Graph with types, shapes and stable parameter names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass

from mercer.frontend import syntax
from mercer.frontend.body import Body, Collector
from mercer.frontend.diagnostics import CompileError, DiagnosticBag, did_you_mean
from mercer.frontend.frames import Frame, fail, relocated
from mercer.frontend.gradients import differentiate
from mercer.frontend.library import DefinitionLibrary
from mercer.frontend.signature import Matcher, bind_defaults, names_in, type_of
from mercer.frontend.static_functions import STATIC_FUNCTIONS
from mercer.frontend.values import POISON, AnyValue, Poison, Static, Tensor, as_attribute, describe, is_integer
from mercer.ir.graph import AttributeValue, Graph, Initializer, Node, Parameter, Value
from mercer.ir.index import Axis, Expr
from mercer.ir.initializers import INITIALIZERS
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import Array, TensorType


def elaborate(
    library: DefinitionLibrary, model: syntax.Definition, attributes: dict[str, AttributeValue] | None = None
) -> Graph:
    """The graph of `model`; its dims that are single names, such as `N`, stay symbolic.

    Raises CompileError with every independent error of the body.
    """
    return _ModelBody(library, model).graph(attributes or {})


def snake_case(name: str) -> str:
    """`KernelMachine` → kernel_machine, `Conv2d` → conv2d, `RBFField` → rbf_field."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class _GraphBuilder(Collector):
    """Collects the nodes, parameters and constants of one graph."""

    def __init__(self, library: DefinitionLibrary) -> None:
        super().__init__()
        self.library = library
        self.nodes: list[Node] = []
        self.parameters: dict[str, Parameter] = {}
        self.types: dict[str, TensorType] = {}
        self.path = ""

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        raise AssertionError(f"index statement `{target}` outside an operator")

    def constant(self, array: Array, hint: str) -> Tensor:
        return super().constant(array, self.path + hint)

    def apply(
        self, operator: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span
    ) -> tuple[Tensor, ...]:
        given = {key: as_attribute(value) for key, value in attributes.items()}
        instance = self.library.instantiate(operator, [t.type for t in operands], given, span)
        results = tuple(Value(self.fresh(self.path + operator), type_) for type_ in instance.results)
        names = tuple(t.name for t in operands)
        self.types |= {t.name: t.type for t in operands}
        self.nodes.append(Node(operator, names, self.library.normalize(operator, given), results, span))
        return tuple(Tensor(value.name, value.type) for value in results)


class _LayerBody(Body):
    """The body of a layer."""

    builder: _GraphBuilder

    def __init__(
        self, library: DefinitionLibrary, builder: _GraphBuilder, frame: Frame, chain: tuple[str, ...]
    ) -> None:
        super().__init__(library, builder, frame)
        self.builder = builder
        self.owner = library
        self.chain = chain
        self.counts: Counter[str] = Counter()
        self.repeated: frozenset[str] = frozenset()

    def parameter(self, s: syntax.ParamDeclaration) -> None:
        name = self.frame.path + s.name.name
        if name in self.builder.names:
            self.fail(
                "duplicate-name",
                f"parameter `{name}` exists already",
                s.name.span,
                hint="give the layers different names with `as`",
            )
        type_ = type_of(self, s.type)
        if type_.dtype.is_complex:
            message, hint = f"parameter `{name}` would be {type_}: parameters are real", "declare two: complex(re, im)"
            self.fail("complex-number", message, s.span, hint=hint)
        symbolic = sorted(name for dim in type_.shape for name in dim.dims())
        if symbolic:
            message = f"parameter `{name}` would be {type_}: a parameter has a fixed shape"
            self.fail("not-static", message, s.span, hint=f"{symbolic[0]} is known only when the program is called")
        initializer = self._initializer(s)
        self.builder.names.add(name)
        self.builder.parameters[name] = Parameter(name, type_, initializer, s.trainable, self.frame.site or s.span)
        self.frame.scope[s.name.name] = Tensor(name, type_)

    def gradient(self, e: syntax.Call, arguments: tuple[AnyValue, ...]) -> AnyValue:
        if len(arguments) != 2 or e.attributes or e.keywords:
            name = "missing-argument" if len(arguments) < 2 else "extra-argument"
            self.fail(name, "`grad` takes two tensors", e.span, expected="grad(y, x)")
        spans = [a.span for a in e.arguments]
        spans = [e.span] * (2 - len(spans)) + spans  # the first may come through a pipe
        for value, span, allowed in zip(arguments, spans, ("real", "real and complex"), strict=True):
            if not isinstance(value, Tensor):
                found = describe(value)
                self.fail("type-mismatch", "`grad` takes two tensors", span, expected="grad(y, x)", found=found)
            if not value.dtype.rounds or (value.dtype.is_complex and allowed == "real"):
                parts, whole = "take real(z), imag(z) or abs(z)", "whole numbers and truth values have no derivatives"
                hint = parts if value.dtype.is_complex else whole
                message = f"only {allowed} numbers have a gradient here; this tensor is {value.type}"
                self.fail("not-differentiable", message, span, hint=hint)
        y, x = arguments
        assert isinstance(y, Tensor) and isinstance(x, Tensor)
        builder, span = self.builder, self.frame.site or e.span
        return differentiate(self.owner, builder, builder.nodes, builder.types, y, x, span)

    def _initializer(self, s: syntax.ParamDeclaration) -> Initializer:
        e = s.initializer
        if e is None:
            return Initializer("zeros")
        if isinstance(e, syntax.Number | syntax.Unary):
            return Initializer("constant", (("value", as_attribute(self.static(e, "the initial value"))),))
        callee = e.callee if isinstance(e, syntax.Call) else e
        if not isinstance(callee, syntax.Name) or callee.name not in INITIALIZERS:
            name = callee.name if isinstance(callee, syntax.Name) else "this"
            hint = did_you_mean(name, INITIALIZERS) or f"one of {', '.join(INITIALIZERS)}"
            self.fail("unknown-name", f"no initializer is named `{name}`", e.span, hint=hint)
        known = list(INITIALIZERS[callee.name].attributes)
        given: dict[str, AttributeValue] = {}
        if isinstance(e, syntax.Call):
            values = (*e.arguments, *e.attributes)
            pairs = [*zip(known, values, strict=False), *((k.name, k.value) for k in e.keywords)]
            for key, value in pairs:
                if key not in known:
                    self.fail(
                        "unknown-attribute",
                        f"`{callee.name}` has no attribute `{key}`",
                        e.span,
                        hint=f"it has {', '.join(known) or 'none'}",
                    )
                given[key] = as_attribute(self.static(value, f"`{key}`"))
        for key, default in INITIALIZERS[callee.name].attributes.items():
            if default is None and key not in given:
                self.fail("missing-argument", f"`{callee.name}` needs `{key}`", e.span)
        self._check_initializer(callee, given, e.span)
        return Initializer(callee.name, tuple((k, given[k]) for k in known if k in given))

    def _check_initializer(self, callee: syntax.Name, given: dict[str, AttributeValue], span: Span) -> None:
        """Numbers that the distribution has."""
        numbers: dict[str, float] = {}
        for key, value in ({**INITIALIZERS[callee.name].attributes, **given}).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fail("type-mismatch", f"`{key}` of `{callee.name}` is a number; found {value}", span)
            numbers[key] = value
        low, high = numbers.get("low", 0), numbers.get("high", 0)
        if not low <= high:
            self.fail("domain-error", f"`{callee.name}` needs low <= high; low is {low}, high is {high}", span)
        for key, value in numbers.items():
            if (key == "std" and value < 0) or (key.startswith("fan") and value <= 0):
                bound = "std >= 0" if key == "std" else f"{key} > 0"
                self.fail("domain-error", f"`{callee.name}` needs {bound}; {key} is {value}", span)
            if callee.name != "constant" and value in (math.inf, -math.inf):
                self.fail("domain-error", f"`{callee.name}` needs finite numbers; {key} is {value}", span)

    def layer(
        self, definition: syntax.Definition, e: syntax.Call, tensors: tuple[AnyValue, ...], bound: dict[str, AnyValue]
    ) -> AnyValue:
        name = definition.name.name
        if name in self.chain:
            self.fail("recursion", f"layer `{name}` uses itself: {' → '.join((*self.chain, name))}", e.span)
        path = self.frame.path + self._instance_name(e, name) + "."
        site = self.frame.site
        if site is None and self.owner.is_standard(definition.span):
            site = e.span
        frame = Frame(dict(bound), symbols=self.frame.symbols, path=path, site=site)
        body = _LayerBody(self.owner, self.builder, frame, (*self.chain, name))
        body.repeated = repeated_names(definition.body)
        outer, self.builder.path = self.builder.path, path
        try:
            results = body.called(definition, tensors, self.frame.site or e.span)
        except CompileError as error:
            raise relocated(error, e.span, self.owner.is_standard) from None
        finally:
            self.builder.path = outer
        return results[0] if len(results) == 1 else results

    def called(self, definition: syntax.Definition, tensors: Sequence[AnyValue], span: Span) -> tuple[AnyValue, ...]:
        """Bind the signature, run the body, check the results."""
        matcher = Matcher(self, span)
        bind_defaults(self, definition.attributes, last=False)
        for parameter, value in zip(definition.parameters, tensors, strict=True):
            if not isinstance(value, Tensor):
                self.fail(
                    "type-mismatch",
                    f"`{parameter.name.name}` of `{definition.name.name}` is a tensor",
                    span,
                    found=describe(value),
                )
            if parameter.type is not None:
                matcher.match(parameter.name.name, parameter.type, value.type)
        matcher.finish()
        for parameter, value in zip(definition.parameters, tensors, strict=True):
            self.frame.scope[parameter.name.name] = value
        bind_defaults(self, definition.attributes, last=True)
        results = self.run(definition.body)
        if results is None:
            fail("missing-return", f"`{definition.name.name}` ends without `return`", definition.name.span)
        if definition.results and not any(isinstance(v, Poison) for v in results):
            self._check_results(definition, results, matcher)
        return results

    def _check_results(self, definition: syntax.Definition, results: tuple[AnyValue, ...], matcher: Matcher) -> None:
        if len(results) != len(definition.results):
            message = f"`{definition.name.name}` declares {len(definition.results)} results; it returns {len(results)}"
            fail("missing-return", message, definition.name.span)
        for value, type_ in zip(results, definition.results, strict=True):
            if not isinstance(value, Tensor):
                fail("type-mismatch", f"a tensor is returned by a model; found {describe(value)}", type_.span)
            matcher.span = type_.span
            matcher.match("the result", type_, value.type)
        matcher.finish()

    def _instance_name(self, e: syntax.Call, layer: str) -> str:
        base = e.instance.name if e.instance is not None else snake_case(layer)
        number = self.counts[base]
        self.counts[base] += 1
        return f"{base}.{number}" if base in self.repeated or number else base

    def execute(self, s: syntax.Statement) -> tuple[AnyValue, ...] | None:
        if isinstance(s, syntax.For) and s.instance is not None:
            return self._named_for(s, s.instance.name)
        return super().execute(s)

    def _named_for(self, s: syntax.For, name: str) -> tuple[AnyValue, ...] | None:
        """`for i in a..b as name`: layers of round i live under `name.i`."""
        start, stop = self.integer(s.start, "the start of a range"), self.integer(s.stop, "the end of a range")
        if not start.is_constant or not stop.is_constant:
            self.fail("not-static", "a `for` runs a fixed number of times", s.start.span.to(s.stop.span))
        outer = self.frame.path, self.counts, self.repeated, self.builder.path
        try:
            for value in range(start.value, stop.value):
                self.frame.scope[s.variable.name] = value
                self.frame.path = self.builder.path = f"{outer[0]}{name}.{value}."
                self.counts, self.repeated = Counter(), repeated_names(s.body)
                result = self.run(s.body)
                if result is not None:
                    return result
        finally:
            self.frame.path, self.counts, self.repeated, self.builder.path = outer
        return None


def repeated_names(body: Sequence[syntax.Statement]) -> frozenset[str]:
    """Instance names that occur more than once in a body.

    A call in an unnamed `for` counts as repeated; of the two branches of an `if` only one is ever built.
    """

    def count(node: object, weight: int) -> Counter[str]:
        found: Counter[str] = Counter()
        if isinstance(node, syntax.For):
            if node.instance is not None:
                return found
            weight = 2
        if isinstance(node, syntax.If):
            return count(node.condition, weight) + (count(node.then, weight) | count(node.otherwise, weight))
        if isinstance(node, syntax.Call):
            name = node.instance.name if node.instance is not None else snake_case(node.callee.name)
            if node.instance is not None or node.callee.name[:1].isupper():
                found[name] += weight
        if isinstance(node, tuple):
            for item in node:  # type: ignore[reportUnknownVariableType]
                found += count(item, weight)  # type: ignore[reportUnknownArgumentType]
        elif is_dataclass(node) and not isinstance(node, Span):
            for entry in fields(node):
                found += count(getattr(node, entry.name), weight)
        return found

    return frozenset(name for name, times in count(tuple(body), 1).items() if times > 1)


class _ModelBody(_LayerBody):
    """The body of a model: keeps going after an error, so that independent errors are shown together."""

    def __init__(self, library: DefinitionLibrary, model: syntax.Definition) -> None:
        super().__init__(library, _GraphBuilder(library), Frame({}), (model.name.name,))
        self.model = model
        self.bag = DiagnosticBag()
        self.repeated = repeated_names(model.body)

    def graph(self, attributes: dict[str, AttributeValue]) -> Graph:
        model, scope = self.model, self.frame.scope
        known = [a.name.name for a in model.attributes]
        for key, value in attributes.items():
            if key not in known:
                hint = did_you_mean(key, known) or f"it has {', '.join(known) or 'none'}"
                fail("unknown-attribute", f"`{model.name.name}` has no attribute `{key}`", model.name.span, hint=hint)
            scope[key] = value
        bind_defaults(self, model.attributes, last=False)
        for attribute in model.attributes:
            if attribute.name.name not in scope:
                message = f"attribute `{attribute.name.name}` of a model needs a default"
                fail("missing-argument", message, attribute.span)
        self._symbols()
        inputs: list[Value] = []
        tensors: list[Tensor] = []
        for parameter in model.parameters:
            assert parameter.type is not None
            type_ = type_of(self, parameter.type)
            inputs.append(Value(parameter.name.name, type_))
            self.builder.names.add(parameter.name.name)
            tensors.append(Tensor(parameter.name.name, type_))
        results = self._results(tensors)
        self.bag.raise_if_any()
        builder = self.builder
        return Graph(
            model.name.name,
            tuple(inputs),
            tuple(builder.parameters.values()),
            tuple(builder.constants.values()),
            tuple(builder.nodes),
            tuple(t.name for t in results),
            self.owner.own_text(),
        )

    def _symbols(self) -> None:
        """Names in the types of the inputs that nothing else defines are symbolic dimensions."""
        for parameter in self.model.parameters:
            for dim in parameter.type.dims if parameter.type else ():
                if isinstance(dim, syntax.Ellipsis_ | syntax.PlacedDim):
                    fail("unsupported", "the inputs of a model have a fixed number of axes", dim.span)
                for name in names_in(dim):
                    if name not in STATIC_FUNCTIONS:
                        self.frame.scope.setdefault(name, IntExpr.dim(name))
        dims = (v for v in self.frame.scope.values() if isinstance(v, IntExpr))
        self.frame.symbols = frozenset(name for dim in dims for name in dim.dims())

    def _check_results(self, definition: syntax.Definition, results: tuple[AnyValue, ...], matcher: Matcher) -> None:
        for type_ in definition.results:
            for dim in type_.dims:
                if isinstance(dim, syntax.Name) and dim.name not in self.frame.scope:
                    hint = did_you_mean(dim.name, [n for n, v in self.frame.scope.items() if is_integer(v)])
                    fail("unknown-dim", f"no input has a dimension `{dim.name}`", dim.span, hint=hint)
        super()._check_results(definition, results, matcher)

    def _results(self, tensors: list[Tensor]) -> list[Tensor]:
        try:
            results = self.called(self.model, tensors, self.model.span)
        except CompileError as error:
            self.bag.diagnostics += [d for d in error.diagnostics if d not in self.bag.diagnostics]
            return []
        return [t for t in results if isinstance(t, Tensor)]

    def execute(self, s: syntax.Statement) -> tuple[AnyValue, ...] | None:
        try:
            return super().execute(s)
        except CompileError as error:
            self.bag.diagnostics += [d for d in error.diagnostics if d not in self.bag.diagnostics]
        match s:
            case syntax.Assign():
                for name in s.names:
                    self.frame.scope[name.name] = POISON
            case syntax.IndexAssign():
                self.frame.scope[s.target.name] = POISON
            case syntax.ParamDeclaration():
                self.frame.scope[s.name.name] = POISON
            case syntax.Return() | syntax.ReturnIndexed() | syntax.If() | syntax.For():
                return (POISON,) * len(self.model.results)
            case _:
                pass
        return None


def find_model(definitions: Sequence[syntax.Definition], name: str | None, file: syntax.File) -> syntax.Definition:
    """The model called `name`, or the only one. Raises CompileError."""
    models = [d for d in definitions if d.kind == "model"]
    start = Span(file.name, 1, 1, 1, 1)
    for model in models:
        if model.name.name == name or (name is None and len(models) == 1):
            return model
    names = [m.name.name for m in models]
    if name is not None:
        fail(
            "no-model",
            f"{file.name} has no model `{name}`",
            start,
            hint=did_you_mean(name, names) or f"it has {', '.join(names)}",
        )
    if not models:
        fail(
            "no-model",
            f"{file.name} has no `model`",
            start,
            hint="a model is a layer with types: model Net(x: f32[N, 4]) -> …",
        )
    fail("no-model", f"{file.name} has several models: {', '.join(names)}", start, hint="say which one, --model NAME")
