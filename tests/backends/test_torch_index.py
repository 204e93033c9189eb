"""Index notation of every form as PyTorch code."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.backends.torch import source
from mercer.backends.torch.reads import Reader
from mercer.frontend.library import DefinitionLibrary
from mercer.ir.graph import Constant, Graph, Node, Value
from mercer.ir.index import FUNCTIONS, Axis, Read, call
from mercer.ir.integers import IntExpr
from mercer.ir.library import Instance
from mercer.ir.nests import Nest
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Data, DType, TensorType
from tests.backends.torch_modules import Fixed, check, parsed

VIEWS = {
    "window": "y[n, p < 3, i < 2] = x[n, 2*p + i]",
    "dilated": "y[n, i < 2, p < 2] = x[n, p + 3*i + 1]",
    "convolution": "y[n, p < 4] = sum[i < 3] x[n, p - i + 2] * x[n, i]",
    "reversed": "y[n, p < 6] = x[n, 5 - p]",
    "padded": "y[n, p < 8] = x[n, p - 1; pad = 7]",
    "cropped": "y[n, p < 3] = x[n, p + 4; pad = -inf]",
    "strided": "y[n, p < 3] = x[n, 2*p + 1]",
    "diagonal": "y[n, p < 6] = m[p, p]",
    "transposed": "y[p < 6, n] = x[n, p]",
    "constant": "y[n] = x[n, 3]",
    "outside": "y[n, p < 2] = x[n, 3 + 9*p; pad = 1]",
    "broadcast": "y[n, p < 2] = x[n, 0]",
    "full": "y[n, p < 2] = 1.5",
    "three indices": "y[n, p < 2, i < 2, j < 2] = x[n, 3*p + i + j]",
    "quotient": "y[n, p < 12] = x[n, p/2] + x[n, p % 6]",
    "two quotients": "y[p < 12, q < 12] = m[p/2, q/2]",
    "shared quotients": "y[p < 36] = m[p/6, p % 6]",
    "quotient outside": "y[n, p < 12] = x[n, p/2 - 1; pad = 2] + x[n, p/2 + 1; pad = 2] + x[n, (p - 5)/2; pad = 2]",
    "position": "y[n, p < 6] = f32(p) * x[n, p] + f32(n)",
    "gather": "y[n, p < 6] = x[n, k[n]]",
    "gather outside": "y[n, p < 6] = x[n, k[n] + p - 1; pad = 3]",
    "gather far outside": "y[n, p < 6] = x[n, k[n]*100 - 100; pad = 3]",
    "gather rows": "y[n, p < 6] = m[k[n], p] + m[p, k[n]]",
    "gather both": "y[n, q < 4] = m[k[n] + q, k[n] + 1]",
    "gather without batch": "y[q < 4] = m[k[0] + q, k[1]]",
    "gather one": "y[n] = m[k[0], 1]",
    "gather twice": "y[n, p < 2] = x[i32(k[n]/2), k[n] + p]",
    "gather in pages": "y[n, q < 2, p < 6] = z[n, p, k[n] + q]",
    "gather by a float": "y[n, p < 6] = x[n, i32(floor(x[n, p]*2)) + 2; pad = 0]",
    "product": "y[n] = prod[p < 6] x[n, p]",
    "mean": "y[n] = mean[p < 6] x[n, p] * x[n, p]",
    "many factors": "y[n, q < 6] = sum[p < 6] 2 * x[n, p] * m[p, q] * x[n, q] / 3",
    "unused index": "y[n] = sum[p < 6, q < 4] x[n, p]",
    "unused everywhere": "y[n] = sum[p < 6] x[n, 0]",
    "single": "y[n, p < 1] = sum[q < 1] x[n, q + p]",
    "twice": "y[n] = (sum[p < 6] x[n, p]) * (sum[p < 3] x[n, p]) + (max[p < 6] x[n, p])",
    "inside out": "y[n] = sum[p < 6] exp(x[n, p] - (max[p < 6] x[n, p]))",
    "smallest": "y[n] = (min[p < 6] x[n, p]) + f32(argmin[p < 6] x[n, p])",
    "integers": "y[n] = f32(sum[q < 3] (k[n] + q) * k[n])",
    "all of a batch": "y[p < 6] = sum[n] x[n, p]",
    "count": "y[n] = f32(sum[p < 6] where(p < 3, 1, 2))",
}


def view(statement: str) -> tuple[Graph, DefinitionLibrary]:
    target = statement[2 : statement.index("]")]
    extents = [axis.partition("<")[2].strip() or "N" for axis in target.split(",")]
    types = "x: f32[N, 6], m: f32[6, 6], z: f32[N, 6, 5], k: i32[N]"
    generic = types.replace("N", "n")
    return parsed(f"""
        op view({generic}) -> f32[...r] {{ return {statement} }}
        model M({types}) -> f32[{", ".join(extents)}] {{ return view(x, m, z, k) }}
    """)


@pytest.mark.parametrize("form", VIEWS)
def test_index_notation(form: str) -> None:
    check(*view(VIEWS[form]))


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize(
    "statement",
    ["y[p < 6] = max[n] x[n, p]", "y[p < 6] = min[n, q < 6] x[n, p] * m[p, q]", "y[p < 2] = f32(max[n] k[n] + p)"],
)
def test_largest_of_a_batch_that_may_be_empty(statement: str, batch: int) -> None:
    check(*view(statement), batch=batch)


@pytest.mark.parametrize("batch", [0, 3])
def test_native_reduction_over_a_batch_that_may_be_empty(batch: int) -> None:
    check(*parsed("model M(x: f32[N, 3]) -> f32[3] { return max(x; axis = 0) }"), batch=batch)


def test_check_finds_a_wrong_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: without the reversal of axes the comparison with the reference fails."""
    monkeypatch.setattr(Reader, "_flip", lambda *_: None)
    with pytest.raises(AssertionError):
        check(*view(VIEWS["reversed"]))


def test_common_expressions_are_computed_once() -> None:
    graph, library = view("y[n, p < 6] = exp(x[n, p]) / (1 + exp(x[n, p])) + (sum[p < 6] exp(x[n, p]))")
    assert source(graph, library).count("torch.exp") == 1


COMPLEX = {
    "complex": "abs(complex(g(x[n, p]), x[n, p]))",
    "conj": "real(conj(complex(x[n, p], g(x[n, p]))) * complex(1.0, x[n, p]))",
    **{name: f"{name}(complex(x[n, p], g(x[n, p])))" for name in ("real", "imag", "angle")},
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"cast"}))
def test_scalar_function(name: str) -> None:
    arguments = ", ".join(["f(x[n, p])", "g(x[n, p])", "x[n, p]"][-FUNCTIONS[name].arity :])
    if name in ("and", "or", "not"):
        statement = {
            "and": "g(x[n, p]) > 1 and x[n, p] > 0",
            "or": "x[n, p] > 1 or x[n, p] < 0",
            "not": "not x[n, p] > 0",
        }
        body = f"f32({statement[name]})"
    elif FUNCTIONS[name].arity == 2 and name in ("eq", "ne", "lt", "le", "gt", "ge"):
        signs = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
        body = f"f32(round(g(x[n, p])) {signs[name]} round(x[n, p]))"
    elif name in ("add", "sub", "mul", "div", "pow"):
        body = f"g(x[n, p]) {({'add': '+', 'sub': '-', 'mul': '*', 'div': '/', 'pow': '**'})[name]} x[n, p]"
    elif name in COMPLEX:
        body = COMPLEX[name]
    elif name == "xor":
        body = "f32(xor(i32(20*x[n, p]), i32(p)) - xor(5, i32(9*x[n, p])))"
    elif name == "where":
        body = "where(x[n, p] > 0, g(x[n, p]), x[n, p])"
    elif name in ("log", "sqrt", "rsqrt", "log1p"):
        body = f"{name}(g(x[n, p]))"
    elif name in ("asin", "acos"):
        body = f"{name}(x[n, p] / g(x[n, p]))"
    else:
        body = "-x[n, p]" if name == "neg" else f"{name}({arguments})"
    check(
        *parsed(f"""
        fn g(x) = x*x + 0.3
        op view(x: f32[n, p]) -> f32[n, p] {{ return y[n, p] = {body} }}
        model M(x: f32[N, 40]) -> f32[N, 40] {{ return view(x) }}
    """)
    )


def test_numbers_are_computed_when_the_code_is_written() -> None:
    one = IntExpr.constant(1)
    type_ = TensorType(DType.F32, (one,))
    number = call("exp", call("sqrt", call("cast", Read("c", (), DType.F32), dtype=DType.F32)))
    nest = Nest("y", type_, (Axis("i", one),), call("mul", Read("x", (IntExpr.var("i"),), DType.F32), number), ())
    constant = Constant("c", TensorType(DType.F32, ()), Data(np.float32(4.0).reshape(())))
    library = Fixed(Instance(("x",), (type_,), (constant,), (nest,), ("y",)))
    graph = Graph("M", (Value("x", type_),), (), (), (Node("op", ("x",), (), (Value("y", type_),), NOWHERE),), ("y",))
    check(graph, library)
    assert "7.389" in source(graph, library)
