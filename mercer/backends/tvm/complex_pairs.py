"""Complex numbers as pairs of real ones: TVM has no complex type.

Every c64 tensor `z` becomes two f32 tensors `z.re` and `z.im`, every c64 expression a pair of expressions. A c64 input
or output of the program is one f32 tensor with a last axis of 2, which is how NumPy lays it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mercer.backends.tvm.pairs import JOIN, SPLIT
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, call, rebuild, variables, walk
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement
from mercer.ir.types import Array, Data, DType, TensorType

TWO = IntExpr.constant(2)
ZERO = Const(0.0, DType.F32)
FEW = 16
"""Sums over an index of so few values stay together: they are no matrix products."""


@dataclass(frozen=True)
class Pair:
    """A complex number; `im` is None where it is zero for certain."""

    re: Expr
    im: Expr | None

    @property
    def parts(self) -> tuple[Expr, Expr]:
        return self.re, ZERO if self.im is None else self.im


def split(nests: Nests, lanes: int = 1) -> Nests:
    """The same program without c64; `nests` itself where there is none. `lanes` is the width of vectors.

    Raises UnsupportedError for complex parameters.
    """
    return _Split(nests, lanes).program() if _is_complex(nests) else nests


def _is_complex(nests: Nests) -> bool:
    """Whether any tensor or expression is c64, also within scans."""
    if any(type.dtype.is_complex for type in nests.types().values()):
        return True
    for statement in nests.statements:
        if isinstance(statement, Nest):
            if any(e.dtype.is_complex for e in walk(statement.body)):
                return True
        elif statement.scan is not None and _is_complex(statement.scan.body):
            return True
    return False


class _Split:
    def __init__(self, nests: Nests, lanes: int = 1) -> None:
        self.nests = nests
        self.lanes = lanes
        self.types = nests.types()
        self.names = set(self.types)
        self.pairs: dict[str, tuple[str, str]] = {}
        self.statements: list[Statement] = []
        self.here: Nest | None = None
        self.complex: dict[Expr, Pair] = {}
        self.real: dict[Expr, Expr] = {}

    def program(self) -> Nests:
        for parameter in self.nests.parameters:
            if parameter.type.dtype.is_complex:
                message = f"the tvm backend has no complex parameter such as %{parameter.name}: {parameter.type}"
                raise UnsupportedError(message, hint="give its weights, or make it two real parameters")
        inputs = tuple(map(self._input, self.nests.inputs))
        constants = tuple(part for constant in self.nests.constants for part in self._constant(constant))
        for statement in self.nests.statements:
            self._statement(statement)
        given = {value.name for value in self.nests.inputs}
        outputs = tuple(self._output(name) if name not in given else name for name in self.nests.outputs)
        return replace(
            self.nests, inputs=inputs, constants=constants, statements=tuple(self.statements), outputs=outputs
        )

    def body(self) -> Nests:
        """The body of a scan: complex inputs and outputs are two tensors each."""
        inputs = tuple(part for value in self.nests.inputs for part in self._values(value))
        for statement in self.nests.statements:
            self._statement(statement)
        outputs = tuple(part for name in self.nests.outputs for part in self._names(name))
        return replace(self.nests, inputs=inputs, statements=tuple(self.statements), outputs=outputs)

    # --- tensors ------------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        name, count = hint, 1
        while name in self.names:
            count += 1
            name = f"{hint}{count}"
        self.names.add(name)
        return name

    def pair_of(self, name: str) -> tuple[str, str]:
        if name not in self.pairs:
            self.pairs[name] = self.fresh(f"{name}.re"), self.fresh(f"{name}.im")
        return self.pairs[name]

    def emit(self, target: str, type: TensorType, axes: tuple[Axis, ...], body: Expr) -> None:
        origins = self.here.origins if self.here is not None else ()
        self.statements.append(Nest(target, type, axes, body, origins))

    def _input(self, value: Value) -> Value:
        if not value.type.dtype.is_complex:
            return value
        axes, pairs = _axes(value.type), replace(value, type=TensorType(DType.F32, (*value.type.shape, TWO)))
        if self.lanes > 1:
            self._move(SPLIT, (value.name,), self._values(value))
            return pairs
        for k, part in enumerate(self.pair_of(value.name)):
            body = Read(value.name, (*_indices(axes), IntExpr.constant(k)), DType.F32)
            self.emit(part, _real(value.type), axes, body)
        return pairs

    def _move(self, name: str, operands: tuple[str, ...], targets: tuple[Value, ...]) -> None:
        self.statements.append(Primitive(name, targets, operands, (("lanes", self.lanes),), ()))

    def _output(self, name: str) -> str:
        type = self.types[name]
        if not type.dtype.is_complex:
            return name
        target = Value(self.fresh(f"{name}.pairs"), TensorType(DType.F32, (*type.shape, TWO)))
        if self.lanes > 1:
            self._move(JOIN, self.pair_of(name), (target,))
            return target.name
        axes = _axes(type)
        part = Axis("part", TWO)
        re, im = (Read(n, _indices(axes), DType.F32) for n in self.pair_of(name))
        first = call("eq", Index(IntExpr.var(part.name)), Const(0, DType.I32))
        self.emit(target.name, target.type, (*axes, part), call("where", first, re, im))
        return target.name

    def _constant(self, constant: Constant) -> tuple[Constant, ...]:
        if not constant.type.dtype.is_complex:
            return (constant,)
        array = constant.data.array
        if array is None:
            raise UnsupportedError(f"constant %{constant.name} has no data: the IR was read without its weights")
        parts: tuple[Array, Array] = np.ascontiguousarray(array.real), np.ascontiguousarray(array.imag)
        names = self.pair_of(constant.name)
        return tuple(Constant(n, _real(constant.type), Data(part)) for n, part in zip(names, parts, strict=True))

    # --- statements ---------------------------------------------------------------------------------------------------

    def _statement(self, statement: Statement) -> None:
        if isinstance(statement, Primitive):
            self._primitive(statement)
            return
        self.here = statement
        if not statement.type.dtype.is_complex:
            self.statements.append(replace(statement, body=self.plain(statement.body)))
            return
        parts = self.pair(statement.body).parts
        for target, body in zip(self.pair_of(statement.target), parts, strict=True):
            self.emit(target, _real(statement.type), statement.axes, body)

    def _primitive(self, statement: Primitive) -> None:
        """Each complex operand and result is two; what moves elements, or adds them up, is done for each part."""
        operands = [self._names(name) for name in statement.operands]
        targets = [self._values(value) for value in statement.targets]
        if statement.name in ("reshape", "scatter_add"):
            for part, target in enumerate(targets[0]):
                chosen = tuple(names[part % len(names)] for names in operands)
                self.statements.append(replace(statement, operands=chosen, targets=(target,)))
            return
        flat = tuple(name for names in operands for name in names)
        values = tuple(value for parts in targets for value in parts)
        scan = None if statement.scan is None else self._scan(statement.scan)
        self.statements.append(replace(statement, operands=flat, targets=values, scan=scan))

    def _scan(self, scan: Scan) -> Scan:
        types = scan.body.types()
        slices = scan.body.outputs[scan.carried : scan.carried + len(scan.axes)]
        each = zip(scan.axes, slices, strict=True)
        axes = tuple(axis for axis, name in each for _ in range(1 + types[name].dtype.is_complex))
        return replace(scan, body=_Split(scan.body).body(), axes=axes)

    def _names(self, name: str) -> tuple[str, ...]:
        return self.pair_of(name) if self.types[name].dtype.is_complex else (name,)

    def _values(self, value: Value) -> tuple[Value, ...]:
        return tuple(replace(value, name=name, type=_real(value.type)) for name in self._names(value.name))

    def lift(self, expr: Expr) -> Expr:
        """The value as a tensor of its own, read at this place."""
        assert self.here is not None
        used = variables(expr)
        axes = tuple(axis for axis in self.here.axes if axis.name in used)
        target = self.fresh(f"{self.here.target}.part")
        self.emit(target, TensorType(expr.dtype, tuple(axis.extent for axis in axes)), axes, expr)
        return Read(target, _indices(axes), expr.dtype)

    # --- expressions --------------------------------------------------------------------------------------------------

    def plain(self, expr: Expr) -> Expr:
        """A real expression without complex parts."""
        if expr not in self.real:
            self.real[expr] = self._plain(expr)
        return self.real[expr]

    def _plain(self, expr: Expr) -> Expr:
        if not isinstance(expr, Call) or not any(a.dtype.is_complex for a in expr.arguments):
            return rebuild(expr, self.plain)
        values = [self.pair(a) for a in expr.arguments if a.dtype.is_complex]
        re, im = values[0].parts
        match expr.function:
            case "real":
                return re
            case "imag":
                return im
            case "abs":
                return _length(re, im) if values[0].im is not None else call("abs", re)
            case "angle":
                return call("atan2", im, re)
            case "eq" | "ne":
                both = [call(expr.function, a, b) for a, b in zip(values[0].parts, values[1].parts, strict=True)]
                return call("and" if expr.function == "eq" else "or", *both)
            case _:
                return call("cast", re, dtype=expr.dtype)

    def pair(self, expr: Expr) -> Pair:
        """The parts of a complex expression."""
        if expr not in self.complex:
            self.complex[expr] = self._pair(expr)
        return self.complex[expr]

    def _pair(self, expr: Expr) -> Pair:
        match expr:
            case Const():
                return _constant_pair(expr)
            case Read():
                pads = _constant_pair(expr.pad).parts if expr.pad is not None else (None, None)
                read = rebuild(expr, self.plain)
                assert isinstance(read, Read)
                re, im = (
                    replace(read, tensor=name, dtype=DType.F32, pad=pad)
                    for name, pad in zip(self.pair_of(expr.tensor), pads, strict=True)
                )
                return Pair(re, im)
            case Reduce():
                return self._reduction(expr)
            case Call("cast", (argument,)) if not argument.dtype.is_complex:
                return Pair(call("cast", self.plain(argument), dtype=DType.F32), None)
            case Call("complex", (re, im)):
                return Pair(self.plain(re), self.plain(im))
            case Call("where", (condition, then, otherwise)):
                test, a, b = self.plain(condition), self.pair(then), self.pair(otherwise)
                re = call("where", test, a.re, b.re)
                return Pair(re, None if a.im is b.im is None else call("where", test, a.parts[1], b.parts[1]))
            case Call(function, arguments) if function in _FUNCTIONS:
                return _FUNCTIONS[function](*map(self.pair, arguments))
            case _:
                raise UnsupportedError(f"the tvm backend has no complex {expr}")

    def _reduction(self, expr: Reduce) -> Pair:
        body = self.pair(expr.body)
        if expr.reducer is Reducer.PROD:  # in polar form: lengths multiply, angles add
            if body.im is None:
                return Pair(replace(expr, body=body.re), None)
            length = self.lift(Reduce(Reducer.PROD, expr.axes, _length(*body.parts)))
            angle = self.lift(Reduce(Reducer.SUM, expr.axes, call("atan2", body.im, body.re)))
            return Pair(_mul(length, call("cos", angle)), _mul(length, call("sin", angle)))
        few = all(axis.extent.is_constant and axis.extent.value <= FEW for axis in expr.axes)
        contracts = not few and isinstance(expr.body, Call) and expr.body.function == "mul" and _differ(expr.body)
        re = self._sum(expr.axes, body.re, contracts)
        return Pair(re, None if body.im is None else self._sum(expr.axes, body.im, contracts))

    def _sum(self, axes: tuple[Axis, ...], body: Expr, contracts: bool) -> Expr:
        """A sum of two products is two sums where each of them is a matrix product."""
        if contracts and isinstance(body, Call) and body.function in ("add", "sub"):
            left, right = (Reduce(Reducer.SUM, axes, argument) for argument in body.arguments)
            return call(body.function, self.lift(left), right)
        return Reduce(Reducer.SUM, axes, body)


def _axes(type: TensorType) -> tuple[Axis, ...]:
    return tuple(Axis(f"i{k}", extent) for k, extent in enumerate(type.shape))


def _indices(axes: tuple[Axis, ...]) -> tuple[IntExpr, ...]:
    return tuple(IntExpr.var(axis.name) for axis in axes)


def _real(type: TensorType) -> TensorType:
    return replace(type, dtype=DType.F32) if type.dtype.is_complex else type


def _differ(product: Call) -> bool:
    """Whether the factors depend on different indices."""
    left, right = map(variables, product.arguments)
    return bool(left - right) and bool(right - left)


def _constant_pair(constant: Const) -> Pair:
    number = complex(constant.number)
    im = None if repr(number.imag) == "0.0" else Const(number.imag, DType.F32)
    return Pair(Const(number.real, DType.F32), im)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def _neg(x: Expr) -> Expr:
    return x.arguments[0] if _is_negation(x) and isinstance(x, Call) else call("neg", x)


def _is_negation(x: Expr) -> bool:
    return isinstance(x, Call) and x.function == "neg"


def _add(x: Expr, y: Expr) -> Expr:
    return call("sub", x, _neg(y)) if _is_negation(y) else call("add", x, y)


def _sub(x: Expr, y: Expr) -> Expr:
    return call("add", x, _neg(y)) if _is_negation(y) else call("sub", x, y)


def _mul(x: Expr, y: Expr) -> Expr:
    if _is_negation(x) != _is_negation(y):
        return _neg(_mul(_neg(x), y) if _is_negation(x) else _mul(x, _neg(y)))
    return call("mul", _neg(x), _neg(y)) if _is_negation(x) else call("mul", x, y)


def _wide(x: Expr) -> Expr:
    return call("cast", x, dtype=DType.F64)


def _length(re: Expr, im: Expr) -> Expr:
    """sqrt(re**2 + im**2) in f64, where the squares of f32 neither overflow nor vanish."""
    a, b = _wide(re), _wide(im)
    return call("cast", call("sqrt", call("add", call("mul", a, a), call("mul", b, b))), dtype=DType.F32)


def _plus(x: Pair, y: Pair) -> Pair:
    if x.im is None or y.im is None:
        return Pair(_add(x.re, y.re), y.im if x.im is None else x.im)
    return Pair(_add(x.re, y.re), _add(x.im, y.im))


def _negative(x: Pair) -> Pair:
    return Pair(_neg(x.re), None if x.im is None else _neg(x.im))


def _minus(x: Pair, y: Pair) -> Pair:
    if x.im is None or y.im is None:
        return Pair(_sub(x.re, y.re), x.im if y.im is None else _neg(y.im))
    return Pair(_sub(x.re, y.re), _sub(x.im, y.im))


def _times(x: Pair, y: Pair) -> Pair:
    if x.im is None:
        return Pair(_mul(x.re, y.re), None if y.im is None else _mul(x.re, y.im))
    if y.im is None:
        return Pair(_mul(x.re, y.re), _mul(x.im, y.re))
    re = _sub(_mul(x.re, y.re), _mul(x.im, y.im))
    return Pair(re, _add(_mul(x.re, y.im), _mul(x.im, y.re)))


def _over(x: Pair, y: Pair) -> Pair:
    """x * conj(y) / |y|**2, in f64 where |y|**2 neither overflows nor vanishes."""
    if y.im is None:
        return Pair(call("div", x.re, y.re), None if x.im is None else call("div", x.im, y.re))
    c, d = _wide(y.re), _wide(y.im)
    length = call("add", call("mul", c, c), call("mul", d, d))
    product = _times(Pair(_wide(x.re), None if x.im is None else _wide(x.im)), Pair(c, _neg(d)))
    re, im = (call("cast", call("div", part, length), dtype=DType.F32) for part in (product.re, product.im or ZERO))
    return Pair(re, im)


def _exp(x: Pair) -> Pair:
    size = call("exp", x.re)
    return Pair(size, None) if x.im is None else Pair(_mul(size, call("cos", x.im)), _mul(size, call("sin", x.im)))


def _conjugate(x: Pair) -> Pair:
    return Pair(x.re, None if x.im is None else _neg(x.im))


_FUNCTIONS: dict[str, Callable[..., Pair]] = {
    "add": _plus,
    "sub": _minus,
    "mul": _times,
    "div": _over,
    "neg": _negative,
    "exp": _exp,
    "conj": _conjugate,
    "cast": lambda x: x,
}
