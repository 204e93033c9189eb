from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from mercer.ir.graph import Constant, Graph, Initializer, KernelValue, Node, Parameter, Value
from mercer.ir.index import Const, call
from mercer.ir.nests import Nests, Origin
from mercer.ir.spans import Span
from mercer.ir.text import TextError, parse_graph, parse_nests, parse_program, print_graph, print_nests
from mercer.ir.types import Data, DType
from tests.ir.programs import I32, axes, computed, dim, graphs, nest, nest_programs, program, read, tensor, total, var


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_graphs_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    assert parse_graph(text) == graph
    assert print_graph(parse_graph(text)) == text


@settings(max_examples=60, deadline=None)
@given(nest_programs())
def test_nests_round_trip(nests: Nests) -> None:
    text = print_nests(nests)
    assert parse_nests(text) == nests
    assert print_nests(parse_nests(text)) == text


def digits() -> Graph:
    span = Span("digits.mer", 4, 7, 4, 30)
    return Graph(
        "Digits",
        (Value("x", tensor(dim("N"), 1, 8, 8)),),
        (
            Parameter("conv.weight", tensor(16, 1, 3, 3), Initializer("kaiming_uniform", (("fan_in", 9),)), True, span),
            Parameter("norm.mean", tensor(16), Initializer("zeros"), False, span),
        ),
        (
            Constant("grid", tensor(7, 7), Data(np.arange(49, dtype=np.float32).reshape(7, 7))),
            Constant("small", tensor(2, 2), Data(np.array([[0.1, -0.0], [np.inf, 1e-30]], np.float32))),
        ),
        (
            Node(
                "conv2d",
                ("x", "conv.weight"),
                (("stride", 1), ("pad", (1, 1))),
                (Value("h", tensor(dim("N"), 16, 8, 8)),),
                span,
            ),
            Node(
                "kernel_machine",
                ("h", "grid"),
                (("kernel", KernelValue("gaussian", (("gamma", 0.05),))), ("size", dim("N") + 1)),
                (Value("y", tensor(dim("N"), 10)),),
                Span("my file.mer", 5, 1, 6, 2),
            ),
        ),
        ("y",),
        "kernel mine(x, y) = x * y\n",
    )


GRAPH = """\
mercer.graph 1
graph Digits(%x: f32[N, 1, 8, 8]) -> (%y) {
  param @conv.weight: f32[16, 1, 3, 3] = kaiming_uniform(fan_in = 9)  @ digits.mer:4:7-4:30
  buffer @norm.mean: f32[16] = zeros()  @ digits.mer:4:7-4:30
  const %grid: f32[7, 7] = sha256:DIGEST
  const %small: f32[2, 2] = [0.10000000149011612, -0.0, inf, 1.0000000031710769e-30]
  %h: f32[N, 16, 8, 8] = conv2d(%x, @conv.weight; stride = 1, pad = [1, 1])  @ digits.mer:4:7-4:30
  %y: f32[N, 10] = kernel_machine(%h, %grid; kernel = gaussian(gamma = 0.05), size = <N + 1>)  @ "my file.mer":5:1-6:2
}
definitions {
| kernel mine(x, y) = x * y
|
}
"""


def test_graph_text_reads_well() -> None:
    graph = digits()
    text = GRAPH.replace("DIGEST", graph.constants[0].data.digest)
    assert print_graph(graph) == text
    assert parse_program(text) == graph


def test_nests_text_reads_well() -> None:
    origin = Origin("conv", "h", Span("d.mer", 4, 7, 4, 30))
    p, i, j = map(var, "pij")
    product = call("mul", read("w", var("o"), i, j), read("x", var("n"), p * 2 + i, j, pad=0.0))
    weight = call("sub", read("u", var("n")), call("cast", call("floor", read("u", var("n"))), dtype=DType.F32))
    shared = call("mul", call("add", weight, Const(1.0, DType.F32)), weight)
    position = computed(call("cast", call("floor", read("u", var("n"))), dtype=I32))
    nests = program(
        {"x": tensor(dim("N"), 8, 8), "w": tensor(9, 3, 3), "u": tensor(dim("N"))},
        nest("h", total(product, i=3, j=3), origin, n=dim("N"), o=9, p=4),
        nest("s", call("add", call("exp", shared), call("neg", shared)), n=dim("N")),
        nest("y", read("x", var("n"), position + 1, (p + 1) // 2 % 3), n=dim("N"), p=8),
    )
    assert (
        print_nests(nests)
        == """\
mercer.nests 1
nests test(%x: f32[N, 8, 8], %w: f32[9, 3, 3], %u: f32[N]) -> (%y) {
  %h[n < N, o < 9, p < 4]: f32 = sum[i < 3, j < 3](%w[o, i, j] * %x[n, i + 2*p, j; pad = 0.0])  @ conv %h d.mer:4:7-4:30
  %s[n < N]: f32 =
      let $0 = (%u[n] - cast:f32(floor(%u[n])) + 1.0) * (%u[n] - cast:f32(floor(%u[n])))
      in exp($0) + -$0
  %y[n < N, p < 8]: f32 = %x[n, {cast:i32(floor(%u[n]))} + 1, ((p + 1)/2)%3]
}
"""
    )
    assert parse_program(print_nests(nests)) == nests


def test_weights_fill_constants_and_are_checked() -> None:
    graph = digits()
    grid = graph.constants[0].data.array
    assert grid is not None
    assert parse_graph(print_graph(graph)).constants[0].data.array is None
    assert parse_graph(print_graph(graph), weights={"grid": grid}).constants[0].data.array is grid
    with pytest.raises(TextError, match="the contents given for %grid are"):
        parse_graph(print_graph(graph), weights={"grid": grid + 1})


def test_not_a_number_goes_by_digest_or_word() -> None:
    constant = Constant("c", tensor(1), Data(np.array([np.nan], np.float32)))
    graph = replace(digits(), constants=(constant,), nodes=(), outputs=())
    assert parse_graph(print_graph(graph)) == graph


HEAD = "mercer.nests 1\nnests f(%x: f32[N, 8]) -> (%y) {\n"


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ("  %y[n < N]: f32 = %x[n, 1] + \n}", "4:1", "expected"),
        ("  %y[n < N]: f32 = %z[n]\n}", "3:20", "%z is not defined before this line"),
        ("  %y[n < N]: f32 = expp(%x[n, 0])\n}", "3:20", "no such function: expp\n"),
        ("  %y[n < N]: f32 = exp(%x[n, 0], 1.0)\n}", "3:20", "exp takes 1 arguments, found 2"),
        ("  %y[n < N]: f32 = summ[i < 8](%x[n, i])\n}", "3:20", "no such reduction: summ"),
        ("  %y[n < N]: f33 = %x[n, 0]\n}", "3:14", "expected an element type, found `f33`"),
        ("  %x[n < N]: f32 = 1.0\n}", "3:3", "%x is assigned twice"),
        ("  %y[n < N]: f32 = %x[n/0, 0]\n}", "3:23", "division by zero"),
        ("  %y[n < N]: f32 = $0\n}", "3:20", "not defined by a let"),
        ("  %y[n < N]: f32 = cast(%x[n, 0])\n}", "3:20", "cast needs an element type\n"),
        ("  %y[n < N]: f32 = %x[n, 0] @ model.mer:1:2-3:4\n}", "3:40", "expected a tensor (%name or @name), found `:`"),
        ("  %y: f32[N] = reshape(%x) @ model.mer:1:2-3:4\n}", "3:30", "a statement has origins"),
        ("  %y[n < N]: f32 = 1.0\n", "3:23", "the text ends, expected"),
        ("}", "2:28", "%y is not defined"),
    ],
)
def test_errors_say_where_and_what(body: str, place: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_nests(HEAD + body, "bad.mir")
    text = str(caught.value)
    assert text.startswith(f"bad.mir:{place}: ")
    assert message in text + "\n"
    line, caret = text.splitlines()[1:3]
    assert caret.index("^") == caught.value.span.column + 1 <= len(line) + 1


def test_unknown_version() -> None:
    with pytest.raises(TextError, match="version 9 of the text is not known"):
        parse_graph("mercer.graph 9\ngraph f() -> () {\n}")


def test_comments_are_ignored() -> None:
    text = "# a dump\nmercer.nests 1\nnests f(%x: f32[N]) -> (%x) { # nothing to do\n}\n"
    assert parse_program(text).outputs == ("x",)


def test_shared_parts_are_written_once() -> None:
    body = read("x", var("n"))
    for _ in range(40):
        body = call("add", call("mul", body, body), body)
    nests = program({"x": tensor(dim("N"))}, nest("y", body, n=dim("N")))
    text = print_nests(nests)
    assert len(text) < 5000
    assert print_nests(parse_nests(text)) == text  # comparing the expressions themselves takes 3^40 steps


def test_axes_of_another_shape_are_kept() -> None:
    odd = replace(nest("y", read("x", var("i")), i=3), type=tensor(4), axes=axes(i=3))
    nests = program({"x": tensor(3)}, odd)
    assert "%y[i < 3]: f32[4] =" in print_nests(nests)
    assert parse_nests(print_nests(nests)) == nests
