"""The statements of an operator's instance, and scans among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mercer.frontend import syntax
from mercer.frontend.body import Body, Collector, nest
from mercer.frontend.values import AnyValue, Poison, Static, Tensor, as_attribute, describe
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Expr
from mercer.ir.integers import IntExpr
from mercer.ir.library import Library
from mercer.ir.lower import read_names, rename
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement, defined
from mercer.ir.spans import Span
from mercer.ir.types import Array, DType, TensorType


class Statements(Collector):
    """Collects the statements of one instance; operators that it applies are written out.

    The statements of a scan have an `outer` collector, with which they share names and constants.
    """

    def __init__(self, library: Library, outer: Statements | None = None) -> None:
        super().__init__()
        self.library = library
        self.statements: list[Statement] = []
        if outer is not None:
            self.names, self.constants, self.numbers = outer.names, outer.constants, outer.numbers

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        value = Tensor(self.fresh(target), TensorType(body.dtype, tuple(axis.extent for axis in axes)))
        self.statements.append(Nest(value.name, value.type, axes, body, ()))
        return value

    def apply(
        self, operator: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span
    ) -> tuple[Tensor, ...]:
        given = {key: as_attribute(value) for key, value in attributes.items()}
        instance = self.library.instantiate(operator, [t.type for t in operands], given, span)
        names = dict(zip(instance.operands, (t.name for t in operands), strict=True))
        for constant in instance.constants:
            names[constant.name] = self.constant(_array(constant), constant.name).name
        for statement in instance.statements:
            for value in defined(statement):
                names[value.name] = self.fresh(
                    operator if value.name in instance.outputs else f"{operator}.{value.name}"
                )
            self.statements.append(rename(statement, names, ()))
        pairs = zip(instance.outputs, instance.results, strict=True)
        return tuple(Tensor(names[output], type_) for output, type_ in pairs)


def _array(constant: Constant) -> Array:
    assert constant.data.array is not None
    return constant.data.array


def scan(body: Body, s: syntax.Scan, known: Mapping[str, TensorType]) -> None:
    """Elaborate a scan: one primitive `scan` in the builder of `body`.

    `known` are tensors around the operator's own statements. Afterwards a carried name stands for its last value and an
    emitted name for the slices of all steps.
    """
    _Scan(body, s, known).run()


class _Scan:
    def __init__(self, body: Body, s: syntax.Scan, known: Mapping[str, TensorType]) -> None:
        outer = body.builder
        assert isinstance(outer, Statements)
        self.body, self.syntax, self.outer, self.known = body, s, outer, known
        self.inner = Statements(outer.library, outer)
        self.word = "iterate" if s.early else "scan"
        self.initial: dict[str, Tensor] = {}
        self.carried: dict[str, Tensor] = {}
        self.emitted: dict[str, tuple[Tensor, int]] = {}
        self.until: Tensor | None = None

    def run(self) -> None:
        body, s, frame = self.body, self.syntax, self.body.frame
        extent = body.integer(s.extent, "the number of steps")
        if extent.is_constant and extent.value < 0:
            body.fail("out-of-range", f"`{self.word}` would run {extent} steps", s.extent.span)
        self.step = s.step.name
        while self.step in frame.symbols:
            self.step += "_"
        around = {value.name: value.type for value in frame.scope.values() if isinstance(value, Tensor)}
        self.known = {**self.known, **around}
        scope, scans, symbols = dict(frame.scope), frame.scans, frame.symbols
        frame.scans, frame.symbols = {**scans, self.step: extent}, symbols | {self.step}
        frame.scope[s.step.name] = IntExpr.dim(self.step)
        body.builder = self.inner
        try:
            for statement in s.body:
                self.statement(statement)
            primitive = self.primitive(extent)
        finally:
            body.builder, frame.scope, frame.scans, frame.symbols = self.outer, scope, scans, symbols
        self.outer.statements.append(primitive)
        names = [*self.carried, *self.emitted]
        scope |= {n: Tensor(v.name, v.type) for n, v in zip(names, primitive.targets, strict=True)}

    def statement(self, statement: syntax.Statement) -> None:
        body = self.body
        match statement:
            case syntax.Carry(s):
                body.builder = self.outer
                try:
                    first = nest(body, s)
                finally:
                    body.builder = self.inner
                if not isinstance(first, Poison):
                    name = s.target.name
                    self.check_free(first, statement.span)
                    self.initial[name] = first
                    self.carried[name] = Tensor(self.inner.fresh(name), first.type)
                    body.frame.scope[name] = self.carried[name]
            case syntax.Emit(s):
                axes, position = self.without_step(s)
                value = nest(body, replace(s, axes=axes))
                if not isinstance(value, Poison):
                    self.emitted[s.target.name] = value, position
            case syntax.Until(condition):
                if not self.syntax.early:
                    hint = "`iterate` takes the place of `scan`"
                    body.fail("unsupported", "a `scan` runs all of its steps", statement.span, hint=hint)
                if self.until is not None:
                    body.fail("unsupported", "one `until` says when the steps end", statement.span)
                name = syntax.Name("until", statement.span)
                value = nest(body, syntax.IndexAssign(name, (), condition, False, statement.span))
                if isinstance(value, Tensor) and value.type.dtype is not DType.BOOL:
                    body.fail(
                        "dtype-mismatch", f"`until` takes a truth value; this is {value.type.dtype}", condition.span
                    )
                self.until = None if isinstance(value, Poison) else value
            case _:
                if body.execute(statement) is not None:
                    body.fail("unsupported", f"`return` stands behind the block of `{self.word}`", self.syntax.span)

    def without_step(self, s: syntax.IndexAssign) -> tuple[tuple[syntax.AxisBinder | syntax.Ellipsis_, ...], int]:
        """The axes of one slice, and where the step stands among them."""
        if self.syntax.early:
            self.body.fail("unsupported", "`iterate` may end early and emits nothing", s.span, hint="carry the result")
        position = 0
        for number, axis in enumerate(s.axes):
            if isinstance(axis, syntax.Ellipsis_):
                position += len(self.body.frame.ellipses.get(axis.name, ()))
            elif axis.name == self.syntax.step.name:
                return s.axes[:number] + s.axes[number + 1 :], position
            else:
                position += 1
        step = self.syntax.step.name
        self.body.fail("unknown-name", f"the step `{step}` is one of the axes of what is emitted", s.span)

    def check_free(self, tensor: Tensor, span: Span) -> None:
        if any(self.step in size.dims() for size in tensor.type.shape):
            self.body.fail("not-static", f"the size of a tensor does not depend on the step: {tensor.type}", span)

    def primitive(self, extent: IntExpr) -> Primitive:
        body, s, scope = self.body, self.syntax, self.body.frame.scope
        if not self.carried:
            hint = "`carry h[…] = …` gives the value before the first step"
            body.fail("unsupported", f"this `{self.word}` carries nothing", s.span, hint=hint)
        outputs: list[str] = []
        for name, tensor in self.carried.items():
            last: AnyValue = scope[name]
            if not isinstance(last, Tensor) or last.type != tensor.type:
                found = str(last.type) if isinstance(last, Tensor) else describe(last)
                message = f"`{name}` is {tensor.type} before the first step and {found} after it"
                body.fail("type-mismatch", message, s.span)
            outputs.append(last.name)
        outputs += [tensor.name for tensor, _ in self.emitted.values()]
        outputs += [self.until.name] if self.until is not None else []
        for statement in self.inner.statements:
            for value in defined(statement):
                self.check_free(Tensor(value.name, value.type), s.span)
        own = {value.name for statement in self.inner.statements for value in defined(statement)}
        own |= {tensor.name for tensor in self.carried.values()}
        read = [name for statement in self.inner.statements for name in sorted(read_names(statement))]
        around = [name for name in dict.fromkeys([*read, *outputs]) if name not in own]
        types = self.types()
        inputs = [Value(t.name, t.type) for t in self.carried.values()]
        inputs += [Value(name, types[name]) for name in around]
        program = Nests("scan", tuple(inputs), (), (), tuple(self.inner.statements), tuple(outputs))
        targets = [Value(self.outer.fresh(name), tensor.type) for name, tensor in self.carried.items()]
        for name, (tensor, position) in self.emitted.items():
            shape = tensor.type.shape
            stacked = TensorType(tensor.type.dtype, (*shape[:position], extent, *shape[position:]))
            targets.append(Value(self.outer.fresh(name), stacked))
        repeated = Scan(
            self.step,
            extent,
            program,
            tuple(position for _, position in self.emitted.values()),
            self.until is not None,
        )
        operands = (*(tensor.name for tensor in self.initial.values()), *around)
        return Primitive("scan", tuple(targets), operands, (), (), repeated)

    def types(self) -> dict[str, TensorType]:
        """The type of everything around the scan, by name."""
        found = {name: value.type for name, value in self.outer.constants.items()} | dict(self.known)
        for statement in self.outer.statements:
            found |= {value.name: value.type for value in defined(statement)}
        return found
