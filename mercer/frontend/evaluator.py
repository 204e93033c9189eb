"""Expressions: from syntax to values.

One evaluator serves the bodies of operators, functions, kernels, layers and models. What a name means depends on where
it stands: inside an index statement (`frame.loop` is set) tensors are read element by element and arithmetic builds
scalar expressions; outside, tensors are whole and arithmetic applies operators through the `Builder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

from mercer.frontend import syntax
from mercer.frontend.arithmetic import (
    STATIC_CONSTANTS,
    STATIC_FUNCTIONS,
    OperandError,
    as_expr,
    binary,
    broadcast,
    has_index,
    negate,
    scalar_call,
    static_call,
    to_integer,
)
from mercer.frontend.diagnostics import CompileError, DiagnosticBag, did_you_mean
from mercer.frontend.values import (
    POISON,
    SCALARS,
    AnyValue,
    Poison,
    Reference,
    Static,
    Tensor,
    View,
    describe,
    is_integer,
    is_static,
    simplified,
)
from mercer.ir.graph import KernelValue
from mercer.ir.index import FUNCTIONS, Axis, Const, Expr, Read, Reduce, Reducer, call, transform, variables
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import Array, DType

DTYPES = {dtype.value: dtype for dtype in DType}
TENSOR_OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "%": "mod",
    "**": "pow",
    "==": "eq",
    "!=": "ne",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "and": "logical_and",
    "or": "logical_or",
}


class Builder(Protocol):
    """Receives what a body does with whole tensors."""

    def apply(
        self, operator: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span
    ) -> tuple[Tensor, ...]:
        """Apply an operator of the library."""
        ...

    def constant(self, array: Array, hint: str) -> Tensor:
        """A tensor known at compile time."""
        ...

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        """A loop nest that defines a new tensor."""
        ...


@dataclass
class Loop:
    """The indices of the index statement that is being read."""

    indices: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    ellipses: dict[str, tuple[IntExpr, ...]] = field(default_factory=dict[str, tuple[IntExpr, ...]])
    extents: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    taken: set[str] = field(default_factory=set[str])

    def axis(self, name: str, extent: IntExpr) -> Axis:
        """A new axis; its name differs from all others of the statement."""
        fresh, count = name, 0
        while fresh in self.taken:
            count += 1
            fresh = f"{name}{count}"
        self.taken.add(fresh)
        self.extents[fresh] = extent
        return Axis(fresh, extent)


@dataclass
class Frame:
    """The state of one body."""

    scope: dict[str, AnyValue]
    ellipses: dict[str, tuple[IntExpr, ...]] = field(default_factory=dict[str, tuple[IntExpr, ...]])
    types: dict[str, DType] = field(default_factory=dict[str, DType])
    symbols: frozenset[str] = frozenset()
    loop: Loop | None = None
    path: str = ""
    chain: tuple[str, ...] = ()
    """Functions and kernels that are being written out here."""
    site: Span | None = None
    """Where the user called, while the body belongs to the standard library."""

    @property
    def default(self) -> DType:
        """The element type of numbers that have none: that of the type variable, else f32."""
        floats = [t for t in self.types.values() if t.is_float]
        return floats[0] if floats else DType.F32


@dataclass(frozen=True)
class Signature:
    """How something is called: names of tensors, names of attributes with their defaults (None: required)."""

    kind: str
    name: str
    tensors: tuple[str, ...]
    attributes: tuple[tuple[str, syntax.Expression | None], ...]

    @staticmethod
    def of(definition: syntax.Definition) -> Signature:
        return Signature(
            definition.kind,
            definition.name.name,
            tuple(p.name.name for p in definition.parameters),
            tuple((a.name.name, a.default) for a in definition.attributes),
        )

    def __str__(self) -> str:
        attributes = ", ".join(self_name for self_name, _ in self.attributes)
        return f"{self.name}({', '.join(self.tensors)}{'; ' if attributes else ''}{attributes})"


class Definitions(Protocol):
    """The library as the evaluator needs it."""

    def definition(self, name: str) -> syntax.Definition | None: ...

    def names(self) -> Iterable[str]: ...

    def is_standard(self, span: Span) -> bool: ...


class Evaluator:
    """Evaluates expressions in one frame."""

    def __init__(self, library: Definitions, builder: Builder, frame: Frame) -> None:
        self.library = library
        self.builder = builder
        self.frame = frame

    # --- errors -------------------------------------------------------------------------------------------------------

    def fail(self, name: str, message: str, span: Span, **details: str | None) -> NoReturn:
        """Raise one diagnostic at `span`, or at the user's call with a note when `span` is in the standard library."""
        fail(name, message, span, self.frame.site, **details)

    @contextmanager
    def operands(self, span: Span) -> Iterator[None]:
        """Turns an OperandError into a diagnostic at `span`."""
        try:
            yield
        except OperandError as error:
            self.fail("type-mismatch", error.message, span, hint=error.hint)

    # --- expressions --------------------------------------------------------------------------------------------------

    def evaluate(self, e: syntax.Expression) -> AnyValue:
        """The value of an expression; raises CompileError."""
        match e:
            case syntax.Number() | syntax.Boolean() | syntax.String():
                return e.value
            case syntax.NoneLiteral():
                return None
            case syntax.Name():
                return self.lookup(e)
            case syntax.ListLiteral():
                return tuple(self.evaluate(item) for item in e.items)
            case syntax.Unary():
                return self._unary(e)
            case syntax.Binary():
                return self._binary(e)
            case syntax.Conditional():
                return self.evaluate(e.then if self.condition(e.condition) else e.otherwise)
            case syntax.Pipe():
                return self.call(e.stage, (self.evaluate(e.value),))
            case syntax.Call():
                return self.call(e)
            case syntax.Subscript():
                return self._subscript(e)
            case syntax.Reduction():
                return self._reduction(e)

    def lookup(self, e: syntax.Name) -> AnyValue:
        loop = self.frame.loop
        if loop is not None and e.name in loop.indices:
            return loop.indices[e.name]
        if e.name in self.frame.scope:
            value = self.frame.scope[e.name]
            if loop is not None and isinstance(value, Tensor) and not value.type.shape:
                return Read(value.name, (), value.type.dtype)
            return value
        if e.name in STATIC_CONSTANTS:
            return STATIC_CONSTANTS[e.name]
        definition = self.library.definition(e.name)
        if definition is not None:
            return Reference(definition)
        if e.name in DTYPES:
            return e.name
        if e.name in FUNCTIONS:
            return e.name
        known = [*self.frame.scope, *(loop.indices if loop else ()), *self.library.names(), *FUNCTIONS]
        self.fail("unknown-name", f"no value is named `{e.name}`", e.span, hint=did_you_mean(e.name, known))

    def static(self, e: syntax.Expression, what: str) -> Static:
        """A compile-time value; raises CompileError when it is not one."""
        value = self.evaluate(e)
        if not is_static(value) or (isinstance(value, IntExpr) and has_index(value)):
            self.fail("not-static", f"{what} must be known at compile time", e.span, found=describe(value))
        return value  # type: ignore[return-value]

    def condition(self, e: syntax.Expression) -> bool:
        """A compile-time truth value."""
        value = self.static(e, "the condition")
        if not isinstance(value, bool):
            self.fail("type-mismatch", f"a condition is true or false; found {describe(value)}", e.span)
        return value

    def integer(self, e: syntax.Expression, what: str) -> IntExpr:
        """A compile-time integer or dimension."""
        value = self.static(e, what)
        if not is_integer(value):
            self.fail("type-mismatch", f"{what} is an integer; found {describe(value)}", e.span)
        return IntExpr.of(value)  # type: ignore[arg-type]

    def _unary(self, e: syntax.Unary) -> AnyValue:
        value = self.evaluate(e.operand)
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, Tensor) and self.frame.loop is None:
            name = "neg" if e.operator == "-" else "logical_not"
            return self.apply(name, (value,), {}, e.span)
        with self.operands(e.span):
            if e.operator == "-":
                return negate(value)
            return (not value) if isinstance(value, bool) else scalar_call("not", (value,), self.frame.default)

    def _binary(self, e: syntax.Binary) -> AnyValue:
        left, right = self.evaluate(e.left), self.evaluate(e.right)
        if isinstance(left, Poison) or isinstance(right, Poison):
            return POISON
        if self.frame.loop is None and (isinstance(left, Tensor) or isinstance(right, Tensor)):
            if isinstance(left, Tensor) and isinstance(right, Tensor):
                self._check_pair(e, left, right)
            return self.apply_numeric(TENSOR_OPERATORS[e.operator], (left, right), {}, e.span)
        with self.operands(e.span):
            return binary(e.operator, left, right, self.frame.default)

    def _check_pair(self, e: syntax.Binary, left: Tensor, right: Tensor) -> None:
        if left.type.dtype is not right.type.dtype:
            message = f"`{e.operator}` takes one element type; found {left.type} and {right.type}"
            self.fail("dtype-mismatch", message, e.span, hint=f"convert one side, for example {left.type.dtype}(…)")
        try:
            broadcast(left.type.shape, right.type.shape)
        except OperandError as error:
            self.fail("shape-mismatch", f"`{e.operator}`: {error.message}", e.span,
                      hint="axes are matched from the right; an axis of 1 is repeated")  # fmt: skip

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, e: syntax.Call, first: tuple[AnyValue, ...] = ()) -> AnyValue:
        """A call with `first` put before the written arguments (the value of a pipe)."""
        positional = first + tuple(self.evaluate(a) for a in e.arguments)
        attributes = tuple(self.evaluate(a) for a in e.attributes)
        keywords = self._keywords(e)
        if any(isinstance(v, Poison) for v in (*positional, *attributes, *keywords.values())):
            return POISON
        name = e.callee.name
        bound = self.frame.scope.get(name)
        if isinstance(bound, Reference):
            return self.call_definition(bound.definition, e, positional, attributes, keywords)
        if isinstance(bound, KernelValue):
            definition = self.library.definition(bound.name)
            assert definition is not None
            return self.inline(definition, e, positional, attributes, keywords, dict(bound.attributes))
        if isinstance(bound, str) and bound in FUNCTIONS:
            name = bound
        if self.frame.loop is not None:
            if name in FUNCTIONS or name in STATIC_FUNCTIONS or name in DTYPES:
                return self._scalar_function(e, name, positional)
        elif not any(isinstance(v, Tensor) or _holds_tensor(v) for v in positional):
            if name == "rank" or name == "shape":
                self.fail("type-mismatch", f"`{name}` takes a tensor; found {_describe_all(positional)}", e.span)
            if name in STATIC_FUNCTIONS and not keywords:
                with self.operands(e.span):
                    return static_call(name, positional + attributes)
        if name in ("rank", "shape") and len(positional) == 1:
            tensor = positional[0]
            shape = tensor.type.shape if isinstance(tensor, Tensor) else tensor.shape if isinstance(tensor, View) else ()
            return len(shape) if name == "rank" else tuple(simplified(d) for d in shape)
        if name in DTYPES and len(positional) == 1 and isinstance(positional[0], Tensor):
            return self.apply("cast", (positional[0],), {"dtype": name}, e.span)
        definition = self.library.definition(name)
        if definition is None:
            known = [*self.library.names(), *STATIC_FUNCTIONS, *FUNCTIONS]
            hint = did_you_mean(name, known)
            self.fail("unknown-name", f"no layer, operator or function is named `{name}`", e.callee.span, hint=hint)
        return self.call_definition(definition, e, positional, attributes, keywords)

    def _keywords(self, e: syntax.Call) -> dict[str, AnyValue]:
        keywords: dict[str, AnyValue] = {}
        for keyword in e.keywords:
            if keyword.name in keywords:
                self.fail("duplicate-name", f"attribute `{keyword.name}` is given twice", keyword.span)
            keywords[keyword.name] = self.evaluate(keyword.value)
        return keywords

    def _scalar_function(self, e: syntax.Call, name: str, positional: tuple[AnyValue, ...]) -> AnyValue:
        with self.operands(e.span):
            if any(isinstance(v, View | Tensor) for v in positional):
                self.fail("type-mismatch", f"`{name}` takes numbers; found {_describe_all(positional)}", e.span)
            indexed = any(isinstance(v, SCALARS) or (isinstance(v, IntExpr) and has_index(v)) for v in positional)
            if name in DTYPES:
                (value,) = positional
                return call("cast", as_expr(value, self.frame.default), dtype=DTYPES[name])
            if name in ("min", "max", "clamp") and all(is_integer(v) for v in positional):
                return static_call(name, positional)
            if name in STATIC_FUNCTIONS and not indexed:
                return static_call(name, positional)
            if name == "clamp" and len(positional) == 3:
                value, low, high = positional
                lifted = scalar_call("max", (value, low), self.frame.default)
                return scalar_call("min", (lifted, high), self.frame.default)
            if name in ("min", "max") and len(positional) > 2:
                result: AnyValue = positional[0]
                for value in positional[1:]:
                    result = scalar_call(name, (result, value), self.frame.default)
                return result
            if name not in FUNCTIONS:
                self.fail("not-static", f"`{name}` takes compile-time values only", e.span)
            return scalar_call(name, positional, self.frame.default)

    def call_definition(
        self,
        definition: syntax.Definition,
        e: syntax.Call,
        positional: tuple[AnyValue, ...],
        attributes: tuple[AnyValue, ...],
        keywords: dict[str, AnyValue],
    ) -> AnyValue:
        kind = definition.kind
        if e.instance is not None and kind != "layer":
            self.fail("unsupported", f"`as` names a layer; `{definition.name.name}` is a {kind}", e.instance.span)
        if kind == "kernel" and (self.frame.loop is None or not any(isinstance(v, View) for v in positional)):
            bound = self.bind(Signature("kernel", definition.name.name, (), Signature.of(definition).attributes), e,
                              positional, attributes, keywords)[1]  # fmt: skip
            return KernelValue(definition.name.name, tuple(bound.items()))  # type: ignore[arg-type]
        if kind in ("kernel", "fn"):
            return self.inline(definition, e, positional, attributes, keywords, {})
        if self.frame.loop is not None:
            self.fail(
                "unsupported",
                f"{kind} `{definition.name.name}` takes whole tensors, not elements",
                e.span,
                hint="call it in a statement of its own, without indices on the left",
            )
        if kind == "model":
            self.fail("unsupported", f"model `{definition.name.name}` cannot be called", e.span, hint="make it a layer")
        tensors, bound = self.bind(Signature.of(definition), e, positional, attributes, keywords)
        if kind == "op":
            return self._operator(definition.name.name, tensors, bound, e)
        return self.layer(definition, e, tensors, bound)

    def _operator(
        self, name: str, tensors: tuple[AnyValue, ...], attributes: dict[str, AnyValue], e: syntax.Call
    ) -> AnyValue:
        first = tensors[0] if tensors else None
        if isinstance(first, tuple) and len(tensors) == 1 and first:
            result: AnyValue = first[0]
            for item in first[1:]:
                result = self.apply_numeric(name, (result, item), attributes, e.span)
            return result
        return self.apply_numeric(name, tensors, attributes, e.span)

    def apply_numeric(
        self, name: str, operands: tuple[AnyValue, ...], attributes: dict[str, AnyValue], span: Span
    ) -> AnyValue:
        """Apply an operator after turning numbers among the operands into constants of the other operands' type."""
        typed = [v.type.dtype for v in operands if isinstance(v, Tensor)]
        tensors: list[Tensor] = []
        for value in operands:
            if isinstance(value, Tensor):
                tensors.append(value)
            elif isinstance(value, int | float) and typed:
                dtype = typed[0]
                if isinstance(value, float) and not dtype.is_float:
                    self.fail("dtype-mismatch", f"{value} is not a number of type {dtype}", span)
                tensors.append(self.builder.constant(_scalar_array(value, dtype), "number"))
            else:
                self.fail("type-mismatch", f"`{name}` takes tensors; found {describe(value)}", span)
        for key, value in attributes.items():
            if not is_static(value):
                self.fail("not-static", f"attribute `{key}` of `{name}` must be known at compile time", span,
                          found=describe(value))  # fmt: skip
        return self.apply(name, tuple(tensors), attributes, span)  # type: ignore[arg-type]

    def apply(self, name: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span) -> AnyValue:
        if self.library.definition(name) is None:
            self.fail("unknown-name", f"no operator is named `{name}`", span)
        results = self.builder.apply(name, operands, attributes, self.frame.site or span)
        return results[0] if len(results) == 1 else results

    def bind(
        self,
        signature: Signature,
        e: syntax.Call,
        positional: tuple[AnyValue, ...],
        attributes: tuple[AnyValue, ...],
        keywords: dict[str, AnyValue],
    ) -> tuple[tuple[AnyValue, ...], dict[str, AnyValue]]:
        """Distribute the arguments of a call: tensors, and the attributes that are given."""
        count = len(signature.tensors)
        folded = bool(positional) and isinstance(positional[0], tuple) and _holds_tensor(positional[0])
        needed = 1 if folded else count
        tensors, rest = positional[:needed], positional[needed:]
        if len(tensors) < needed:
            missing = ", ".join(f"`{n}`" for n in signature.tensors[len(tensors) :])
            self.fail("missing-argument", f"`{signature.name}` needs {missing}", e.span, expected=str(signature))
        if e.split and rest:
            self.fail(
                "extra-argument",
                f"`{signature.name}` takes {count} tensor{'s' * (count != 1)}; found {len(positional)} before `;`",
                e.span,
                expected=str(signature),
            )
        known = [name for name, _ in signature.attributes]
        values = rest + attributes
        if len(values) > len(known):
            self.fail("extra-argument", f"`{signature.name}` takes {len(known)} attributes; found {len(values)}", e.span,
                      expected=str(signature))  # fmt: skip
        bound = dict(zip(known, values, strict=False))
        for keyword in e.keywords:
            if keyword.name not in known:
                hint = did_you_mean(keyword.name, known) or f"it has {', '.join(known) or 'no attributes'}"
                message = f"`{signature.name}` has no attribute `{keyword.name}`"
                self.fail("unknown-attribute", message, keyword.span, hint=hint)
            if keyword.name in bound:
                self.fail("duplicate-name", f"attribute `{keyword.name}` is given twice", keyword.span)
        bound |= keywords
        for name, default in signature.attributes:
            if default is None and name not in bound:
                message = f"`{signature.name}` needs attribute `{name}`"
                self.fail("missing-argument", message, e.span, expected=str(signature))
        for name, value in bound.items():
            if isinstance(value, Tensor) and signature.kind == "op":
                message = f"attribute `{name}` of `{signature.name}` takes no tensor"
                self.fail("type-mismatch", message, e.span, expected=str(signature), found=describe(value))
        return tensors, bound

    def layer(
        self, definition: syntax.Definition, e: syntax.Call, tensors: tuple[AnyValue, ...], bound: dict[str, AnyValue]
    ) -> AnyValue:
        self.fail("unsupported", f"layer `{definition.name.name}` cannot be used inside an operator", e.span,
                  hint="operators own no parameters; call an op")  # fmt: skip

    def inline(
        self,
        definition: syntax.Definition,
        e: syntax.Call,
        positional: tuple[AnyValue, ...],
        attributes: tuple[AnyValue, ...],
        keywords: dict[str, AnyValue],
        preset: dict[str, AnyValue],
    ) -> AnyValue:
        """The value of a `fn` or `kernel` for these arguments; `preset` are the attributes of a kernel value."""
        raise NotImplementedError

    # --- subscripts ---------------------------------------------------------------------------------------------------

    def _subscript(self, e: syntax.Subscript) -> AnyValue:
        bound = self.frame.scope.get(e.value.name) if isinstance(e.value, syntax.Name) else None
        value = bound if isinstance(bound, Tensor) else self.evaluate(e.value)
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, tuple):
            return self._list_item(e, value)
        if isinstance(value, Tensor | View) and self.frame.loop is not None:
            return self._read(e, value)
        if isinstance(value, Tensor):
            return self._slice(e, value)
        self.fail("type-mismatch", f"only tensors and lists have elements; found {describe(value)}", e.value.span)

    def _list_item(self, e: syntax.Subscript, value: tuple[AnyValue, ...]) -> AnyValue:
        if len(e.items) != 1 or isinstance(e.items[0], syntax.Slice | syntax.Ellipsis_):
            self.fail("unsupported", "an element of a list is taken by one number", e.span)
        position = self.integer(e.items[0], "the position in a list")
        if not position.is_constant or not -len(value) <= position.value < len(value):
            self.fail("out-of-range", f"position {position} of a list of {len(value)}", e.span)
        return value[position.value]

    def _read(self, e: syntax.Subscript, base: Tensor | View) -> AnyValue:
        tensor, prefix = (base, ()) if isinstance(base, Tensor) else (base.tensor, base.prefix)
        shape = tensor.type.shape[len(prefix) :]
        explicit = sum(not isinstance(item, syntax.Ellipsis_) for item in e.items)
        ellipses = len(e.items) - explicit
        if explicit > len(shape) or (ellipses and explicit == len(shape) + 1):
            self.fail("rank-mismatch", f"`{tensor.name}` has {len(shape)} axes; {explicit} indices are given", e.span)
        indices = list(prefix)
        position = len(prefix)
        for item in e.items:
            if isinstance(item, syntax.Slice):
                self.fail("unsupported", "a slice cannot stand in an index statement", item.span)
            if isinstance(item, syntax.Ellipsis_):
                found = self._ellipsis_indices(item, tensor, position, len(shape) - explicit, ellipses)
                indices += found
                position += len(found)
                continue
            with self.operands(item.span):
                indices.append(to_integer(self.evaluate(item)))
            position += 1
        if len(indices) < tensor.type.rank:
            if e.pad is not None:
                self.fail("unsupported", "a part of a tensor takes no pad value", e.span)
            return View(tensor, tuple(indices))
        pad = None
        if e.pad is not None:
            with self.operands(e.pad.span):
                filled = as_expr(self.evaluate(e.pad), tensor.type.dtype)
            if not isinstance(filled, Const):
                self.fail("not-static", "the pad value must be known at compile time", e.pad.span)
            if filled.dtype is not tensor.type.dtype:
                self.fail("dtype-mismatch", f"the pad value is {filled.dtype}; `{tensor.name}` is {tensor.type.dtype}",
                          e.pad.span)  # fmt: skip
            pad = filled
        else:
            self._check_range(e, tensor, indices)
        return Read(tensor.name, tuple(indices), tensor.type.dtype, pad)

    def _check_range(self, e: syntax.Subscript, tensor: Tensor, indices: list[IntExpr]) -> None:
        """Refuse a read that is out of range for certain values of its indices, where the sizes are known."""
        assert self.frame.loop is not None
        for axis, (index, size) in enumerate(zip(indices, tensor.type.shape, strict=True)):
            bounds = bounds_of(index, self.frame.loop.extents)
            if bounds is None or not size.is_constant:
                continue
            low, high = bounds
            if low < 0 or high >= size.value:
                self.fail(
                    "out-of-range",
                    f"`{tensor.name}` has {size} elements along axis {axis}; the index runs from {low} to {high}",
                    e.span,
                    hint="give a pad value, `[…; pad = 0]`, if the outside is to count as zero",
                )

    def _ellipsis_indices(
        self, item: syntax.Ellipsis_, tensor: Tensor, position: int, remaining: int, ellipses: int
    ) -> list[IntExpr]:
        """Indices for the axes that `...` covers, aligned at the right; axes of extent 1 are broadcast."""
        assert self.frame.loop is not None
        bound = self.frame.loop.ellipses.get(item.name)
        if bound is None:
            self.fail("unknown-name", f"`...{item.name}` does not stand on the left", item.span)
        count = len(bound) if ellipses > 1 else remaining
        if count > len(bound):
            message = f"`...{item.name}` covers {len(bound)} axes; `{tensor.name}` has {count} there"
            self.fail("rank-mismatch", message, item.span)
        chosen = bound[len(bound) - count :]
        indices: list[IntExpr] = []
        for offset, index in enumerate(chosen):
            size = tensor.type.shape[position + offset]
            extent = self.frame.loop.extents[str(index)]
            broadcast = size == IntExpr.constant(1) and extent != size
            indices.append(IntExpr.constant(0) if broadcast else index)
        return indices

    def _slice(self, e: syntax.Subscript, tensor: Tensor) -> AnyValue:
        """Whole-tensor subscript: a chain of `slice_axis` and `select`, with `none` for a new axis of extent 1."""
        if e.pad is not None:
            self.fail("unsupported", "a pad value belongs to an index statement", e.span)
        result: AnyValue = tensor
        explicit = sum(not isinstance(i, syntax.Ellipsis_ | syntax.NoneLiteral) for i in e.items)
        if explicit > tensor.type.rank:
            self.fail("rank-mismatch", f"{describe(tensor)} has {tensor.type.rank} axes; {explicit} are sliced", e.span)
        axis = 0
        for item in e.items:
            assert isinstance(result, Tensor)
            match item:
                case syntax.Ellipsis_():
                    axis += tensor.type.rank - explicit
                case syntax.NoneLiteral():
                    shape = result.type.shape
                    new = (*shape[:axis], IntExpr.constant(1), *shape[axis:])
                    result = self.apply("reshape", (result,), {"shape": new}, e.span)
                    axis += 1
                case syntax.Slice():
                    result = self._slice_axis(item, result, axis, e.span)
                    axis += 1
                case _:
                    index, size = self.integer(item, "an index"), result.type.shape[axis]
                    if index.is_constant and index.value < 0:
                        index = index + size
                    if index.is_constant and size.is_constant and not 0 <= index.value < size.value:
                        self.fail("out-of-range", f"index {index} of an axis of {size}", item.span)
                    result = self.apply("select", (result,), {"axis": axis, "index": simplified(index)}, e.span)
        return result

    def _slice_axis(self, item: syntax.Slice, tensor: Tensor, axis: int, span: Span) -> AnyValue:
        size = tensor.type.shape[axis]

        def bound(e: syntax.Expression | None, default: IntExpr) -> IntExpr:
            if e is None:
                return default
            value = self.integer(e, "the bound of a slice")
            if value.is_constant and value.value < 0:
                value = value + size
            if (value - size).is_constant and (value - size).value > 0:
                self.fail("out-of-range", f"slice bound {value} of an axis of {size}", e.span)
            return value

        start, stop = bound(item.start, IntExpr.constant(0)), bound(item.stop, size)
        step = self.integer(item.step, "the step of a slice") if item.step else IntExpr.constant(1)
        if not step.is_constant or step.value <= 0:
            self.fail("out-of-range", f"the step of a slice is positive; found {step}", span)
        if (stop - start).is_constant and (stop - start).value < 0:
            self.fail("out-of-range", f"the slice {start}:{stop} is empty backwards", span)
        if start == IntExpr.constant(0) and stop == size and step.value == 1:
            return tensor
        bounds = {"axis": axis, "start": simplified(start), "stop": simplified(stop), "step": step.value}
        return self.apply("slice_axis", (tensor,), bounds, span)

    # --- reductions ---------------------------------------------------------------------------------------------------

    def axes(self, binders: tuple[syntax.AxisBinder | syntax.Ellipsis_, ...]) -> tuple[Axis, ...]:
        """Open axes: afterwards their names are indices of the loop."""
        loop = self.frame.loop
        assert loop is not None
        opened: list[Axis] = []
        for binder in binders:
            if isinstance(binder, syntax.Ellipsis_):
                extents = self.frame.ellipses.get(binder.name)
                if extents is None:
                    message = f"`...{binder.name}` stands for no axes here"
                    self.fail("unknown-extent", message, binder.span)
                axes = tuple(loop.axis(f"{binder.name or 'i'}_{k}", extent) for k, extent in enumerate(extents))
                loop.ellipses[binder.name] = tuple(IntExpr.var(a.name) for a in axes)
                opened += axes
                continue
            axis = loop.axis(binder.name, self._extent(binder))
            loop.indices[binder.name] = IntExpr.var(axis.name)
            opened.append(axis)
        return tuple(opened)

    def _extent(self, binder: syntax.AxisBinder) -> IntExpr:
        if binder.extent is not None:
            return self.integer(binder.extent, f"the extent of index `{binder.name}`")
        value = self.frame.scope.get(binder.name)
        if not is_integer(value):
            self.fail(
                "unknown-extent",
                f"index `{binder.name}` has no range: no dimension has its name",
                binder.span,
                hint=f"say how far it runs, `{binder.name} < …`",
            )
        return IntExpr.of(value)  # type: ignore[arg-type]

    def _reduction(self, e: syntax.Reduction) -> AnyValue:
        loop = self.frame.loop
        if loop is None:
            self.fail("unsupported", f"`{e.kind}[…]` stands in an index statement", e.span,
                      hint=f"on whole tensors call `{e.kind}(x; axis)`")  # fmt: skip
        indices, ellipses = dict(loop.indices), dict(loop.ellipses)
        axes = self.axes(e.axes)
        value = self.evaluate(e.body)
        loop.indices, loop.ellipses = indices, ellipses
        if isinstance(value, Poison):
            return POISON
        with self.operands(e.body.span):
            body = self.lifted(as_expr(value, self.frame.default))
        if e.kind in ("any", "all") and body.dtype is not DType.BOOL:
            self.fail("type-mismatch", f"`{e.kind}` takes truth values; found {body.dtype}", e.body.span)
        if e.kind in ("argmax", "argmin") and len(axes) != 1:
            self.fail("unsupported", f"`{e.kind}` runs over one index", e.span)
        if e.kind == "mean":
            count: AnyValue = IntExpr.constant(1)
            for axis in axes:
                count = IntExpr.of(count) * axis.extent  # type: ignore[arg-type]
            with self.operands(e.span):
                return binary("/", Reduce(Reducer.SUM, axes, body), simplified(count), self.frame.default)  # type: ignore[arg-type]
        return Reduce(Reducer(e.kind), axes, body)

    def lifted(self, body: Expr) -> Expr:
        """Normal form: a reduction below another becomes a tensor of its own."""
        loop = self.frame.loop
        assert loop is not None

        def change(expr: Expr) -> Expr:
            if not isinstance(expr, Reduce):
                return expr
            names = sorted(variables(expr), key=list(loop.extents).index)
            axes = tuple(Axis(name, loop.extents[name]) for name in names)
            tensor = self.builder.emit(expr.reducer.value, axes, expr)
            return Read(tensor.name, tuple(IntExpr.var(name) for name in names), expr.dtype)

        return transform(body, change)


def bounds_of(index: IntExpr, extents: dict[str, IntExpr]) -> tuple[int, int] | None:
    """Least and greatest value of an affine index over its loops, or None when a size is not known."""
    low = high = 0
    for monomial, coefficient in index.terms:
        if not monomial:
            low, high = low + coefficient, high + coefficient
            continue
        extent = extents.get(str(monomial[0])) if len(monomial) == 1 else None
        if extent is None or not extent.is_constant or extent.value <= 0:
            return None
        reach = coefficient * (extent.value - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def fail(name: str, message: str, span: Span, site: Span | None = None, **details: str | None) -> NoReturn:
    bag = DiagnosticBag()
    notes = (f"raised in {span}",) if site is not None and site != span else ()
    bag.error(name, message, site or span, notes=notes, **details)  # type: ignore[arg-type]
    raise CompileError(bag.diagnostics)


def relocated(error: CompileError, site: Span, is_standard: Callable[[Span], bool]) -> CompileError:
    """Point diagnostics that lie in the standard library at the user's call instead."""
    bag = DiagnosticBag()
    for d in error.diagnostics:
        if is_standard(d.span) and not is_standard(site):
            moved = replace(d, span=site, lines=bag.sources.lines(site), notes=(*d.notes, f"raised in {d.span}"))
            bag.diagnostics.append(moved)
        else:
            bag.diagnostics.append(d)
    return CompileError(bag.diagnostics)


def _holds_tensor(value: AnyValue) -> bool:
    return isinstance(value, tuple) and any(isinstance(v, Tensor) or _holds_tensor(v) for v in value)


def _describe_all(values: tuple[AnyValue, ...]) -> str:
    return ", ".join(map(describe, values)) or "nothing"


def _scalar_array(value: float | int, dtype: DType) -> Array:
    import numpy as np

    return np.asarray(value, dtype.numpy)
