"""Expressions: from syntax to values.

One evaluator serves the bodies of operators, functions, kernels, layers and models. What a name means depends on where
it stands: inside an index statement (`frame.loop` is set) tensors are read element by element and arithmetic builds
scalar expressions; outside, tensors are whole and arithmetic applies operators through the `Builder`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import numpy as np

from mercer.frontend import syntax
from mercer.frontend.arithmetic import (
    REAL,
    SCALAR_OPERATORS,
    OperandError,
    binary,
    broadcast,
    convert,
    division_by_zero,
    has_index,
    is_zero,
    negate,
    require_fit,
    scalar_call,
)
from mercer.frontend.calls import bind_arguments, holds_tensor
from mercer.frontend.diagnostics import did_you_mean
from mercer.frontend.frames import DTYPES, Builder, Definitions, Frame, Signature, fail
from mercer.frontend.kernel_algebra import combine_kernels, has, is_kernel, takes_number
from mercer.frontend.reductions import reduction
from mercer.frontend.static_functions import STATIC_CONSTANTS, STATIC_FUNCTIONS, static_call
from mercer.frontend.subscripts import subscript
from mercer.frontend.values import (
    POISON,
    SCALARS,
    AnyValue,
    Poison,
    Reference,
    Static,
    Tensor,
    View,
    as_attribute,
    describe,
    is_integer,
    is_static,
    simplified,
)
from mercer.ir.graph import KernelValue
from mercer.ir.index import FUNCTIONS, Axis, Read
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import DType

MAX_STEPS = 50_000

TENSOR_OPERATORS = SCALAR_OPERATORS | {"and": "logical_and", "or": "logical_or"}
"""Operators on whole tensors; the scalar functions `and` and `or` have names that an `op` cannot have."""


DIVISIONS = frozenset(("div", "floor_divide", "mod"))


TENSOR_QUESTIONS: dict[str, Callable[[Tensor | View], Static]] = {
    "rank": lambda tensor: len(tensor.shape),
    "shape": lambda tensor: tuple(simplified(size) for size in tensor.shape),
    "dtype": lambda tensor: str(tensor.dtype),
}
"""What can be asked of a tensor at compile time."""


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

    def step(self, span: Span) -> None:
        """Count a call or a round of a `for`, which are written out; CompileError when there are too many."""
        self.builder.steps += 1
        if self.builder.steps > MAX_STEPS:
            message = f"calls and `for` are written out; here are more than {MAX_STEPS}"
            self.fail("out-of-range", message, span)

    @contextmanager
    def operands(self, span: Span) -> Generator[None]:
        """Turns an OperandError into a diagnostic at `span`."""
        try:
            yield
        except OperandError as error:
            self.fail(error.name, error.message, span, hint=error.hint)

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
                return subscript(self, e)
            case syntax.Reduction():
                return reduction(self, e)

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
        return self._known(self.evaluate(e), e, what)

    def _known(self, value: AnyValue, e: syntax.Expression, what: str) -> Static:
        if not is_static(value) or (isinstance(value, IntExpr) and has_index(value)):
            self.fail("not-static", f"{what} must be known at compile time", e.span, found=describe(value))
        return value  # type: ignore[return-value]

    def condition(self, e: syntax.Expression) -> bool:
        """A compile-time truth value."""
        return self.truth(self.evaluate(e), e)

    def truth(self, value: AnyValue, e: syntax.Expression) -> bool:
        """`value` of `e` as a compile-time truth value."""
        known = self._known(value, e, "the condition")
        if not isinstance(known, bool):
            self.fail("type-mismatch", f"a condition is true or false; found {describe(known)}", e.span)
        return known

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
        left = self.evaluate(e.left)
        if (e.operator == "and" and left is False) or (e.operator == "or" and left is True):
            return left
        right = self.evaluate(e.right)
        if isinstance(left, Poison) or isinstance(right, Poison):
            return POISON
        if self.frame.loop is None and (isinstance(left, Tensor) or isinstance(right, Tensor)):
            if (
                isinstance(left, Tensor)
                and left.dtype.is_complex
                and e.operator == "**"
                and not isinstance(right, Tensor)
            ):
                return self.apply_numeric("complex_power", (left,), {"n": right}, e.span)
            if isinstance(left, Tensor) and isinstance(right, Tensor):
                left, right = self._lifted(left, right, e.span), self._lifted(right, left, e.span)
                self._check_pair(e, left, right)
            return self.apply_numeric(TENSOR_OPERATORS[e.operator], (left, right), {}, e.span)
        with self.operands(e.span):
            if is_kernel(left) or is_kernel(right):
                return combine_kernels(e.operator, left, right)
            return binary(e.operator, left, right, self.frame.default)

    def _lifted(self, value: Tensor, other: Tensor, span: Span) -> Tensor:
        """A real tensor as a complex one where it meets one."""
        if not other.dtype.is_complex or not (value.dtype is DType.F32 or value.dtype.is_integer):
            return value
        lifted = self.apply("cast", (value,), {"dtype": "c64"}, span)
        assert isinstance(lifted, Tensor)
        return lifted

    def _check_pair(self, e: syntax.Binary, left: Tensor, right: Tensor) -> None:
        if left.type.dtype is not right.type.dtype:
            message = f"`{e.operator}` takes one element type; found {left.type} and {right.type}"
            self.fail("dtype-mismatch", message, e.span, hint=f"convert one side, for example {left.type.dtype}(…)")
        try:
            broadcast(left.type.shape, right.type.shape)
        except OperandError as error:
            self.fail(
                "shape-mismatch",
                f"`{e.operator}`: {error.message}",
                e.span,
                hint="axes are matched from the right; an axis of 1 is repeated",
            )

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, e: syntax.Call, first: tuple[AnyValue, ...] = ()) -> AnyValue:
        """A call with `first` put before the written arguments (the value of a pipe)."""
        self.step(e.span)
        positional = first + tuple(self.evaluate(a) for a in e.arguments)
        attributes = tuple(self.evaluate(a) for a in e.attributes)
        keywords = self._keywords(e)
        if any(isinstance(v, Poison) for v in (*positional, *attributes, *keywords.values())):
            return POISON
        name = e.callee.name
        bound = self.frame.scope.get(name)
        if isinstance(bound, KernelValue) and not bound.attributes:
            function = self.library.definition(bound.name)
            assert function is not None
            bound = bound if function.kind == "kernel" else Reference(function)
        if isinstance(bound, Reference) and self.frame.loop is not None and len(positional) == 1:
            (value,) = positional
            if isinstance(value, View) and takes_number(bound.definition):
                return replace(value, maps=(*value.maps, bound))
            if bound.definition.name.name in FUNCTIONS:
                return self._scalar_function(e, bound.definition.name.name, positional)
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
        elif not any(isinstance(v, Tensor) or holds_tensor(v) for v in positional):
            if name in TENSOR_QUESTIONS:
                self.fail("type-mismatch", f"`{name}` takes a tensor; found {_describe_all(positional)}", e.span)
            if name in STATIC_FUNCTIONS and not keywords:
                with self.operands(e.span):
                    return static_call(name, positional + attributes)
        if name == "has" and len(positional) == 2:
            with self.operands(e.span):
                return has(self.library, *positional)
        if name in TENSOR_QUESTIONS and len(positional) == 1 and isinstance(positional[0], Tensor | View):
            return TENSOR_QUESTIONS[name](positional[0])
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
                return convert(value, DTYPES[name], self.frame.default)
            if name in ("min", "max", "clamp") and all(is_integer(v) for v in positional):
                return static_call(name, positional)
            symbolic = name in REAL and any(isinstance(v, IntExpr) for v in positional)
            if name in STATIC_FUNCTIONS and not indexed and not symbolic:
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

    def apply_to_number(self, function: Reference, value: AnyValue, e: syntax.Subscript) -> AnyValue:
        """The scalar function of one element of a vector."""
        name = function.definition.name
        call = syntax.Call(name, (), (), (), False, None, e.span)
        if name.name in FUNCTIONS:
            return self._scalar_function(call, name.name, (value,))
        return self.inline(function.definition, call, (value,), (), {}, {})

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
            bound = bind_arguments(
                self,
                Signature("kernel", definition.name.name, (), Signature.of(definition).attributes),
                e,
                positional,
                attributes,
                keywords,
            )[1]
            given = tuple((key, as_attribute(value)) for key, value in bound.items())  # type: ignore[arg-type]
            return KernelValue(definition.name.name, given)
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
        tensors, bound = bind_arguments(self, Signature.of(definition), e, positional, attributes, keywords)
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
                dtype = next((t for t in typed if t is not DType.BOOL), typed[0])  # not that of a condition
                if isinstance(value, float) and not dtype.rounds:
                    self.fail("dtype-mismatch", f"{value} is not a number of type {dtype}", span)
                with self.operands(span):
                    require_fit(value, dtype)
                    if name in DIVISIONS and len(tensors) == 1 and is_zero(value):
                        raise division_by_zero()
                tensors.append(self.builder.constant(np.asarray(value, dtype.numpy), "number"))
            else:
                self.fail("type-mismatch", f"`{name}` takes tensors; found {describe(value)}", span)
        for key, value in attributes.items():
            if not is_static(value):
                self.fail(
                    "not-static",
                    f"attribute `{key}` of `{name}` must be known at compile time",
                    span,
                    found=describe(value),
                )
        return self.apply(name, tuple(tensors), attributes, span)  # type: ignore[arg-type]

    def apply(self, name: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span) -> AnyValue:
        if self.library.definition(name) is None:
            self.fail("unknown-name", f"no operator is named `{name}`", span)
        results = self.builder.apply(name, operands, attributes, self.frame.site or span)
        return results[0] if len(results) == 1 else results

    def layer(
        self, definition: syntax.Definition, e: syntax.Call, tensors: tuple[AnyValue, ...], bound: dict[str, AnyValue]
    ) -> AnyValue:
        self.fail(
            "unsupported",
            f"layer `{definition.name.name}` cannot be used inside an operator",
            e.span,
            hint="operators own no parameters; call an op",
        )

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
            extent = self.integer(binder.extent, f"the extent of index `{binder.name}`")
            if extent.is_constant and extent.value < 0:
                self.fail("out-of-range", f"index `{binder.name}` would run below {extent}", binder.span)
            return extent
        value = self.frame.scope.get(binder.name)
        if isinstance(value, float):
            message = f"index `{binder.name}` runs below an integer; `{binder.name}` is {describe(value)}"
            self.fail("type-mismatch", message, binder.span)
        if not is_integer(value):
            self.fail(
                "unknown-extent",
                f"index `{binder.name}` has no range: no dimension has its name",
                binder.span,
                hint=f"say how far it runs, `{binder.name} < …`",
            )
        return IntExpr.of(value)  # type: ignore[arg-type]


def _describe_all(values: tuple[AnyValue, ...]) -> str:
    return ", ".join(map(describe, values)) or "nothing"
