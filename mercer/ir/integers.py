"""Integer expressions over dimensions and loop indices, kept in canonical form.

An `IntExpr` is a polynomial with integer coefficients over atoms: symbolic dimensions, loop indices, floor divisions,
remainders, minima, maxima, and integers that are only known when the program runs. Two expressions that are equal as
polynomials are equal objects in the sense of `==`, which makes shapes and index expressions comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from mercer.ir.index import Expr


@dataclass(frozen=True)
class Dim:
    """A symbolic dimension such as `N`: known when the program is called."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Var:
    """A loop index."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Quotient:
    """floor(numerator / denominator)"""

    numerator: IntExpr
    denominator: IntExpr

    def __str__(self) -> str:
        return f"{_factor(self.numerator)}/{_factor(self.denominator)}"


@dataclass(frozen=True)
class Remainder:
    """numerator - denominator * floor(numerator / denominator)"""

    numerator: IntExpr
    denominator: IntExpr

    def __str__(self) -> str:
        return f"{_factor(self.numerator)}%{_factor(self.denominator)}"


@dataclass(frozen=True)
class Extremum:
    """min(left, right) or max(left, right)"""

    kind: str
    left: IntExpr
    right: IntExpr

    def __str__(self) -> str:
        return f"{self.kind}({self.left}, {self.right})"


@dataclass(frozen=True)
class Computed:
    """An integer that the program computes, such as a sampling position: an i32 `Expr`."""

    value: Expr

    def __str__(self) -> str:
        return f"int({self.value})"


Atom: TypeAlias = Dim | Var | Quotient | Remainder | Extremum | Computed
Monomial: TypeAlias = tuple[Atom, ...]
IntLike: TypeAlias = "IntExpr | int"


def _key(monomial: Monomial) -> tuple[int, str]:
    return (-len(monomial), "*".join(map(str, monomial)))


def _factor(expr: IntExpr) -> str:
    text = str(expr)
    return text if text.isalnum() else f"({text})"


@dataclass(frozen=True)
class IntExpr:
    """A sum of `coefficient * product of atoms`, sorted, without zero coefficients."""

    terms: tuple[tuple[Monomial, int], ...]

    # --- construction -------------------------------------------------------------------------------------------------

    @staticmethod
    def constant(value: int) -> IntExpr:
        return IntExpr((((), int(value)),) if value else ())

    @staticmethod
    def atom(atom: Atom) -> IntExpr:
        return IntExpr((((atom,), 1),))

    @staticmethod
    def dim(name: str) -> IntExpr:
        return IntExpr.atom(Dim(name))

    @staticmethod
    def var(name: str) -> IntExpr:
        return IntExpr.atom(Var(name))

    @staticmethod
    def of(value: IntLike) -> IntExpr:
        return value if isinstance(value, IntExpr) else IntExpr.constant(value)

    @staticmethod
    def _collect(terms: Mapping[Monomial, int]) -> IntExpr:
        kept = [(m, c) for m, c in terms.items() if c]
        return IntExpr(tuple(sorted(kept, key=lambda term: _key(term[0]))))

    def __add__(self, other: IntLike) -> IntExpr:
        total = dict(self.terms)
        for monomial, coefficient in IntExpr.of(other).terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return IntExpr._collect(total)

    def __mul__(self, other: IntLike) -> IntExpr:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in IntExpr.of(other).terms:
                monomial = tuple(sorted(left + right, key=str))
                total[monomial] = total.get(monomial, 0) + a * b
        return IntExpr._collect(total)

    def __neg__(self) -> IntExpr:
        return self * -1

    def __sub__(self, other: IntLike) -> IntExpr:
        return self + -IntExpr.of(other)

    def __radd__(self, other: int) -> IntExpr:
        return self + other

    def __rmul__(self, other: int) -> IntExpr:
        return self * other

    def __rsub__(self, other: int) -> IntExpr:
        return -self + other

    def __floordiv__(self, other: IntLike) -> IntExpr:
        """Floor division; raises ZeroDivisionError when the divisor is the constant 0."""
        divisor = IntExpr.of(other)
        if self.is_constant and divisor.is_constant:
            return IntExpr.constant(self.value // divisor.value)
        if divisor.is_constant and divisor.value == 0:
            raise ZeroDivisionError("division of a dimension by zero")
        exact = self._divide_exactly(divisor)
        if exact is not None:
            return exact
        if divisor.is_constant:
            whole, rest = self._split(divisor.value)
            if whole.terms:
                return whole + rest // divisor
            return self._divide_quotient(divisor.value) or IntExpr.atom(Quotient(self, divisor))
        return IntExpr.atom(Quotient(self, divisor))

    def _divide_quotient(self, divisor: int) -> IntExpr | None:
        """`(n // b + k) // c = (n + k*b) // (b*c)` for positive numbers b and c (Knuth 1997, exercise 1.2.4-35)."""
        quotients = [m[0] for m, coefficient in self.terms if coefficient == 1 and len(m) == 1]
        if divisor < 0 or len(quotients) != 1 or not isinstance(quotients[0], Quotient):
            return None
        numerator, inner = quotients[0].numerator, quotients[0].denominator
        shift = self - IntExpr.atom(quotients[0])
        if not (shift.is_constant and inner.is_constant and inner.value > 0):
            return None
        return (numerator + shift * inner) // (inner * divisor)

    def __rfloordiv__(self, other: int) -> IntExpr:
        return IntExpr.constant(other) // self

    def __mod__(self, other: IntLike) -> IntExpr:
        """Remainder of the floor division."""
        divisor = IntExpr.of(other)
        if self.is_constant and divisor.is_constant:
            return IntExpr.constant(self.value % divisor.value)
        if self._divide_exactly(divisor) is not None:
            return ZERO
        if divisor.is_constant:
            whole, rest = self._split(divisor.value)
            if whole.terms:
                return rest % divisor
        return IntExpr.atom(Remainder(self, divisor))

    def __rmod__(self, other: int) -> IntExpr:
        return IntExpr.constant(other) % self

    def minimum(self, other: IntLike) -> IntExpr:
        return self._extremum("min", IntExpr.of(other))

    def maximum(self, other: IntLike) -> IntExpr:
        return self._extremum("max", IntExpr.of(other))

    def _extremum(self, kind: str, other: IntExpr) -> IntExpr:
        difference = self - other
        if difference.is_constant:
            return self if (difference.value <= 0) == (kind == "min") else other
        left, right = sorted((self, other), key=str)
        return IntExpr.atom(Extremum(kind, left, right))

    def _split(self, divisor: int) -> tuple[IntExpr, IntExpr]:
        """`self == whole * divisor + rest`, moving into `whole` every term whose coefficient allows it."""
        whole = {m: c // divisor for m, c in self.terms if c % divisor == 0 or not m}
        rest = {m: c % divisor if not m else c for m, c in self.terms if c % divisor or not m}
        return IntExpr._collect(whole), IntExpr._collect(rest)

    def _divide_exactly(self, divisor: IntExpr) -> IntExpr | None:
        """The quotient when `divisor` is a single term that divides every term, else None."""
        if len(divisor.terms) != 1:
            return IntExpr.constant(1) if self == divisor else None
        (atoms, scale), *_ = divisor.terms
        total: dict[Monomial, int] = {}
        for monomial, coefficient in self.terms:
            left = list(monomial)
            for atom in atoms:
                if atom not in left:
                    return None
                left.remove(atom)
            if coefficient % scale:
                return None
            total[tuple(left)] = coefficient // scale
        return IntExpr._collect(total)

    # --- questions ----------------------------------------------------------------------------------------------------

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_constant(self) -> bool:
        return all(not monomial for monomial, _ in self.terms)

    @property
    def value(self) -> int:
        """The number, when `is_constant`; raises ValueError otherwise."""
        if not self.is_constant:
            raise ValueError(f"{self} is not a number")
        return self.terms[0][1] if self.terms else 0

    @property
    def single(self) -> Atom | None:
        """The atom when the expression is just one atom, else None."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0][0]
        return None

    def atoms(self) -> Iterator[Atom]:
        """Every atom, also those inside divisions and extrema (not inside `Computed`)."""
        for monomial, _ in self.terms:
            for atom in monomial:
                yield atom
                match atom:
                    case Quotient(left, right) | Remainder(left, right) | Extremum(_, left, right):
                        yield from left.atoms()
                        yield from right.atoms()
                    case _:
                        pass

    def dims(self) -> frozenset[str]:
        return frozenset(atom.name for atom in self.atoms() if isinstance(atom, Dim))

    def coefficient(self, atom: Atom) -> IntExpr | None:
        """The factor of `atom` when the expression is affine in it, else None (also when it hides in a division)."""
        total: dict[Monomial, int] = {}
        for monomial, coefficient in self.terms:
            count = monomial.count(atom)
            others = tuple(a for a in monomial if a != atom)
            if count > 1 or any(mentions(other, atom) for other in others):
                return None
            if count == 1:
                total[others] = coefficient
        return IntExpr._collect(total)

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            sign = " - " if coefficient < 0 else " + "
            factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
            alone = len(monomial) == 1 and not factors
            factors += [str(a) if alone or not isinstance(a, Quotient | Remainder) else f"({a})" for a in monomial]
            parts += [sign, "*".join(factors)]
        head = "-" if parts[0] == " - " else ""
        return head + "".join(parts[1:])

    # --- transformation -----------------------------------------------------------------------------------------------

    def evaluate(
        self,
        leaf: Callable[[Dim | Var | Computed], Any],
        minimum: Callable[[Any, Any], Any] = min,
        maximum: Callable[[Any, Any], Any] = max,
    ) -> Any:
        """Fold the expression with Python's `+ * // %`; `leaf` gives the value of each atom that is not compound."""

        def value(atom: Atom) -> Any:
            match atom:
                case Quotient(n, d):
                    return n.evaluate(leaf, minimum, maximum) // d.evaluate(leaf, minimum, maximum)
                case Remainder(n, d):
                    return n.evaluate(leaf, minimum, maximum) % d.evaluate(leaf, minimum, maximum)
                case Extremum(kind, a, b):
                    choose = minimum if kind == "min" else maximum
                    return choose(a.evaluate(leaf, minimum, maximum), b.evaluate(leaf, minimum, maximum))
                case _:
                    return leaf(atom)

        total: Any = None
        for monomial, coefficient in self.terms:
            product: Any = None
            for atom in monomial:
                product = value(atom) if product is None else product * value(atom)
            if product is None:
                product = coefficient
            elif coefficient != 1:
                product = product * coefficient
            total = product if total is None else total + product
        return 0 if total is None else total

    def substitute(self, replacement: Callable[[Dim | Var | Computed], IntExpr | None]) -> IntExpr:
        """Replace atoms; None keeps one."""

        def leaf(atom: Dim | Var | Computed) -> IntExpr:
            new = replacement(atom)
            return IntExpr.atom(atom) if new is None else new

        def minimum(left: IntLike, right: IntLike) -> IntExpr:
            return IntExpr.of(left).minimum(right)

        def maximum(left: IntLike, right: IntLike) -> IntExpr:
            return IntExpr.of(left).maximum(right)

        result: IntLike = self.evaluate(leaf, minimum, maximum)
        return IntExpr.of(result)


def mentions(outer: Atom, inner: Atom) -> bool:
    """Whether `inner` occurs within the compound atom `outer` (a computed value is taken to mention everything)."""
    match outer:
        case Quotient(left, right) | Remainder(left, right) | Extremum(_, left, right):
            return any(atom == inner or mentions(atom, inner) for part in (left, right) for atom in part.atoms())
        case Computed():
            return True
        case _:
            return False


ZERO = IntExpr.constant(0)
ONE = IntExpr.constant(1)
