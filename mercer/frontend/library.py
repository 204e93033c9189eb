"""The operators at hand: the standard library, with a user's own definitions on top."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import cast

from mercer.frontend import gradients, syntax
from mercer.frontend.arithmetic import show_shape
from mercer.frontend.body import Body, nest
from mercer.frontend.diagnostics import SOURCES, CompileError, DiagnosticBag, did_you_mean
from mercer.frontend.evaluator import Evaluator
from mercer.frontend.frames import DTYPES, Frame, fail, relocated
from mercer.frontend.parser import Outline, outline, parse, parse_item
from mercer.frontend.scans import Statements, scan
from mercer.frontend.signature import Matcher, bind_defaults, type_of
from mercer.frontend.values import AnyValue, Reference, Tensor, as_attribute, describe, is_integer
from mercer.ir.graph import AttributeValue, KernelValue, Value
from mercer.ir.index import Axis, Expr, Read, call
from mercer.ir.integers import IntExpr
from mercer.ir.library import GRADIENT, Instance
from mercer.ir.nests import Primitive
from mercer.ir.primitives import OF_KNOWN_LENGTH
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, TensorType

STANDARD = "stdlib"
MAX_DEPTH = 64


class _Standard(Mapping[str, syntax.Definition]):
    """The definitions of the standard library; each is parsed when it is first asked for."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, str, Outline]] = {}
        self._parsed: dict[str, syntax.Definition] = {}
        texts = {"builtin.mer": _BUILTIN_TEXT}
        for entry in (resources.files("mercer") / "stdlib").iterdir():
            if entry.name.endswith(".mer"):
                texts[entry.name] = entry.read_text(encoding="utf-8")
        for file in sorted(texts):
            for item in outline(texts[file]):
                self.places[item.name] = (texts[file], f"{STANDARD}/{file}", item)

    def __getitem__(self, name: str) -> syntax.Definition:
        if name not in self._parsed:
            parsed = parse_item(*self.places[name])
            assert isinstance(parsed, syntax.Definition)
            self._parsed[name] = parsed
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places


class DefinitionLibrary:
    """The standard library with a user's `own` definitions. Satisfies `mercer.ir.library.Library`."""

    def __init__(self, standard: _Standard, own: Mapping[str, syntax.Definition] | None = None) -> None:
        self.own = dict(own or {})
        self._standard = standard
        self._definitions = ChainMap(self.own, cast("dict[str, syntax.Definition]", standard))
        self._instances: dict[object, Instance] = {}
        self._active: list[str] = []

    def definition(self, name: str) -> syntax.Definition | None:
        return self._definitions.get(name)

    def names(self) -> Iterable[str]:
        return self._definitions

    def operators(self) -> frozenset[str]:
        standard = {name for name, (_, _, item) in self._standard.places.items() if item.kind == "op"}
        return frozenset(standard | {name for name, d in self.own.items() if d.kind == "op"})

    def is_standard(self, span: Span) -> bool:
        return span.file.startswith(f"{STANDARD}/")

    def extended(self, definitions: Sequence[syntax.Definition]) -> DefinitionLibrary:
        """With more definitions. Raises CompileError for a name that exists already."""
        bag = DiagnosticBag()
        own = dict(self.own)
        for definition in definitions:
            name = definition.name.name
            known = own.get(name) or self.definition(name)
            if known is not None:
                message, notes = f"`{name}` is defined already", [f"first in {known.span}"]
                bag.error("duplicate-name", message, definition.name.span, notes=notes)
            own[name] = definition
        bag.raise_if_any()
        return DefinitionLibrary(self._standard, own)

    def own_text(self) -> str:
        """The text of the user's operators, functions and kernels, for an IR that stands alone."""
        return "\n\n".join(d.source for d in self.own.values() if d.kind in ("op", "fn", "kernel"))

    # --- instances ----------------------------------------------------------------------------------------------------

    def instantiate(
        self, operator: str, operands: Sequence[TensorType], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        """The definition of `operator` for these operand types; see `mercer.ir.library.Library`."""
        key = (operator, tuple(operands), tuple(sorted(attributes.items(), key=lambda item: item[0])))
        if key not in self._instances:
            self._instances[key] = self._instantiate(operator, operands, attributes, span)
        return self._instances[key]

    def _instantiate(
        self, operator: str, operands: Sequence[TensorType], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        if operator.endswith(GRADIENT):
            return gradients.instance(self, operator, operands, attributes, span)
        definition = self.definition(operator)
        if definition is None or definition.kind != "op":
            hint = did_you_mean(operator, self.operators())
            fail("unknown-name", f"no operator is named `{operator}`", span, hint=hint)
        if len(operands) != len(definition.parameters):
            message = f"`{operator}` takes {len(definition.parameters)} tensors; found {len(operands)}"
            fail("missing-argument", message, span)
        known = [a.name.name for a in definition.attributes]
        unknown = [name for name in attributes if name not in known]
        if unknown:
            hint = did_you_mean(unknown[0], known) or f"it has {', '.join(known) or 'no attributes'}"
            fail("unknown-attribute", f"`{operator}` has no attribute `{unknown[0]}`", span, hint=hint)
        lacking = [a.name.name for a in definition.attributes if a.default is None and a.name.name not in attributes]
        if lacking:
            fail("missing-argument", f"`{operator}` needs attribute `{lacking[0]}`", span)
        if operator in self._active or len(self._active) > MAX_DEPTH:
            chain = " → ".join([*self._active, operator])
            fail("recursion", f"`{operator}` uses itself: {chain}", definition.name.span)
        self._active.append(operator)
        try:
            return _OperatorBody(self, definition, operands, span).instance(attributes)
        except CompileError as error:
            raise relocated(error, span, self.is_standard) from None
        finally:
            self._active.pop()

    def normalize(
        self, operator: str, attributes: Mapping[str, AttributeValue]
    ) -> tuple[tuple[str, AttributeValue], ...]:
        """All attributes in declaration order; a default that depends on the operands is left out."""
        if operator.endswith(GRADIENT):
            return gradients.normalize(self, operator, attributes)
        definition = self.definition(operator)
        if definition is None:
            return tuple(attributes.items())
        frame = Frame({name: _from_attribute(value, self) for name, value in attributes.items()})
        evaluator = Evaluator(self, _NoBuilder(), frame)
        bind_defaults(evaluator, definition.attributes, last=False)
        given = {name: as_attribute(value) for name, value in frame.scope.items()}  # type: ignore[arg-type]
        return tuple((a.name.name, given[a.name.name]) for a in definition.attributes if a.name.name in given)


def _from_attribute(value: AttributeValue, library: DefinitionLibrary) -> AnyValue:
    if isinstance(value, KernelValue) and not value.attributes:
        definition = library.definition(value.name)
        if definition is not None and definition.kind != "kernel":
            return Reference(definition)
    if isinstance(value, tuple):
        return tuple(_from_attribute(v, library) for v in value)
    return value


class _NoBuilder:
    """For evaluating attributes, where no tensor can arise."""

    def __init__(self) -> None:
        self.steps = 0

    def apply(self, operator: str, operands: object, attributes: object, span: Span) -> tuple[Tensor, ...]:
        fail("not-static", f"`{operator}` needs tensors", span)

    def constant(self, array: Array, hint: str) -> Tensor:
        fail("not-static", "a tensor cannot stand in an attribute", NOWHERE)

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        fail("not-static", "a loop nest cannot stand in an attribute", NOWHERE)


class _OperatorBody(Body):
    """Instantiates one operator; is its own builder."""

    def __init__(
        self, library: DefinitionLibrary, definition: syntax.Definition, operands: Sequence[TensorType], span: Span
    ) -> None:
        symbols = frozenset(name for t in operands for dim in t.shape for name in dim.dims())
        site = span if library.is_standard(definition.span) else None
        super().__init__(library, Statements(library), Frame({}, symbols=symbols, site=site))
        self.definition = definition
        self.types = operands
        self.span = span
        self.owner = library

    def instance(self, attributes: Mapping[str, AttributeValue]) -> Instance:
        definition, scope = self.definition, self.frame.scope
        statements = self.builder
        assert isinstance(statements, Statements)
        for name, value in attributes.items():
            scope[name] = _from_attribute(value, self.owner)
        bind_defaults(self, definition.attributes, last=False)
        matcher = Matcher(self, self.span)
        names = tuple(p.name.name for p in definition.parameters)
        statements.names.update(names)
        for parameter, type_ in zip(definition.parameters, self.types, strict=True):
            if parameter.type is not None:
                matcher.match(parameter.name.name, parameter.type, type_)
        matcher.finish()
        for parameter, type_ in zip(definition.parameters, self.types, strict=True):
            if parameter.name.name in scope:
                fail("duplicate-name", f"`{parameter.name.name}` names a tensor and a dimension", parameter.name.span)
            scope[parameter.name.name] = Tensor(parameter.name.name, type_)
        bind_defaults(self, definition.attributes, last=True)
        builtin = BUILTINS.get(definition.name.name)
        if builtin is not None:
            results: tuple[AnyValue, ...] | None = (builtin(self),)
        elif definition.is_primitive and self.owner.is_standard(definition.span):
            results = self._primitive()
        else:
            results = self.run(definition.body)
        tensors = self._results(results, matcher)
        return Instance(
            names,
            tuple(t.type for t in tensors),
            tuple(statements.constants.values()),
            tuple(statements.statements),
            tuple(t.name for t in tensors),
        )

    def _primitive(self) -> tuple[Tensor, ...]:
        """The operation `NAME` of the backends on all operands, with all attributes."""
        definition, scope, statements = self.definition, self.frame.scope, self.builder
        assert isinstance(statements, Statements)
        name = definition.name.name
        for attribute in definition.attributes:
            if attribute.name.name not in scope:
                self.fail("missing-argument", f"`{name}` needs `{attribute.name.name}`", self.span)
        attributes = tuple((a.name.name, as_attribute(scope[a.name.name])) for a in definition.attributes)  # type: ignore[arg-type]
        targets = tuple(Value(statements.fresh("y"), type_of(self, type_)) for type_ in definition.results)
        operands = tuple(p.name.name for p in definition.parameters)
        if name in OF_KNOWN_LENGTH and not (length := self.types[0].shape[OF_KNOWN_LENGTH[name]]).is_constant:
            message = f"`{name}` needs a length known at compile time; found {length}"
            self.fail("not-static", message, self.span, hint="give the axis a number")
        statements.statements.append(Primitive(name, targets, operands, attributes, ()))
        return tuple(Tensor(value.name, value.type) for value in targets)

    def _results(self, results: tuple[AnyValue, ...] | None, matcher: Matcher) -> tuple[Tensor, ...]:
        declared = self.definition.results
        name = self.definition.name.name
        if results is None or len(results) != len(declared):
            found = "nothing" if results is None else f"{len(results)} values"
            self.fail(
                "missing-return",
                f"`{name}` declares {len(declared)} results; its body returns {found}",
                self.definition.name.span,
            )
        tensors: list[Tensor] = []
        for value, type_ in zip(results, declared, strict=True):
            if not isinstance(value, Tensor):
                self.fail("type-mismatch", f"`{name}` returns {describe(value)}, not a tensor", type_.span)
            matcher.span = type_.span
            matcher.match("the result", type_, value.type)
            tensors.append(value)
        matcher.finish()
        for tensor in tensors:
            if any(size.is_constant and size.value < 0 for size in tensor.type.shape):
                message = f"`{name}` gives a result of shape {show_shape(tensor.type.shape)}"
                self.fail("out-of-range", message, self.span, hint="the operands are too small")
        return tuple(tensors)

    def index_statement(self, s: syntax.IndexAssign) -> AnyValue:
        return nest(self, s)

    def scan(self, s: syntax.Scan) -> None:
        scan(self, s, dict(zip((p.name.name for p in self.definition.parameters), self.types, strict=True)))


# --- operators whose rule does not fit the language -------------------------------------------------------------------


def _reshape(body: _OperatorBody) -> Tensor:
    x = body.frame.scope["x"]
    assert isinstance(x, Tensor)
    wanted = body.frame.scope["shape"]
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    if (wrong := next((d for d in wanted if not is_integer(d)), None)) is not None:
        body.fail("wrong-attribute", f"a shape is made of integers; found {describe(wrong)}", body.span)
    shape = [IntExpr.of(d) for d in wanted]  # type: ignore[arg-type]
    total = _count(x.type.shape)
    free = [k for k, d in enumerate(shape) if d == IntExpr.constant(-1)]
    if len(free) > 1:
        body.fail("wrong-attribute", "a shape has at most one -1", body.span)
    if free:
        known = _count(tuple(d for k, d in enumerate(shape) if k != free[0]))
        if known.terms:
            shape[free[0]] = total // known
    result = tuple(shape)
    if _count(result) != total:
        body.fail(
            "shape-mismatch",
            f"{show_shape(x.type.shape)} has {total} elements; {show_shape(result)} has {_count(result)}",
            body.span,
        )
    if result == x.type.shape:
        return x
    statements = body.builder
    assert isinstance(statements, Statements)
    value = Value(statements.fresh("y"), TensorType(x.type.dtype, result))
    statements.statements.append(Primitive("reshape", (value,), (x.name,), (), ()))
    return Tensor(value.name, value.type)


def _count(shape: tuple[IntExpr, ...]) -> IntExpr:
    return math.prod(shape, start=IntExpr.constant(1))


def _permute(body: _OperatorBody) -> Tensor:
    x, dims = body.frame.scope["x"], body.frame.scope["dims"]
    assert isinstance(x, Tensor)
    rank = x.type.rank
    order = (
        [d % rank if isinstance(d, int) and -rank <= d < rank else -1 for d in dims] if isinstance(dims, tuple) else []
    )
    if sorted(order) != list(range(rank)):
        body.fail("wrong-attribute", f"`dims` orders the axes 0 to {rank - 1}; found {dims}", body.span)
    axes = tuple(Axis(f"i{k}", x.type.shape[d]) for k, d in enumerate(order))
    indices = tuple(IntExpr.var(f"i{order.index(k)}") for k in range(rank))
    return body.builder.emit("y", axes, Read(x.name, indices, x.type.dtype))


def _cast(body: _OperatorBody) -> Tensor:
    x, name = body.frame.scope["x"], body.frame.scope["dtype"]
    assert isinstance(x, Tensor)
    if not isinstance(name, str) or name not in DTYPES:
        hint = f"one of {', '.join(DTYPES)}"
        body.fail("wrong-attribute", f"`dtype` is the name of an element type; found {name}", body.span, hint=hint)
    if x.type.dtype.is_complex and not DTYPES[name].is_complex:
        hint = "take real(z), imag(z) or abs(z)"
        body.fail("complex-number", f"a tensor {x.type} cannot become {name}", body.span, hint=hint)
    axes = tuple(Axis(f"i{k}", extent) for k, extent in enumerate(x.type.shape))
    read = Read(x.name, tuple(IntExpr.var(a.name) for a in axes), x.type.dtype)
    return body.builder.emit(
        "y", axes, read if DTYPES[name] is x.type.dtype else call("cast", read, dtype=DTYPES[name])
    )


BUILTINS: dict[str, Callable[[_OperatorBody], Tensor]] = {"reshape": _reshape, "permute": _permute, "cast": _cast}

_BUILTIN_TEXT = """
# The same elements in row-major order under another shape, which may hold one -1.
op reshape(x: T[...]; shape) -> T[...r] { return x }

# y[i...] = x[...]: axis k of the result is axis dims[k] of x.
op permute(x: T[...]; dims) -> T[...r] { return x }

# Converts the elements to another element type: f32, f16, i32, bool and so on.
op cast(x: T[...]; dtype = "f32") -> U[...] { return x }
"""

# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A user's file with everything it uses."""

    file: syntax.File
    definitions: tuple[syntax.Definition, ...]


@cache
def default_library() -> DefinitionLibrary:
    """The standard library."""
    return DefinitionLibrary(_Standard())


def load(text: str, name: str, folder: Path | None = None) -> Loaded:
    """Parse a file and the files it uses. Raises CompileError."""
    definitions: list[syntax.Definition] = []
    seen: set[Path] = set()

    def visit(file: syntax.File, base: Path | None, chain: tuple[Path, ...]) -> None:
        for item in file.items:
            if isinstance(item, syntax.Definition):
                definitions.append(item)
                continue
            if base is None:
                fail("file-not-found", f"text without a file cannot use `{item.path}`", item.span)
            path = base / (item.path.replace(".", "/") + ".mer")
            if path in chain:
                fail("recursion", f"{path.name} uses itself: {' → '.join(p.name for p in (*chain, path))}", item.span)
            if path in seen:
                continue
            seen.add(path)
            try:
                inner = path.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                fail("file-not-found", f"cannot read {path}: {reason}", item.span)
            SOURCES.add(str(path), inner)
            visit(parse(inner, str(path)), path.parent, (*chain, path))

    file = parse(text, name)
    visit(file, folder, (folder / Path(name).name,) if folder is not None else ())
    return Loaded(file, tuple(definitions))
