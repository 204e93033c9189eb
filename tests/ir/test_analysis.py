from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from mercer.ir.analysis import (
    Cost,
    CycleError,
    cost,
    dependencies,
    operands,
    post_dominators,
    results,
    steps,
    topological_order,
    users,
)
from mercer.ir.graph import Graph, Node, Value
from mercer.ir.index import Const, Expr, call
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nests, Primitive, Scan
from mercer.ir.spans import NOWHERE
from tests.ir.programs import F32, dim, nest, program, read, tensor, total, var

N, n, i, k = dim("N"), var("n"), var("i"), var("k")


def one(target: str, *sources: str) -> object:
    body: Expr = Const(1.0, F32)
    for source in sources:
        body = call("add", body, read(source, n))
    return nest(target, body, n=N)


def diamond() -> Nests:
    """x -> a -> (b, c) -> d -> y, and dead, which nobody needs."""
    every = [one("a", "x"), one("b", "a"), one("c", "a"), one("d", "b", "c"), one("dead", "b"), one("y", "d", "x")]
    return program({"x": tensor(N), "z": tensor(N)}, *every)  # type: ignore[arg-type]


def graph() -> Graph:
    def node(result: str, *sources: str) -> Node:
        return Node("add", sources, (), (Value(result, tensor(N)),), NOWHERE)

    inputs = (Value("x", tensor(N)), Value("z", tensor(N)))
    nodes = (
        node("a", "x"),
        node("b", "a"),
        node("c", "a"),
        node("d", "b", "c"),
        node("dead", "b"),
        node("y", "d", "x"),
    )
    return Graph("test", inputs, (), (), nodes, ("y",))


both = pytest.mark.parametrize("diamond", [diamond(), graph()], ids=["nests", "graph"])


@both
def test_dependencies(diamond: Nests | Graph) -> None:
    found = dependencies(diamond)
    assert sorted(found.edges) == sorted(
        [("x", "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("b", "dead"), ("d", "y"), ("x", "y")]
    )
    assert list(found.nodes) == ["x", "z", "a", "b", "c", "d", "dead", "y"]


@both
def test_users(diamond: Nests | Graph) -> None:
    names = {name: [results(step)[0].name for step in readers] for name, readers in users(diamond).items()}
    assert names == {
        "x": ["a", "y"], "z": [], "a": ["b", "c"], "b": ["d", "dead"], "c": ["d"], "d": ["y"], "dead": [], "y": [],
    }  # fmt: skip


@both
def test_topological_order(diamond: Nests | Graph) -> None:
    assert topological_order(diamond) == steps(diamond)
    backwards = tuple(reversed(steps(diamond)))
    mixed = replace(diamond, **{"nodes" if isinstance(diamond, Graph) else "statements": backwards})
    order = topological_order(mixed)
    assert sorted(map(str, order)) == sorted(map(str, backwards))
    known = {"x", "z"}
    for step in order:
        assert set(operands(step)) <= known
        known |= {value.name for value in results(step)}


def test_cycle_is_named() -> None:
    nests = program({"x": tensor(N)}, one("a", "x", "b"), one("b", "a"), one("y", "b"))  # type: ignore[arg-type]
    with pytest.raises(CycleError, match=r"wait for each other: %a, %b|wait for each other: %b, %a"):
        topological_order(nests)


@both
def test_post_dominators(diamond: Nests | Graph) -> None:
    assert post_dominators(diamond) == {"x": "y", "a": "d", "b": "d", "c": "d", "d": "y", "y": None}
    two = replace(diamond, outputs=("y", "c"))
    assert post_dominators(two) == {"x": None, "a": None, "b": "d", "c": None, "d": "y", "y": None}
    assert post_dominators(replace(diamond, outputs=())) == {}


def test_cost_of_a_product_of_matrices() -> None:
    types = {"a": tensor(N, 64), "b": tensor(64, 10)}
    statement = nest("y", total(call("mul", read("a", n, k), read("b", k, i)), k=64), n=N, i=10)
    found = cost(statement, types)
    assert found == Cost(N * (2 * 64 * 10), IntExpr.constant(0), (N * 64 + 640 + N * 10) * 4)
    assert found.at({"N": 5}).flops.value == 6400
    assert (found + found).at({"N": 1}).bytes.value == 2 * (64 + 640 + 10) * 4


def test_shared_parts_and_transcendental_functions_count_once_each() -> None:
    wave = call("exp", call("mul", read("x", n), Const(2.0, F32)))
    found = cost(nest("y", call("add", wave, wave), n=N), {"x": tensor(N)})
    assert found == Cost(N * 2, N, N * 8)


def test_cost_of_a_primitive_is_its_traffic() -> None:
    reshape = Primitive("reshape", (Value("y", tensor(N * 4)),), ("x",), (), ())
    assert cost(reshape, {"x": tensor(N, 4)}) == Cost(bytes=N * 32)


def test_cost_of_a_scan_is_that_of_all_its_steps() -> None:
    body = Nests(
        "step",
        (Value("h", tensor(N)),),
        (),
        (),
        (nest("next", call("add", read("h", n), read("h", n)), n=N),),
        ("next",),
    )
    scan = Scan("t", dim("L"), body)
    repeated = Primitive("scan", (Value("y", tensor(N)),), ("x",), (), (), scan)
    assert cost(repeated, {"x": tensor(N)}) == Cost(N * dim("L"), bytes=N * 8)


def test_types_load_no_networkx() -> None:
    code = "import sys, mercer.ir.types, mercer.ir.analysis, mercer.ir.verify; print('networkx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
