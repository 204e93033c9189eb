"""Linear recurrences run in the coordinates in which their matrix is diagonal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from mercer.ir import analysis
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Const, Read, Reduce, Reducer, call, reads
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement, defined
from mercer.ir.types import Data, DType, TensorType
from mercer.passes.cost import statement_cost
from mercer.passes.factorize.approximation import Matrix, stored
from mercer.passes.factorize.recurrences import Coordinates, Recurrence, in_coordinates
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext


@dataclass(frozen=True)
class Diagonalize(Pass):
    """h[t] = A h[t - 1] + B x[t], y[t] = C h[t] becomes the same of T^-1 A T, T^-1 B and C T, nearly a diagonal one.

    The columns of T are real and imaginary parts of the eigenvectors of A, so that all numbers stay real: a real
    eigenvalue takes one multiply-add per step, a pair a +- bi the block [[a, b], [-b, a]]; S states take at most 2 S of
    them in place of S*S. A must be a constant, and what drives or reads the states constants times something. Whoever
    reads the last states gets T times them; a symbolic dim counts as `extent`. Refused where T has a condition number
    above `max_condition`, by which rounding may grow: a matrix close to a defective one, as HiPPO's are, has no such
    form. Needs Nests after `bind`, `fold` and `lower`. Class: real; the new constants are computed in f64 and rounded
    once.
    """

    name: ClassVar[str] = "diagonalize"
    source: ClassVar[str] = "Gupta et al. 2022, Diagonal state spaces; Gu et al. 2022, S4D"
    level: ClassVar[Level] = Level.NESTS
    max_condition: float = 100.0
    extent: int = 256

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        program = _Program(nests)
        for statement in nests.statements:
            position = 0
            while isinstance(statement, Primitive) and statement.scan is not None and position < statement.scan.carried:
                statement = self._once(statement, statement.scan, position, program, context)
                position += 1
            program.add(statement)
        return program.finished()

    def _once(
        self, statement: Primitive, scan: Scan, position: int, program: _Program, context: PassContext
    ) -> Primitive:
        """Try one carried tensor; what the new scan needs before and after it goes to the program."""
        found = Recurrence.of(scan, position)
        if found is None:
            return statement
        new = self._changed(statement, scan, position, found, program)
        reason, costs = new if isinstance(new, str) else None, None
        if not isinstance(new, str):
            types = program.types | new.types()
            before, after = (self._operations(each, types) for each in ([statement], new.statements))
            if after >= before:
                reason = f"{after:,} operations would take the place of {before:,}"
            else:
                costs = _cost([statement], types), _cost(new.statements, types)
        context.record_statement(self.name, "diagonalize", statement, Exactness.REAL, reason, costs)
        if reason is not None or isinstance(new, str):
            return statement
        program.take(new)
        return new.scan

    def _operations(self, statements: Sequence[Statement], types: Mapping[str, TensorType]) -> int:
        counts = [analysis.cost(statement, types) for statement in statements]
        return sum(int((c.flops + c.transcendental).evaluate(lambda _: self.extent)) for c in counts)

    def _changed(
        self, statement: Primitive, scan: Scan, position: int, found: Recurrence, program: _Program
    ) -> _Step | str:
        """The scan in other coordinates, or why it stays."""
        names = [value.name for value in scan.body.inputs]
        known = {n: a for n, o in zip(names, statement.operands, strict=True) if (a := program.array(o)) is not None}
        if found.matrix not in known:
            return (
                f"the transition %{dict(zip(names, statement.operands, strict=True))[found.matrix]} is not a constant"
            )
        to = Coordinates.of(known[found.matrix])
        if to is None or to.condition > self.max_condition:
            condition = np.inf if to is None else to.condition
            return f"the condition number of the eigenvectors is {condition:.1e}, more than {self.max_condition:g}"
        step = _Step(statement, program)
        dtype = found.nest.type.dtype
        statements = in_coordinates(scan, found, to, known, lambda array: step.constant(array, dtype))
        if isinstance(statements, str):
            return statements
        step.rebuild(scan, statements)
        step.start(position, found, to)
        step.end(position, found, to)
        return step


@dataclass
class _Program:
    """Nests as they grow."""

    nests: Nests
    statements: list[Statement] = field(default_factory=list[Statement])
    constants: dict[str, Constant] = field(default_factory=dict[str, Constant])
    types: dict[str, TensorType] = field(default_factory=dict[str, TensorType])
    uses: Counter[str] = field(default_factory=Counter[str])
    pending: list[Statement] = field(default_factory=list[Statement])

    def __post_init__(self) -> None:
        self.constants = {constant.name: constant for constant in self.nests.constants}
        self.types = self.nests.types()
        self.uses = Counter(name for statement in self.nests.statements for name in _operands(statement))
        self.uses.update(self.nests.outputs)

    def array(self, name: str) -> Matrix | None:
        found = self.constants.get(name)
        array = None if found is None or not found.type.dtype.is_float else found.data.array
        return None if array is None else array.astype(np.float64)

    def is_zero(self, name: str) -> bool:
        """Whether a tensor is assigned zeros."""
        made = next((s for s in self.statements if isinstance(s, Nest) and s.target == name), None)
        return made is not None and isinstance(made.body, Const) and not made.body.number

    def fresh(self, name: str) -> str:
        count, base = 1, name
        while name in self.types:
            count, name = count + 1, f"{base}{count + 1}"
        self.types[name] = TensorType(DType.F32, ())
        return name

    def take(self, step: _Step) -> None:
        self.constants |= step.constants
        self.statements += step.before
        self.pending = [*step.after, *self.pending]
        self.types |= step.types()

    def add(self, statement: Statement) -> None:
        self.statements += [statement, *self.pending]
        self.pending = []

    def finished(self) -> Nests:
        used = {name for statement in self.statements for name in _operands(statement)} | set(self.nests.outputs)
        unused = {constant.name for constant in self.nests.constants if not self.uses[constant.name]}
        kept = tuple(c for c in self.constants.values() if c.name in used | unused)
        return replace(self.nests, statements=tuple(self.statements), constants=kept)


class _Step:
    """A scan that is about to change, with what it needs."""

    def __init__(self, scan: Primitive, program: _Program) -> None:
        self.scan = scan
        self.program = program
        self.constants: dict[str, Constant] = {}
        self.before: list[Statement] = []
        self.after: list[Statement] = []

    def constant(self, array: Matrix, dtype: DType) -> str:
        name = self.program.fresh(f"{self.scan.targets[0].name}.modal")
        data = stored(array, dtype)
        self.constants[name] = Constant(name, TensorType.of(data), Data(data))
        return name

    def types(self) -> dict[str, TensorType]:
        made = {c.name: c.type for c in self.constants.values()}
        return made | {v.name: v.type for s in self.statements for v in defined(s)}

    def rebuild(self, scan: Scan, statements: tuple[Statement, ...]) -> None:
        """The scan with another body, which reads the new constants and nothing in vain."""
        used = {name for statement in statements for name in _operands(statement)}
        pairs = list(zip(scan.body.inputs, self.scan.operands, strict=True))
        kept = [pair for i, pair in enumerate(pairs) if i < scan.carried or pair[0].name in used]
        kept += [(Value(c.name, c.type), c.name) for c in self.constants.values()]
        body = replace(scan.body, inputs=tuple(value for value, _ in kept), statements=statements)
        operands = tuple(name for _, name in kept)
        self.scan = replace(self.scan, operands=operands, scan=replace(scan, body=body))

    def start(self, position: int, found: Recurrence, to: Coordinates) -> None:
        """g[0] = T^-1 h[0]."""
        first = self.scan.operands[position]
        if self.program.is_zero(first):
            return
        name = self.program.fresh(f"{first}.modal")
        self.before.append(self._product(name, first, found, to.inverse))
        operands = list(self.scan.operands)
        operands[position] = name
        self.scan = replace(self.scan, operands=tuple(operands))

    def end(self, position: int, found: Recurrence, to: Coordinates) -> None:
        """The last h is T g."""
        last = self.scan.targets[position]
        if not self.program.uses[last.name]:
            return
        name = self.program.fresh(f"{last.name}.modal")
        targets = list(self.scan.targets)
        targets[position] = Value(name, last.type)
        self.scan = replace(self.scan, targets=tuple(targets))
        self.after.append(self._product(last.name, name, found, to.basis))

    def _product(self, target: str, source: str, found: Recurrence, matrix: Matrix) -> Nest:
        """target[.., s, ..] = sum over r of matrix[s, r] source[.., r, ..]."""
        dtype, axes = found.nest.type.dtype, found.nest.axes
        summed = Axis(f"{found.state}.r", axes[found.axis].extent)
        indices = [IntExpr.var(axis.name) for axis in axes]
        row, column = indices[found.axis], IntExpr.var(summed.name)
        indices[found.axis] = column
        factors = Read(self.constant(matrix, dtype), (row, column), dtype), Read(source, tuple(indices), dtype)
        body = Reduce(Reducer.SUM, (summed,), call("mul", *factors))
        return Nest(target, found.nest.type, axes, body, self.scan.origins)

    @property
    def statements(self) -> list[Statement]:
        return [*self.before, self.scan, *self.after]


def _cost(statements: Iterable[Statement], types: Mapping[str, TensorType]) -> Cost:
    return sum((statement_cost(statement, types) for statement in statements), Cost(0, 0))


def _operands(statement: Statement) -> Iterator[str]:
    """Every tensor that a statement reads."""
    if isinstance(statement, Nest):
        yield from (read.tensor for read in reads(statement.body))
    else:
        yield from statement.operands
