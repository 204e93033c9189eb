"""`grad(y, x)` in models: what it computes, on all backends, and that training goes through it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import parse_ir, print_ir
from mercer.ir.nests import Nest
from mercer.ir.verify import verify

RANDOM = np.random.default_rng(0)


def points(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 2e-6) -> bool:
    return found.shape == wanted.shape and bool(
        np.abs(found - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1.0)
    )


def result(text: str, *arrays: np.ndarray) -> np.ndarray:
    (found,) = mercer.parse_text(text).evaluate(*arrays)
    return found


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("return grad(x ** 3, x)", lambda x: 3 * x**2),
        ("return x ** 3 |> grad(x)", lambda x: 3 * x**2),
        ("return grad(x, x)", np.ones_like),
        ("return grad(floor(x), x)", np.zeros_like),
        ("y = 2 * x; return grad(sin(y), y)", lambda x: np.cos(2 * x)),
        ("y = sin(x); return grad(y * y, x)", lambda x: 2 * np.sin(x) * np.cos(x)),
        ("y = x; for i in 0..4 { y = grad(y ** 4 if i == 0 else y, x) }; return y", lambda x: 24 + 0 * x),
        ("return grad(x * max(x; axis = 0, keepdim = true), x) - max(x; axis = 0, keepdim = true)", None),
        ("return x + grad(dropout(x * x), x)", lambda x: 3 * x),
    ],
)
def test_values(body: str, wanted: object) -> None:
    body = body.replace("; for", "\n for").replace("}; ", "}\n").replace("; return", "\n return")
    x = points(3, 4)
    found = result(f"model Net(x: f32[N, 4]) -> f32[N, 4] {{\n {body} \n}}", x)
    if callable(wanted):
        assert close(found, wanted(x))
    else:  # every column's maximum collects the sum of its column
        assert close(found.sum(axis=0), x.sum(axis=0)) and (np.count_nonzero(found, axis=0) == 1).all()


def test_a_parameter_used_twice() -> None:
    program = mercer.parse_text("""
layer Twice(x: T[n, d]) {
  param weight: T[d, d] = normal(0, 1)
  return grad(sum(linear(linear(x, weight), weight) ** 2; axis = -1), weight)
}
model Net(x: f32[N, 3]) -> f32[3, 3] { return Twice(x) }
""")
    module, x = program.torch(), torch.from_numpy(points(5, 3))
    weight = module.get_parameter("twice.weight").detach().clone().requires_grad_()
    (torch.nn.functional.linear(torch.nn.functional.linear(x, weight), weight) ** 2).sum().backward()
    assert weight.grad is not None
    assert close(module(x).detach().numpy(), weight.grad.numpy(), 1e-5)


def test_operators_of_ones_own_and_the_text_of_the_ir() -> None:
    text = """
fn bump(u) = exp(-u * u)
op field(x: T[n, d], centers: T[m, d]; wide = 1.0) -> T[n, m] {
  return y[n, m] = bump(wide * (sum[d] (x[n, d] - centers[m, d])**2))
}
model Net(x: f32[N, 2], c: f32[3, 2]) -> (f32[N, 2], f32[3, 2]) {
  y = field(x, c; wide = 0.5)
  return grad(y, x), grad(grad(y, x), c)
}
"""
    program = mercer.parse_text(text)
    again, library = parse_ir(print_ir(program.graph))
    assert print_ir(again) == print_ir(program.graph)
    verify(again, library)
    nests, _ = parse_ir(print_ir(program.nests))
    assert print_ir(nests) == print_ir(program.nests)
    x, c = (torch.from_numpy(points(n, 2)).requires_grad_() for n in (5, 3))
    y = torch.exp(-((0.5 * ((x[:, None] - c) ** 2).sum(-1)) ** 2))
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), c)
    found = program.evaluate(x.detach().numpy(), c.detach().numpy())
    assert close(found[0], first.detach().numpy(), 1e-5)
    assert close(found[1], second.numpy(), 1e-5)


def test_an_operator_with_two_results() -> None:
    text = """
op polar(x: T[n, 2]) -> (T[n], T[n]) {
  radius[n] = sqrt(x[n, 0]**2 + x[n, 1]**2)
  angle[n] = atan2(x[n, 1], x[n, 0])
  return radius, angle
}
model Net(x: f32[N, 2]) -> (f32[N, 2], f32[N, 2]) {
  radius, angle = polar(x)
  return grad(radius * angle, x), grad(angle, x)
}
"""
    x = torch.from_numpy(points(6, 2)).requires_grad_()
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    found = mercer.parse_text(text).evaluate(x.detach().numpy())
    for value, y in zip(found, (radius * angle, angle), strict=True):
        (wanted,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert close(value, wanted.numpy(), 1e-5)


# --- networks ---------------------------------------------------------------------------------------------------------

PLAIN = "model F(x: f32[N, 2]) -> f32[N, 1] { return SIREN(x; 1, hidden = 8, depth = 2, omega = 3.0) }"
FIELD = """
model Field(x: f32[N, 2]) -> (f32[N, 1], f32[N, 2], f32[N, 1]) {
  y = SIREN(x; 1, hidden = 8, depth = 2, omega = 3.0)
  slope = grad(y, x)
  laplacian = 0.0
  for k in 0..2 { laplacian = laplacian + grad(slope[:, k:k + 1], x)[:, k:k + 1] }
  return y, slope, laplacian
}
"""


def autograd(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same by PyTorch, from the values alone."""
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    rows = [torch.autograd.grad(slope[:, k].sum(), x, create_graph=True)[0][:, k] for k in range(x.shape[1])]
    return y, slope, sum(rows[1:], rows[0])[:, None]


def test_first_and_second_derivatives_on_all_backends() -> None:
    program = mercer.parse_text(FIELD)
    weights = program.initial(seed=1)
    x = points(5, 2)
    module = mercer.parse_text(PLAIN).torch()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    wanted = [t.detach().numpy() for t in autograd(module, torch.from_numpy(x).requires_grad_())]
    derived = program.torch()
    derived.load_state_dict(module.state_dict())
    found = {
        "reference": program.evaluate(x, weights=weights),
        "torch": [t.detach().numpy() for t in derived(torch.from_numpy(x))],
        "tvm": mercer.compile(program, weights=weights)(x),
    }
    for name, values in found.items():
        for value, expected in zip(values, wanted, strict=True):
            assert close(value, expected, 5e-6), name


def test_training_goes_through_derivatives() -> None:
    """The gradient of a loss on derivatives is that of PyTorch's double backward, and learning lowers the loss."""
    derived = mercer.parse_text(FIELD).torch(seed=2)
    module = mercer.parse_text(PLAIN).torch()
    module.load_state_dict(derived.state_dict())
    x = torch.from_numpy(points(16, 2)).requires_grad_()

    def loss(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
        _, slope, laplacian = values
        return ((slope.norm(dim=1) - 1) ** 2).mean() + 0.1 * (laplacian**2).mean()

    loss(derived(x)).backward()
    loss(autograd(module, x)).backward()
    for name, parameter in module.named_parameters():
        other = derived.get_parameter(name).grad
        if parameter.grad is not None and other is not None:
            assert close(other.numpy(), parameter.grad.numpy(), 1e-5), name
    optimizer = torch.optim.Adam(derived.parameters(), 1e-2)
    losses: list[float] = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(derived(x.detach()))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(b < 2 * a for a, b in pairwise(losses))


def test_a_convolution_network_on_all_backends() -> None:
    program = mercer.parse_text("""
model Saliency(x: f32[N, 1, 8, 8]) -> (f32[N, 1, 8, 8], f32[4, 1, 3, 3]) {
  param weight: f32[4, 1, 3, 3] = normal(0, 1)
  h = conv2d(x, weight; stride = 2, pad = 1) |> gelu |> max_pool2d(k = 2)
  score = log_softmax(flatten(h); axis = -1)[:, 3]
  saliency = grad(score, x)
  return saliency, grad(saliency ** 2, weight)
}
""")
    x, weights = points(3, 1, 8, 8), program.initial()
    w, t = torch.from_numpy(weights["weight"]).requires_grad_(), torch.from_numpy(x).requires_grad_()
    h = torch.nn.functional.gelu(torch.nn.functional.conv2d(t, w, stride=2, padding=1))
    score = torch.nn.functional.max_pool2d(h, 2).flatten(1).log_softmax(-1)[:, 3].sum()
    (saliency,) = torch.autograd.grad(score, t, create_graph=True)
    (second,) = torch.autograd.grad((saliency**2).sum(), w)
    wanted = saliency.detach().numpy(), second.numpy()
    module = program.torch()
    module.load_state_dict({"weight": w.detach()})
    for values in (
        program.evaluate(x, weights=weights),
        mercer.compile(program, weights=weights)(x),
        tuple(v.detach().numpy() for v in module(t)),
    ):
        for value, expected in zip(values, wanted, strict=True):
            assert close(value, expected, 1e-5)


def test_nothing_is_computed_for_gradients_that_are_zero() -> None:
    """The second derivative of a linear layer adds no nodes, and no statement fills a tensor with zeros."""
    program = mercer.parse_text(
        "model Net(x: f32[N, 3]) -> f32[N, 3] { return grad(grad(sum(Linear(x; 2) ** 2), x), x) }"
    )
    assert not [s for s in program.nests.statements if isinstance(s, Nest) and str(s.body) == "0.0:f32"]
    assert len([node for node in program.graph.nodes if "linear" in node.operator]) <= 5
