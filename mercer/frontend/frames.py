"""The state in which expressions are evaluated, and what the evaluator asks of its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

from mercer.frontend import syntax
from mercer.frontend.diagnostics import CompileError, DiagnosticBag
from mercer.frontend.values import AnyValue, Static, Tensor
from mercer.ir.index import Axis, Expr
from mercer.ir.integers import IntExpr
from mercer.ir.spans import Span
from mercer.ir.types import Array, DType

DTYPES = {dtype.value: dtype for dtype in DType}


class Builder(Protocol):
    """Receives what a body does with whole tensors."""

    steps: int
    """Calls and rounds of `for` written out so far."""

    def apply(
        self, operator: str, operands: tuple[Tensor, ...], attributes: dict[str, Static], span: Span
    ) -> tuple[Tensor, ...]:
        """Apply an operator of the library."""
        ...

    def constant(self, array: Array, hint: str) -> Tensor:
        """A tensor known at compile time."""
        ...

    def emit(self, target: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
        """A loop nest that defines a new tensor."""
        ...


@dataclass
class Loop:
    """The indices of the index statement that is being read."""

    indices: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    ellipses: dict[str, tuple[IntExpr, ...]] = field(default_factory=dict[str, tuple[IntExpr, ...]])
    extents: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    taken: set[str] = field(default_factory=set[str])

    def axis(self, name: str, extent: IntExpr) -> Axis:
        """A new axis; its name differs from all others of the statement."""
        fresh, count = name, 0
        while fresh in self.taken:
            count += 1
            fresh = f"{name}{count}"
        self.taken.add(fresh)
        self.extents[fresh] = extent
        return Axis(fresh, extent)


@dataclass
class Frame:
    """The state of one body."""

    scope: dict[str, AnyValue]
    ellipses: dict[str, tuple[IntExpr, ...]] = field(default_factory=dict[str, tuple[IntExpr, ...]])
    types: dict[str, DType] = field(default_factory=dict[str, DType])
    symbols: frozenset[str] = frozenset()
    loop: Loop | None = None
    path: str = ""
    chain: tuple[str, ...] = ()
    """Functions and kernels that are being written out here."""
    site: Span | None = None
    """Where the user called, while the body belongs to the standard library."""
    scans: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])
    """The steps of the scans around this place, and how many there are."""

    @property
    def default(self) -> DType:
        """The element type of numbers that have none: that of the type variable, else f32."""
        floats = [t for t in self.types.values() if t.is_float]
        return floats[0] if floats else DType.F32


@dataclass(frozen=True)
class Signature:
    """How something is called: names of tensors, names of attributes with their defaults (None: required)."""

    kind: str
    name: str
    tensors: tuple[str, ...]
    attributes: tuple[tuple[str, syntax.Expression | None], ...]

    @staticmethod
    def of(definition: syntax.Definition) -> Signature:
        return Signature(
            definition.kind,
            definition.name.name,
            tuple(p.name.name for p in definition.parameters),
            tuple((a.name.name, a.default) for a in definition.attributes),
        )

    def __str__(self) -> str:
        attributes = ", ".join(self_name for self_name, _ in self.attributes)
        return f"{self.name}({', '.join(self.tensors)}{'; ' if attributes else ''}{attributes})"


class Definitions(Protocol):
    """The library as the evaluator needs it."""

    def definition(self, name: str) -> syntax.Definition | None: ...

    def names(self) -> Iterable[str]: ...

    def is_standard(self, span: Span) -> bool: ...


def fail(name: str, message: str, span: Span, site: Span | None = None, **details: str | None) -> NoReturn:
    bag = DiagnosticBag()
    notes = (f"raised in {span}",) if site is not None and site != span else ()
    bag.error(name, message, site or span, notes=notes, **details)  # type: ignore[arg-type]
    raise CompileError(bag.diagnostics)


def relocated(error: CompileError, site: Span, is_standard: Callable[[Span], bool]) -> CompileError:
    """Point diagnostics that lie in the standard library at the user's call instead."""
    bag = DiagnosticBag()
    for d in error.diagnostics:
        if is_standard(d.span) and not is_standard(site):
            moved = replace(d, span=site, lines=bag.sources.lines(site), notes=(*d.notes, f"raised in {d.span}"))
            bag.diagnostics.append(moved)
        else:
            bag.diagnostics.append(d)
    return CompileError(bag.diagnostics)
