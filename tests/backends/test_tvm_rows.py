"""Groups of nests through which rows go a tile at a time, against the NumPy reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mercer.ir.index import Expr, Reducer, call
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, DType, TensorType
from tests.backends.tvm_programs import (
    Binary,
    assert_agrees,
    axes,
    build,
    generator,
    index,
    mul,
    nest,
    normal,
    number,
    program,
    read,
    reshape,
    tensor,
    total,
)

BATCHES = (0, 1, 5, 23, 24, 97, 200)
LEVELS = ("cpu", "cpu:generic")


def check(nests: Nests, shapes: dict[str, tuple[int, ...]], target: str = "cpu", tolerance: float = 1e-5) -> Binary:
    """Build and compare; -1 in a shape is the batch."""
    binary = build(nests, target)
    for batch in BATCHES if any(-1 in shape for shape in shapes.values()) else (1,):
        inputs = {k: normal(*(batch if n == -1 else n for n in shape)) for k, shape in shapes.items()}
        assert_agrees(binary, inputs, tolerance)
    return binary


def dense(target: str, source: str, rows: int | str, inputs: int, outputs: int, function: str | None = "sin") -> Nest:
    product: Expr = total(mul(read(source, "n", "k"), read(f"w{target}", "m", "k")), k=inputs)
    body = product if function is None else call(function, product)
    return nest(target, axes(n=rows, m=outputs), body, "dense")


def layers(rows: int | str, *widths: int) -> Nests:
    """x through one layer after the other."""
    steps = list(itertools.pairwise(widths))
    names = ["x", *(f"h{k}" for k in range(len(steps)))]
    statements = [dense(names[k + 1], names[k], rows, a, b) for k, (a, b) in enumerate(steps)]
    weights = {f"w{names[k + 1]}": normal(b, a) / np.float32(np.sqrt(a)) for k, (a, b) in enumerate(steps)}
    return program({"x": tensor(rows, widths[0])}, weights, statements, names[-1])


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("widths", [(3, 32, 32, 1), (40, 64, 10), (7, 13, 5, 2)])
def test_layers_of_a_symbolic_number_of_rows(target: str, widths: tuple[int, ...]) -> None:
    binary = check(layers("N", *widths), {"x": (-1, widths[0])}, target)
    assert binary.families == ["rows"]


@pytest.mark.parametrize("rows", [16, 100, 257, 1000])
def test_layers_of_a_known_number_of_rows(rows: int) -> None:
    binary = check(layers(rows, 20, 48, 48, 3), {"x": (rows, 20)})
    assert binary.families == ["rows"]


@pytest.mark.parametrize("rows", [512, "N"])
@pytest.mark.parametrize("centers", [64, 1024, 1000])
def test_kernel_machine(rows: int | str, centers: int) -> None:
    distance = total(
        mul(
            call("sub", read("x", "n", "k"), read("z", "m", "k")),
            call("sub", read("x", "n", "k"), read("z", "m", "k")),
        ),
        k=20,
    )
    statements = [
        nest("g", axes(n=rows, m=centers), call("exp", mul(number(-0.05), distance))),
        nest("y", axes(n=rows, o=7), total(mul(read("w", "o", "m"), read("g", "n", "m")), m=centers)),
    ]
    weights = {"z": normal(centers, 20), "w": normal(7, centers)}
    nests = program({"x": tensor(rows, 20)}, weights, statements, "y")
    binary = check(nests, {"x": (-1 if rows == "N" else 512, 20)})
    assert binary.families == ["rows"]
    assert ("128 of 1024 elements" in binary.compiled.steps[0].detail) == (centers == 1024)


@pytest.mark.parametrize(("target", "lanes"), [("cpu:avx2", 8), ("cpu:avx512", 16)])
def test_rows_of_chunks_leave_no_lane_idle(target: str, lanes: int) -> None:
    """784 rows are 33 tiles of 24, which vectors of 8 fill and vectors of 16 do not."""
    hidden = call("tanh", total(mul(read("v", "m", "k"), read("x", "n", "k")), k=20))
    statements = [
        nest("h", axes(n=784, m=768), hidden),
        nest("y", axes(n=784, o=7), total(mul(read("w", "o", "m"), read("h", "n", "m")), m=768)),
    ]
    weights = {"v": normal(768, 20), "w": normal(7, 768)}
    (step,) = build(program({"x": tensor(784, 20)}, weights, statements, "y"), target).compiled.steps
    rows, rest = step.detail.split(" ", 1)
    assert rest.startswith("rows at a time, rows in lanes, 128 of 768 elements")
    assert int(rows) % lanes == 0


@pytest.mark.parametrize(("hidden", "outputs", "whole"), [(768, 127, False), (768, 128, True), (1152, 128, False)])
def test_rows_are_stored_whole_where_sums_of_chunks_are_as_long_as_chunks(
    hidden: int, outputs: int, whole: bool
) -> None:
    nests = layers(400, 20, hidden, outputs)
    binary = check(nests, {"x": (400, 20)})
    assert binary.families == ["rows"]
    assert ("elements at a time" not in binary.compiled.steps[0].detail) == whole


@pytest.mark.parametrize("reducer", [Reducer.SUM, Reducer.MAX, Reducer.MIN, Reducer.PROD])
def test_long_rows_are_reduced_in_chunks(reducer: Reducer) -> None:
    """Two results of one row that is never stored; the smaller rows before and after it are."""
    scale = mul(number(0.001), call("tanh", mul(read("h", "n"), read("a", "m"))))
    statements = [
        nest("h", axes(n="N"), total(read("x", "n", "k"), k=9)),
        nest("g", axes(n="N", m=640), call("add", number(1.0), scale)),
        nest("y", axes(n="N"), mul(number(0.5), total(read("g", "n", "m"), reducer, m=640))),
        nest("t", axes(n="N", o=3), total(mul(read("g", "n", "m"), read("w", "o", "m")), m=640)),
        nest("z", axes(n="N", o=3), mul(read("t", "n", "o"), read("y", "n"))),
    ]
    nests = program({"x": tensor("N", 9)}, {"a": normal(640), "w": normal(3, 640)}, statements, "z", "y")
    binary = check(nests, {"x": (-1, 9)}, tolerance=1e-4)
    assert "128 of 640 elements at a time" in binary.compiled.steps[0].detail


def test_a_long_row_that_is_read_twice_is_stored() -> None:
    """A softmax needs the largest element before it can sum; only the exponentials are made in chunks."""
    statements = [
        nest("s", axes(n="N", m=512), mul(read("x", "n"), read("a", "m"))),
        nest("top", axes(n="N"), total(read("s", "n", "m"), Reducer.MAX, m=512)),
        nest("e", axes(n="N", m=512), call("exp", call("sub", read("s", "n", "m"), read("top", "n")))),
        nest("y", axes(n="N"), total(mul(read("e", "n", "m"), read("a", "m")), m=512)),
    ]
    nests = program({"x": tensor("N")}, {"a": normal(512)}, statements, "y")
    binary = check(nests, {"x": (-1,)})
    assert binary.families == ["rows"]
    assert "128 of 512 elements at a time" in binary.compiled.steps[0].detail


def test_softmax_of_products_with_keys() -> None:
    score = total(mul(read("q", "h", "n", "d"), read("k", "h", "l", "d")), d=16)
    exponent = call("exp", call("sub", read("s", "h", "n", "l"), read("top", "h", "n")))
    weighted = total(mul(read("e", "h", "n", "l"), read("v", "h", "l", "d")), l=60)
    statements = [
        nest("s", axes(h=3, n="N", l=60), score),
        nest("top", axes(h=3, n="N"), total(read("s", "h", "n", "l"), Reducer.MAX, l=60)),
        nest("e", axes(h=3, n="N", l=60), exponent),
        nest("z", axes(h=3, n="N"), total(read("e", "h", "n", "l"), l=60)),
        nest("y", axes(h=3, n="N", d=24), call("div", weighted, read("z", "h", "n"))),
    ]
    inputs = {"q": tensor(3, "N", 16), "k": tensor(3, 60, 16), "v": tensor(3, 60, 24)}
    nests = program(inputs, {}, statements, "y")
    binary = check(nests, {"q": (3, -1, 16), "k": (3, 60, 16), "v": (3, 60, 24)})
    assert "rows" in binary.families


def softmax_of_parts(rows: int | str, *outputs: str) -> Nests:
    """Over each of four parts of a row, which a reshape cuts."""
    exponent = call("exp", call("sub", read("parts", "n", "g", "k"), read("top", "n", "g")))
    statements = [
        dense("h", "x", rows, 24, 36),
        reshape("parts", "h", tensor(rows, 4, 9)),
        nest("top", axes(n=rows, g=4), total(read("parts", "n", "g", "k"), Reducer.MAX, k=9)),
        nest("e", axes(n=rows, g=4, k=9), exponent),
        nest("y", axes(n=rows, g=4, k=9), call("div", read("e", "n", "g", "k"), total(read("e", "n", "g", "l"), l=9))),
    ]
    return program({"x": tensor(rows, 24)}, {"wh": normal(36, 24)}, statements, *outputs)


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("rows", [97, "N"])
def test_rows_go_through_a_reshape_that_cuts_them(target: str, rows: int | str) -> None:
    binary = check(softmax_of_parts(rows, "y"), {"x": (rows if isinstance(rows, int) else -1, 24)}, target)
    assert binary.families == ["rows"]


@pytest.mark.parametrize("output", ["h", "parts"])
def test_a_reshape_is_kept_for_who_else_wants_it(output: str) -> None:
    binary = check(softmax_of_parts("N", "y", output), {"x": (-1, 24)})
    assert (binary.families == ["rows"]) == (output == "h")


@pytest.mark.parametrize(
    ("parts", "reader"),
    [
        (tensor(24, 4, 9), nest("y", axes(g=4, n=24, k=9), call("exp", read("parts", "n", "g", "k")))),
        (
            tensor(24, 4, 9),
            nest("y", axes(n=24, g=4), total(read("parts", "n", index("g") + index("k"), 0, pad=0.0), k=2)),
        ),
        (tensor(8, 3, 36), nest("y", axes(a=8, b=3, m=36), call("exp", read("parts", "a", "b", "m")))),
    ],
    ids=["other rows first", "padding", "cut rows"],
)
def test_a_reshape_is_kept_where_its_readers_have_other_rows(parts: TensorType, reader: Nest) -> None:
    statements = [dense("h", "x", 24, 24, 36), reshape("parts", "h", parts), reader]
    nests = program({"x": tensor(24, 24)}, {"wh": normal(36, 24)}, statements, "y")
    assert check(nests, {"x": (24, 24)}).families != ["rows"]


def test_two_outputs_and_a_residual() -> None:
    statements = [
        dense("h", "x", "N", 24, 32),
        dense("y", "h", "N", 32, 24, None),
        nest("z", axes(n="N", m=24), call("add", read("x", "n", "m"), read("y", "n", "m"))),
    ]
    weights = {"wh": normal(32, 24), "wy": normal(24, 32)}
    nests = program({"x": tensor("N", 24)}, weights, statements, "h", "z", "y")
    assert check(nests, {"x": (-1, 24)}, tolerance=3e-5).families == ["rows"]


def test_a_value_that_other_rows_read_ends_the_group() -> None:
    """The sum over all rows reads what the first group stores."""
    statements = [
        dense("a", "x", "N", 12, 16),
        dense("b", "a", "N", 16, 16),
        nest("c", axes(m=16), mul(number(0.01), total(read("b", "n", "m"), n="N"))),
        nest("d", axes(n="N", m=16), mul(read("b", "n", "m"), read("c", "m"))),
        dense("e", "d", "N", 16, 4),
    ]
    weights = {"wa": normal(16, 12), "wb": normal(16, 16), "we": normal(4, 16)}
    binary = check(program({"x": tensor("N", 12)}, weights, statements, "e"), {"x": (-1, 12)}, tolerance=3e-5)
    assert [f == "rows" for f in binary.families] == [True, False, True]


def test_windows_and_few_rows_stay_alone() -> None:
    generator.cache_clear()  # the same numbers in every order of tests: of a single sum of four, little may be left
    few = check(layers(8, 20, 48, 3), {"x": (8, 20)})
    assert "rows" not in few.families
    assert "8 rows are too few" in few.compiled.steps[0].detail
    window = total(read("h0", "n", "m", pad=0.0), m=4)
    statements = [dense("h0", "x", "N", 12, 4), nest("y", axes(n="N"), window)]
    padded = check(program({"x": tensor("N", 12)}, {"wh0": normal(4, 12)}, statements, "y"), {"x": (-1, 12)})
    assert "rows" not in padded.families
    assert "windows" in padded.compiled.steps[0].detail


def small(*shape: int) -> Array:
    return generator().integers(-50, 50, shape).astype(np.int8)


def test_integers_keep_their_bits() -> None:
    def product(target: str, source: str, inputs: int, outputs: int) -> Nest:
        def wide(e: Expr) -> Expr:
            return call("cast", e, dtype=DType.I32)

        left, right = (wide(read(source, "n", "k", dtype=DType.I8)), wide(read(f"w{target}", "m", "k", dtype=DType.I8)))
        low, high = number(-127, DType.I32), number(127, DType.I32)
        scaled = call("max", call("min", total(mul(left, right), k=inputs), high), low)
        return nest(target, axes(n="N", m=outputs), call("cast", scaled, dtype=DType.I8))

    statements = [product("a", "x", 12, 40), product("b", "a", 40, 10)]
    nests = program({"x": tensor("N", 12, dtype=DType.I8)}, {"wa": small(40, 12), "wb": small(10, 40)}, statements, "b")
    binary = build(nests)
    assert binary.families == ["rows"]
    for batch in BATCHES:
        assert_agrees(binary, {"x": small(batch, 12)})


def test_one_step_names_every_origin() -> None:
    (step,) = build(layers("N", 8, 16, 4)).compiled.steps
    assert [origin.node for origin in step.origins] == ["h0", "h1"]
    assert "rows at a time" in step.detail


def test_equal_groups_share_a_function() -> None:
    def block(number: int, source: str) -> list[Nest]:
        return [dense(f"a{number}", source, "N", 8, 16), dense(f"b{number}", f"a{number}", "N", 16, 8)]

    sums = nest("s", axes(m=8), total(read("b0", "n", "m"), n="N"))
    shifted = nest("c", axes(n="N", m=8), call("add", read("b0", "n", "m"), read("s", "m")))
    weights = {"wa0": normal(16, 8), "wb0": normal(8, 16), "wa1": normal(16, 8), "wb1": normal(8, 16)}
    reader = nest("t", axes(m=8), total(read("c", "n", "m"), n="N"))
    statements = [*block(0, "x"), sums, shifted, reader, *block(1, "x"), nest("u", axes(m=8), read("t", "m"))]
    binary = check(program({"x": tensor("N", 8)}, weights, statements, "u", "b1", "b0"), {"x": (-1, 8)}, tolerance=3e-5)
    groups = [step.function for step in binary.compiled.steps if step.family == "rows"]
    assert len(groups) == 2 and len(set(groups)) == 1


def test_a_group_that_nobody_reads_is_left_out() -> None:
    statements = [
        nest("a", axes(n=32, k=8), mul(read("x", "n", "k"), read("x", "n", "k"))),
        nest("b", axes(n=32), total(read("a", "n", "k"), k=8)),
        nest("y", axes(n=32, k=8), call("tanh", read("x", "n", "k"))),
    ]
    binary = check(program({"x": tensor(32, 8)}, {}, statements, "y"), {"x": (32, 8)})
    assert len(binary.compiled.steps) == 1


def test_rows_of_an_image_are_one_axis() -> None:
    """Channels lie across the rows in memory; the batch cannot be told from the rows of images that lie apart."""

    def product(target: str, source: Expr, inputs: int, outputs: int) -> Nest:
        body = total(mul(source, read(f"w{target}", "m", "k")), k=inputs)
        return nest(target, axes(n=2, y=24, x=10, m=outputs), call("sin", body), "dense")

    statements = [
        product("a", read("image", "n", "k", "y", "x"), 12, 40),
        product("b", read("a", "n", "y", "x", "k"), 40, 24),
    ]
    nests = program({"image": tensor(2, 12, 24, 10)}, {"wa": normal(40, 12), "wb": normal(24, 40)}, statements, "b")
    (step,) = check(nests, {"image": (2, 12, 24, 10)}).compiled.steps
    rows = int(step.detail.split()[0])
    assert step.family == "rows" and 240 % rows == 0 and rows > 10


def test_rows_that_are_told_apart_stay_two_axes() -> None:
    """The second nest reads a value of its row of the image."""
    statements = [
        nest("a", axes(y=8, x=10, m=24), call("sin", mul(read("image", "y", "x"), read("w", "m")))),
        nest("b", axes(y=8, x=10, m=24), mul(read("a", "y", "x", "m"), read("scale", "y"))),
    ]
    nests = program({"image": tensor(8, 10), "scale": tensor(8)}, {"w": normal(24)}, statements, "b")
    (step,) = check(nests, {"image": (8, 10), "scale": (8,)}).compiled.steps
    assert step.family == "rows" and int(step.detail.split()[0]) <= 10


@pytest.mark.parametrize(
    ("target", "tile"),
    [
        ("cpu", "4 rows at a time"),
        ("cpu:generic", "4 tile.row x 3 vectors of 4 e"),
        ("cpu:avx2", "4 tile.row x 3 vectors of 8 e"),
    ],
)
def test_heads_stay_inside_of_rows_that_share_their_matrices(target: str, tile: str) -> None:
    """A tile has rows of all heads, each of which meets the matrix of its own."""
    feature = nest("f", axes(n=40, g=3, d=16), call("exp", read("x", "n", "g", "d")))
    product = nest("y", axes(n=40, g=3, e=24), total(mul(read("f", "n", "g", "d"), read("w", "g", "d", "e")), d=16))
    nests = program({"x": tensor(40, 3, 16), "w": tensor(3, 16, 24)}, {}, [feature, product], "y")
    binary = check(nests, {"x": (40, 3, 16), "w": (3, 16, 24)}, target)
    assert binary.families == ["rows"]
    assert tile in binary.compiled.steps[0].detail and " 4 tile.row x " in binary.compiled.steps[0].detail


def test_sums_of_pixels_do_not_keep_what_follows_to_one_line() -> None:
    """The two sums alone would leave the pixels of a line inside; with the layer all pixels are rows."""
    mean = nest("m", axes(y=20, x=6), total(read("v", "y", "x", "k"), k=16))
    square = nest("q", axes(y=20, x=6), mul(read("m", "y", "x"), total(read("v", "y", "x", "k"), k=16)))
    body = mul(read("v", "y", "x", "c"), mul(read("m", "y", "x"), read("q", "y", "x")))
    scaled = nest("o", axes(y=20, x=6, c=16), body)
    binary = check(program({"v": tensor(20, 6, 16)}, {}, [mean, square, scaled], "o"), {"v": (20, 6, 16)})
    assert binary.families == ["rows"]
    assert binary.compiled.steps[0].detail.startswith("8 rows at a time")


def test_few_rows_that_share_heavy_weights_stay_alone() -> None:
    binary = check(layers(64, 384, 512, 384), {"x": (64, 384)}, tolerance=1e-4)
    assert "rows" not in binary.families and "MiB again" in binary.compiled.steps[0].detail
