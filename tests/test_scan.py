"""Scans: steps that wait for each other, on every backend, against loops in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

import mercer
from mercer.commands import backends
from mercer.ir.text import parse_nests, print_nests
from mercer.ir.verify import verify

Array = npt.NDArray[np.float32]
BACKENDS = {"reference": backends.reference, "torch": backends.torch, "cpu": backends.cpu}


def decaying(x: Array) -> tuple[Array, ...]:
    h, ys = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = 0.5 * h + x[:, t]
        ys.append(h * t)
    return np.stack(ys, 1), h


def before(x: Array) -> tuple[Array, ...]:
    """What is handed on is emitted before it changes."""
    return (np.cumsum(x, 1) - x,)


def fibonacci(x: Array) -> tuple[Array, ...]:
    a, b = x[:, 0], x[:, 1]
    for _ in range(x.shape[1]):
        a, b = b, a + b
    return a, b


def shifted(x: Array) -> tuple[Array, ...]:
    """The last axis is mixed: each element takes its left neighbour."""
    h, ys = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = np.roll(h, 1, -1) + x[:, t]
        ys.append(h)
    return np.stack(ys, -1), h


def backwards(x: Array) -> tuple[Array, ...]:
    return np.flip(np.cumsum(np.flip(x, 1), 1), 1), x.sum(1)


def nested(x: Array) -> tuple[Array, ...]:
    total = np.zeros(x.shape[0])
    for t in range(x.shape[1]):
        inner = np.ones(x.shape[0])
        for d in range(x.shape[2]):
            inner = 0.5 * inner + x[:, t, d]
        total = 0.9 * total + inner
    return (total,)


def insertion(x: Array) -> tuple[Array, ...]:
    """The largest three so far, by sorting in every step."""
    best = np.full((x.shape[0], 3), -9.0)
    for t in range(x.shape[1]):
        best[:, 2] = x[:, t, 0]
        best = -np.sort(-best, 1)
        best[:, 2] = -9
    return (best,)


def halving(x: Array) -> tuple[Array, ...]:
    h = np.abs(x[:, :, 0])
    while h.max() >= 0.01:
        h = h / 2
    return (h,)


OPERATORS: dict[str, tuple[str, int, Callable[[Array], tuple[Array, ...]]]] = {
    "decaying": (
        """op f(x: T[b, l, d]) -> (T[b, l, d], T[b, d]) {
  scan t < l {
    carry h[b, d] = 0
    h[b, d] = 0.5 * h[b, d] + x[b, t, d]
    emit y[b, t, d] = h[b, d] * t
  }
  return y, h
}""",
        2,
        decaying,
    ),
    "before": (
        """op f(x: T[b, l, d]) -> T[b, l, d] {
  scan t < l {
    carry h[b, d] = 0
    emit y[b, t, d] = h[b, d]
    h[b, d] = h[b, d] + x[b, t, d]
  }
  return y
}""",
        1,
        before,
    ),
    "fibonacci": (
        """op f(x: T[b, l, d]) -> (T[b, d], T[b, d]) {
  scan t < l {
    carry p[b, d] = x[b, 0, d]
    carry q[b, d] = x[b, 1, d]
    let old = p
    p = q
    q[b, d] = old[b, d] + q[b, d]
  }
  return p, q
}""",
        2,
        fibonacci,
    ),
    "shifted": (
        """op f(x: T[b, l, d]) -> (T[b, d, l], T[b, d]) {
  scan t < l {
    carry h[b, d] = 0
    h[b, i < d] = h[b, (i + d - 1) % d] + x[b, t, i]
    emit y[b, d, t] = h[b, d]
  }
  return y, h
}""",
        2,
        shifted,
    ),
    "backwards": (
        """op f(x: T[b, l, d]) -> (T[b, l, d], T[b, d]) {
  let last = l - 1
  scan t < l {
    carry h[b, d] = 0
    h[b, d] = h[b, d] + x[b, last - t, d]
    emit y[t, b, d] = h[b, d]
  }
  z[b, l, d] = y[last - l, b, d]
  return z, h
}""",
        2,
        backwards,
    ),
    "nested": (
        """op f(x: T[b, l, d]) -> T[b] {
  scan t < l {
    carry total[b] = 0
    scan s < d {
      carry inner[b] = 1
      inner[b] = 0.5 * inner[b] + x[b, t, s]
    }
    total[b] = 0.9 * total[b] + inner[b]
  }
  return total
}""",
        1,
        nested,
    ),
    "insertion": (
        """op f(x: T[b, l, d]) -> T[b, 3] {
  scan t < l {
    carry best[b, k < 3] = -9
    more[b, k < 3] = where(k == 2, x[b, t, 0], best[b, k])
    let order = argsort(more; descending = true)
    best[b, k < 3] = where(k == 2, -9, more[b, order[b, k]])
  }
  return best
}""",
        1,
        insertion,
    ),
    "halving": (
        """op f(x: T[b, l, d]) -> T[b, l] {
  iterate k < 100 {
    carry h[b, l] = abs(x[b, l, 0])
    until (max[b, l] h[b, l]) < 0.02
    h[b, l] = h[b, l] / 2
  }
  return h
}""",
        1,
        halving,
    ),
}


def program(name: str, shape: str) -> mercer.Program:
    text, count, _ = OPERATORS[name]
    values = [f"y{k}" for k in range(count)]
    sizes = shape.strip("[]").split(", ")
    b, length, d = sizes
    results = {
        "decaying": [f"{b}, {length}, {d}", f"{b}, {d}"],
        "before": [f"{b}, {length}, {d}"],
        "fibonacci": [f"{b}, {d}"] * 2,
        "shifted": [f"{b}, {d}, {length}", f"{b}, {d}"],
        "backwards": [f"{b}, {length}, {d}", f"{b}, {d}"],
        "nested": [b],
        "insertion": [f"{b}, 3"],
        "halving": [f"{b}, {length}"],
    }[name]
    types = ", ".join(f"f32[{r}]" for r in results)
    body = f"{', '.join(values)} = f(x)\n  return {', '.join(values)}"
    return mercer.parse_text(f"{text}\nmodel M(x: f32{shape}) -> ({types}) {{\n  {body}\n}}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", ["[N, L, D]", "[N, L, 5]", "[2, 6, 3]"])
@pytest.mark.parametrize("name", OPERATORS)
def test_agrees_with_a_loop(name: str, shape: str, backend: str) -> None:
    model = program(name, shape)
    run = BACKENDS[backend](model, {})
    sizes = {"N": (2, 3), "L": (6, 4), "D": (3, 19)}
    for k in range(1 if shape.startswith("[2") else 2):
        dims = [sizes[s][k] if s in sizes else int(s) for s in shape.strip("[]").split(", ")]
        x = np.random.default_rng(k).standard_normal(dims).astype(np.float32)
        for actual, expected in zip(run([x]), OPERATORS[name][2](x), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_text_is_read_back(name: str) -> None:
    nests = program(name, "[N, L, D]").nests
    verify(nests)
    text = print_nests(nests)
    assert parse_nests(text, "text") == nests
    assert print_nests(parse_nests(text, "text")) == text


def test_no_steps_leave_the_first_value() -> None:
    model = program("decaying", "[N, L, 5]")
    x = np.zeros((2, 0, 5), np.float32)
    for prepare in BACKENDS.values():
        slices, last = prepare(model, {})([x])
        assert slices.shape == (2, 0, 5)
        np.testing.assert_array_equal(last, np.zeros((2, 5)))


def test_torch_trains_through_a_scan() -> None:
    import torch

    model = program("decaying", "[N, L, 5]").torch()
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.double(), (x,))
