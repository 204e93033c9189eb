"""Index notation as PyTorch: one function for the definition of an operator."""

from __future__ import annotations

import functools
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mercer.backends.torch import integers
from mercer.backends.torch.code import Block, Code, Names
from mercer.backends.torch.functions import TORCH_TYPES
from mercer.backends.torch.primitives import PRIMITIVES
from mercer.backends.torch.reads import Reader
from mercer.backends.torch.terms import Algebra, Label, Term, union
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, computed, substitute
from mercer.ir.integers import ONE, ZERO, Computed, Dim, IntExpr, Var
from mercer.ir.library import Instance
from mercer.ir.nests import Nest, Primitive, Scan, Statement
from mercer.ir.types import DType, TensorType
from mercer.runtime.errors import MercerError


@dataclass(frozen=True)
class Helper:
    """A generated function: `parameters` are the instance's operands and constants that it takes, then `dims`.

    `text` is everything after its name: the parameter list and the body.
    """

    parameters: tuple[str, ...]
    dims: tuple[str, ...]
    text: str


def helper(instance: Instance, operands: Sequence[TensorType], literals: Mapping[str, Const]) -> Helper:
    """The definition as a Python function; `literals` are operands that are numbers."""
    types = dict(zip(instance.operands, operands, strict=True)) | {c.name: c.type for c in instance.constants}
    dims = sorted(
        {dim for type in (*types.values(), *instance.results) for extent in type.shape for dim in extent.dims()}
    )
    literals = {**literals, **_scalars(instance.constants)}
    if any(isinstance(s, Primitive) for s in instance.statements) or not literals.keys().isdisjoint(instance.outputs):
        literals = {}
    names = Names(dims)
    parameters = tuple(name for name in types if name not in literals)
    arguments = [names.new(name) for name in parameters]
    lowering = _Lowering(Block(names), types, dict(zip(parameters, arguments, strict=True)), literals)
    for statement in instance.statements:
        lowering.statement(statement)
    results = ", ".join(lowering.python[name] for name in instance.outputs)
    body = lowering.block.lines()
    if body and len(instance.outputs) == 1 and body[-1].startswith(f"{results} = "):
        body[-1] = f"return {body[-1].removeprefix(f'{results} = ')}"
    else:
        body.append(f"return {results}")
    header, missing = dim_lines(dims, body, dict(zip(arguments, (types[name] for name in parameters), strict=True)))
    signature = ", ".join([*arguments, *missing])
    return Helper(parameters, missing, "\n    ".join([f"({signature}):", *header, *body]))


def _scalars(constants: Sequence[Constant]) -> dict[str, Const]:
    """Constants of rank 0, as literals."""
    known = [(c, c.data.array) for c in constants if not c.type.shape]
    return {c.name: Const(array.item(), c.type.dtype) for c, array in known if array is not None}


def dim_lines(
    dims: Sequence[str], body: Sequence[str], arguments: Mapping[str, TensorType]
) -> tuple[list[str], tuple[str, ...]]:
    """Lines that read the symbolic dims used in `body` off the shapes of the arguments; dims that no shape gives."""
    lines: list[str] = []
    missing: list[str] = []
    for dim in dims:
        if not any(re.search(rf"\b{dim}\b", line) for line in body):
            continue
        sizes = [(f"{name}.shape[{i}]", e) for name, type in arguments.items() for i, e in enumerate(type.shape)]
        found = next((place for place, extent in sizes if extent == IntExpr.dim(dim)), None)
        found = found or next((text for place, extent in sizes if (text := _solved(extent, dim, place))), None)
        if found is None:
            missing.append(dim)
        else:
            lines.append(f"{dim} = {found}")
    return lines, tuple(missing)


def _solved(extent: IntExpr, dim: str, size: str) -> str | None:
    """The dim from an extent such as `2*N + 1`, when that is affine in it alone."""
    factor = extent.coefficient(Dim(dim))
    if factor is None or not factor.is_constant or not factor.terms:
        return None
    rest = extent - factor * IntExpr.dim(dim)
    if not rest.is_constant:
        return None
    shifted = f"({size} - {rest.value})" if rest.terms else size
    return f"{shifted} // {factor.value}" if factor.value != 1 else shifted


class _Lowering:
    """Statements of one definition, written into one block."""

    def __init__(
        self, block: Block, types: dict[str, TensorType], python: dict[str, str], literals: Mapping[str, Const]
    ) -> None:
        self.block = block
        self.types = types
        self.python = python
        self.literals = literals
        device = next((f"{name}.device" for name in python.values()), None)
        dtypes: dict[DType, str] = {}
        for name, argument in python.items():
            if types[name].dtype.is_float:
                dtypes.setdefault(types[name].dtype, f"{argument}.dtype")
        self.algebra = Algebra(block, device, dtypes)

    def statement(self, statement: Statement) -> None:
        match statement:
            case Nest():
                code = self.nest(statement)
                self.types[statement.target] = statement.type
                self.python[statement.target] = self.block.assign(statement.target, code)
            case Primitive():
                self.primitive(statement)

    def primitive(self, statement: Primitive) -> None:
        if statement.scan is not None:
            self.scan(statement, statement.scan)
            return
        rule = PRIMITIVES.get(statement.name)
        if rule is None:
            raise MercerError(
                f"the torch backend has no primitive `{statement.name}`", f"known: {', '.join(PRIMITIVES)}"
            )
        operands = [self.block.leaf(self.python[name]) for name in statement.operands]
        for target, code in zip(statement.targets, rule(self.algebra, statement, operands), strict=True):
            self.types[target.name] = target.type
            self.python[target.name] = self.block.assign(target.name, code)

    def scan(self, statement: Primitive, scan: Scan) -> None:
        """A local function with the loop, and a call of it."""
        dims = {dim for type in self.types.values() for extent in type.shape for dim in extent.dims()}
        names = Names(dims | {scan.step})
        types = {value.name: value.type for value in scan.body.inputs}
        python = {name: names.new(name) for name in types}
        arguments = list(python.values())
        inner = _Lowering(Block(names), types, python, {})
        for step in scan.body.statements:
            inner.statement(step)
        results = [inner.python[name] for name in scan.body.outputs]
        slices = results[scan.carried : scan.carried + len(scan.axes)]
        lists = [names.new(f"{name}_steps") for name in slices]
        state, following = ", ".join(arguments[: scan.carried]), ", ".join(results[: scan.carried])
        lines = inner.block.lines()
        lines += [f"{steps}.append({name})" for steps, name in zip(lists, slices, strict=True)]
        lines += [f"{state} = {following}"] if state != following else []
        lines += [f"if {results[-1]}:", "    break"] if scan.until else []
        targets = statement.targets[scan.carried :]
        stacked = [self.stacked(*each) for each in zip(lists, scan.axes, targets, strict=True)]
        count = self.block.inline(self.algebra.count(scan.extent).code)
        text = [
            f"def {{}}({', '.join(arguments)}):",
            *(f"    {steps} = []" for steps in lists),
            f"    for {scan.step} in range({count}):",
            *(f"        {line}" for line in lines),
            f"    return {', '.join([*arguments[: scan.carried], *stacked])}",
        ]
        name = self.block.define("scan", "\n".join(text))
        operands = [self.block.leaf(self.python[operand]) for operand in statement.operands]
        call = self.block.code(f"{name}({', '.join('{}' for _ in operands)})", *operands, hint="last")
        for number, target in enumerate(statement.targets):
            code = call if len(statement.targets) == 1 else self.block.postfix(f"{{}}[{number}]", call)
            self.types[target.name] = target.type
            self.python[target.name] = self.block.assign(target.name, code)

    def stacked(self, steps: str, axis: int, target: Value) -> str:
        """The slices of all steps as one tensor."""
        text = f"torch.stack({steps}, {axis})"
        extent = target.type.shape[axis]
        if extent.is_constant and extent.value > 0:
            return text
        sizes = [self.block.inline(self.algebra.count(size).code) for size in target.type.shape]
        shape = ", ".join(sizes) if len(sizes) > 1 else f"{sizes[0]},"
        dtype = self.algebra.dtype(target.type.dtype)
        return f"{text} if {steps} else torch.empty(({shape}), dtype={dtype}{self.algebra.on_device})"

    def nest(self, nest: Nest) -> Code:
        scope = {axis.name: Label(i, axis.name, axis.extent) for i, axis in enumerate(nest.axes)}
        labels = tuple(scope.values())
        single = {axis.name: ZERO for axis in nest.axes if axis.extent == ONE}
        term = _Nest(self, len(labels)).lower(substitute(nest.body, single), scope)
        if not term.is_number and term.dtype is not nest.type.dtype:
            term = self.algebra.cast(term, nest.type.dtype)
        shape = [self.algebra.count(axis.extent).code for axis in nest.axes]
        holes = "({}{})".format(", ".join("{}" for _ in shape), "," if len(shape) == 1 else "")
        if term.is_number:
            if not shape:
                return self.algebra.tensor(Term(term.code, (), nest.type.dtype, is_number=True)).code
            dtype = self.algebra.dtype(nest.type.dtype)
            return self.block.code(
                f"torch.full({holes}, {{}}, dtype={dtype}{self.algebra.on_device})", *shape, term.code
            )
        if term.labels == labels:
            return term.code
        if all(label in term.labels or label.extent == ONE for label in labels):
            return self.algebra.align(term, labels, leading=True)
        return self.block.postfix(f"{{}}.expand{holes}".replace(",)", ")"), self.algebra.align(term, labels), *shape)


class _Nest:
    """The body of one nest; every expression becomes a term over the loop indices that it uses."""

    def __init__(self, parent: _Lowering, positions: int) -> None:
        self.parent = parent
        self.algebra = parent.algebra
        self.block = parent.block
        self.positions = positions
        self.reduced: dict[Axis, Label] = {}
        self.done: dict[tuple[Expr, tuple[Label, ...]], Term] = {}
        self.free: dict[Expr, frozenset[str]] = {}
        self.reader = Reader(self.algebra)

    # --- free indices -------------------------------------------------------------------------------------------------

    def variables(self, expr: Expr) -> frozenset[str]:
        if expr not in self.free:
            match expr:
                case Const():
                    found: frozenset[str] = frozenset()
                case Index(value):
                    found = self.index_variables(value)
                case Read(_, indices):
                    found = frozenset[str]().union(*map(self.index_variables, indices))
                case Call(_, arguments):
                    found = frozenset[str]().union(*map(self.variables, arguments))
                case Reduce(_, axes, body):
                    found = self.variables(body) - {axis.name for axis in axes}
            self.free[expr] = found
        return self.free[expr]

    def index_variables(self, value: IntExpr) -> frozenset[str]:
        own = frozenset(atom.name for atom in value.atoms() if isinstance(atom, Var))
        return own.union(*map(self.variables, computed(value)))

    # --- expressions --------------------------------------------------------------------------------------------------

    def lower(self, expr: Expr, scope: Mapping[str, Label]) -> Term:
        key = (expr, tuple(sorted(scope[name] for name in self.variables(expr))))
        if key not in self.done:
            self.done[key] = self._lower(expr, scope)
        return self.done[key]

    def _lower(self, expr: Expr, scope: Mapping[str, Label]) -> Term:
        match expr:
            case Const(number, dtype):
                return self.algebra.number(float(cast(Any, number)) if dtype.is_float else number, dtype)
            case Index(value):
                return self.index(value, scope)
            case Read():
                return self.read(expr, scope)
            case Call("cast", (argument,), dtype):
                return self.algebra.cast(self.lower(argument, scope), dtype)
            case Call("floordiv", (argument, Const(int(divisor))), dtype) if divisor > 1 and divisor.bit_count() == 1:
                return self.algebra.shifted(self.lower(argument, scope), divisor.bit_length() - 1, dtype)
            case Call(function, arguments, dtype):
                return self.algebra.apply(function, [self.lower(a, scope) for a in arguments], dtype)
            case Reduce():
                return self.reduce(expr, scope)

    def index(self, value: IntExpr, scope: Mapping[str, Label]) -> Term:
        def leaf(atom: Dim | Var | Computed) -> Term:
            match atom:
                case Dim(name):
                    return self.algebra.dim(name)
                case Var(name):
                    return self.algebra.arange(scope[name])
                case Computed(Call("cast", (argument,), _)):
                    return self.algebra.cast(self.lower(argument, scope), DType.I64)
                case Computed(inner):
                    return self.algebra.cast(self.lower(inner, scope), DType.I64)

        return self.algebra.integers(value, leaf)

    def read(self, expr: Read, scope: Mapping[str, Label]) -> Term:
        if expr.tensor in self.parent.literals:
            literal = self.parent.literals[expr.tensor]
            return self.lower(literal, scope)
        tensor = self.block.leaf(self.parent.python[expr.tensor])
        type = self.parent.types[expr.tensor]
        free = [self.index_variables(index) for index in expr.indices]
        return self.reader.read(tensor, type, expr, free, scope, lambda value: self.index(value, scope))

    # --- reductions ---------------------------------------------------------------------------------------------------

    def reduce(self, expr: Reduce, scope: Mapping[str, Label]) -> Term:
        single = {axis.name: ZERO for axis in expr.axes if axis.extent == ONE}
        if single and expr.reducer not in (Reducer.ARGMAX, Reducer.ARGMIN):
            body = substitute(expr.body, single)
            rest = tuple(axis for axis in expr.axes if axis.name not in single)
            return self.lower(Reduce(expr.reducer, rest, body) if rest else body, scope)
        axes = [self.label(axis, scope) for axis in expr.axes]
        inner = {**scope, **{label.name: label for label in axes}}
        if expr.reducer is Reducer.SUM and expr.dtype is not DType.BOOL:
            return self.sum(expr.body, axes, inner)
        term = self.algebra.tensor(self.lower(expr.body, inner))
        absent = [label for label in axes if label not in term.labels]
        present = [label for label in axes if label in term.labels]
        match expr.reducer:
            case Reducer.PROD:
                count = self.count(absent)
                term = self.algebra.apply("pow", [term, count], term.dtype) if absent else term
                for label in present:
                    keyword = f", dtype={TORCH_TYPES[term.dtype]}" if term.dtype.is_integer else ""
                    term = self.collapse(term, [label], f".prod({{axes}}{keyword})", term.dtype)
                return term
            case Reducer.ARGMAX | Reducer.ARGMIN:
                if absent:
                    raise MercerError(f"{expr.reducer.value} of a value that does not depend on `{absent[0].name}`")
                return self.collapse(term, present, f".{expr.reducer.value}({{axes}})", DType.I64)
            case Reducer.SUM:
                method = "any"
            case Reducer.MAX | Reducer.MIN:
                term = self.never_empty(term, present, expr.reducer)
                method = f"a{expr.reducer.value}" if term.dtype is not DType.BOOL else _OF_TRUTH[expr.reducer]
            case Reducer.ANY | Reducer.ALL:
                method = expr.reducer.value
        return self.collapse(term, present, f".{method}({{axes}})", term.dtype)

    def never_empty(self, term: Term, axes: Sequence[Label], reducer: Reducer) -> Term:
        """With one more element along symbolic axes: PyTorch has no largest element of nothing."""
        margins = [(ZERO, ZERO if label.extent.is_constant or label not in axes else ONE) for label in term.labels]
        if term.dtype is DType.BOOL or all(after == ZERO for _, after in margins):
            return term
        if term.dtype.is_float:
            number: float = -math.inf if reducer is Reducer.MAX else math.inf
        else:
            limits = np.iinfo(cast(Any, term.dtype.numpy))
            number = int(limits.min if reducer is Reducer.MAX else limits.max)
        code = self.reader.padded(term.code, margins, Const(number, term.dtype))
        return Term(code, term.labels, term.dtype)

    def label(self, axis: Axis, scope: Mapping[str, Label]) -> Label:
        """The label of a reduction's axis, the same for equal axes so that their terms are shared."""
        known = self.reduced.get(axis)
        if known is None or known in scope.values():
            known = Label(self.positions, axis.name, axis.extent)
            self.positions += 1
            self.reduced[axis] = known
        return known

    def count(self, labels: Sequence[Label]) -> Term:
        """The number of values that the indices take together."""
        return self.algebra.count(functools.reduce(IntExpr.__mul__, (label.extent for label in labels), ONE))

    def collapse(self, term: Term, labels: Sequence[Label], method: str, dtype: DType) -> Term:
        """Reduce the axes `labels` with a method that takes axis numbers."""
        if not labels:
            return term
        numbers = [str(term.labels.index(label)) for label in labels]
        axes = numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
        code = self.block.postfix("{}" + method.format(axes=axes), term.code, hint=term.code.hint)
        return Term(code, tuple(label for label in term.labels if label not in labels), dtype)

    def sum(self, body: Expr, axes: Sequence[Label], scope: Mapping[str, Label]) -> Term:
        """A sum of products: what does not depend on the axes stands outside, two or more factors are contracted."""
        dtype = body.dtype
        numerators, denominators = self.factors(body, scope, set(axes))
        outer = [f for f in numerators if not set(f.labels) & set(axes)]
        inner = [f for f in numerators if f not in outer]
        absent = [label for label in axes if not any(label in factor.labels for factor in inner)]
        count = self.count(absent)
        if count.known != 1:
            outer.append(Term(count.code, (), dtype, is_number=True, known=count.known))
        total = self.contract(inner, [label for label in axes if label not in absent], dtype) if inner else None
        for factor in outer:
            total = factor if total is None else self.algebra.apply("mul", [factor, total], dtype)
        assert total is not None
        for factor in denominators:
            total = self.algebra.apply("div", [total, factor], dtype)
        return total

    def factors(self, expr: Expr, scope: Mapping[str, Label], axes: set[Label]) -> tuple[list[Term], list[Term]]:
        """The factors of a product, and its denominators that do not depend on the axes."""
        match expr:
            case Call("mul", (left, right)):
                a, b = self.factors(left, scope, axes), self.factors(right, scope, axes)
                return a[0] + b[0], a[1] + b[1]
            case Call("div", (left, right)) if not set((divisor := self.lower(right, scope)).labels) & axes:
                numerators, denominators = self.factors(left, scope, axes)
                return numerators, [*denominators, divisor]
            case Call("neg", (inner,)):
                numerators, denominators = self.factors(inner, scope, axes)
                return [self.algebra.number(-1, expr.dtype), *numerators], denominators
            case _:
                return [self.lower(expr, scope)], []

    def contract(self, factors: Sequence[Term], axes: Sequence[Label], dtype: DType) -> Term:
        integer = dtype in integers.TYPES and all(factor.dtype is dtype for factor in factors)
        if integer and len(factors) > 2:
            factors = [self.product(factors[:-1], dtype), factors[-1]]
        if len(factors) == 1 or (dtype.is_integer and not integer):
            product = self.product(factors, dtype)
            keyword = f", dtype={TORCH_TYPES[dtype]}" if dtype.is_integer else ""
            return self.collapse(product, axes, f".sum({{axes}}{keyword})", dtype)
        labels = union(factors)
        kept = tuple(label for label in labels if label not in axes)
        letter = _letters(labels)
        spelled = ",".join("".join(letter[label] for label in factor.labels) for factor in factors)
        equation = f"{spelled}->{''.join(letter[label] for label in kept)}"
        operands = ", ".join("{}" for _ in factors)
        function = integers.NAME if integer else "torch.einsum"
        code = self.block.code(f'{function}("{equation}", {operands})', *(factor.code for factor in factors))
        return Term(code, kept, dtype)

    def product(self, factors: Sequence[Term], dtype: DType) -> Term:
        return functools.reduce(lambda left, right: self.algebra.apply("mul", [left, right], dtype), factors)


_OF_TRUTH = {Reducer.MAX: "any", Reducer.MIN: "all"}


def _letters(labels: Sequence[Label]) -> dict[Label, str]:
    """A letter for every index, its own first letter where possible."""
    letters: dict[Label, str] = {}
    for label in labels:
        candidates = label.name[0] + label.name[0].swapcase() + string.ascii_letters
        letters[label] = next(c for c in candidates if c in string.ascii_letters and c not in letters.values())
    return letters
