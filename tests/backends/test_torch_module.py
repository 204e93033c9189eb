"""The generated `nn.Module`: names, source, shapes, training, and index notation of every form."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from torch import nn

from mercer.backends.torch import module, source
from mercer.backends.torch.native import NATIVE
from mercer.backends.torch.reads import Reader
from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import DefinitionLibrary, default_library, load
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import AttributeValue, Constant, Graph, Node, Value
from mercer.ir.index import FUNCTIONS, Axis, Read, call
from mercer.ir.initializers import initialize
from mercer.ir.integers import IntExpr
from mercer.ir.library import Instance
from mercer.ir.lower import lower
from mercer.ir.nests import Nest, Primitive
from mercer.ir.spans import NOWHERE, Span
from mercer.ir.types import Array, Data, DType, TensorType
from mercer.runtime.errors import InputError, MercerError

GOLDEN = Path(__file__).parent / "golden"

NET = """
layer Block(x; out) { return Conv2d(x; out, 3, pad = 1) |> BatchNorm |> relu }
model Net(x: f32[N, 1, 6, 6]) -> f32[N, 3] {
  for i in 0..2 { x = Block(x; 2) as block }
  a = Conv2d(x; 27, 3, pad = 1) as branch
  x = x + 0.5 * DeformConv2d(x, a[:, :18], sigmoid(a[:, 18:]); 2, 3, pad = 1)
  return x |> flatten |> KernelMachine(3, centers = 4, kernel = gaussian(gamma = 0.02)) as head
}
"""


def parsed(text: str) -> tuple[Graph, DefinitionLibrary]:
    loaded = load(text, "net.mer")
    library = default_library().extended(loaded.definitions)
    return elaborate(library, find_model(loaded.definitions, None, loaded.file)), library


def initial(graph: Graph) -> dict[str, Array]:
    return {p.name: initialize(p, 0) for p in graph.parameters}


def built(text: str) -> nn.Module:
    graph, library = parsed(text)
    return module(graph, library, initial(graph))


def inputs_of(graph: Graph, batch: int, high: int = 3) -> dict[str, Array]:
    """Random inputs: floats around 0, integers below `high`."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        shape = [int(e.evaluate(lambda _: batch)) for e in value.type.shape]
        numbers = rng.standard_normal(shape) if value.type.dtype.is_float else rng.integers(0, high, shape)
        arrays[value.name] = numbers.astype(value.type.dtype.numpy)
    return arrays


def check(graph: Graph, library: Any, batch: int = 3) -> None:
    """The module in f64 agrees with the reference: shapes, element types and values."""
    arrays, values = inputs_of(graph, batch), initial(graph)
    wanted = evaluate(lower(graph, library), arrays, values, DType.F64)
    net = module(graph, library, values).double().eval()
    tensors = [torch.from_numpy(a) for a in arrays.values()]
    results = net(*(t.double() if t.is_floating_point() else t for t in tensors))
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(wanted)
    for result, expected, name in zip(results, wanted, graph.outputs, strict=True):
        assert result.dtype == (
            torch.float64 if expected.dtype == np.float64 else getattr(torch, expected.dtype.name)
        ), name
        assert tuple(result.shape) == expected.shape
        np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


# --- names ------------------------------------------------------------------------------------------------------------


def test_state_dict_has_the_names_of_the_parameters() -> None:
    graph, library = parsed(NET)
    net = module(graph, library, initial(graph))
    assert set(net.state_dict()) == {p.name for p in graph.parameters}
    assert {n for n, _ in net.named_parameters()} == {p.name for p in graph.parameters if p.trainable}
    assert "block.1.conv2d.weight" in net.state_dict()
    assert net.state_dict()["block.0.batch_norm.running_var"].tolist() == [1.0, 1.0]


def test_initial_values_are_loaded_and_copied() -> None:
    graph, library = parsed(NET)
    values = initial(graph)
    net = module(graph, library, values)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), values[name])
    with torch.no_grad():
        net.get_parameter("head.bias").add_(1)
    assert not values["head.bias"].any()


@pytest.mark.parametrize("name", ["type", "lambda", "forward", "_modules", "self", "torch", "F"])
def test_names_that_python_or_torch_use_otherwise(name: str) -> None:
    graph, library = parsed("model M(x: f32[N, 3]) -> f32[N, 2] { return Linear(x; 2) as layer }")
    renamed = {p.name: p.name.replace("layer", name) for p in graph.parameters}
    parameters = tuple(replace(p, name=renamed[p.name]) for p in graph.parameters)
    nodes = tuple(replace(n, operands=tuple(renamed.get(o, o) for o in n.operands)) for n in graph.nodes)
    graph = replace(graph, parameters=parameters, nodes=nodes)
    check(graph, library)
    assert set(module(graph, library, initial(graph)).state_dict()) == {f"{name}.weight", f"{name}.bias"}


def test_name_that_torch_cannot_hold() -> None:
    with pytest.raises(MercerError, match=r"cannot hold `training`, a part of `training\.weight`"):
        source(*parsed("model M(x: f32[N, 3]) -> f32[N, 2] { return Linear(x; 2) as training }"))


def test_values_and_dims_may_have_any_names() -> None:
    text = "model torch(F: f32[self, 3], sum: f32[self, 3]) -> f32[self, 3] { nn = F + sum; return nn }"
    check(*parsed(text.replace("self", "B").replace("; ", "\n")))
    graph, library = parsed("model M(x: f32[N, 3]) -> f32[N, 3] { y = x + x\n return y }")
    renamed = replace(graph, inputs=(Value("N", graph.inputs[0].type),))
    renamed = replace(renamed, nodes=tuple(replace(n, operands=("N", "N")) for n in graph.nodes))
    check(renamed, library)


# --- source -----------------------------------------------------------------------------------------------------------


def test_source_stands_alone_and_is_the_same_every_time() -> None:
    text = source(*parsed(NET))
    assert text == source(*parsed(NET))
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import torch", "import torch.nn.functional as F", "from torch import nn"]
    namespace: dict[str, Any] = {}
    exec(compile(text, "kept.py", "exec"), namespace)
    graph, library = parsed(NET)
    kept, net = namespace["Net"](), module(graph, library, initial(graph)).eval()
    kept.load_state_dict(net.state_dict())
    x = torch.randn(2, 1, 6, 6)
    assert torch.equal(kept.eval()(x), net(x))


def test_source_is_as_expected(request: pytest.FixtureRequest) -> None:
    file = GOLDEN / "net.py.txt"
    text = source(*parsed(NET))
    if request.config.getoption("--update-golden"):
        file.write_text(text)
    assert text == file.read_text()


def test_traceback_shows_the_generated_line() -> None:
    net = built(NET)
    with pytest.raises(RuntimeError) as caught:
        net(torch.zeros(1, 2, 6, 6))
    assert "F.conv2d(x, self.block[0].conv2d.weight, padding=1)" in "".join(
        traceback.format_tb(caught.value.__traceback__)
    )


def test_native_operators_exist() -> None:
    assert NATIVE.keys() <= default_library().operators()


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_dynamic_batch(batch: int) -> None:
    check(*parsed(NET), batch=batch)


def test_input_need_not_be_contiguous() -> None:
    net = built(NET).eval()
    x = torch.randn(6, 6, 1, 4)
    torch.testing.assert_close(net(x.permute(3, 2, 0, 1)), net(x.permute(3, 2, 0, 1).contiguous()))


@pytest.mark.slow
def test_whole_graph_compiles_with_dynamic_batch() -> None:
    net = built(NET).eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=True)
    for batch in (2, 3):
        x = torch.randn(batch, 1, 6, 6)
        torch.testing.assert_close(compiled(x), net(x))


def test_every_tensor_is_made_on_the_device_of_the_operands() -> None:
    net = built(NET).to("meta")
    result = net(torch.empty(5, 1, 6, 6, device="meta"))
    assert result.device.type == "meta" and tuple(result.shape) == (5, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net = built(NET).eval()
    x = torch.randn(4, 1, 6, 6)
    expected = net(x)
    result = net.to(dtype)(x.to(dtype))
    assert result.dtype is dtype
    torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.1)


def test_several_inputs_and_outputs() -> None:
    check(
        *parsed("""
        op both(a: T[n, c], b: T[m, c]) -> (T[n, m], T[c]) {
          s[n, m] = sum[c] a[n, c] * b[m, c]
          t[c] = max[n] a[n, c]
          return s, t
        }
        model M(a: f32[N, 3], b: f32[2*N, 3], scale: f32[]) -> (f32[N, 2*N], f32[3], f32[N, 3]) {
          s, t = both(a, b)
          return s * scale, t, a
        }
    """)
    )


def test_gradients_of_inputs_and_parameters() -> None:
    net = built("""model M(x: f32[N, 1, 3, 3]) -> f32[N, 2] {
      a = Conv2d(x; 12, 2) as branch
      y = DeformConv2d(x, a[:, :8], sigmoid(a[:, 8:]); 2, 2) as sample
      return y |> flatten |> KernelMachine(2, centers = 3, kernel = matern32(length = 4.0)) as head
    }""").double()
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    parameters = dict(net.named_parameters())
    names = ["branch.weight", "sample.weight", "head.centers"]

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, {**parameters, **dict(zip(names, values, strict=True))}, (x,))

    assert torch.autograd.gradcheck(function, (x, *(parameters[name] for name in names)))


def test_training_decreases_the_loss_and_moves_the_running_statistics() -> None:
    torch.manual_seed(0)
    net = built(NET)
    x = torch.randn(64, 1, 6, 6)
    y = (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0.5).long()
    optimizer = torch.optim.Adam(net.parameters(), 3e-2)
    losses: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    mean = net.state_dict()["block.0.batch_norm.running_mean"].clone()
    assert mean.abs().max() > 0
    net.eval()(x)
    assert torch.equal(net.state_dict()["block.0.batch_norm.running_mean"], mean)


def test_batch_statistics_only_where_running_ones_can_follow() -> None:
    text = """model M(x: f32[N, 3], m: f32[3], v: f32[3], w: f32[3], b: f32[3]) -> f32[N, 3] {
      return batch_norm(x, m, v*v + 0.5, w, b)
    }"""
    graph, library = parsed(text)
    arrays = inputs_of(graph, 4)
    wanted = evaluate(lower(graph, library), arrays, {})[0]
    actual = module(graph, library, {}).train()(*map(torch.from_numpy, arrays.values()))
    np.testing.assert_allclose(actual.numpy(), wanted, rtol=1e-5, atol=1e-6)


# --- constants, numbers and dims --------------------------------------------------------------------------------------


def test_constants_are_buffers_outside_of_the_state_dict() -> None:
    graph, library = parsed("""model M(x: f32[N, 10]) -> f32[N, 10] {
      const small[i < 10] = 1.0/(i + 3)
      const large[i < 10, j < 10] = sin(i*1.0 + j)
      return linear(x, large) * small
    }""")
    check(graph, library)
    net = module(graph, library, {})
    assert not net.state_dict() and len(list(net.buffers())) == 2
    small = next(b for b in net.buffers() if b.ndim == 1)
    np.testing.assert_array_equal(small.numpy(), (1 / (np.arange(10) + 3)).astype(np.float32))


def test_constant_without_data_is_an_error() -> None:
    type_ = TensorType(DType.F32, (IntExpr.constant(2),))
    graph = Graph("M", (), (), (Constant("c", type_, Data(None, "0123")),), (), ("c",))
    with pytest.raises(MercerError, match="`c` has no data"):
        source(graph, default_library())


@pytest.mark.parametrize("text", ["x * 0.5", "2 - x", "-x ** 2", "(-2.0) * x", "1 / (x*x + 1)", "x < 0.5"])
def test_numbers_stand_in_the_line(text: str) -> None:
    graph, library = parsed(f"model M(x: f32[N, 3]) -> T[N, 3] {{ return {text} }}")
    check(graph, library)
    assert "register_buffer" not in source(graph, library)


def test_elements_of_other_types() -> None:
    check(
        *parsed("""
        op mixed(x: f32[n, c], k: i32[n], b: i8[n, c]) -> (i32[n], f32[n], i8[n, c], bool[n], f32[n, 2]) {
          best[n] = argmax[c] x[n, c]
          picked[n] = x[n, best[n]] + x[n, (best[n] + k[n]) % 3]
          wrapped[n, c] = b[n, c] * b[n, c] * 100
          some[n] = any[c] (x[n, c] > 1)
          pair[n, i < 2] = f32(i + k[n])
          return best, picked, wrapped, some, pair
        }
        model M(x: f32[N, 3], k: i32[N], b: i8[N, 3]) -> (i32[N], f32[N], i8[N, 3], bool[N], f32[N, 2]) {
          p, q, r, s, t = mixed(x, k, b)
          return p, q, r, s, t
        }
    """)
    )


class Fixed:
    """A library of one operator `op` with a given definition."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def instantiate(
        self, operator: str, operands: Sequence[TensorType], attributes: Mapping[str, AttributeValue], span: Span
    ) -> Instance:
        return self.instance

    def operators(self) -> frozenset[str]:
        return frozenset(["op"])

    def normalize(self, operator: str, attributes: Mapping[str, AttributeValue]) -> tuple[()]:
        return ()


def test_dim_that_no_operand_of_the_operator_has() -> None:
    n, two = IntExpr.dim("N"), IntExpr.constant(2)
    matrix, vector = TensorType(DType.F32, (two * n + 1, two)), TensorType(DType.F32, (two,))
    result = TensorType(DType.F32, (n, two))
    axes = (Axis("n", n), Axis("c", two))
    nest = Nest("y", result, axes, Read("w", (IntExpr.var("c"),), DType.F32), ())
    library = Fixed(Instance(("w",), (result,), (), (nest,), ("y",)))
    inputs = (Value("a", matrix), Value("b", vector))
    graph = Graph("M", inputs, (), (), (Node("op", ("b",), (), (Value("y", result),), NOWHERE),), ("y",))
    check(graph, library)
    assert "N = (a.shape[0] - 1) // 2" in source(graph, library)
    with pytest.raises(MercerError, match="the dim N does not follow"):
        source(replace(graph, inputs=inputs[1:]), library)


def test_unknown_primitive_is_an_error() -> None:
    type_ = TensorType(DType.F32, (IntExpr.constant(2),))
    sort = Primitive("sort", (Value("y", type_),), ("x",), (), ())
    library = Fixed(Instance(("x",), (type_,), (), (sort,), ("y",)))
    node = Node("op", ("x",), (), (Value("y", type_),), NOWHERE)
    with pytest.raises(MercerError, match="no primitive `sort`"):
        source(Graph("M", (Value("x", type_),), (), (), (node,), ("y",)), library)


# --- wrong initial values ---------------------------------------------------------------------------------------------


def test_missing_value() -> None:
    graph, library = parsed(NET)
    values = initial(graph)
    del values["head.bias"]
    with pytest.raises(InputError, match=r"no value is given for the parameter `head\.bias`"):
        module(graph, library, values)


def test_unknown_value() -> None:
    graph, library = parsed(NET)
    with pytest.raises(InputError, match=r"no parameter `head\.bais`\nhint: did you mean `head\.bias`"):
        module(graph, library, {**initial(graph), "head.bais": np.zeros(3)})


def test_value_of_another_shape() -> None:
    graph, library = parsed(NET)
    with pytest.raises(InputError, match=r"`head\.bias` has shape \[3\]; the array given has \[4\]"):
        module(graph, library, {**initial(graph), "head.bias": np.zeros(4)})


# --- index notation ---------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", FUNCTIONS.keys() - {"cast"})
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
