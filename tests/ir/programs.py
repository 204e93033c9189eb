"""Programs for tests: short ways to write index notation, and random ones for hypothesis."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st

from mercer.ir.graph import (
    AttributeValue,
    Constant,
    Graph,
    Initializer,
    KernelValue,
    Node,
    Parameter,
    Value,
)
from mercer.ir.index import FUNCTIONS, Axis, Const, Expr, Index, Read, Reduce, Reducer, call
from mercer.ir.integers import Computed, IntExpr, IntLike
from mercer.ir.nests import ALGORITHMS, Nest, Nests, Origin, Primitive, Statement
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, Data, DType, TensorType

F32, I32 = DType.F32, DType.I32
var, dim = IntExpr.var, IntExpr.dim


def tensor(*shape: IntLike, dtype: DType = F32) -> TensorType:
    return TensorType(dtype, tuple(map(IntExpr.of, shape)))


def read(name: str, *indices: IntLike, dtype: DType = F32, pad: float | None = None) -> Read:
    return Read(name, tuple(map(IntExpr.of, indices)), dtype, None if pad is None else Const(pad, dtype))


def axes(**extents: IntLike) -> tuple[Axis, ...]:
    return tuple(Axis(name, IntExpr.of(extent)) for name, extent in extents.items())


def nest(target: str, body: Expr, origin: Origin | None = None, **extents: IntLike) -> Nest:
    loops = axes(**extents)
    type = TensorType(body.dtype, tuple(axis.extent for axis in loops))
    return Nest(target, type, loops, body, (origin,) if origin else ())


def total(body: Expr, **extents: IntLike) -> Reduce:
    return Reduce(Reducer.SUM, axes(**extents), body)


def computed(expr: Expr) -> IntExpr:
    return IntExpr.atom(Computed(expr))


def program(inputs: dict[str, TensorType], *statements: Statement, outputs: tuple[str, ...] = ("y",)) -> Nests:
    return Nests("test", tuple(Value(n, t) for n, t in inputs.items()), (), (), statements, outputs)


# --- random ones ------------------------------------------------------------------------------------------------------

words = st.sampled_from(["a", "b2", "conv.weight", "h.3", "blocks.0.bias", "γ", "two words", "x/y", "in", "0"])
integers = st.integers(-9, 9)
floats = st.floats(allow_nan=False) | st.sampled_from([math.inf, -math.inf, 0.1, 1e-30, -0.0, 1.0])
spans = st.just(NOWHERE) | st.builds(
    Span, st.sampled_from(["digits.mer", "a b/ü.mer", 'q"uote:1.mer']), *[st.integers(1, 99)] * 4
)


def int_exprs(leaves: st.SearchStrategy[IntExpr]) -> st.SearchStrategy[IntExpr]:
    def compound(inner: st.SearchStrategy[IntExpr]) -> st.SearchStrategy[IntExpr]:
        return st.one_of(
            st.builds(IntExpr.__add__, inner, inner),
            st.builds(IntExpr.__sub__, inner, inner),
            st.builds(IntExpr.__mul__, inner, inner),
            st.builds(IntExpr.minimum, inner, inner),
            st.builds(IntExpr.maximum, inner, inner),
            st.builds(lambda a, n: a // n, inner, st.integers(1, 5) | st.integers(-4, -1)),
            st.builds(lambda a, n: a % n, inner, st.integers(1, 5) | st.integers(-4, -1)),
        )

    return st.recursive(leaves | st.builds(IntExpr.constant, integers), compound, max_leaves=5)


dims = int_exprs(st.sampled_from([dim("N"), dim("M"), dim("max")]))
shapes = st.lists(dims | st.builds(IntExpr.constant, st.integers(0, 5)), max_size=3).map(tuple)
types = st.builds(TensorType, st.sampled_from(DType), shapes)
plain_attributes: st.SearchStrategy[AttributeValue] = st.one_of(
    st.none(), st.booleans(), integers, floats, st.sampled_from(["same", 'a "b"\n\\', "ü # |"]), dims
)


Attributes: TypeAlias = tuple[tuple[str, AttributeValue], ...]


def _attribute_list(values: st.SearchStrategy[AttributeValue]) -> st.SearchStrategy[Attributes]:
    return st.lists(st.tuples(words, values), max_size=3).map(tuple)


attributes = _attribute_list(
    st.recursive(
        plain_attributes,
        lambda inner: st.lists(inner, max_size=3).map(tuple) | st.builds(KernelValue, words, _attribute_list(inner)),
        max_leaves=4,
    )
)


@st.composite
def constants(draw: st.DrawFn, name: str) -> Constant:
    dtype = draw(st.sampled_from(DType))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=2)))
    seed = np.random.default_rng(draw(st.integers(0, 99)))
    array: Array = (seed.standard_normal(shape) * 5).astype(dtype.numpy)
    return Constant(name, tensor(*shape, dtype=dtype), Data(array))


@st.composite
def _declared(draw: st.DrawFn) -> tuple[list[str], tuple[Value, ...], tuple[Parameter, ...], tuple[Constant, ...]]:
    names = draw(st.lists(words, min_size=3, max_size=6, unique=True))
    inputs = (Value(names[0], draw(types)),)
    start = Initializer(draw(words), draw(attributes))
    parameters = (Parameter(names[1], draw(types), start, draw(st.booleans()), draw(spans)),)
    return names[3:], inputs, parameters, (draw(constants(names[2])),)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    free, inputs, parameters, known = draw(_declared())
    defined = [inputs[0].name, parameters[0].name, known[0].name]
    nodes: list[Node] = []
    for name in free:
        operands = draw(st.lists(st.sampled_from(defined), max_size=3))
        results = (Value(name, draw(types)), *draw(st.just(()) | st.just((Value(f"{name}.1", draw(types)),))))
        nodes.append(Node(draw(words), tuple(operands), draw(attributes), results, draw(spans)))
        defined += [value.name for value in results]
    outputs = tuple(draw(st.lists(st.sampled_from(defined), max_size=2)))
    definitions = draw(st.sampled_from(["", "op f(x) = x", 'two\n  lines # | "\n', "\n"]))
    return Graph(draw(words), inputs, parameters, known, tuple(nodes), outputs, definitions)


def literals(dtype: DType) -> st.SearchStrategy[Const]:
    if dtype is DType.C64:
        return st.builds(Const, st.complex_numbers(allow_nan=False), st.just(dtype))
    if dtype is DType.BOOL:
        return st.builds(Const, st.booleans(), st.just(dtype))
    numbers = integers if dtype.is_integer else st.one_of(floats, integers)
    return st.builds(Const, numbers, st.just(dtype))


def scalars(tensors: dict[str, TensorType], loops: tuple[str, ...]) -> st.SearchStrategy[Expr]:
    """Expressions over the tensors and loop indices; types are consistent with `call` but need not make sense."""
    positions = int_exprs(st.sampled_from([*map(var, loops), dim("N")]) if loops else st.just(dim("N")))

    @st.composite
    def element(draw: st.DrawFn, indices: st.SearchStrategy[IntExpr]) -> Read:
        name = draw(st.sampled_from(sorted(tensors)))
        type = tensors[name]
        pad = draw(st.none() | literals(type.dtype))
        return Read(name, tuple(draw(indices) for _ in type.shape), type.dtype, pad)

    def compound(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        def application(function: str) -> st.SearchStrategy[Expr]:
            arguments = [inner] * FUNCTIONS[function].arity
            dtype = st.sampled_from(DType) if function == "cast" else st.none() | st.sampled_from(DType)
            return st.builds(lambda d, *a: call(function, *a, dtype=d), dtype, *arguments)

        return st.one_of(
            st.sampled_from(sorted(FUNCTIONS)).flatmap(application),
            st.sampled_from(["add", "sub", "mul", "div", "neg", "lt", "and", "not"]).flatmap(application),
            element(positions | st.builds(lambda e: computed(e) + 1, inner)),
            st.builds(Reduce, st.sampled_from(Reducer), st.builds(lambda n: axes(r=n), dims), inner),
            st.builds(lambda e: call("mul", call("add", e, call("exp", e)), e), inner),
        )

    leaf = st.sampled_from(DType).flatmap(literals) | st.builds(Index, positions) | element(positions)
    return st.recursive(leaf, compound, max_leaves=8)


@st.composite
def nest_programs(draw: st.DrawFn) -> Nests:
    free, inputs, parameters, known = draw(_declared())
    defined = {v.name: v.type for v in (*inputs, *parameters, *known)}
    statements: list[Statement] = []
    for name in free:
        origins = tuple(Origin(draw(words), draw(words), draw(spans)) for _ in range(draw(st.integers(0, 2))))
        if draw(st.booleans()):
            value = Value(name, draw(types))
            operands = tuple(draw(st.lists(st.sampled_from(sorted(defined)), max_size=2)))
            statements.append(Primitive(draw(words), (value,), operands, draw(attributes), origins))
        else:
            loops = tuple(Axis(n, draw(dims)) for n in draw(st.sampled_from([(), ("i",), ("i", "let", "k.1")])))
            body = draw(scalars(defined, tuple(axis.name for axis in loops)))
            shape = draw(st.just(tuple(axis.extent for axis in loops)) | st.just((dim("M"),)))
            value = Value(name, TensorType(draw(st.sampled_from(DType)), shape))
            algorithm = draw(st.sampled_from(ALGORITHMS))
            statements.append(Nest(name, value.type, loops, body, origins, algorithm))
        defined[name] = value.type
    outputs = tuple(draw(st.lists(st.sampled_from(sorted(defined)), max_size=2)))
    return Nests(draw(words), inputs, parameters, known, tuple(statements), outputs)
