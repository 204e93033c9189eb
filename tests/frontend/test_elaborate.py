"""What right programs become: types, names of parameters, modules, constants, results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer.compiler import Program
from mercer.ir.types import DType


def names(program: Program) -> list[str]:
    return [p.name for p in program.parameters]


def run(text: str, *inputs: np.ndarray, **weights: np.ndarray) -> np.ndarray:
    """The single result of the reference, in double precision."""
    program = mercer.parse_text(text)
    (result,) = program.evaluate(*inputs, weights=weights, precision=DType.F64)
    return result


# --- names of parameters ----------------------------------------------------------------------------------------------


def test_a_layer_gives_its_name_in_snake_case() -> None:
    program = mercer.parse_text(
        "model M(x: f32[N, 4]) -> f32[N, 2] { return x |> Linear(3) |> LayerNorm |> Linear(2) }"
    )
    assert names(program) == [
        "linear.0.weight", "linear.0.bias", "layer_norm.weight", "layer_norm.bias", "linear.1.weight", "linear.1.bias",
    ]  # fmt: skip


def test_as_names_an_instance_and_a_named_loop_its_rounds() -> None:
    program = mercer.parse_text("""
layer Block(x; out) { return x |> Linear(out, bias = false) as inner |> relu }
model M(x: f32[N, 4]) -> f32[N, 4] {
  for i in 0..2 as blocks { x = Block(x; 4) as body }
  for i in 0..2 { x = Block(x; 4) as tail }
  return x |> Linear(4, bias = false) as head
}
""")
    assert names(program) == [
        "blocks.0.body.inner.weight",
        "blocks.1.body.inner.weight",
        "tail.0.inner.weight",
        "tail.1.inner.weight",
        "head.weight",
    ]


def test_a_parameter_of_the_model_has_no_prefix() -> None:
    program = mercer.parse_text("""
model M(x: f32[N, 4]) -> f32[N, 4] {
  param scale: f32[4] = ones
  buffer shift: f32[4] = constant(0.5)
  return x * scale + shift
}
""")
    assert [(p.name, p.trainable, str(p.initializer)) for p in program.parameters] == [
        ("scale", True, "ones()"),
        ("shift", False, "constant(value = 0.5)"),
    ]


# --- dims -------------------------------------------------------------------------------------------------------------


def test_symbolic_dims_go_through_arithmetic() -> None:
    program = mercer.parse_text("""
model M(x: f32[N, 3, H, 2*W]) -> f32[N, 8, (H - 1)/2 + 1, W] { return x |> Conv2d(8, 3, stride = 2, pad = 1) }
""")
    assert program.signature.outputs[0].shape == ("N", 8, "(H + 1)/2", "W")
    images = np.random.default_rng(0).standard_normal((2, 3, 7, 10)).astype(np.float32)
    (result,) = program.evaluate(images)
    assert result.shape == (2, 8, 4, 5)


def test_attributes_replace_defaults() -> None:
    text = "model M(x: f32[N, 4]; width = 3) -> f32[N, width] { return x |> Linear(width) }"
    assert mercer.parse_text(text).signature.outputs[0].shape == ("N", 3)
    assert mercer.parse_text(text, width=7).signature.outputs[0].shape == ("N", 7)
    with pytest.raises(mercer.CompileError, match="has no attribute `widht`"):
        mercer.parse_text(text, widht=7)


# --- control, slices, constants ---------------------------------------------------------------------------------------


def test_static_control_flow() -> None:
    text = """
model M(x: f32[N, 4]; deep = true) -> f32[N, 4] {
  let powers = [1, 2, 3]
  for i in 0..len(powers) {
    if deep and powers[i] != 2 { x = x + powers[i] } else if powers[i] == 2 { x = x * 2 } else { x = x }
  }
  return x if deep else -x
}
"""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(run(text, x), (x + 1) * 2 + 3)


def test_and_or_look_at_the_right_side_only_when_it_decides() -> None:
    program = mercer.parse_text("""
model M(x: f32[N, 4]; parts = 0) -> f32[N, 4] {
  require parts >= 1 and 4 % parts == 0 or true, "never"
  return x if parts == 0 or 4 % parts == 0 else -x
}
""")
    assert program.nests.outputs == ("x",)


def test_an_axis_expands_to_a_symbolic_size() -> None:
    text = """
model M(x: f32[N, 3], token: f32[1, 2]) -> f32[N, 5] {
  return concat(expand(token; sizes = [shape(x)[0], -1]), expand(x; sizes = [shape(x)[0], 3]); axis = 1)
}
"""
    x, token = np.ones((4, 3), np.float32), np.array([[5, 6]], np.float32)
    assert np.array_equal(run(text, x, token), [[5, 6, 1, 1, 1]] * 4)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "scale.mer").write_text("op doubled(x: T[...]) -> T[...] { return y[...] = 2*x[...] }\n", "utf-8-sig")
    main = tmp_path / "main.mer"
    main.write_text("use scale\nmodel M(x: f32[N]) -> f32[N] { return doubled(x) }\n", "utf-8-sig")
    assert mercer.parse(main).name == "M"


@pytest.mark.parametrize(
    "text",
    [
        (
            "fn a(x) = b(x) * b(x)\nfn b(x) = c(x) * c(x)\nfn c(x) = x + 1\n"
            "model M(x: f32[N]) -> f32[N] { return apply(x) }\nop apply(x: T[n]) -> T[n] { return y[n] = a(x[n]) }"
        ),
        (
            "layer A(x) { return B(x) + B(x) }\nlayer B(x) { return C(x) + C(x) }\nlayer C(x) { return x }\n"
            "model M(x: f32[N]) -> f32[N] { return A(x) }"
        ),
        "model M(x: f32[N]) -> f32[N] { for i in 0..3 { for j in 0..3 { let k = i } }\n return x }",
    ],
)
def test_what_is_written_out_has_a_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mercer.parse_text(text)
    monkeypatch.setattr("mercer.frontend.evaluator.MAX_STEPS", 5)
    with pytest.raises(mercer.CompileError, match=r"error\[out-of-range\]: .* are written out; here are more than 5"):
        mercer.parse_text(text)


def test_slices_and_new_axes() -> None:
    x = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    for subscript in ("[:, 1:]", "[..., ::2]", "[:, -1]", "[:, none, 0, 1:4]", "[0]", "[:, :, -3:-1]"):
        text = f"model M(x: f32[2, 3, 5]) -> T[...] {{ return x{subscript} }}"
        wanted = eval(f"x{subscript.replace('none', 'None')}")  # the same subscript in NumPy
        assert np.array_equal(run(text, x), wanted), subscript


def test_a_constant_is_evaluated_at_compile_time() -> None:
    program = mercer.parse_text("""
model M(x: f32[N, 4]) -> f32[N, 4] {
  const dct[k < 4, i < 4] = cos(pi/4*(i + 0.5)*k)
  return linear(x, dct)
}
""")
    (constant,) = program.graph.constants
    k, i = np.mgrid[:4, :4]
    assert constant.data.array is not None
    np.testing.assert_allclose(constant.data.array, np.cos(np.pi / 4 * (i + 0.5) * k), atol=1e-7)


def test_several_results_and_lists_of_tensors() -> None:
    program = mercer.parse_text("""
op halves(x: T[n, d]) -> (T[n, d/2], T[n, d/2]) {
  let k = d/2
  a[n, k] = x[n, k]
  b[n, j < k] = x[n, j + k]
  return a, b
}
model M(x: f32[N, 6]) -> (f32[N, 3], f32[N, 9]) {
  a, b = halves(x)
  return a - b, concat([a, b, a]; axis = 1)
}
""")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    difference, joined = program.evaluate(x)
    assert np.array_equal(difference, x[:, :3] - x[:, 3:])
    assert np.array_equal(joined, np.concatenate([x, x[:, :3]], axis=1))


def test_a_nested_reduction_becomes_a_statement_of_its_own() -> None:
    program = mercer.parse_text("""
kernel wave(x, y; rate = 2.0) { let d = sqdist(x, y)
  return cos(rate*d) }
model M(x: f32[N, 3]) -> f32[N, 2] { return x |> KernelMachine(2, centers = 4, kernel = wave(rate = 0.5)) }
""")
    weights = program.initial()
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    (result,) = program.evaluate(x, weights=weights, precision=DType.F64)
    c, w, b = (weights[f"kernel_machine.{n}"].astype(np.float64) for n in ("centers", "weight", "bias"))
    distance = ((x[:, None].astype(np.float64) - c) ** 2).sum(-1)
    np.testing.assert_allclose(result, np.cos(0.5 * distance) @ w.T + b, rtol=1e-12)


def test_index_names_do_not_capture_each_other() -> None:
    """`i` of the function and `i` of the operator are different indices."""
    text = """
fn row_sum(x: T[d]) = sum[i < d] x[i]
op centered(x: T[n, d]) -> T[n, d] { return y[i < n, j < d] = x[i, j] - row_sum(x[i])/d }
model M(x: f32[3, 4]) -> f32[3, 4] { return centered(x) }
"""
    x = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(run(text, x), exact - exact.mean(1, keepdims=True), atol=1e-12)


def test_numbers_take_the_type_of_the_tensors_beside_them() -> None:
    text = "model M(x: f32[N], m: bool[N]) -> f32[N] { return where(m, x * 2, 0.5) }"
    x = np.array([1, 2], np.float32)
    assert np.array_equal(run(text, x, np.array([True, False])), [2, 0.5])


# --- modules ----------------------------------------------------------------------------------------------------------


def test_use_reads_files_beside_this_one(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "blocks.mer").write_text("use scale\nlayer Twice(x) { return doubled(x) |> relu }\n")
    (tmp_path / "lib" / "scale.mer").write_text("op doubled(x: T[...]) -> T[...] { return y[...] = 2*x[...] }\n")
    main = tmp_path / "main.mer"
    main.write_text("use lib.blocks\nmodel M(x: f32[N]) -> f32[N] { return Twice(x) }\n")
    program = mercer.parse(main)
    (result,) = program.evaluate(np.array([-1, 3], np.float32))
    assert np.array_equal(result, [0, 6])
    assert "op doubled" in program.graph.definitions


def test_files_that_use_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mer").write_text("use b\nmodel M(x: f32[N]) -> f32[N] { return x |> relu }\n")
    (tmp_path / "b.mer").write_text("use a\n")
    with pytest.raises(mercer.CompileError, match=r"error\[recursion\]: a.mer uses itself: a.mer → b.mer → a.mer"):
        mercer.parse(tmp_path / "a.mer")


def test_models_are_chosen_by_name() -> None:
    text = "model A(x: f32[N]) -> f32[N] { return x |> relu }\nmodel B(x: f32[N]) -> f32[N] { return -x }\n"
    assert mercer.parse_text(text, model="B").name == "B"
    with pytest.raises(mercer.CompileError, match="has no model `C`"):
        mercer.parse_text(text, model="C")
