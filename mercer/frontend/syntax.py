"""The syntax tree of a `.mer` file: data only.

Every node is immutable and carries the `Span` of the text it came from. Meaning (types, shapes, parameter names) is
given by `elaborate`; nothing here looks at a library or at a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mercer.ir.spans import Span

# --- expressions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    span: Span


@dataclass(frozen=True, slots=True)
class Boolean:
    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class NoneLiteral:
    span: Span


@dataclass(frozen=True, slots=True)
class String:
    """A string literal; `value` has its escapes resolved."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class ListLiteral:
    items: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    operator: Literal["-", "not"]
    operand: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str  # + - * / % ** == != < <= > >= and or
    left: Expression
    right: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Conditional:
    """`then if condition else otherwise`: decided at compile time."""

    condition: Expression
    then: Expression
    otherwise: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Keyword:
    name: str
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """`callee(tensors; attributes, key = value) as instance`.

    `split` tells whether a `;` was written: then `arguments` are tensors and `attributes` are positional attributes.
    Without it everything positional stands in `arguments` and `attributes` is empty.
    """

    callee: Name
    arguments: tuple[Expression, ...]
    attributes: tuple[Expression, ...]
    keywords: tuple[Keyword, ...]
    split: bool
    instance: Name | None
    span: Span


@dataclass(frozen=True, slots=True)
class Pipe:
    """`value |> stage`; a stage written as a bare name is a `Call` without arguments."""

    value: Expression
    stage: Call
    span: Span


@dataclass(frozen=True, slots=True)
class Ellipsis_:
    """`...` or the named `...a` (name is then "a", else "")."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Slice:
    start: Expression | None
    stop: Expression | None
    step: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Subscript:
    """`value[items; pad = e]`."""

    value: Expression
    items: tuple[Expression | Slice | Ellipsis_, ...]
    pad: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class AxisBinder:
    """An index on the left of `=` or in a reduction: `i`, or `i < extent`."""

    name: str
    extent: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Reduction:
    """`sum[c, i < k] body`; kind is one of sum prod max min mean any all argmax argmin."""

    kind: str
    axes: tuple[AxisBinder | Ellipsis_, ...]
    body: Expression
    span: Span


Expression: TypeAlias = (
    Number
    | Boolean
    | NoneLiteral
    | String
    | Name
    | ListLiteral
    | Unary
    | Binary
    | Conditional
    | Call
    | Pipe
    | Subscript
    | Reduction
)

# --- types ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlacedDim:
    """`k @ axis`: the index `k` stands at the position that the attribute expression gives."""

    name: str
    position: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class TypeSyntax:
    """`f32[N, 2*k, ...a]`; `dtype` is a dtype name or a type variable such as `T`."""

    dtype: str
    dims: tuple[Expression | Ellipsis_ | PlacedDim, ...]
    span: Span


# --- statements -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """`a, b = value` (`let` tells whether the keyword stood there)."""

    names: tuple[Name, ...]
    value: Expression
    let: bool
    span: Span


@dataclass(frozen=True, slots=True)
class IndexAssign:
    """`y[n, i < k] = value`, the form of a loop nest; `const` when evaluated at compile time."""

    target: Name
    axes: tuple[AxisBinder | Ellipsis_, ...]
    value: Expression
    const: bool
    span: Span


@dataclass(frozen=True, slots=True)
class ParamDeclaration:
    """`param weight: T[o, c] = initializer(...)`, or `buffer ...` for state that is not trained."""

    name: Name
    type: TypeSyntax
    initializer: Expression | None
    trainable: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    """`return a, b`."""

    values: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class ReturnIndexed:
    """`return y[n] = e`."""

    statement: IndexAssign
    span: Span


@dataclass(frozen=True, slots=True)
class If:
    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class For:
    """`for i in start..stop as name { body }`: unrolled at compile time."""

    variable: Name
    start: Expression
    stop: Expression
    instance: Name | None
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Require:
    """`require condition, "message with {expressions}"`; the message is kept as alternating text and expressions."""

    condition: Expression
    message: tuple[str | Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Scan:
    """`scan t < n { body }`, or `iterate t < n { body }`, which may end early: steps that hand on carried tensors."""

    step: Name
    extent: Expression
    early: bool
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Carry:
    """`carry h[axes] = e`: a tensor that each step takes from the one before, and its value before the first."""

    statement: IndexAssign
    span: Span


@dataclass(frozen=True, slots=True)
class Emit:
    """`emit y[axes] = e`, where the step is one of the axes: what a step adds to the result `y`."""

    statement: IndexAssign
    span: Span


@dataclass(frozen=True, slots=True)
class Until:
    """`until e`: the step that makes `e` true is the last."""

    condition: Expression
    span: Span


Statement: TypeAlias = (
    Assign | IndexAssign | ParamDeclaration | Return | ReturnIndexed | If | For | Require | Scan | Carry | Emit | Until
)

# --- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor, scalar or vector parameter: stands before the `;`."""

    name: Name
    type: TypeSyntax | None
    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: stands after the `;`; required when it has no default."""

    name: Name
    default: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Property:
    """A declared property of a kernel: `stationary`, or `features = fourier`."""

    name: Name
    value: Expression | None
    span: Span


@dataclass(frozen=True, slots=True)
class Definition:
    """A `kernel`, `fn`, `op`, `layer` or `model`.

    `doc` is the block of `#` comment lines directly above it. `source` is the text of the whole item. An expression
    body `= e` is a single `Return`.
    """

    kind: Literal["kernel", "fn", "op", "layer", "model"]
    name: Name
    parameters: tuple[Parameter, ...]
    attributes: tuple[Attribute, ...]
    results: tuple[TypeSyntax, ...]
    body: tuple[Statement, ...]
    properties: tuple[Property, ...]
    doc: str
    source: str
    span: Span

    @property
    def is_primitive(self) -> bool:
        """Whether the body is `= primitive`: the backends know what the operator computes."""
        match self.body:
            case (Return((Name("primitive"),)),):
                return True
            case _:
                return False


@dataclass(frozen=True, slots=True)
class Use:
    """`use a.b` names the file a/b.mer beside the using one."""

    path: str
    span: Span


Item: TypeAlias = Definition | Use


@dataclass(frozen=True, slots=True)
class File:
    name: str
    text: str
    items: tuple[Item, ...]
