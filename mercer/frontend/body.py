"""Statements: the bodies of operators, functions and kernels, and what layers share with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mercer.frontend import syntax
from mercer.frontend.arithmetic import Undecided, as_expr
from mercer.frontend.calls import bind_arguments
from mercer.frontend.diagnostics import CompileError
from mercer.frontend.evaluator import Evaluator
from mercer.frontend.frames import Frame, Loop, Signature
from mercer.frontend.signature import Matcher, bind_defaults
from mercer.frontend.values import POISON, SCALARS, AnyValue, Poison, Tensor, View, as_attribute, describe, is_static
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, KernelValue, format_attribute
from mercer.ir.index import Axis, Const, Expr, Read, walk
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, Data, DType, TensorType

MAX_UNROLL = 10_000
MAX_CONST = 2**26


class Body(Evaluator):
    """Runs statements; `run` gives the returned values, or None when the body ended without `return`."""

    def run(self, statements: Sequence[syntax.Statement]) -> tuple[AnyValue, ...] | None:
        for statement in statements:
            result = self.execute(statement)
            if result is not None:
                return result
        return None

    def execute(self, s: syntax.Statement) -> tuple[AnyValue, ...] | None:
        match s:
            case syntax.Assign():
                self._assign(s)
            case syntax.IndexAssign():
                self.frame.scope[s.target.name] = self.constant(s) if s.const else self.index_statement(s)
            case syntax.ParamDeclaration():
                self.parameter(s)
            case syntax.Return():
                return self._returned(s)
            case syntax.ReturnIndexed():
                return (self.index_statement(s.statement),)
            case syntax.If():
                return self.run(s.then if self.condition(s.condition) else s.otherwise)
            case syntax.For():
                return self._for(s)
            case syntax.Require():
                self._require(s)
            case syntax.Scan():
                self.scan(s)
            case syntax.Carry() | syntax.Emit() | syntax.Until():
                word = type(s).__name__.lower()
                hint = "`scan t < n { … }` and `iterate k < n { … }` say how often" if word != "until" else None
                self.fail("unsupported", f"`{word}` stands directly in the block of a scan", s.span, hint=hint)
        return None

    def scan(self, s: syntax.Scan) -> None:
        word = "iterate" if s.early else "scan"
        self.fail("unsupported", f"`{word}` stands in an operator", s.span, hint="move it into an `op`")

    def call(self, e: syntax.Call, first: tuple[AnyValue, ...] = ()) -> AnyValue:
        if e.callee.name != "grad" or self.library.definition("grad") is not None:
            return super().call(e, first)
        self.step(e.span)
        arguments = first + tuple(self.evaluate(a) for a in e.arguments)
        return POISON if any(isinstance(v, Poison) for v in arguments) else self.gradient(e, arguments)

    def gradient(self, e: syntax.Call, arguments: tuple[AnyValue, ...]) -> AnyValue:
        """`grad(y, x)`."""
        hint = "it differentiates whole tensors; call it where the operators are called"
        self.fail("unsupported", "`grad` stands in a layer or a model", e.span, hint=hint)

    def parameter(self, s: syntax.ParamDeclaration) -> None:
        self.fail("unsupported", "only a layer or a model owns parameters", s.span, hint="take it as a tensor argument")

    def index_statement(self, s: syntax.IndexAssign) -> AnyValue:
        self.fail("unsupported", "index notation stands in an operator", s.span, hint="move the formula into an `op`")

    def _assign(self, s: syntax.Assign) -> None:
        value = self.evaluate(s.value)
        if len(s.names) == 1:
            self.frame.scope[s.names[0].name] = value
            return
        if isinstance(value, Poison):
            value = (POISON,) * len(s.names)
        if not isinstance(value, tuple) or len(value) != len(s.names):
            found = f"{len(value)} values" if isinstance(value, tuple) else describe(value)
            self.fail("type-mismatch", f"{len(s.names)} names on the left; {found} on the right", s.span)
        for name, item in zip(s.names, value, strict=True):
            self.frame.scope[name.name] = item

    def _returned(self, s: syntax.Return) -> tuple[AnyValue, ...]:
        values = tuple(self.evaluate(v) for v in s.values)
        if len(values) == 1 and isinstance(values[0], tuple) and any(isinstance(v, Tensor) for v in values[0]):
            return values[0]
        return values

    def _for(self, s: syntax.For) -> tuple[AnyValue, ...] | None:
        start = self.integer(s.start, "the start of a range")
        stop = self.integer(s.stop, "the end of a range")
        if not start.is_constant or not stop.is_constant:
            self.fail("not-static", "a `for` runs a fixed number of times", s.start.span.to(s.stop.span))
        if stop.value - start.value > MAX_UNROLL:
            self.fail(
                "out-of-range", f"a `for` is written out; {stop - start} rounds are more than {MAX_UNROLL}", s.span
            )
        for value in range(start.value, stop.value):
            self.step(s.span)
            self.frame.scope[s.variable.name] = value
            result = self.run(s.body)
            if result is not None:
                return result
        return None

    def _require(self, s: syntax.Require) -> None:
        try:
            value = self.evaluate(s.condition)
            if self.frame.loop is not None and isinstance(value, SCALARS):
                return  # it depends on the elements of a tensor
            if self.truth(value, s.condition):
                return
        except CompileError as error:
            if isinstance(error.__context__, Undecided):
                return  # the sizes of a call decide; the reads that rely on it are checked when it runs
            raise
        message = "".join(p if isinstance(p, str) else _shown(self.evaluate(p)) for p in s.message)
        self.fail("require-failed", message, s.span)

    def constant(self, s: syntax.IndexAssign) -> AnyValue:
        """`const name[axes] = e`, evaluated now."""
        recorder = _Recorder()
        builder, self.builder = self.builder, recorder
        try:
            target = nest(self, s)
        finally:
            self.builder = builder
        if isinstance(target, Poison):
            return POISON
        known: dict[str, Constant] = {}
        for value in self.frame.scope.values():
            data = builder.data(value.name) if isinstance(value, Tensor) and isinstance(builder, Collector) else None
            if isinstance(value, Tensor) and data is not None:
                known[value.name] = Constant(value.name, value.type, Data(data))
        program = Nests("const", (), (), tuple(known.values()), tuple(recorder.nests), (target.name,))
        computed = {n.target for n in recorder.nests}
        read = {name for n in recorder.nests for name in read_names(n)} - known.keys() - computed
        if read:
            self.fail("not-static", f"a `const` reads only other constants, not `{sorted(read)[0]}`", s.span)
        if any(dim.dims() for n in recorder.nests for dim in n.type.shape):
            self.fail("not-static", "the extents of a `const` are numbers", s.span)
        size = max(math.prod(dim.value for dim in n.type.shape) for n in recorder.nests)
        if size > MAX_CONST:
            self.fail("out-of-range", f"a `const` is computed now; {size} numbers are more than {MAX_CONST}", s.span)
        (array,) = evaluate(program, {}, precision=DType.F64)  # rounded once, at the end
        with np.errstate(over="ignore"):
            array = array.astype(target.type.dtype.numpy)
        read = [c.data.array for c in known.values() if c.data.array is not None]
        self._check_constant(s, array, any(np.isinf(a).any() for a in read) or any(map(_says_inf, recorder.nests)))
        return self.builder.constant(array, s.target.name)

    def _check_constant(self, s: syntax.IndexAssign, array: Array, infinite: bool) -> None:
        """Raises CompileError for what is no number, or infinite where nothing `infinite` is written."""
        wrong = np.isnan(array) if infinite else ~np.isfinite(array)
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), array.shape)
            where = ", ".join(map(str, place))
            hint = "a division by zero, a root or logarithm of a negative number, or a number too large for its type"
            message = f"`{s.target.name}[{where}]` has no value"
            self.fail("domain-error", message, s.span, found=str(array[place]), hint=hint)

    def inline(
        self,
        definition: syntax.Definition,
        e: syntax.Call,
        positional: tuple[AnyValue, ...],
        attributes: tuple[AnyValue, ...],
        keywords: dict[str, AnyValue],
        preset: dict[str, AnyValue],
    ) -> AnyValue:
        name = definition.name.name
        if preset:  # a kernel made of kernels of the same name ends where they end
            name = str(KernelValue(name, tuple(preset.items())))  # type: ignore[arg-type]
        if name in self.frame.chain:
            chain = " → ".join((*self.frame.chain, name))
            self.fail("recursion", f"{definition.kind} `{name}` uses itself: {chain}", e.span)
        plain = Signature.of(definition)
        optional = tuple(
            (n, default or syntax.NoneLiteral(e.span) if n in preset else default) for n, default in plain.attributes
        )
        signature = replace(plain, attributes=optional)
        arguments, bound = bind_arguments(self, signature, e, positional, attributes, keywords)
        bound = preset | bound
        if len(arguments) != len(signature.tensors):
            self.fail(
                "missing-argument",
                f"`{signature.name}` takes {len(signature.tensors)} arguments",
                e.span,
                expected=str(signature),
            )
        site = self.frame.site or (e.span if self.library.is_standard(definition.span) else None)
        frame = Frame(
            dict(bound),
            dict(self.frame.ellipses),
            dict(self.frame.types),
            self.frame.symbols,
            self.frame.loop,
            self.frame.path,
            (*self.frame.chain, name),
            site,
            self.frame.scans,
        )
        inner = Inline(self.library, self.builder, frame)
        matcher = Matcher(inner, e.span)
        for parameter, value in zip(definition.parameters, arguments, strict=True):
            frame.scope[parameter.name.name] = value
            if parameter.type is not None and isinstance(value, Tensor | View):
                tensor = value if isinstance(value, Tensor) else value.tensor
                shape = value.type.shape if isinstance(value, Tensor) else value.shape
                matcher.match(parameter.name.name, parameter.type, TensorType(tensor.type.dtype, shape))
        matcher.finish()
        bind_defaults(inner, definition.attributes, last=True)
        saved = (dict(frame.loop.indices), dict(frame.loop.ellipses)) if frame.loop else None
        if frame.loop is not None:
            frame.loop.indices = {}
        result = inner.run(definition.body)
        if frame.loop is not None and saved is not None:
            frame.loop.indices, frame.loop.ellipses = saved
        if result is None or len(result) != 1:
            self.fail(
                "missing-return", f"{definition.kind} `{definition.name.name}` returns one value", definition.span
            )
        return result[0]


class Inline(Body):
    """The body of a `fn` or a `kernel`, evaluated in the loop of its caller."""


def nest(evaluator: Body, s: syntax.IndexAssign) -> Tensor | Poison:
    """Emit the loop nest of an index statement."""
    frame = evaluator.frame
    frame.loop = Loop(taken=set(frame.symbols))
    try:
        axes = evaluator.axes(s.axes)
        value = evaluator.evaluate(s.value)
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, View):
            evaluator.fail(
                "rank-mismatch", f"{describe(value)} is not one number", s.value.span, hint="give it all its indices"
            )
        with evaluator.operands(s.value.span):
            body = as_expr(value, frame.default)
        return evaluator.builder.emit(s.target.name, axes, body)
    finally:
        frame.loop = None


class Collector:
    """What builders have in common: unique names, and constants that are kept once."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.constants: dict[str, Constant] = {}
        self.steps = 0
        self.numbers: Counter[str] = Counter()

    def fresh(self, hint: str) -> str:
        """A name that is not taken yet: the hint, or the hint with a number."""
        name = hint
        while name in self.names:
            self.numbers[hint] += 1
            name = f"{hint}.{self.numbers[hint]}"
        self.names.add(name)
        return name

    def data(self, name: str) -> Array | None:
        """The contents of a constant; None when the name is not one."""
        return self.constants[name].data.array if name in self.constants else None

    def constant(self, array: Array, hint: str) -> Tensor:
        data = Data(array)
        for known in self.constants.values():
            if known.data == data:
                return Tensor(known.name, known.type)
        name = self.fresh(hint)
        self.constants[name] = Constant(name, TensorType.of(array), data)
        return Tensor(name, self.constants[name].type)


class _Recorder:
    """Takes the nests of one `const` statement."""

    def __init__(self) -> None:
        self.nests: list[Nest] = []
        self.steps = 0

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        name = f"{target}.{len(self.nests)}"
        type_ = TensorType(body.dtype, tuple(axis.extent for axis in axes))
        self.nests.append(Nest(name, type_, axes, body, ()))
        return Tensor(name, type_)

    def constant(self, array: Array, hint: str) -> Tensor:
        raise AssertionError(hint)

    def apply(self, operator: str, operands: object, attributes: object, span: object) -> tuple[Tensor, ...]:
        raise AssertionError(operator)


def _says_inf(nest: Nest) -> bool:
    numbers = [e.pad if isinstance(e, Read) else e for e in walk(nest.body)]
    return any(isinstance(e, Const) and np.isinf(e.number) for e in numbers)


def _shown(value: AnyValue) -> str:
    """A value inside the message of a `require`."""
    if isinstance(value, str):
        return value
    return format_attribute(as_attribute(value)) if is_static(value) else describe(value)  # type: ignore[arg-type]
