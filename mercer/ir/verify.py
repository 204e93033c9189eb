"""What makes a program well-formed: named rules at both levels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from mercer.ir.graph import Constant, Graph, Node, Parameter, Value
from mercer.ir.index import (
    FUNCTIONS,
    OF_COMPLEX,
    ONLY_COMPLEX,
    Call,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    children,
    computed,
)
from mercer.ir.initializers import INITIALIZERS
from mercer.ir.integers import Dim, IntExpr, Var
from mercer.ir.library import Library, primal
from mercer.ir.nests import Nest, Nests, Primitive, defined
from mercer.ir.primitives import PRIMITIVES
from mercer.ir.printer import print_node, print_statement
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import DType, TensorType
from mercer.runtime.errors import MercerError

Program: TypeAlias = Graph | Nests
Step: TypeAlias = Node | Nest | Primitive
Faults: TypeAlias = Iterator[str]


class VerificationError(MercerError):
    """A program breaks `rule`; `text` is the node or statement, `span` its place in the user's text."""

    def __init__(self, rule: str, message: str, text: str, span: Span) -> None:
        place = "" if span == NOWHERE else f"{span}: "
        quote = f"\n  {text}" if text else ""
        super().__init__(f"{place}the IR breaks the rule {rule}: {message}{quote}")
        self.rule, self.text, self.span = rule, text, span


def verify(program: Program, library: Library | None = None) -> None:
    """Raise VerificationError for the first rule that the program breaks.

    With a `library`, nodes of a graph are compared with the definitions of their operators as well, and what the
    library itself refuses raises its error.
    """
    dims = frozenset(name for v in program.inputs for extent in v.type.shape for name in extent.dims())
    _verify(_Scope(program, library, dims))


def _verify(scope: _Scope) -> None:
    program = scope.program
    for rule, check in PROGRAM_RULES.items():
        for message in check(scope):
            raise VerificationError(rule, message, _head(program), NOWHERE)
    for step in _steps(program):
        if isinstance(step, Node):
            rules = [(name, check(step, scope)) for name, check in NODE_RULES.items()]
        elif isinstance(step, Primitive):
            rules = [(name, check(step, scope)) for name, check in PRIMITIVE_RULES.items()]
        else:
            parts = _Parts(step)
            rules = [(name, check(step, parts, scope)) for name, check in NEST_RULES.items()]
        for rule, faults in rules:
            for message in faults:
                raise VerificationError(rule, message, _text(step, program), _span(step))
        if isinstance(step, Primitive) and step.scan is not None:
            _verify(_Scope(step.scan.body, scope.library, scope.dims | {step.scan.step}))
        scope.known |= {value.name: value.type for value in _results(step)}


@dataclass
class _Scope:
    """What the rules look at; `known` grows step by step."""

    program: Program
    library: Library | None
    dims: frozenset[str]
    known: dict[str, TensorType] = field(init=False)

    def __post_init__(self) -> None:
        program = self.program
        self.known = {v.name: v.type for v in (*program.inputs, *program.parameters, *program.constants)}


@dataclass
class _Parts:
    """The distinct expressions of a nest, with the loop indices that occur free in each."""

    nest: Nest
    free: dict[Expr, frozenset[str]] = field(default_factory=dict[Expr, frozenset[str]])
    reduces: dict[Expr, bool] = field(default_factory=dict[Expr, bool])

    def __post_init__(self) -> None:
        self.visit(self.nest.body)

    def visit(self, expr: Expr) -> frozenset[str]:
        if expr in self.free:
            return self.free[expr]
        below = children(expr)
        found = frozenset[str]().union(*map(self.visit, below))
        match expr:
            case Index(value):
                found |= _indices([value])
            case Read(_, indices):
                found |= _indices(indices)
            case Reduce(_, axes, _):
                found = found - {axis.name for axis in axes}
            case _:
                pass
        self.free[expr] = found
        self.reduces[expr] = isinstance(expr, Reduce) or any(self.reduces[child] for child in below)
        return found

    def reads(self) -> Iterator[Read]:
        return (expr for expr in self.free if isinstance(expr, Read))

    def calls(self) -> Iterator[Call]:
        return (expr for expr in self.free if isinstance(expr, Call))

    def reductions(self) -> Iterator[Reduce]:
        return (expr for expr in self.free if isinstance(expr, Reduce))


def _indices(values: Iterable[IntExpr]) -> frozenset[str]:
    return frozenset(atom.name for value in values for atom in value.atoms() if isinstance(atom, Var))


def _steps(program: Program) -> tuple[Step, ...]:
    return program.nodes if isinstance(program, Graph) else program.statements


def _results(step: Step) -> tuple[Value, ...]:
    return step.results if isinstance(step, Node) else defined(step)


def _span(step: Step) -> Span:
    if isinstance(step, Node):
        return step.span
    return step.origins[0].span if step.origins else NOWHERE


def _text(step: Step, program: Program) -> str:
    return print_node(step, program.parameters) if isinstance(step, Node) else print_statement(step, program.parameters)


def _head(program: Program) -> str:
    return f"{'graph' if isinstance(program, Graph) else 'nests'} {program.name}"


# --- rules of a program -----------------------------------------------------------------------------------------------


def _single_assignment(scope: _Scope) -> Faults:
    program = scope.program
    names = [v.name for v in (*program.inputs, *program.parameters, *program.constants)]
    names += [value.name for step in _steps(program) for value in _results(step)]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"%{name} is assigned {count} times"


def _outputs_are_defined(scope: _Scope) -> Faults:
    names = scope.known.keys() | {value.name for step in _steps(scope.program) for value in _results(step)}
    for name in scope.program.outputs:
        if name not in names:
            yield f"the output %{name} is not assigned"


def _parameters_are_dotted(scope: _Scope) -> Faults:
    for parameter in scope.program.parameters:
        if not re.fullmatch(r"\w+(\.\w+)*", parameter.name):
            yield f"the parameter name {parameter.name!r} is not words joined by dots"


def _initializers_exist(scope: _Scope) -> Faults:
    for parameter in scope.program.parameters:
        rule = INITIALIZERS.get(parameter.initializer.name)
        if rule is None:
            yield f"the initializer {parameter.initializer.name} of @{parameter.name} does not exist"
            continue
        unknown = dict(parameter.initializer.attributes).keys() - rule.attributes.keys()
        for name in sorted(unknown):
            yield f"the initializer {parameter.initializer.name} of @{parameter.name} has no attribute {name}"


def _shapes_are_static(scope: _Scope) -> Faults:
    declared: tuple[Parameter | Constant, ...] = (*scope.program.parameters, *scope.program.constants)
    for entry in declared:
        if any(not extent.is_constant or extent.value < 0 for extent in entry.type.shape):
            yield f"{entry.name} has the type {entry.type}: parameters and constants have numbers as dims"


def _constants_have_their_type(scope: _Scope) -> Faults:
    for constant in scope.program.constants:
        array = constant.data.array
        if array is None:
            continue
        shape = tuple(extent.value for extent in constant.type.shape)
        if array.dtype != constant.type.dtype.numpy or array.shape != shape:
            yield f"%{constant.name} is {constant.type}, its contents are {array.dtype}{list(array.shape)}"


def _inputs_have_dims_only(scope: _Scope) -> Faults:
    for value in scope.program.inputs:
        yield from _only_dims(value, scope.dims)


PROGRAM_RULES: dict[str, Callable[[_Scope], Faults]] = {
    "single-assignment": _single_assignment,
    "outputs-are-defined": _outputs_are_defined,
    "parameters-are-dotted": _parameters_are_dotted,
    "initializers-exist": _initializers_exist,
    "shapes-are-static": _shapes_are_static,
    "constants-have-their-type": _constants_have_their_type,
    "inputs-have-dims-only": _inputs_have_dims_only,
}
"""Rules of both levels, on declarations and names."""


# --- rules of a node --------------------------------------------------------------------------------------------------


def _undefined(names: Iterable[str], scope: _Scope) -> Faults:
    for name in names:
        if name not in scope.known:
            yield f"%{name} is not defined before it is used"


def _only_dims(value: Value, dims: frozenset[str]) -> Faults:
    for extent in value.type.shape:
        for atom in extent.atoms():
            if isinstance(atom, Dim) and atom.name not in dims:
                yield f"the dim {atom.name} of %{value.name} does not occur in the type of an input"
            elif isinstance(atom, Var) or list(computed(extent)):
                yield f"the shape of %{value.name}, {value.type}, depends on more than dims"


def _operands_are_defined(node: Node, scope: _Scope) -> Faults:
    return _undefined(node.operands, scope)


def _node_has_results(node: Node, _: _Scope) -> Faults:
    if not node.results:
        yield f"{node.operator} has no result"


def _node_results_are_known(node: Node, scope: _Scope) -> Faults:
    for value in node.results:
        yield from _only_dims(value, scope.dims)


def _node_fits_definition(node: Node, scope: _Scope) -> Faults:
    if scope.library is None:
        return
    if primal(node.operator) not in scope.library.operators():
        yield f"the library has no operator {node.operator}"
        return
    operands = [scope.known[name] for name in node.operands]
    instance = scope.library.instantiate(node.operator, operands, dict(node.attributes), node.span)
    if len(instance.results) != len(node.results):
        yield f"{node.operator} gives {len(instance.results)} results, the node has {len(node.results)}"
        return
    for value, type in zip(node.results, instance.results, strict=True):
        if value.type != type:
            yield f"{node.operator} gives {type} for %{value.name}, the node says {value.type}"


NODE_RULES: dict[str, Callable[[Node, _Scope], Faults]] = {
    "node-has-results": _node_has_results,
    "operands-are-defined": _operands_are_defined,
    "dims-are-known": _node_results_are_known,
    "node-fits-definition": _node_fits_definition,
}
"""Rules of a graph's nodes. The last one needs a library."""


# --- rules of a primitive ---------------------------------------------------------------------------------------------


def _primitive_operands(statement: Primitive, scope: _Scope) -> Faults:
    return _undefined(statement.operands, scope)


def _primitive_results(statement: Primitive, scope: _Scope) -> Faults:
    for value in statement.targets:
        yield from _only_dims(value, scope.dims)


def _primitive_exists(statement: Primitive, _: _Scope) -> Faults:
    if (statement.name == "scan") != (statement.scan is not None):
        yield "the primitive scan, and no other, says what it repeats"
    elif statement.name not in PRIMITIVES and statement.scan is None:
        yield f"{statement.name} is not a primitive (known: {', '.join(sorted(PRIMITIVES))})"


def _reshape_keeps_elements(statement: Primitive, scope: _Scope) -> Faults:
    if statement.name != "reshape":
        return
    if len(statement.operands) != 1 or len(statement.targets) != 1:
        yield "reshape takes one tensor and gives one"
        return
    before, after = scope.known[statement.operands[0]], statement.targets[0].type
    if before.dtype is not after.dtype:
        yield f"reshape of {before.dtype} gives {before.dtype}, not {after.dtype}"
    if _elements(before) != _elements(after):
        yield f"{before} has {_elements(before)} elements, {after} has {_elements(after)}"


def _scan_fits(statement: Primitive, scope: _Scope) -> Faults:
    scan = statement.scan
    if scan is None:
        return
    inner = scan.body.types()
    if len(statement.operands) != len(scan.body.inputs):
        yield f"{len(statement.operands)} operands for a body of {len(scan.body.inputs)} inputs"
        return
    if scan.carried < 0 or len(statement.targets) != scan.carried + len(scan.axes):
        yield f"{len(statement.targets)} targets for {len(scan.body.outputs)} outputs of the body"
        return
    for name, value in zip(statement.operands, scan.body.inputs, strict=True):
        if scope.known[name] != value.type:
            yield f"%{name} is {scope.known[name]}; the body takes {value.type}"
    for value, output, target in zip(
        scan.body.inputs, scan.body.outputs, statement.targets[: scan.carried], strict=False
    ):
        if not value.type == inner[output] == target.type:
            yield f"%{value.name} is {value.type} before a step, {inner[output]} after it and {target.type} at the end"
    slices = scan.body.outputs[scan.carried :]
    for axis, output, target in zip(scan.axes, slices, statement.targets[scan.carried :], strict=False):
        shape = inner[output].shape
        if TensorType(inner[output].dtype, (*shape[:axis], scan.extent, *shape[axis:])) != target.type:
            yield f"%{target.name} is {target.type}; it stacks {inner[output]} along axis {axis}"
    if scan.until and inner[scan.body.outputs[-1]] != TensorType(DType.BOOL, ()):
        yield "the end of a scan is told by one truth value"


def _elements(type: TensorType) -> IntExpr:
    total = IntExpr.constant(1)
    for extent in type.shape:
        total = total * extent
    return total


PRIMITIVE_RULES: dict[str, Callable[[Primitive, _Scope], Faults]] = {
    "operands-are-defined": _primitive_operands,
    "dims-are-known": _primitive_results,
    "primitive-exists": _primitive_exists,
    "reshape-keeps-elements": _reshape_keeps_elements,
    "scan-fits": _scan_fits,
}
"""Rules of primitive statements."""


# --- rules of a nest --------------------------------------------------------------------------------------------------


def _tensors_are_defined(_: Nest, parts: _Parts, scope: _Scope) -> Faults:
    return _undefined((read.tensor for read in parts.reads()), scope)


def _axes_are_distinct(nest: Nest, parts: _Parts, scope: _Scope) -> Faults:
    for axes in (nest.axes, *(nest.axes + reduction.axes for reduction in parts.reductions())):
        names = [axis.name for axis in axes]
        if len(set(names)) != len(names):
            yield f"an axis name comes twice in [{', '.join(names)}]"
        for name in scope.dims.intersection(names):
            yield f"the axis {name} has the name of a dim"


def _extents_are_dims(nest: Nest, parts: _Parts, scope: _Scope) -> Faults:
    for axes in (nest.axes, *(reduction.axes for reduction in parts.reductions())):
        for axis in axes:
            if list(computed(axis.extent)) or _indices([axis.extent]):
                yield f"the extent of the axis {axis} depends on more than dims"
            for name in axis.extent.dims() - scope.dims:
                yield f"the dim {name} of the axis {axis} does not occur in the type of an input"


def _axes_give_shape(nest: Nest, _: _Parts, __: _Scope) -> Faults:
    if nest.type.shape != tuple(axis.extent for axis in nest.axes):
        yield f"%{nest.target} is {nest.type}, its axes are [{', '.join(map(str, nest.axes))}]"


def _body_has_type(nest: Nest, _: _Parts, __: _Scope) -> Faults:
    if nest.body.dtype is not nest.type.dtype:
        yield f"%{nest.target} is {nest.type}, its body gives {nest.body.dtype}"


def _reads_have_rank(_: Nest, parts: _Parts, scope: _Scope) -> Faults:
    for read in parts.reads():
        type = scope.known[read.tensor]
        if len(read.indices) != type.rank:
            yield f"%{read.tensor} is {type} and is read with {len(read.indices)} indices"


def _reads_have_type(_: Nest, parts: _Parts, scope: _Scope) -> Faults:
    for read in parts.reads():
        type = scope.known[read.tensor]
        if read.dtype is not type.dtype:
            yield f"%{read.tensor} is {type} and is read as {read.dtype}"
        if read.pad is not None and read.pad.dtype is not type.dtype:
            yield f"%{read.tensor} is {type}, its pad is {read.pad.dtype}"


def _positions_are_integers(_: Nest, parts: _Parts, __: _Scope) -> Faults:
    for expr in parts.free:
        values = expr.indices if isinstance(expr, Read) else (expr.value,) if isinstance(expr, Index) else ()
        for position in (inner for value in values for inner in computed(value)):
            if not position.dtype.is_integer:
                yield f"the position {position} is {position.dtype}, not an integer"


def _functions_fit(_: Nest, parts: _Parts, __: _Scope) -> Faults:
    for expr in parts.calls():
        function = FUNCTIONS.get(expr.function)
        if function is None:
            yield f"{expr.function} is not a function of index notation"
        elif len(expr.arguments) != function.arity:
            yield f"{expr.function} takes {function.arity} arguments, got {len(expr.arguments)}"


def _functions_are_typed(_: Nest, parts: _Parts, __: _Scope) -> Faults:
    for expr in parts.calls():
        name, dtypes = expr.function, [argument.dtype for argument in expr.arguments]
        if name == "cast":
            continue
        boolean = name in ("and", "or", "not")
        if name == "where" and dtypes[0] is not DType.BOOL:
            yield f"the condition of where is {dtypes[0]}, not bool"
        values = dtypes[1:] if name == "where" else dtypes
        if len(set(values)) > 1 or (boolean and values[0] is not DType.BOOL):
            yield f"{name} of {', '.join(map(str, values))}"
        if (values[0].is_complex and name not in OF_COMPLEX) or (name in ONLY_COMPLEX and not values[0].is_complex):
            yield f"{name} of {', '.join(map(str, values))}"
        if name == "xor" and not values[0].is_integer:
            yield f"xor of {values[0]}"
        wanted = FUNCTIONS[name].result.of(values[0])
        if expr.dtype is not wanted:
            yield f"{name} of {', '.join(map(str, values))} is {wanted}, not {expr.dtype}"


def _reductions_are_flat(_: Nest, parts: _Parts, __: _Scope) -> Faults:
    for reduction in parts.reductions():
        if parts.reduces[reduction.body]:
            yield f"a reduction stands below {reduction.reducer.value}[{', '.join(map(str, reduction.axes))}]"


def _reductions_are_typed(_: Nest, parts: _Parts, __: _Scope) -> Faults:
    for reduction in parts.reductions():
        name, dtype = reduction.reducer.value, reduction.body.dtype
        if reduction.reducer in (Reducer.ARGMAX, Reducer.ARGMIN) and len(reduction.axes) != 1:
            yield f"{name} runs over one axis, got {len(reduction.axes)}"
        of_truth = reduction.reducer in (Reducer.ANY, Reducer.ALL)
        ordered = reduction.reducer not in (Reducer.SUM, Reducer.PROD)
        if of_truth != (dtype is DType.BOOL) or (ordered and dtype.is_complex):
            yield f"{name} of {dtype}"


def _indices_are_bound(nest: Nest, parts: _Parts, _: _Scope) -> Faults:
    for name in parts.free[nest.body] - {axis.name for axis in nest.axes}:
        yield f"the index {name} is not bound by an axis"


def _index_dims_are_known(_: Nest, parts: _Parts, scope: _Scope) -> Faults:
    for expr in parts.free:
        values = expr.indices if isinstance(expr, Read) else (expr.value,) if isinstance(expr, Index) else ()
        for name in frozenset[str]().union(*(value.dims() for value in values)) - scope.dims:
            yield f"the dim {name} in {expr} does not occur in the type of an input"


NEST_RULES: dict[str, Callable[[Nest, _Parts, _Scope], Faults]] = {
    "operands-are-defined": _tensors_are_defined,
    "axes-are-distinct": _axes_are_distinct,
    "extents-are-dims": _extents_are_dims,
    "axes-give-shape": _axes_give_shape,
    "body-has-type": _body_has_type,
    "reads-have-rank": _reads_have_rank,
    "reads-have-type": _reads_have_type,
    "positions-are-integers": _positions_are_integers,
    "functions-fit": _functions_fit,
    "functions-are-typed": _functions_are_typed,
    "reductions-are-flat": _reductions_are_flat,
    "reductions-are-typed": _reductions_are_typed,
    "indices-are-bound": _indices_are_bound,
    "dims-are-known": _index_dims_are_known,
}
"""Rules of loop nests. Later rules rely on earlier ones."""
