"""The preimage of an index map: which values of the loops read one given element of a tensor.

A nest reads x[J(v)] in loops v. To sum over all v with J(v) = j, most loops need not run: a loop that stands alone in a
coordinate of J follows from j, as m in x[m + 1] does (m = j - 1, if that lies in the range of m). Divisions and
remainders are undone with a new loop over what they forget: c/4 = j means c = 4*j + r with r < 4. What cannot be
undone, such as a position that the program computes, stays a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mercer.ir.bounds import in_bounds, index_range, non_negative
from mercer.ir.index import Axis, Call, Const, Expr, Index, call, substitute, variables
from mercer.ir.integers import ONE, ZERO, Atom, Computed, Extremum, IntExpr, Quotient, Remainder, Var

_MANY = 1 << 20
"""Stands for a symbolic extent where extents are compared."""


@dataclass(frozen=True)
class Preimage:
    """The loops v with J(v) = j: those in `axes` run, those in `values` follow; both subject to the conditions.

    `ranges` are the extents of all indices that the values and conditions use. `bounds` are the conditions that a loop
    in `values` stays in its range, by the name of that loop. `open` are equations that are not solved because the
    program computes the position: what it must be equal to, by the name of the axis of the tensor.
    """

    values: dict[str, IntExpr]
    axes: tuple[Axis, ...]
    ranges: dict[str, IntExpr]
    bounds: dict[str, tuple[Expr, ...]]
    conditions: tuple[Expr, ...]
    open: dict[str, IntExpr]


def preimage(
    indices: Sequence[IntExpr],
    position: Sequence[Axis],
    loops: Sequence[Axis],
    taken: set[str],
    conditions: Sequence[Expr] = (),
) -> Preimage:
    """Solve `indices[d] = position[d]` under conditions for the loops; new loops get names that are not `taken`."""
    solver = _Solver({axis.name: axis.extent for axis in loops}, {axis.name: axis.extent for axis in position}, taken)
    solver.equations = [(left, IntExpr.var(axis.name)) for left, axis in zip(indices, position, strict=True)]
    for condition in conditions:
        sides = [_integer(e) for e in condition.arguments] if isinstance(condition, Call) else []
        match condition, sides:
            case Call("eq"), [IntExpr() as left, IntExpr() as right]:
                solver.equations.append((left - right, ZERO))
            case _:
                solver.conditions.append(condition)
    solver.run()
    axes = tuple(axis for axis in (*loops, *solver.added) if axis.name in solver.unknown)
    return Preimage(solver.values, axes, solver.ranges, solver.bounds, tuple(solver.conditions), solver.open)


def tidy(value: IntExpr, ranges: Mapping[str, IntExpr]) -> IntExpr:
    """The same integer with the divisions and remainders done that the ranges of the indices decide."""

    def whole(numerator: IntExpr, denominator: IntExpr) -> IntExpr:
        result = numerator // denominator
        found = index_range(result, ranges)
        if found is not None and found[0] == found[1]:
            return found[0]
        return _mapped(result, lambda atom: _decided(atom, ranges))

    def inner(atom: Atom) -> IntExpr:
        match atom:
            case Quotient(n, d):
                return whole(tidy(n, ranges), tidy(d, ranges))
            case Remainder(n, d):
                return _mapped(tidy(n, ranges) % tidy(d, ranges), lambda atom: _decided(atom, ranges))
            case Extremum(kind, a, b):
                a, b = tidy(a, ranges), tidy(b, ranges)
                found = index_range(a - b, ranges)
                if found is not None and non_negative(found[0]):
                    return b if kind == "min" else a
                if found is not None and non_negative(-found[1]):
                    return a if kind == "min" else b
                return a.minimum(b) if kind == "min" else a.maximum(b)
            case _:
                return IntExpr.atom(atom)

    return _recombined(_mapped(value, inner))


def _recombined(value: IntExpr) -> IntExpr:
    """n%d + d*(n/d) is n."""
    for atoms, coefficient in value.terms:
        for atom in atoms if len(atoms) == 1 else ():
            if isinstance(atom, Remainder) and atom.denominator.is_constant:
                whole = IntExpr.atom(Quotient(atom.numerator, atom.denominator))
                scale = atom.denominator * coefficient
                if any(pair == ((whole.single,), scale.value) for pair in value.terms):
                    rest = value - IntExpr.atom(atom) * coefficient - whole * scale
                    return _recombined(rest + atom.numerator * coefficient)
    return value


def _decided(atom: Atom, ranges: Mapping[str, IntExpr]) -> IntExpr:
    """A division or remainder of what is smaller than the divisor."""
    if isinstance(atom, Quotient | Remainder) and in_bounds(atom.numerator, atom.denominator, ranges):
        return ZERO if isinstance(atom, Quotient) else atom.numerator
    return IntExpr.atom(atom)


def _mapped(value: IntExpr, change: Callable[[Atom], IntExpr]) -> IntExpr:
    total = ZERO
    for atoms, coefficient in value.terms:
        product = IntExpr.constant(coefficient)
        for atom in atoms:
            product = product * change(atom)
        total = total + product
    return total


@dataclass(frozen=True)
class _Pivot:
    """coefficient * atom + rest = right, to be solved for the atom."""

    equation: int
    atom: Var | Quotient | Remainder
    coefficient: int
    rest: IntExpr
    digits: bool
    """Whether 0 <= rest < coefficient, so that the atom is a quotient and the rest a remainder."""
    gain: int
    """How often the loops run less when it is solved."""
    alone: bool
    """Whether no other loop could be solved for."""


@dataclass
class _Solver:
    unknown: dict[str, IntExpr]
    known: dict[str, IntExpr]
    taken: set[str]
    equations: list[tuple[IntExpr, IntExpr]] = field(default_factory=list[tuple[IntExpr, IntExpr]])
    values: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    added: list[Axis] = field(default_factory=list[Axis])
    bounds: dict[str, tuple[Expr, ...]] = field(default_factory=dict[str, "tuple[Expr, ...]"])
    conditions: list[Expr] = field(default_factory=list[Expr])
    open: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])

    @property
    def ranges(self) -> dict[str, IntExpr]:
        return self.unknown | self.known

    def run(self) -> None:
        while self.equations:
            self.equations = [(tidy(left, self.ranges), right) for left, right in self.equations]
            pivots = list(self.pivots())
            if not pivots:
                for left, right in self.equations:
                    self.require(left, right)
                return
            self.solve(max(pivots, key=lambda p: (p.alone, p.digits, p.gain, -p.coefficient * p.coefficient)))

    def pivots(self) -> Iterator[_Pivot]:
        for number, (left, _) in enumerate(self.equations):
            alone = len(variables(Index(left)) & self.unknown.keys()) == 1
            for atoms, coefficient in left.terms:
                atom = atoms[0] if len(atoms) == 1 else None
                gain = 0 if self.new(atom) and not alone else self.gain(atom)
                if not isinstance(atom, Var | Quotient | Remainder) or gain == 0:
                    continue
                rest = left - IntExpr.atom(atom) * coefficient
                if variables(Index(IntExpr.atom(atom))) & variables(Index(rest)) & self.unknown.keys():
                    continue
                scale = IntExpr.constant(coefficient)
                digits = coefficient > 1 and in_bounds(rest, scale, self.ranges)
                yield _Pivot(number, atom, coefficient, rest, digits, gain, alone)

    def gain(self, atom: Atom | None) -> int:
        """0 when the atom is nothing to solve for."""
        match atom:
            case Var(name) if name in self.unknown:
                return _size(self.unknown[name])
            case Quotient(numerator, denominator) if _positive(denominator) and self.moves(numerator):
                found = index_range(numerator, self.ranges)
                return 0 if found is None else max(_size(found[1] - found[0] + 1) // denominator.value, 1)
            case Remainder(numerator, denominator) if _positive(denominator) and self.moves(numerator):
                found = index_range(numerator, self.ranges)
                return 0 if found is None or not non_negative(found[0]) else denominator.value
            case _:
                return 0

    def new(self, atom: Atom | None) -> bool:
        """Whether it is a new loop, which follows only where nothing else is left to follow."""
        return any(IntExpr.var(axis.name).single == atom for axis in self.added)

    def moves(self, value: IntExpr) -> bool:
        return bool(variables(Index(value)) & self.unknown.keys())

    def solve(self, pivot: _Pivot) -> None:
        _, right = self.equations.pop(pivot.equation)
        scale = pivot.coefficient
        if pivot.digits:
            self.equations.append((pivot.rest, tidy(right % scale, self.ranges)))
            self.assign(pivot.atom, tidy(right // scale, self.ranges))
            return
        difference = (right - pivot.rest) * (1 if scale > 0 else -1)
        if abs(scale) != 1:
            self.conditions.append(call("eq", Index(tidy(difference % abs(scale), self.ranges)), Index(ZERO)))
        self.assign(pivot.atom, tidy(difference // abs(scale), self.ranges))

    def assign(self, atom: Var | Quotient | Remainder, value: IntExpr) -> None:
        """Make the atom equal to the value, which does not use it."""
        match atom:
            case Var(name):
                extent = self.unknown.pop(name)
                self.replace({name: value})
                self.values[name] = value
                if not in_bounds(value, extent, self.ranges):
                    self.bounds[name] = within(value, extent)
            case Quotient(numerator, denominator):
                rest = self.loop(denominator)
                self.equations.append((numerator, value * denominator + rest))
            case Remainder(numerator, denominator):
                found = index_range(numerator, self.ranges)
                assert found is not None
                rounds = self.loop(found[1] // denominator + ONE)
                if not in_bounds(value, denominator, self.ranges):
                    self.conditions.extend(within(value, denominator))
                self.equations.append((numerator, rounds * denominator + value))

    def loop(self, extent: IntExpr) -> IntExpr:
        """The index of a new loop."""
        if extent == ONE:
            return ZERO
        number = 0
        while f"r{number}" in self.taken:
            number += 1
        name = f"r{number}"
        self.taken.add(name)
        self.added.append(Axis(name, extent))
        self.unknown[name] = extent
        return IntExpr.var(name)

    def replace(self, values: dict[str, IntExpr]) -> None:
        def inner(value: IntExpr) -> IntExpr:
            result = substitute(Index(value), values)
            assert isinstance(result, Index)
            return tidy(result.value, self.ranges)

        self.equations = [(inner(left), inner(right)) for left, right in self.equations]
        self.values = {name: inner(value) for name, value in self.values.items()}
        self.bounds = {k: tuple(substitute(e, values) for e in each) for k, each in self.bounds.items()}
        self.conditions = [substitute(e, values) for e in self.conditions]

    def require(self, left: IntExpr, right: IntExpr) -> None:
        """Keep an equation that is not solved, unless it always holds."""
        position = right.single
        if isinstance(position, Var) and any(isinstance(atom, Computed) for atom in left.atoms()):
            self.open[position.name] = left
            return
        found = index_range(left - right, self.ranges)
        if found is None or found[0] != ZERO or found[1] != ZERO:
            self.conditions.append(call("eq", Index(left), Index(right)))


def _integer(expr: Expr) -> IntExpr | None:
    """What an index or a whole number says."""
    if isinstance(expr, Const) and expr.dtype.is_integer and isinstance(expr.number, int):
        return IntExpr.constant(expr.number)
    return expr.value if isinstance(expr, Index) else None


def _size(extent: IntExpr) -> int:
    return extent.value if extent.is_constant else _MANY


def _positive(value: IntExpr) -> bool:
    return value.is_constant and value.value > 0


def within(value: IntExpr, extent: IntExpr) -> tuple[Expr, ...]:
    """The conditions of 0 <= value < extent."""
    return call("le", Index(ZERO), Index(value)), call("lt", Index(value), Index(extent))
