from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mercer.ir.graph import AttributeValue, Constant, Graph, Initializer, Node, Parameter, Value
from mercer.ir.index import Call, Const, Index, Reduce, Reducer, call
from mercer.ir.library import Instance
from mercer.ir.nests import Nests, Origin, Primitive, Scan
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Data, DType
from mercer.ir.verify import NEST_RULES, NODE_RULES, PRIMITIVE_RULES, PROGRAM_RULES, VerificationError, verify
from tests.ir.programs import F32, I32, axes, computed, dim, nest, program, read, tensor, total, var

N, i, j = dim("N"), var("i"), var("j")
X = {"x": tensor(N, 8)}
SPAN = Span("model.mer", 3, 5, 3, 20)
PARAMETER = Parameter("a.w", tensor(8), Initializer("normal", (("std", 0.1),)), True, NOWHERE)
NODE = Node("relu", ("x",), (), (Value("y", tensor(N, 8)),), SPAN)
GRAPH = Graph("test", (Value("x", tensor(N, 8)),), (PARAMETER,), (), (NODE,), ("y",))


class Relu:
    """A library of one operator, which keeps the type of its operand."""

    def instantiate(
        self, operator: str, operands: Sequence[object], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        assert operator == "relu"
        return Instance(("x",), (GRAPH.inputs[0].type,), (), (), ("y",))

    def operators(self) -> frozenset[str]:
        return frozenset(("relu",))

    def normalize(
        self, operator: str, attributes: Mapping[str, AttributeValue]
    ) -> tuple[tuple[str, AttributeValue], ...]:
        return tuple(attributes.items())


def one(body: Call | Reduce | Index | Const | object) -> Nests:
    return program(X, nest("y", body, n=N))  # type: ignore[arg-type]


def x(*indices: object, **options: object) -> object:
    return read("x", *(indices or (var("n"), 0)), **options)  # type: ignore[arg-type]


GOOD = nest("y", call("mul", read("x", var("n"), i), Const(2.0, F32)), Origin("scale", "y", SPAN), n=N, i=8)
RESHAPE = Primitive("reshape", (Value("y", tensor(N * 2, 4)),), ("x",), (), ())


def with_parameter(**changes: object) -> Graph:
    return replace(GRAPH, parameters=(replace(PARAMETER, **changes),))  # type: ignore[arg-type]


def with_node(**changes: object) -> Graph:
    return replace(GRAPH, nodes=(replace(NODE, **changes),))  # type: ignore[arg-type]


def with_reshape(**changes: object) -> Nests:
    return program(X, replace(RESHAPE, **changes))  # type: ignore[arg-type]


def with_scan(axes: tuple[int, ...] = (), **changes: object) -> Nests:
    value = Value("h", tensor(N, 8))
    body = Nests("scan", (value,), (), (), (nest("g", read("h", var("n"), i), n=N, i=8),), ("g",))
    scan = Primitive("scan", (Value("y", tensor(N, 8)),), ("x", "x"), (), (), Scan("t", N, body, axes))
    return program(X, replace(scan, **changes))  # type: ignore[arg-type]


TWO = (Value("y", tensor(N, 8)), Value("z", tensor(N, 8)))

FAULTS: list[tuple[str, Graph | Nests, str]] = [
    # declarations
    ("single-assignment", program(X, GOOD, GOOD), "%y is assigned 2 times"),
    ("outputs-are-defined", program(X, GOOD, outputs=("z",)), "the output %z is not assigned"),
    ("parameters-are-dotted", with_parameter(name="a w"), "'a w'"),
    ("initializers-exist", with_parameter(initializer=Initializer("gauss")), "gauss of @a.w does not exist"),
    ("initializers-exist", with_parameter(initializer=Initializer("ones", (("a", 1),))), "no attribute a"),
    ("shapes-are-static", with_parameter(type=tensor(N)), "numbers as dims"),
    ("shapes-are-static", with_parameter(type=tensor(-1)), "numbers as dims"),
    (
        "constants-have-their-type",
        replace(GRAPH, constants=(Constant("c", tensor(2), Data(np.zeros(3, np.float32))),)),
        "float32[3]",
    ),
    ("inputs-have-dims-only", program({"x": tensor(var("n"))}, outputs=("x",)), "more than dims"),
    # nodes
    ("node-has-results", replace(with_node(results=()), outputs=("x",)), "relu has no result"),
    ("operands-are-defined", with_node(operands=("z",)), "%z is not defined"),
    ("dims-are-known", with_node(results=(Value("y", tensor(dim("M"))),)), "the dim M of %y"),
    ("node-fits-definition", with_node(operator="relux"), "no operator relux"),
    ("node-fits-definition", with_node(results=(Value("y", tensor(N, 9)),)), "relu gives f32[N, 8] for %y"),
    ("node-fits-definition", with_node(results=(*NODE.results, Value("z", tensor(N)))), "the node has 2"),
    # primitives
    ("operands-are-defined", with_reshape(operands=("y",)), "%y is not defined"),
    ("dims-are-known", with_reshape(targets=(Value("y", tensor(dim("M"))),)), "the dim M"),
    ("primitive-exists", with_reshape(name="reshap"), "reshap is not a primitive"),
    (
        "reshape-keeps-elements",
        with_reshape(targets=(Value("y", tensor(N, 4)),)),
        "has 8*N elements, f32[N, 4] has 4*N",
    ),
    ("reshape-keeps-elements", with_reshape(targets=(Value("y", tensor(N, 8, dtype=I32)),)), "reshape of f32"),
    ("reshape-keeps-elements", with_reshape(operands=("x", "x")), "takes one tensor"),
    ("scan-fits", with_scan(), "2 operands for a body of 1 inputs"),
    ("scan-fits", with_scan(operands=("x",), targets=TWO), "2 targets for 1 outputs"),
    ("scan-fits", with_scan(operands=("x",), targets=(Value("y", tensor(N, 4)),)), "f32[N, 4] at the end"),
    ("primitive-exists", with_scan(operands=("x",), name="scam"), "the primitive scan, and no other"),
    # nests
    ("operands-are-defined", program(X, replace(GOOD, body=read("y", var("n"), i))), "%y is not defined"),
    ("axes-are-distinct", program(X, replace(GOOD, axes=GOOD.axes + GOOD.axes)), "comes twice in [n, i, n, i]"),
    ("axes-are-distinct", one(total(x(), n=8)), "comes twice in [n, n]"),
    ("axes-are-distinct", one(total(x(), N=8)), "the axis N has the name of a dim"),
    ("extents-are-dims", program(X, nest("y", read("x", var("n"), i), n=N, i=var("n"))), "more than dims"),
    ("extents-are-dims", one(total(x(), i=dim("M"))), "the dim M of the axis i < M"),
    ("axes-give-shape", program(X, replace(GOOD, type=tensor(N, 7))), "%y is f32[N, 7], its axes are [n < N, i < 8]"),
    ("body-has-type", program(X, replace(GOOD, type=tensor(N, 8, dtype=I32))), "its body gives f32"),
    ("reads-have-rank", one(x(var("n"))), "is read with 1 indices"),
    ("reads-have-type", one(x(dtype=I32)), "is read as i32"),
    ("reads-have-type", one(replace(x(), pad=Const(0, I32))), "its pad is i32"),  # type: ignore[type-var]
    ("positions-are-integers", one(x(computed(x()), 0)), "is f32, not an integer"),
    ("functions-fit", one(Call("expp", (x(),), F32)), "expp is not a function"),
    ("functions-fit", one(Call("exp", (x(), x()), F32)), "exp takes 1 arguments, got 2"),
    ("functions-are-typed", one(call("add", Index(i), x())), "add of i32, f32"),
    ("functions-are-typed", one(call("xor", x(), x())), "xor of f32"),
    ("functions-are-typed", one(Call("lt", (x(), x()), F32)), "lt of f32, f32 is bool, not f32"),
    ("functions-are-typed", one(call("where", x(), x(), x())), "the condition of where is f32"),
    ("functions-are-typed", one(call("not", x())), "not of f32"),
    ("reductions-are-flat", one(total(call("exp", total(x(), i=3)), j=3)), "stands below sum[j < 3]"),
    ("reductions-are-typed", one(Reduce(Reducer.ARGMAX, axes(i=2, j=2), x())), "argmax runs over one axis"),
    ("reductions-are-typed", one(Reduce(Reducer.ANY, axes(i=2), x())), "any of f32"),
    ("indices-are-bound", one(x(var("n"), i)), "the index i is not bound"),
    ("dims-are-known", one(x(var("n"), dim("M"))), "the dim M in"),
]


@pytest.mark.parametrize(("rule", "bad", "message"), FAULTS)
def test_fault_is_caught(rule: str, bad: Graph | Nests, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(bad, Relu())
    assert caught.value.rule == rule
    assert message in str(caught.value)


def test_every_rule_has_a_fault() -> None:
    rules = {*PROGRAM_RULES, *NODE_RULES, *PRIMITIVE_RULES, *NEST_RULES}
    assert {rule for rule, _, _ in FAULTS} == rules


def test_good_programs_pass() -> None:
    verify(GRAPH, Relu())
    verify(GRAPH)
    verify(program(X, GOOD))
    verify(program(X, RESHAPE))
    verify(one(x(computed(call("cast", x(), dtype=I32)), 0)))
    verify(one(total(call("where", call("lt", Index(j), Index(i)), x(var("n"), i), x()), i=8, j=8)))


def test_error_quotes_text_and_place() -> None:
    with pytest.raises(VerificationError) as caught:
        verify(program(X, replace(GOOD, type=tensor(N, 8, dtype=DType.F16))))
    assert str(caught.value) == (
        "model.mer:3:5: the IR breaks the rule body-has-type: %y is f16[N, 8], its body gives f32\n"
        "  %y[n < N, i < 8]: f16 = %x[n, i] * 2.0  @ scale %y model.mer:3:5-3:20"
    )
