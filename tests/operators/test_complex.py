"""Complex arithmetic of the language on the reference, PyTorch and TVM, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mercer.backends.tvm.complex_pairs import split
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.compiler import Program, compile, parse_ir, parse_text, print_ir
from mercer.frontend.diagnostics import CompileError
from mercer.ir.graph import Initializer, Parameter
from mercer.ir.nests import Nests
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType
from mercer.ir.verify import verify
from tests.operators.run import largest_error

TOLERANCE = 2e-6
BACKENDS = ("reference", "torch", "cpu")


def run(program: Program, backend: str, *arrays: Any) -> Any:
    if backend == "reference":
        results = program.evaluate(*arrays)
        return results[0] if len(results) == 1 else results
    return compile(program, target=backend)(*arrays)


def normal(*shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


SCALAR: dict[str, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    "add": ("z + w", lambda z, w, x: z + w),
    "sub": ("z - w", lambda z, w, x: z - w),
    "mul": ("z * w", lambda z, w, x: z * w),
    "div": ("z / w", lambda z, w, x: z / w),
    "neg": ("-z", lambda z, w, x: -z),
    "real_left": ("x - z", lambda z, w, x: x - z),
    "real_right": ("z * x", lambda z, w, x: z * x),
    "real_over": ("x / z", lambda z, w, x: x / z),
    "over_real": ("z / x", lambda z, w, x: z / x),
    "numbers": ("2 * z + 0.5", lambda z, w, x: 2 * z + 0.5),
    "number_over": ("1.0 / z", lambda z, w, x: 1.0 / z),
    "square": ("z ** 2", lambda z, w, x: z * z),
    "negative_power": ("z ** -3", lambda z, w, x: 1 / (z * z * z)),
    "exp": ("exp(z)", lambda z, w, x: np.exp(z)),
    "exp_of_lifted": ("exp(c64(x))", lambda z, w, x: np.exp(x) + 0j),
    "conj": ("conj(z) * w", lambda z, w, x: np.conj(z) * w),
    "rotation": ("exp(z - conj(z))", lambda z, w, x: np.exp(2j * z.imag)),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_elementwise(backend: str) -> None:
    """Whole tensors and index notation, complex numbers in and out, and a symbolic batch."""
    z, w = normal(5, 7), normal(5, 7, seed=1)
    x = np.abs(w) + np.float32(0.5)
    ops = "\n".join(
        f"op {name}(z: c64[n, k], w: c64[n, k], x: f32[n, k]) -> c64[n, k] {{ return y[n, k] = {elements(text)} }}"
        for name, (text, _) in ((f"f_{n}", s) for n, s in SCALAR.items())
    )
    whole = ", ".join(text for text, _ in SCALAR.values())
    each = ", ".join(f"f_{name}(z, w, x)" for name in SCALAR)
    results = ", ".join(["c64[N, 7]"] * 2 * len(SCALAR))
    text = f"{ops}\nmodel M(z: c64[N, 7], w: c64[N, 7], x: f32[N, 7]) -> ({results}) {{ return {whole}, {each} }}"
    actual = run(parse_text(text), backend, z, w, x)
    wanted = [formula(*(a.astype(np.complex128) for a in (z, w)), x.astype(float)) for _, formula in SCALAR.values()]
    names = [*SCALAR, *(f"f_{name}" for name in SCALAR)]
    errors = {n: largest_error(a, e) for n, a, e in zip(names, actual, [*wanted, *wanted], strict=True)}
    assert {n: e for n, e in errors.items() if not e <= TOLERANCE} == {}
    assert {a.dtype for a in actual} == {np.dtype(np.complex64)}


def elements(text: str) -> str:
    """The expression on elements instead of whole tensors."""
    return "".join(f"{c}[n, k]" if c in "zwx" and not _inside(text, i) else c for i, c in enumerate(text))


def _inside(text: str, i: int) -> bool:
    return text[i - 1 : i].isalpha() or text[i + 1 : i + 2].isalpha()


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts(backend: str) -> None:
    text = """
    op same(z: c64[n], w: c64[n]) -> bool[n] { return y[n] = z[n] == w[n] }
    op other(z: c64[n], w: c64[n]) -> f32[n] { return y[n] = where(z[n] != w[n], 1.0, 0.0) }
    op chosen(z: c64[n], w: c64[n]) -> c64[n] { return y[n] = where(abs(z[n]) < 1.0, z[n], w[n]) }
    op shifted(z: c64[n]) -> c64[n] { return y[n] = z[n - 1; pad = 2] + z[n + 1; pad = complex(0, 1)] }
    model M(z: c64[N], w: c64[N])
      -> (f32[N], f32[N], f32[N], f32[N], bool[N], f32[N], c64[N], c64[N], c64[N], c64[1, N]) {
      row = reshape(w; [1, -1])
      return abs(z), angle(z), real(z), imag(z), same(z, w), other(z, w), chosen(z, w), shifted(z), z, row
    }
    """
    z = normal(9)
    w = np.where(np.arange(9) % 2 == 0, z, z + 1j).astype(np.complex64)
    z[3], w[3] = 1e30 + 1e30j, 1e-30j
    actual = run(parse_text(text), backend, z, w)
    padded = np.concatenate([[2], z, [1j]])
    wanted = [
        *(np.abs(z.astype(np.complex128)), np.angle(z), z.real, z.imag, z == w, (z != w).astype(np.float32)),
        *(np.where(np.abs(z) < 1, z, w), padded[:-2] + padded[2:], z, w[None]),
    ]
    assert "".join(a.dtype.kind for a in actual) == "ffffbfcccc"
    assert max(largest_error(a[..., :3], b[..., :3]) for a, b in zip(actual, wanted, strict=True)) <= TOLERANCE
    assert max(largest_error(a, b) for a, b in zip(actual, wanted, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
def test_reductions(backend: str) -> None:
    """Matrix products, sums, means and products; of complex numbers with real ones too."""
    text = """
    op product(a: c64[n, k], b: c64[k, m]) -> c64[n, m] { return y[n, m] = sum[k] a[n, k] * b[k, m] }
    op weighted(a: c64[n, k], x: f32[k, m]) -> c64[n, m] { return y[n, m] = sum[k] a[n, k] * x[k, m] }
    op energy(a: c64[n, k]) -> f32[n] { return y[n] = sum[k] real(a[n, k] * conj(a[n, k])) }
    model M(a: c64[N, 6], b: c64[6, 5], x: f32[6, 5]) -> (c64[N, 5], c64[N, 5], c64[N], c64[N], c64[N], f32[N]) {
      return product(a, b), weighted(a, x), sum(a), mean(a; axis = 1), prod(a; axis = 1), energy(a)
    }
    """
    a, b = normal(4, 6), normal(6, 5, seed=1)
    x = b.real.copy()
    wide, other = a.astype(np.complex128), b.astype(np.complex128)
    wanted = [wide @ other, wide @ x, wide.sum(1), wide.mean(1), wide.prod(1), (np.abs(wide) ** 2).sum(1)]
    actual = run(parse_text(text), backend, a, b, x)
    assert max(largest_error(p, q) for p, q in zip(actual, wanted, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
def test_constants_and_scalars(backend: str) -> None:
    text = """
    op turn(x: f32[n]) -> c64[n] {
      const root[k < 4] = exp(complex(0, 2.0*pi*k/4.0))
      return y[n] = x[n] * root[n % 4] + complex(1, -2)
    }
    op total(z: c64[n]) -> c64[] { return s[] = sum[n] z[n] }
    model M(x: f32[8]) -> (c64[8], c64[]) { z = turn(x)
      return z, total(z) }
    """
    x = np.arange(8, dtype=np.float32)
    wanted = x * np.exp(2j * np.pi * np.arange(8) / 4) + (1 - 2j)
    z, total = run(parse_text(text), backend, x)
    assert largest_error(z, wanted) <= TOLERANCE
    assert largest_error(np.asarray(total), np.asarray(wanted.sum())) <= TOLERANCE


def test_gradients_through_complex_numbers() -> None:
    """Of |exp(z)|**2 by way of PyTorch: 2*exp(2*re) and 0."""
    program = parse_text(
        "model M(re: f32[N], im: f32[N]) -> f32[N] { z = exp(complex(re, im))\n return real(z * conj(z)) }"
    )
    re, im = (torch.linspace(-1, 1, 5).requires_grad_() for _ in range(2))
    program.torch()(re, im).sum().backward()
    assert re.grad is not None and im.grad is not None
    torch.testing.assert_close(re.grad, 2 * torch.exp(2 * re.detach()))
    torch.testing.assert_close(im.grad, torch.zeros(5), atol=1e-6, rtol=0)


REFUSED = {
    "z < w": "no `lt` of c64: complex numbers have no order",
    "maximum(z, w)": "no `max` of c64",
    "max(z)": "no `max` of c64",
    "argmin(z)": "no `argmin` of c64",
    "sort_of(z)": "no `sign` of c64",
    "sqrt(z)": "no `sqrt` of c64: it takes real numbers",
    "z % w": "no `mod` of c64",
    "z ** 0.5": "whole numbers up to 64",
    "f32(z)": "cannot become f32",
    "part(z)": "a c64 is no f32",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_what_complex_numbers_do_not_have(expression: str) -> None:
    text = f"""
    op sort_of(z: c64[n]) -> c64[n] {{ return y[n] = sign(z[n]) }}
    op part(z: c64[n]) -> f32[n] {{ return y[n] = f32(z[n]) }}
    model M(z: c64[4], w: c64[4]) -> c64[4] {{ return {expression} }}
    """
    with pytest.raises(CompileError) as refused:
        parse_text(text)
    assert [d.name for d in refused.value.diagnostics] == ["complex-number"]
    assert REFUSED[expression] in str(refused.value)


@pytest.mark.parametrize("expression", ["real(x)", "conj(x)", "angle(x)"])
def test_parts_of_real_numbers(expression: str) -> None:
    text = f"op f(x: f32[n]) -> f32[n] {{ return y[n] = {expression.replace('x', 'x[n]')} }}"
    with pytest.raises(CompileError, match="takes complex numbers; found f32"):
        parse_text(text + "\nmodel M(x: f32[4]) -> f32[4] { return f(x) }")


def test_parameters_are_real() -> None:
    with pytest.raises(CompileError, match="parameters are real"):
        parse_text("model M(x: c64[4]) -> c64[4] { param w: c64[4] = zeros()\n return x * w }")


# --- the pass ---------------------------------------------------------------------------------------------------------


def nests_of(text: str) -> Nests:
    return parse_text(text).nests


def test_programs_without_complex_numbers_stay_as_they_are() -> None:
    nests = nests_of("model M(x: f32[N, 3]) -> f32[N, 3] { return relu(x) }")
    assert split(nests) is nests


def test_pairs_leave_no_complex_number() -> None:
    text = """
    op product(a: c64[n, k], b: c64[k, m]) -> c64[n, m] { return y[n, m] = sum[k] a[n, k] * b[k, m] }
    model M(a: c64[N, 3], b: c64[3, 4]) -> c64[N, 4] { return exp(product(a, b)) }
    """
    nests = split(nests_of(text))
    verify(nests)
    assert "c64" not in print_ir(nests)
    assert [t.dtype for t in nests.types().values() if t.dtype is not DType.F32] == []


def test_complex_parameters_in_ir_text_are_refused() -> None:
    text = print_ir(nests_of("model M(x: c64[4]) -> c64[4] { return x * x }"))
    program, _ = parse_ir(text)
    assert isinstance(program, Nests)
    assert split(program) is not program
    with pytest.raises(UnsupportedError, match="no complex parameter"):
        split(with_parameter(program))


def with_parameter(nests: Nests) -> Nests:
    parameter = Parameter("w", nests.inputs[0].type, Initializer("zeros", ()), True, NOWHERE)
    return replace(nests, parameters=(parameter,))


SCANS = """
op recurrence(x: c64[n, l, d], a: c64[d]) -> (c64[n, l, d], c64[n, d]) {
  scan t < l {
    carry h[n, d] = c64(0.0)
    h[n, d] = a[d]*h[n, d] + x[n, t, d]
    emit y[n, t, d] = h[n, d]
  }
  return y, h
}
op heat(u: f32[n, k]) -> f32[n, k] {
  scan t < 5 {
    carry h[n, k] = u[n, k]
    s = rfft(h)
    const damp[j < k/2 + 1] = exp(-0.01*j*j)
    e[n, j < k/2 + 1] = s[n, j]*damp[j]
    h = irfft(e)
    emit y[n, t, k] = h[n, k]
  }
  return h
}
model M(x: c64[N, L, 4], u: f32[N, 16]) -> (c64[N, L, 4], c64[N, 4], f32[N, 16]) {
  const theta[i < 4] = 0.1*i
  y, h = recurrence(x, complex(0.9*cos(theta), 0.9*sin(theta)))
  return y, h, heat(u)
}
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_scans(backend: str) -> None:
    """A complex state, and transforms between real states."""
    x, u = normal(3, 7, 4), normal(3, 16, seed=1).real.copy()
    decay = 0.9 * np.exp(0.1j * np.arange(4))
    state, states = np.zeros((3, 4)), []
    for t in range(7):
        state = decay * state + x[:, t]
        states.append(state)
    field = u.astype(float)
    for _ in range(5):
        field = np.fft.irfft(np.fft.rfft(field) * np.exp(-0.01 * np.arange(9) ** 2), 16)
    actual = run(parse_text(SCANS), backend, x, u)
    wanted = (np.stack(states, 1), state, field)
    assert max(largest_error(p, q) for p, q in zip(actual, wanted, strict=True)) <= TOLERANCE
