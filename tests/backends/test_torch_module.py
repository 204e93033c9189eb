"""The generated `nn.Module`: names, source, shapes, constants and training."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mercer.backends.torch import module, source
from mercer.backends.torch.native import NATIVE
from mercer.frontend.library import default_library
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, Graph, Node, Value
from mercer.ir.index import Axis, Read
from mercer.ir.integers import IntExpr
from mercer.ir.library import GRADIENT, Instance
from mercer.ir.lower import lower
from mercer.ir.nests import Nest, Primitive
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Data, DType, TensorType
from mercer.runtime.errors import InputError, MercerError
from tests.backends.torch_modules import Fixed, built, check, initial, inputs_of, parsed

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
    assert {name.removesuffix(GRADIENT) for name in NATIVE} <= default_library().operators()


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


def test_dropout_acts_in_training_only() -> None:
    graph, library = parsed("model D(x: f32[N, 1000]) -> f32[N, 1000] { return x |> Dropout(0.25) }")
    net = module(graph, library, {})
    x = torch.ones(20, 1000)
    kept = net(x) != 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.02
    assert torch.allclose(net(x).unique(), torch.tensor([0.0, 1 / 0.75]))
    assert torch.equal(net.eval()(x), x)
