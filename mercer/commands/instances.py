"""A use of an operator that its signature suggests, how it rounds, and how each backend computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from typing import TypeVar

from mercer.frontend import syntax
from mercer.frontend.diagnostics import CompileError
from mercer.frontend.frames import DTYPES
from mercer.frontend.library import DefinitionLibrary
from mercer.ir.graph import AttributeValue, Graph, KernelValue, Node, Value, format_attribute
from mercer.ir.index import Call, Const, Reduce, Reducer, walk
from mercer.ir.integers import IntExpr
from mercer.ir.library import Instance
from mercer.ir.lower import lower
from mercer.ir.nests import Nest, Primitive, Statement
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType, TensorType
from mercer.runtime.errors import MercerError

V = TypeVar("V")

TARGETS = {"tvm cpu": "cpu:avx2", "tvm cuda": "cuda:sm_90"}
"""What `implementations` plans for: fixed, so that it says the same on every machine."""


@dataclass(frozen=True)
class Example:
    """A use of an operator: the types of its operands, and the attributes that it has no default for."""

    operator: str
    names: tuple[str, ...]
    types: tuple[TensorType, ...]
    attributes: Mapping[str, AttributeValue]
    instance: Instance

    def __str__(self) -> str:
        operands = ", ".join(f"{name}: {type_}" for name, type_ in zip(self.names, self.types, strict=True))
        attributes = ", ".join(f"{name} = {format_attribute(value)}" for name, value in self.attributes.items())
        return f"{self.operator}({operands}{'; ' if attributes else ''}{attributes})"


# --- making one up ----------------------------------------------------------------------------------------------------


@dataclass
class _Sizes:
    """Gives dims their sizes in the order of a signature.

    The first dim is N if `symbolic`, as batches are. Of each operand the first two axes are channels, the
    others places: `places` of the data, which come first, and `window` of what comes later.
    """

    symbolic: bool
    channels: int
    places: int
    window: int
    known: dict[str, IntExpr] = field(default_factory=dict[str, IntExpr])

    def of(self, name: str, operand: int, axis: int) -> IntExpr:
        if name not in self.known:
            size = self.channels if axis < 2 else self.places if operand == 0 else self.window
            first = self.symbolic and not self.known
            self.known[name] = IntExpr.dim("N") if first else IntExpr.constant(size)
        return self.known[name]


_SIZES = ((True, 16, 32, 3), (True, 16, 32, 4), (True, 16, 16, 16), (False, 16, 16, 16), (False, 1, 1, 1))
"""Tried in this order; the last is for axes that must have size 1."""

_ATTRIBUTES = (2, 1, KernelValue("gaussian", ()), (1, 0), (16, 16), (16, -1), "symmetric")
"""Tried in this order for attributes without a default."""

_TYPES = (DType.F32, DType.I32, DType.C64)


def find_example(library: DefinitionLibrary, definition: syntax.Definition) -> Example | None:
    """The first use that the signature allows; of a kernel, as the `kernel` of `kernel_matrix`.

    None for layers and functions, and when nothing that is tried fits.
    """
    attributes: dict[str, Sequence[AttributeValue]] = {
        a.name.name: _ATTRIBUTES for a in definition.attributes if a.default is None
    }
    if definition.kind == "kernel":
        kernels = [KernelValue(definition.name.name, given) for given in _choices(attributes)]
        around = library.definition("kernel_matrix")
        assert around is not None
        definition, attributes = around, {"kernel": kernels}
    if definition.kind != "op":
        return None
    variables = {p.type.dtype for p in definition.parameters if p.type is not None} - DTYPES.keys()
    types_of_variables = _choices(dict.fromkeys(sorted(variables), _TYPES))
    for sizes, dtypes, given in product(_SIZES, types_of_variables, _choices(attributes)):
        types = _types(definition, _Sizes(*sizes), DTYPES | dict(dtypes))
        if types is not None and (found := _attempt(library, definition, types, dict(given))) is not None:
            return found
    return None


def _choices(options: Mapping[str, Sequence[V]]) -> list[tuple[tuple[str, V], ...]]:
    """All ways to give each name one of its values."""
    return [tuple(zip(options, values, strict=True)) for values in product(*options.values())]


def _types(definition: syntax.Definition, sizes: _Sizes, dtypes: Mapping[str, DType]) -> tuple[TensorType, ...] | None:
    """Operands that fit the signature; None where a dim is a formula."""
    types: list[TensorType] = []
    for number, parameter in enumerate(definition.parameters):
        assert parameter.type is not None
        shape: list[IntExpr] = []
        for dim in parameter.type.dims:
            match dim:
                case syntax.Name(name) | syntax.PlacedDim(name):
                    shape.append(sizes.of(name, number, len(shape)))
                case syntax.Number(int(value)):
                    shape.append(IntExpr.constant(value))
                case syntax.Ellipsis_("b"):  # the axes behind a placed one: none
                    pass
                case syntax.Ellipsis_(name):
                    for k in range(1 if name else 2):
                        shape.append(sizes.of(f"...{name}{k}", number, len(shape)))
                case _:
                    return None
        types.append(TensorType(dtypes[parameter.type.dtype], tuple(shape)))
    return tuple(types)


def _attempt(
    library: DefinitionLibrary,
    definition: syntax.Definition,
    types: tuple[TensorType, ...],
    attributes: Mapping[str, AttributeValue],
) -> Example | None:
    name = definition.name.name
    try:
        instance = library.instantiate(name, types, attributes, NOWHERE)
    except CompileError:
        return None
    return Example(name, tuple(p.name.name for p in definition.parameters), types, attributes, instance)


# --- how it rounds ----------------------------------------------------------------------------------------------------

_UNROUNDED = frozenset(
    ("min", "max", "neg", "abs", "sign", "floor", "ceil", "round", "trunc", "where", "complex", "real", "imag", "conj")
)
_ROUNDED = frozenset(("add", "sub", "mul", "div", "floordiv", "mod", "sqrt", "cast"))
"""Arithmetic that is rounded to the nearest number; all other functions are approximations."""


def exactness(library: DefinitionLibrary, example: Example) -> tuple[str, ...]:
    """How the results of a use may differ between backends and from exact arithmetic."""
    statements = list(_all(example.instance.statements))
    expressions = [e for s in statements if isinstance(s, Nest) for e in walk(s.body)]
    functions = {_function(e) for e in expressions if isinstance(e, Call) and _rounds(e.dtype)} - _UNROUNDED
    reducers = {e.reducer for e in expressions if isinstance(e, Reduce) and _rounds(e.dtype)}
    primitives = [s for s in statements if isinstance(s, Primitive) and s.scan is None and s.name != "reshape"]
    inexact = [p.name for p in primitives if any(_rounds(v.type.dtype) for v in p.targets)]
    notes: list[str] = []
    if functions & _ROUNDED:
        notes.append("each arithmetic operation on floats rounds")
    if approximated := sorted(functions - _ROUNDED):
        notes.append(f"the last bits of {', '.join(approximated)} differ between backends")
    if reducers & {Reducer.SUM, Reducer.PROD}:
        notes.append("reductions of floats: order not fixed")
    if inexact:
        notes.append(f"{', '.join(dict.fromkeys(inexact))}: order of operations not fixed")
    if not notes:
        notes.append("exact: nothing is rounded")
    elif _on_integers(library, example):
        notes.append("bit-exact on integers")
    for scan in (s.scan for s in statements if isinstance(s, Primitive) and s.scan is not None):
        notes.append("iterate: steps in order, may end early" if scan.until else "scan: steps in order")
    return tuple(dict.fromkeys(notes))


def _function(e: Call) -> str:
    """Its function; a power with a fixed whole exponent is a product."""
    match e:
        case Call("pow", (_, Const(number))) if number == int(number.real):
            return "mul"
        case _:
            return e.function


def _all(statements: Sequence[Statement]) -> Iterator[Statement]:
    for statement in statements:
        yield statement
        if isinstance(statement, Primitive) and statement.scan is not None:
            yield from _all(statement.scan.body.statements)


def _rounds(dtype: DType) -> bool:
    return dtype.is_float or dtype is DType.C64


def _on_integers(library: DefinitionLibrary, example: Example) -> bool:
    """Whether the operator takes integers, and then computes with nothing else."""
    types = tuple(TensorType(DType.I32 if t.dtype.is_float else t.dtype, t.shape) for t in example.types)
    try:
        instance = library.instantiate(example.operator, types, example.attributes, NOWHERE)
    except MercerError:
        return False
    dtypes = [
        dtype
        for s in _all(instance.statements)
        for dtype in ([e.dtype for e in walk(s.body)] if isinstance(s, Nest) else [v.type.dtype for v in s.targets])
    ]
    return not any(map(_rounds, dtypes))


# --- how it is computed -----------------------------------------------------------------------------------------------


def implementations(library: DefinitionLibrary, example: Example) -> dict[str, str]:
    """For each backend how it computes a use that stands alone, before any pass.

    PyTorch: the call, or how the code that is generated instead is made up. TVM: the families of schedules and the
    primitives, in order; empty where nothing is computed.
    """
    from mercer.backends.tvm.plan import families
    from mercer.backends.tvm.target import parse

    nests = lower(_graph(library, example), library)
    planned = {title: families(nests, parse(target)) for title, target in TARGETS.items()}
    steps = {title: ", ".join(name for name, _ in groupby(found)) or "a view" for title, found in planned.items()}
    return {"torch": _torch(library, example), **steps}


def _graph(library: DefinitionLibrary, example: Example) -> Graph:
    inputs = tuple(map(Value, example.names, example.types))
    results = tuple(Value(f"result{k}", type_) for k, type_ in enumerate(example.instance.results))
    attributes = library.normalize(example.operator, example.attributes)
    node = Node(example.operator, example.names, attributes, results, NOWHERE)
    return Graph("Example", inputs, (), (), (node,), tuple(v.name for v in results))


def _torch(library: DefinitionLibrary, example: Example) -> str:
    from mercer.backends.torch.native import Site, native

    given = dict(library.normalize(example.operator, example.attributes)) | dict(example.attributes)
    none = (False,) * len(example.types)
    call = native(
        example.operator, Site(example.names, example.types, example.instance.results[0], given, none, none, str)
    )
    if call is not None:
        return f"native: {call}"
    statements = example.instance.statements
    primitives = dict.fromkeys(s.name for s in statements if isinstance(s, Primitive))
    index = ["index code"] if any(isinstance(s, Nest) for s in statements) else []
    return f"generated: {', '.join([*index, *primitives]) or 'nothing to compute'}"
