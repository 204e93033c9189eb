"""The lower level of the IR: a flat list of loop nests in index notation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mercer.ir.graph import AttributeValue, Constant, Parameter, Value
from mercer.ir.index import Axis, Expr, dims
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import TensorType

ALGORITHMS = ("", "fft", "winograd2", "winograd4")
"""Ways to compute a sum that are equal over the reals only; "" is as it is written."""


@dataclass(frozen=True)
class Origin:
    """Which node of the graph a statement came from."""

    operator: str
    node: str
    span: Span


@dataclass(frozen=True)
class Nest:
    """`target[axes] = body` for every value of the axes; `type.shape` are the extents of the axes, in order.

    Reductions stand in normal form: a `Reduce` has no other `Reduce` below it. `algorithm`, one of ALGORITHMS, is how a
    backend that knows it computes the sum; what the nest means does not depend on it.
    """

    target: str
    type: TensorType
    axes: tuple[Axis, ...]
    body: Expr
    origins: tuple[Origin, ...]
    algorithm: str = ""


@dataclass(frozen=True)
class Primitive:
    """An operation that index notation does not cover, such as `reshape` (same elements in row-major order)."""

    name: str
    targets: tuple[Value, ...]
    operands: tuple[str, ...]
    attributes: tuple[tuple[str, AttributeValue], ...]
    origins: tuple[Origin, ...]
    scan: Scan | None = None


@dataclass(frozen=True)
class Scan:
    """What the primitive `scan` repeats for `step` = 0, 1, …, extent - 1; within `body` the step is a symbolic dim.

    The inputs of `body` are the carried tensors, then what every step reads; the operands of the primitive are the
    initial values of the former, then the latter. The outputs of `body` are the next values of the carried tensors,
    then one slice for every entry of `axes`, then, if `until`, a truth value that ends the scan after this step. The
    targets of the primitive are the last values of the carried tensors, then the slices stacked along their axes.
    """

    step: str
    extent: IntExpr
    body: Nests
    axes: tuple[int, ...] = ()
    until: bool = False

    @property
    def carried(self) -> int:
        """How many tensors are carried."""
        return len(self.body.outputs) - len(self.axes) - self.until


Statement: TypeAlias = Nest | Primitive


@dataclass(frozen=True)
class Nests:
    """A program: every name is assigned once, before it is read. Outputs may be any names, inputs included."""

    name: str
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    constants: tuple[Constant, ...]
    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]

    def types(self) -> dict[str, TensorType]:
        """The type of every name."""
        found = {v.name: v.type for v in (*self.inputs, *self.parameters, *self.constants)}
        for statement in self.statements:
            for value in defined(statement):
                found[value.name] = value.type
        return found


def defined(statement: Statement) -> tuple[Value, ...]:
    """What a statement assigns."""
    return (Value(statement.target, statement.type),) if isinstance(statement, Nest) else statement.targets


def symbols(statement: Statement) -> frozenset[str]:
    """The symbolic dims that a statement needs: those of its results and those in its formulas."""
    found = {dim for value in defined(statement) for size in value.type.shape for dim in size.dims()}
    if isinstance(statement, Nest):
        return dims(statement.body) | found
    if statement.scan is not None:
        found |= statement.scan.extent.dims()
        inner = frozenset[str]().union(*map(symbols, statement.scan.body.statements))
        found |= inner - {statement.scan.step}
    return frozenset(found)
