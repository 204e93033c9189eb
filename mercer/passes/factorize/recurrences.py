"""Linear recurrences inside scans: what their states are multiplied by, and the same in other coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from mercer.ir.index import Call, Const, Expr, Read, Reduce, Reducer, call, reads, rebuild, variables
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Scan, Statement
from mercer.passes.factorize.approximation import Matrix

ConstantMaker = Callable[[Matrix], str]
"""Gives an array a name that the body of the scan can read."""


@dataclass(frozen=True)
class Recurrence:
    """h'[.., s, ..] = (sum over r of A[s, r] h[.., r, ..]) + inputs, as a nest in the body of a scan says it.

    `axis` is that of s; `before` and `after` are the names of h and h' there, and `matrix` that of A.
    """

    nest: Nest
    axis: int
    before: str
    after: str
    matrix: str
    inputs: tuple[Expr, ...]

    @property
    def state(self) -> str:
        return self.nest.axes[self.axis].name

    @staticmethod
    def of(scan: Scan, position: int) -> Recurrence | None:
        """The carried tensor at this position; None when it is not a linear recurrence."""
        before, after = scan.body.inputs[position].name, scan.body.outputs[position]
        nest = next((s for s in scan.body.statements if isinstance(s, Nest) and s.target == after), None)
        if nest is None or not nest.type.dtype.is_float:
            return None
        terms = flattened("add", nest.body)
        for term in terms:
            found = _transition(term, nest, before)
            if found is not None:
                matrix, axis = found
                return Recurrence(nest, axis, before, after, matrix, tuple(t for t in terms if t is not term))
        return None


def _transition(term: Expr, nest: Nest, before: str) -> tuple[str, int] | None:
    """The matrix, and the axis of the states, if this is sum over r of A[s, r] h[.., r, ..]."""
    if not (isinstance(term, Reduce) and term.reducer is Reducer.SUM and len(term.axes) == 1):
        return None
    factors = flattened("mul", term.body)
    state = next((f for f in factors if isinstance(f, Read) and f.tensor == before), None)
    matrix = next((f for f in factors if f is not state), None)
    if state is None or not isinstance(matrix, Read) or len(factors) != 2 or matrix.pad is not None:
        return None
    summed = IntExpr.var(term.axes[0].name)
    own = [IntExpr.var(axis.name) for axis in nest.axes]
    different = [i for i, index in enumerate(state.indices) if index != own[i]]
    if len(different) != 1 or state.indices[different[0]] != summed:
        return None
    if matrix.indices != (own[different[0]], summed) or term.axes[0].extent != nest.axes[different[0]].extent:
        return None
    return matrix.tensor, different[0]


@dataclass(frozen=True)
class Coordinates:
    """h = T g: g'[s] = factors[s] g[s] + across[s] g[s xor 1] for h' = A h; `across` is None when it is zero.

    States that belong together stand side by side.
    """

    basis: Matrix
    inverse: Matrix
    factors: Matrix
    across: Matrix | None

    @staticmethod
    def of(matrix: Matrix) -> Coordinates | None:
        """Real and imaginary parts of the eigenvectors of the matrix; None where they are no basis."""
        values, vectors = (np.asarray(each, np.complex128) for each in np.linalg.eig(matrix))
        columns: list[Matrix] = []
        factors: list[float] = []
        across: list[float] = []
        for value, vector in zip(values[values.imag > 0], vectors.T[values.imag > 0], strict=True):
            turned = vector * np.exp(-0.5j * np.angle(vector @ vector))  # real and imaginary part are orthogonal
            columns += [turned.real, turned.imag]
            factors += [value.real, value.real]
            across += [value.imag, -value.imag]
        for value, vector in zip(values[values.imag == 0], vectors.T[values.imag == 0], strict=True):
            columns.append(vector.real)
            factors.append(value.real)
            across.append(0.0)
        basis = np.stack(columns, axis=1)
        if not np.isfinite(basis).all() or np.linalg.matrix_rank(basis) < len(basis):
            return None
        turns = np.array(across) if any(across) else None
        return Coordinates(basis, np.asarray(np.linalg.inv(basis), np.float64), np.array(factors), turns)

    @property
    def condition(self) -> float:
        """By how much rounding may grow."""
        return float(np.linalg.cond(self.basis))


def in_coordinates(
    scan: Scan, found: Recurrence, to: Coordinates, known: Mapping[str, Matrix], constant: ConstantMaker
) -> tuple[Statement, ...] | str:
    """The statements of the body with g in place of h, or why there are none.

    `known` are the constants that the body reads, by their names there.
    """
    if found.after in scan.body.outputs[scan.carried :]:
        return "the state itself is emitted"
    statements: list[Statement] = []
    for statement in scan.body.statements:
        if statement is found.nest:
            body = _stepped(found, to, known, constant)
        elif isinstance(statement, Nest):
            if any(read.tensor == found.before for read in reads(statement.body)):
                return f"%{statement.target} reads the state of the step before"
            body = _observed(statement.body, found, to, known, constant)
        elif {found.before, found.after} & set(statement.operands):
            return f"the state goes into `{statement.name}`"
        else:
            statements.append(statement)
            continue
        if isinstance(body, str):
            return body
        assert isinstance(statement, Nest)
        statements.append(Nest(statement.target, statement.type, statement.axes, body, statement.origins))
    return tuple(statements)


def _stepped(found: Recurrence, to: Coordinates, known: Mapping[str, Matrix], constant: ConstantMaker) -> Expr | str:
    """The next g[s]."""
    dtype, s = found.nest.type.dtype, IntExpr.var(found.state)
    own = [IntExpr.var(axis.name) for axis in found.nest.axes]
    total = call("mul", Read(constant(to.factors), (s,), dtype), Read(found.before, tuple(own), dtype))
    if to.across is not None:
        own[found.axis] = s + 1 - 2 * (s % 2)
        beside = Read(found.before, tuple(own), dtype, Const(0.0, dtype))
        total = call("add", total, call("mul", Read(constant(to.across), (s,), dtype), beside))
    for term in found.inputs:
        if any(read.tensor == found.before for read in reads(term)):
            return "the step reads the state in another way, too"
        driven = _contracted(
            term, found.state, "", known, len(to.factors), lambda a, q: constant(_along(to.inverse, a, q))
        )
        if driven is None:
            return "what drives the states is not a constant times something"
        total = call("add", total, driven)
    return total


def _observed(
    body: Expr, found: Recurrence, to: Coordinates, known: Mapping[str, Matrix], constant: ConstantMaker
) -> Expr | str:
    """An expression that reads h, with C T g in place of C h."""
    failed = False

    def visit(expr: Expr) -> Expr:
        nonlocal failed
        if isinstance(expr, Read) and expr.tensor == found.after:
            failed = True
        if isinstance(expr, Reduce) and expr.reducer is Reducer.SUM:
            state = [r for r in reads(expr.body) if r.tensor == found.after]
            index = state[0].indices[found.axis] if len(state) == 1 else None
            axis = next((a for a in expr.axes if IntExpr.var(a.name) == index), None)
            if axis is not None and axis.extent == found.nest.axes[found.axis].extent:
                seen = _contracted(
                    expr,
                    axis.name,
                    found.after,
                    known,
                    len(to.factors),
                    lambda a, q: constant(_along(to.basis.T, a, q)),
                )
                if seen is not None:
                    return seen
        return rebuild(expr, visit)

    new = visit(body)
    return "the state is read other than through a constant" if failed else new


def _contracted(
    term: Expr,
    index: str,
    state: str,
    known: Mapping[str, Matrix],
    size: int,
    changed: Callable[[Matrix, int], str],
) -> Expr | None:
    """A product, summed or not, in which one constant runs over `index`, with another constant in its place.

    `changed` gives its name for the constant and the axis of the index, which has this size. The tensor `state` may run
    over the index, too; nothing else may. Where there is no such constant it is all ones.
    """
    if isinstance(term, Reduce) and term.reducer is not Reducer.SUM:
        return None
    factors = flattened("mul", term.body if isinstance(term, Reduce) else term)
    running = [f for f in factors if index in variables(f) and not (isinstance(f, Read) and f.tensor == state)]
    position = IntExpr.var(index)
    if not running:
        factors = [Read(changed(np.ones(size), 0), (position,), term.dtype), *factors]
    elif len(running) == 1 and isinstance(read := running[0], Read) and read.tensor in known and read.pad is None:
        places = [q for q, i in enumerate(read.indices) if index in variables(Read("", (i,), read.dtype))]
        if len(places) != 1 or read.indices[places[0]] != position:
            return None
        new = Read(changed(known[read.tensor], places[0]), read.indices, read.dtype)
        factors = [new if f is read else f for f in factors]
    else:
        return None
    product = reduce(lambda left, right: call("mul", left, right), factors)
    return Reduce(Reducer.SUM, term.axes, product) if isinstance(term, Reduce) else product


def _along(matrix: Matrix, array: Matrix, axis: int) -> Matrix:
    """The matrix times every vector along an axis."""
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def flattened(function: str, expr: Expr) -> list[Expr]:
    """The operands of nested calls of one function."""
    if isinstance(expr, Call) and expr.function == function:
        return [part for argument in expr.arguments for part in flattened(function, argument)]
    return [expr]
