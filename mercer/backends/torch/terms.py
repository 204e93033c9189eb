"""Tensors whose axes are loop indices: the values that scalar expressions become."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mercer.backends.torch.code import Binding, Block, Code, Level
from mercer.backends.torch.functions import CALLS, OPERATORS, TORCH_TYPES, fold, literal
from mercer.ir.integers import Dim, IntExpr
from mercer.ir.types import DType


@dataclass(frozen=True)
class Label:
    """A loop index; `position` orders the axes of every tensor that depends on it."""

    position: int
    name: str
    extent: IntExpr

    def __lt__(self, other: Label) -> bool:
        return self.position < other.position


@dataclass(frozen=True)
class Term:
    """An expression for all values of the indices it uses: axis i of the tensor runs over `labels[i]`.

    Without labels it is a 0-d tensor, or a Python number when `is_number`; `known` is that number when it is a literal.
    """

    code: Code
    labels: tuple[Label, ...]
    dtype: DType
    is_number: bool = False
    known: Any = None


def union(terms: Iterable[Term]) -> tuple[Label, ...]:
    """All labels of the terms, in order."""
    return tuple(sorted({label for term in terms for label in term.labels}))


class Algebra:
    """Arithmetic on terms, written into a block.

    `device` is text such as `x.device`; `dtypes` says how to write an element type (so that a module converted to
    another precision stays in that precision), with the plain name where a type is not listed.
    """

    def __init__(self, block: Block, device: str | None, dtypes: dict[DType, str]) -> None:
        self.block = block
        self.device = device
        self.dtypes = dtypes

    # --- leaves -------------------------------------------------------------------------------------------------------

    def number(self, value: Any, dtype: DType) -> Term:
        return Term(self.block.leaf(literal(value)), (), dtype, is_number=True, known=value)

    def arange(self, label: Label) -> Term:
        """0, 1, …, extent - 1 along the label's own axis, as i64."""
        code = self.block.code(
            f"torch.arange({{}}{self.on_device})",
            self.count(label.extent).code,
            binding=Binding.ALWAYS,
            hint=label.name,
        )
        return Term(code, (label,), DType.I64)

    @property
    def on_device(self) -> str:
        return f", device={self.device}" if self.device else ""

    def dtype(self, dtype: DType) -> str:
        return self.dtypes.get(dtype, TORCH_TYPES[dtype])

    def count(self, value: IntExpr) -> Term:
        """An integer expression of dims as a Python number."""

        def leaf(atom: Any) -> Term:
            assert isinstance(atom, Dim), f"{value} is not an expression of dims"
            return self.dim(atom.name)

        return self.integers(value, leaf)

    def dim(self, name: str) -> Term:
        return Term(self.block.leaf(name), (), DType.I64, is_number=True)

    def integers(self, value: IntExpr, leaf: Any) -> Term:
        """An integer expression whose atoms are terms."""
        result = value.evaluate(
            lambda atom: _Folding(self, leaf(atom)),
            lambda a, b: a.extremum("min", b) if isinstance(a, _Folding) else b.extremum("min", a),
            lambda a, b: a.extremum("max", b) if isinstance(a, _Folding) else b.extremum("max", a),
        )
        return result.term if isinstance(result, _Folding) else self.number(result, DType.I64)

    # --- operations ---------------------------------------------------------------------------------------------------

    def apply(self, function: str, arguments: Sequence[Term], dtype: DType) -> Term:
        """A scalar function of `ir.index.FUNCTIONS` except `cast`."""
        if all(a.known is not None for a in arguments):
            value = fold(function, [a.known for a in arguments], dtype)
            if value is not None:
                return self.number(value, dtype)
        simpler = self._simplified(function, arguments, dtype)
        if simpler is not None:
            return simpler
        labels = union(arguments)
        if all(a.is_number for a in arguments):
            plain = self._number_function(function, [a.code for a in arguments])
            if plain is not None:
                return Term(plain, (), dtype, is_number=True)
        codes = [self.align(a, labels) for a in arguments]
        return Term(self._tensor_function(function, arguments, codes), labels, self._promoted(arguments, dtype))

    def cast(self, term: Term, dtype: DType) -> Term:
        if term.dtype is dtype:
            return term
        if term.known is not None and (value := fold("cast", [term.known], dtype)) is not None:
            return self.number(value, dtype)
        if term.is_number and dtype not in (DType.BOOL, DType.C64):
            code = self.block.code("int({})", term.code) if term.dtype.is_float and dtype.is_integer else term.code
            return Term(code, (), dtype, is_number=True)
        tensor = self.tensor(term)
        if term.dtype.is_float and dtype in (DType.I16, DType.I8, DType.I4):
            tensor = self.cast(tensor, DType.I64)  # small integers wrap
        short = {DType.I64: ".long()", DType.I32: ".int()", DType.BOOL: ".bool()"}.get(
            dtype, f".to({self.dtype(dtype)})"
        )
        code = self.block.postfix("{}" + short, tensor.code, hint="index" if dtype is DType.I64 else "t")
        if dtype is DType.I4:
            code = self.block.code("({} & 15 ^ 8) - 8", code, needs=(Level.BIT_AND,), level=Level.ADD)
        return Term(code, term.labels, dtype)

    def shifted(self, term: Term, bits: int, dtype: DType) -> Term:
        """floor(term / 2**bits)"""
        if term.is_number:
            return self.apply("floordiv", [term, self.number(2**bits, dtype)], dtype)
        code = self.block.code(f"{{}} >> {bits}", term.code, needs=(Level.ATOM,), level=Level.BIT_AND)
        return Term(code, term.labels, term.dtype)

    def tensor(self, term: Term) -> Term:
        """The term as a tensor, also when it is a Python number."""
        if not term.is_number:
            return term
        code = self.block.code(f"torch.tensor({{}}, dtype={self.dtype(term.dtype)}{self.on_device})", term.code)
        return Term(code, (), term.dtype)

    def align(self, term: Term, labels: Sequence[Label], leading: bool = False) -> Code:
        """The term as a tensor that broadcasts against axes `labels` (a superset of its own).

        Axes of extent 1 in front, which broadcasting adds by itself, are written out when `leading`.
        """
        if not term.labels and not leading:
            return term.code
        inner = labels if leading else labels[labels.index(term.labels[0]) :]
        if len(inner) == len(term.labels):
            return term.code
        axes = ", ".join(":" if label in term.labels else "None" for label in inner)
        return self.block.code(f"{{}}[{axes}]", term.code, needs=(Level.ATOM,), binding=Binding.NEVER)

    def _simplified(self, function: str, arguments: Sequence[Term], dtype: DType) -> Term | None:
        """The same value with less to compute or to read."""
        match function:
            case "mul" if arguments[0].known == -1:
                return self.apply("neg", arguments[1:], dtype)
            case "mul" if dtype.is_integer and 1 in (known := [a.known for a in arguments]):
                return arguments[1 - known.index(1)]
            case "add" if dtype.is_integer and 0 in (known := [a.known for a in arguments]):
                return arguments[1 - known.index(0)]
            case "add" if _is_negative(arguments[1]):
                return self.apply("sub", [arguments[0], self.number(-arguments[1].known, arguments[1].dtype)], dtype)
            case "pow" if dtype.is_integer and arguments[1].known == 2 and not arguments[0].is_number:
                return self.apply("mul", [arguments[0], arguments[0]], dtype)
            case "pow" if _is_whole(arguments[1].known) and not arguments[0].is_number:
                return self.apply("pow", [arguments[0], self.number(int(arguments[1].known), DType.I64)], dtype)
            case _:
                return None

    def _promoted(self, arguments: Sequence[Term], dtype: DType) -> DType:
        """i64 where an index takes part in an i32 computation: PyTorch computes that in i64."""
        wide = dtype is DType.I32 and any(a.dtype is DType.I64 and not a.is_number for a in arguments)
        return DType.I64 if wide else dtype

    def _number_function(self, function: str, codes: Sequence[Code]) -> Code | None:
        """Of Python numbers that are only known when the code runs."""
        block = self.block
        match function:
            case "and" | "or":
                return block.infix(function, *codes, level=Level.AND if function == "and" else Level.OR)
            case "not":
                return block.prefix("not ", *codes, level=Level.NOT)
            case "where":
                condition, then, otherwise = codes
                needs = (Level.OR, Level.OR, Level.CONDITIONAL)
                return block.code("{} if {} else {}", then, condition, otherwise, needs=needs, level=Level.CONDITIONAL)
            case "min" | "max" | "abs":
                return block.code(f"{function}({', '.join('{}' for _ in codes)})", *codes)
            case "sqrt":
                return block.infix("**", codes[0], block.leaf("0.5"), Level.POWER)
            case "neg":
                return block.prefix("-", *codes, level=Level.UNARY)
            case _ if function in OPERATORS:
                operator, level = OPERATORS[function]
                return block.infix(operator, *codes, level=level)
            case _:
                return None

    def _tensor_function(self, function: str, arguments: Sequence[Term], codes: Sequence[Code]) -> Code:
        block = self.block
        match function:
            case "neg":
                return block.prefix("-", *codes, level=Level.UNARY)
            case "not":
                return block.prefix("~", *codes, level=Level.UNARY)
            case "min" | "max" if any(a.is_number for a in arguments):
                tensor, bound = (0, 1) if arguments[1].is_number else (1, 0)
                if arguments[tensor].is_number:
                    codes = [self.tensor(a).code for a in arguments]
                limit = "max" if function == "min" else "min"
                return block.postfix(f"{{}}.clamp({limit}={{}})", codes[tensor], codes[bound], hint="clamped")
            case _ if function in OPERATORS:
                operator, level = OPERATORS[function]
                return block.infix(operator, *codes, level=level)
            case "where":
                if arguments[0].is_number:
                    codes = [self.tensor(arguments[0]).code, *codes[1:]]
                if all(a.is_number for a in arguments[1:]):
                    codes = [codes[0], self.tensor(arguments[1]).code, codes[2]]
            case _:
                codes = [self.tensor(a).code if a.is_number else code for a, code in zip(arguments, codes, strict=True)]
        return block.code(f"{CALLS[function]}({', '.join('{}' for _ in codes)})", *codes, hint=function)


@dataclass(frozen=True)
class _Folding:
    """An integer term with Python's operators, for `IntExpr.evaluate`."""

    algebra: Algebra
    term: Term

    def _apply(self, function: str, left: Any, right: Any) -> _Folding:
        terms = [v.term if isinstance(v, _Folding) else self.algebra.number(int(v), DType.I64) for v in (left, right)]
        return _Folding(self.algebra, self.algebra.apply(function, terms, DType.I64))

    def __add__(self, other: Any) -> _Folding:
        if isinstance(other, _Folding):
            if (positive := other.negated()) is not None:
                return self._apply("sub", self, positive)
            if (positive := self.negated()) is not None:
                return self._apply("sub", other, positive)
        return self._apply("add", self, other)

    def __radd__(self, other: int) -> _Folding:
        return self._apply("add", self, other)

    def __mul__(self, other: Any) -> _Folding:
        if other == -1 and not isinstance(other, _Folding):
            return _Folding(self.algebra, self.algebra.apply("neg", [self.term], DType.I64))
        return self._apply("mul", other, self) if isinstance(other, int) else self._apply("mul", self, other)

    def __floordiv__(self, other: Any) -> _Folding:
        return self._apply("floordiv", self, other)

    def __rfloordiv__(self, other: int) -> _Folding:
        return self._apply("floordiv", other, self)

    def __mod__(self, other: Any) -> _Folding:
        return self._apply("mod", self, other)

    def __rmod__(self, other: int) -> _Folding:
        return self._apply("mod", other, self)

    def extremum(self, kind: str, other: Any) -> _Folding:
        return self._apply(kind, self, other)

    def negated(self) -> _Folding | None:
        """What follows the sign when the expression starts with one."""
        code, block = self.term.code, self.algebra.block
        if code.template == "-{}":
            positive = code.operands[0]
        elif code.template == "{} * {}" and code.operands[0].template.startswith("-") and not code.operands[0].operands:
            positive = block.infix("*", block.leaf(code.operands[0].template[1:]), code.operands[1], Level.MULTIPLY)
        else:
            return None
        return _Folding(self.algebra, Term(positive, self.term.labels, DType.I64, self.term.is_number))


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _is_negative(term: Term) -> bool:
    return isinstance(term.known, int | float) and term.known < 0
