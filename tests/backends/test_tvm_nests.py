"""Nests on the CPU: every schedule family against the NumPy reference, with symbolic batch 0, 1 and more."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.plan import Call, planned
from mercer.backends.tvm.scalar import UnsupportedError
from mercer.backends.tvm.schedules.common import Units
from mercer.backends.tvm.target import parse
from mercer.ir.graph import Value
from mercer.ir.index import Const, Expr, Read, Reducer, call
from mercer.ir.nests import Nests, Primitive
from mercer.ir.types import DType
from tests.backends.tvm_programs import (
    F32,
    Binary,
    as_real,
    assert_agrees,
    axes,
    build,
    extent,
    index,
    mul,
    nest,
    normal,
    number,
    position,
    program,
    random_nest,
    read,
    reshape,
    tensor,
    total,
)

BATCHES = (0, 1, 2, 7)
LEVELS = ("cpu", "cpu:generic")
LANES = parse("cpu").lanes


def check(nests: Nests, shapes: dict[str, tuple[int, ...]], target: str = "cpu", tolerance: float = 1e-5) -> Binary:
    """Build and compare; -1 in a shape is the batch."""
    binary = build(nests, target)
    symbolic = any(-1 in shape for shape in shapes.values())
    for batch in BATCHES if symbolic else (1,):
        inputs = {k: normal(*(batch if n == -1 else n for n in shape)) for k, shape in shapes.items()}
        assert_agrees(binary, inputs, tolerance)
    return binary


def conv(inputs: int, outputs: int, size: int, kernel: int, stride: int, pad: int) -> Nests:
    out = (size + 2 * pad - kernel) // stride + 1
    window = read(
        "x", "n", "c", index("p") * stride + index("i") - pad, index("q") * stride + index("j") - pad, pad=0.0
    )
    body = total(mul(window, read("w", "o", "c", "i", "j")), c=inputs, i=kernel, j=kernel)
    relu = call("max", call("add", body, read("b", "o")), number(0.0))
    weights = {"w": normal(outputs, inputs, kernel, kernel), "b": normal(outputs)}
    loops = axes(n="N", o=outputs, p=out, q=out)
    return program({"x": tensor("N", inputs, size, size)}, weights, [nest("y", loops, relu, "conv2d")], "y")


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "kernel", "stride", "pad"),
    [
        (1, 16, 8, 3, 1, 1),
        (16, 16, 8, 3, 1, 1),
        (5, 7, 9, 3, 2, 1),
        (3, 8, 8, 1, 1, 0),
        (2, 3, 6, 5, 1, 0),
        (4, 32, 3, 3, 1, 1),
    ],
)
def test_convolution(target: str, inputs: int, outputs: int, size: int, kernel: int, stride: int, pad: int) -> None:
    binary = check(conv(inputs, outputs, size, kernel, stride, pad), {"x": (-1, inputs, size, size)}, target)
    pixels = ((size + 2 * pad - kernel) // stride + 1) ** 2
    assert binary.families[-1] == ("convolution" if pixels >= parse(target).lanes else "contraction")


@pytest.mark.parametrize(
    ("inner", "outputs", "family"),
    [
        (1024, 128, "contraction"),
        (128, LANES + 2, "contraction"),
        (33, 2 * LANES + 1, "contraction"),
        (33, 17, "contraction"),
        (64, 3, "reduce"),
        (5, 2, "pointwise"),
    ],
)
def test_linear(inner: int, outputs: int, family: str) -> None:
    body = total(mul(read("x", "n", "k"), read("w", "m", "k")), k=inner)
    nests = program(
        {"x": tensor("N", inner)}, {"w": normal(outputs, inner)}, [nest("y", axes(n="N", m=outputs), body)], "y"
    )
    assert check(nests, {"x": (-1, inner)}).families == [family]


@pytest.mark.parametrize(("target", "family"), [("cpu:avx2", "contraction"), ("cpu:avx512", "reduce")])
def test_outputs_that_fill_no_vector(target: str, family: str) -> None:
    """Sums of 128 numbers have vectors along them where ten outputs are less than one."""
    body = total(mul(read("x", "n", "k"), read("w", "m", "k")), k=128)
    nests = program({"x": tensor("N", 128)}, {"w": normal(10, 128)}, [nest("y", axes(n="N", m=10), body)], "y")
    assert [step.family for step in compile_nests(nests, parse(target)).steps] == [family]
    check(nests, {"x": (-1, 128)})


def test_pairwise_distance_is_a_contraction() -> None:
    difference = call("sub", read("x", "n", "k"), read("z", "m", "k"))
    body = call("exp", mul(number(-0.05), total(mul(difference, difference), k=40)))
    nests = program({"x": tensor("N", 40)}, {"z": normal(19, 40)}, [nest("y", axes(n="N", m=19), body)], "y")
    assert check(nests, {"x": (-1, 40)}).families == ["contraction"]


@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_two_inputs(transposed: bool) -> None:
    right = read("b", "g", *(("j", "k") if transposed else ("k", "j")))
    body = total(mul(read("a", "g", "i", "k"), right), k=24)
    shape = (19, 24) if transposed else (24, 19)
    inputs = {"a": tensor("N", 13, 24), "b": tensor("N", *shape)}
    nests = program(inputs, {}, [nest("y", axes(g="N", i=13, j=19), body)], "y")
    assert check(nests, {"a": (-1, 13, 24), "b": (-1, *shape)}).families[-1] == "contraction"


def test_a_long_axis_is_cut_into_units_of_a_microsecond_or_more() -> None:
    """Else an outermost loop over short bodies would be the work of one thread."""
    assert Units.of(axes(i=171), 578.0).pieces == 57
    assert Units.of(axes(g=8, i=171), 578.0).count == extent(8 * 57)
    assert Units.of(axes(g=64, i=171), 578.0).count == extent(64)
    assert Units.of(axes(i=171), 5.0).count == extent(1)
    assert Units.of(axes(i=173), 578.0).pieces == 99  # none are equal
    assert Units.of(axes(n="N", i=171), 578.0).count == extent("N")


@pytest.mark.parametrize("target", LEVELS)
def test_loops_in_pieces(target: str) -> None:
    """Rows of a product, in equal pieces or not, and a tensor that is one long row of elements."""
    product = total(mul(read("x", "n", "k"), read("w", "k", "m")), k=24)
    weights = {"w": normal(24, 16)}
    for length in (1026, 3138):
        rows = nest("y", axes(n=length, m=16), product)
        check(program({"x": tensor(length, 24)}, weights, [rows], "y"), {"x": (length, 24)}, target)
    elements = nest("y", axes(n=33, m=4096), call("tanh", call("add", read("x", "n", "m"), read("z", "n", "m"))))
    inputs = {"x": tensor(33, 4096), "z": tensor(33, 4096)}
    check(program(inputs, {}, [elements], "y"), {"x": (33, 4096), "z": (33, 4096)}, target)


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("reducer", [Reducer.SUM, Reducer.MAX])
def test_sums_over_the_rows_of_two_matrices_go_block_by_block(target: str, reducer: Reducer) -> None:
    """Tiles of 45 columns overlap, so a sum that was left in the result would be added to twice."""
    product = total(mul(read("a", "g", "l", "i"), read("b", "g", "l", "j")), reducer, l=512)
    body = call("tanh", mul(number(0.01), product))
    inputs = {"a": tensor("N", 512, 45), "b": tensor("N", 512, 50)}
    nests = program(inputs, {}, [nest("y", axes(g="N", i=45, j=50), body)], "y")
    binary = check(nests, {"a": (-1, 512, 45), "b": (-1, 512, 50)}, target)
    assert "128 of 512 l at a time" in binary.compiled.steps[0].detail


def test_what_two_tiles_read_across_memory_is_copied_into_panels() -> None:
    """Of 8 x 2 tiles with AVX-512: each row of the first operand is read by 2, of the second by 8."""
    product = total(mul(read("a", "l", "g", "i"), read("b", "l", "g", "j")), l=512)
    inputs = {"a": tensor(512, 8, 64), "b": tensor(512, 8, 64)}
    nests = program(inputs, {}, [nest("y", axes(g=8, i=64, j=64), product)], "y")
    check(nests, {"a": (512, 8, 64), "b": (512, 8, 64)})
    for target in ("cpu:avx2", "cpu:avx512"):
        assert "128 of 512 l at a time, 2 operands in panels" in build(nests, target).compiled.steps[0].detail


@pytest.mark.parametrize("reducer", [Reducer.SUM, Reducer.PROD, Reducer.MAX, Reducer.MIN])
@pytest.mark.parametrize("length", [8, 15, 31, 100])
def test_reduction_along_memory(reducer: Reducer, length: int) -> None:
    """Eight elements are enough, also where a register has more lanes."""
    body = total(read("x", "n", "r", "k"), reducer, k=length)
    nests = program({"x": tensor("N", 3, length)}, {}, [nest("y", axes(n="N", r=3), body)], "y")
    assert check(nests, {"x": (-1, 3, length)}).families == ["reduce"]


def test_reduction_over_the_symbolic_axis() -> None:
    statements = [nest("y", axes(c=5), total(read("x", "n", "c"), n="N"))]
    statements.append(nest("z", axes(n="N"), total(mul(read("x", "n", "c"), read("x", "n", "c")), c=5)))
    statements.append(nest("t", axes(c=5, n="N"), read("x", "n", "c")))
    nests = program({"x": tensor("N", 5)}, {}, statements, "y", "z", "t")
    check(nests, {"x": (-1, 5)})


def test_softmax() -> None:
    score = read("x", "n", "k")
    statements = [
        nest("m", axes(n="N"), total(score, Reducer.MAX, k=37)),
        nest("e", axes(n="N", k=37), call("exp", call("sub", score, read("m", "n")))),
        nest("s", axes(n="N"), total(read("e", "n", "k"), k=37)),
        nest("y", axes(n="N", k=37), call("div", read("e", "n", "k"), read("s", "n"))),
    ]
    check(program({"x": tensor("N", 37)}, {}, statements, "y"), {"x": (-1, 37)})


@pytest.mark.parametrize("reducer", [Reducer.ARGMAX, Reducer.ARGMIN])
def test_first_position_of_the_extreme(reducer: Reducer) -> None:
    nests = program(
        {"x": tensor("N", 4, 9)}, {}, [nest("y", axes(n="N", k=9), total(read("x", "n", "r", "k"), reducer, r=4))], "y"
    )
    binary = build(nests)
    x = np.round(normal(5, 4, 9))
    x[0, :, 0] = [1, 2, np.nan, 3]
    assert_agrees(binary, {"x": x})


def test_two_reductions_in_one_nest() -> None:
    mean = call("div", total(read("x", "n", "k"), k=20), total(call("abs", read("x", "n", "k")), k=20))
    nests = program({"x": tensor("N", 20)}, {}, [nest("y", axes(n="N"), mean)], "y")
    check(nests, {"x": (-1, 20)})


def test_pooling_reads_pad() -> None:
    window = read("x", "n", "c", index("p") * 2 + index("i") - 1, index("q") * 2 + index("j") - 1, pad=-1e30)
    body = total(window, Reducer.MAX, i=3, j=3)
    nests = program({"x": tensor("N", 4, 16, 16)}, {}, [nest("y", axes(n="N", c=4, p=8, q=8), body)], "y")
    check(nests, {"x": (-1, 4, 16, 16)})


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(("channels", "pixels"), [(16, 32), (21, 37), (5, 49), (4, 4)])
def test_operands_that_lie_across_the_result_are_turned(channels: int, pixels: int, target: str) -> None:
    """Alone, beside operands that lie along it, twice, beside a padded one, and as another element type."""
    x, other = read("x", "n", "p", "c"), call("exp", mul(number(0.1), read("z", "n", "p", "c")))
    straight, scale = read("r", "n", "c", "p"), read("s", "c")
    before = read("r", "n", "c", index("p") - 1, pad=0.5)
    bodies = {
        "alone": mul(scale, call("sub", x, other)),
        "beside": call("add", straight, mul(scale, x)),
        "twice": call("sub", mul(x, straight), call("max", other, straight)),
        "padded": mul(x, call("add", before, straight)),
        "bytes": call("add", straight, call("cast", read("b", "n", "p", "c", dtype=DType.I8), dtype=DType.F32)),
    }
    inputs = {name: tensor("N", pixels, channels, dtype=DType.I8 if name == "b" else F32) for name in "xzb"}
    inputs["r"] = tensor("N", channels, pixels)
    statements = [nest(name, axes(n="N", c=channels, p=pixels), body, name) for name, body in bodies.items()]
    binary = build(program(inputs, {"s": normal(channels)}, statements, *bodies), target)
    assert binary.families == ["transpose"] * len(bodies)
    for batch in BATCHES:
        values = {name: np.round(9 * normal(batch, pixels, channels)) for name in "xzb"}
        values["r"] = normal(batch, channels, pixels)
        assert_agrees(binary, {name: value.astype(inputs[name].dtype.numpy) for name, value in values.items()})


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(("channels", "pixels", "whole"), [(64, 784, True), (384, 196, True), (51, 51, False)])
def test_one_image_is_turned_in_pieces(channels: int, pixels: int, whole: bool, target: str) -> None:
    """For all threads: along its pixels or its channels, where these are whole blocks."""
    body = call("add", read("x", "n", "p", "c"), read("r", "n", "c", "p"))
    inputs = {"x": tensor(1, pixels, channels), "r": tensor(1, channels, pixels)}
    nests = program(inputs, {}, [nest("y", axes(n=1, c=channels, p=pixels), body)], "y")
    assert check(nests, {"x": (1, pixels, channels), "r": (1, channels, pixels)}, target).families == ["transpose"]
    (work,) = planned(nests, parse(target)).calls
    assert isinstance(work, Call) and (work.work.count.value > 1) == whole


@pytest.mark.parametrize("shape", [("N", 21, 1), (21, "N", 1, 1), ("N", 1)])
def test_vectors_lie_along_the_last_axis_that_has_elements(shape: tuple[int | str, ...]) -> None:
    names = [f"a{k}" for k in range(len(shape))]
    loops = axes(**dict(zip(names, shape, strict=True)))
    nests = program({"x": tensor(*shape)}, {}, [nest("y", loops, call("exp", read("x", *names)))], "y")
    sizes = tuple(-1 if size == "N" else int(size) for size in shape)
    assert check(nests, {"x": sizes}).families == ["pointwise"]


def bilinear_corner(down: int, right: int) -> Expr:
    u = call("add", as_real(index("p")), read("o", "n", 0, "p", "q"))
    v = call("add", as_real(index("q")), read("o", "n", 1, "p", "q"))
    weight: Expr = number(1.0)
    places = []
    for value, far in ((u, down), (v, right)):
        whole = call("floor", value)
        part = call("sub", value, whole)
        weight = mul(weight, part if far else call("sub", number(1.0), part))
        places.append(position(call("cast", whole, dtype=DType.I32)) + far)
    return mul(weight, Read("x", (index("n"), index("c"), *places), F32, Const(0.0, F32)))


@pytest.mark.parametrize("width", [5, 8, 16])
def test_sampling_at_computed_positions(width: int) -> None:
    body = bilinear_corner(0, 0)
    for corner in ((0, 1), (1, 0), (1, 1)):
        body = call("add", body, bilinear_corner(*corner))
    nests = program(
        {"x": tensor("N", 3, 6, width), "o": tensor("N", 2, 6, width)},
        {},
        [nest("y", axes(n="N", c=3, p=6, q=width), body)],
        "y",
    )
    binary = build(nests)
    for batch in BATCHES:
        assert_agrees(binary, {"x": normal(batch, 3, 6, width), "o": 4 * normal(batch, 2, 6, width)})
    assert binary.families[-1] == "gather"


def test_embedding_never_reads_outside() -> None:
    place = position(read("i", "n", dtype=DType.I32))
    table = normal(6, 10)
    nests = program(
        {"i": tensor("N", dtype=DType.I32)},
        {"table": table},
        [nest("y", axes(n="N", d=10), Read("table", (place, index("d")), F32))],
        "y",
    )
    binary = build(nests)
    assert_agrees(binary, {"i": np.array([0, 5, 3], np.int32)})
    (found,) = binary(i=np.array([-(2**31), 2**31 - 1], np.int32))
    np.testing.assert_array_equal(found, table[[0, 5]])


@pytest.mark.parametrize("dtype", [DType.F64, DType.F16, DType.BF16, DType.I32, DType.I64, DType.I8])
def test_element_types(dtype: DType) -> None:
    x, y = read("x", "n", "k", dtype=dtype), read("y", "k", dtype=dtype)
    body = call("max", call("add", mul(x, y), y), call("neg", x))
    large = call("gt", x, y)
    statements = [
        nest("a", axes(n="N", k=11), body),
        nest("b", axes(n="N", k=11), call("cast", call("where", large, x, body), dtype=F32)),
        nest("c", axes(n="N", k=11), large),
        nest("d", axes(n="N"), total(large, Reducer.ANY, k=11)),
        nest("e", axes(n="N"), total(call("cast", x, dtype=F32), k=11)),
    ]
    inputs = {"x": tensor("N", 11, dtype=dtype), "y": tensor(11, dtype=dtype)}
    binary = build(program(inputs, {}, statements, "a", "b", "c", "d", "e"))
    values = [np.round(3 * normal(*shape)).astype(dtype.numpy) for shape in ((4, 11), (11,))]
    assert_agrees(binary, dict(zip("xy", values, strict=True)))


def test_integer_division() -> None:
    x, y = read("x", "k", dtype=DType.I32), read("y", "k", dtype=DType.I32)
    statements = [nest(f, axes(k=12), call(f, x, y)) for f in ("floordiv", "mod")]
    inputs = {name: tensor(12, dtype=DType.I32) for name in "xy"}
    binary = build(program(inputs, {}, statements, "floordiv", "mod"))
    values = (
        np.array([7, -7, 7, -7, 0, 5, 1, 9, -9, 3, 2, 8], np.int32),
        np.array([2, 2, -2, -2, 3, 0, 1, 4, 4, -3, 5, 8]),
    )
    assert_agrees(binary, {"x": values[0], "y": values[1].astype(np.int32)})


def test_bits_of_integers() -> None:
    x, y = (read(name, "k", dtype=DType.I32) for name in "xy")
    statements = [
        nest("s", axes(k=19), call("xor", x, y)),
        nest("t", axes(k=19), call("xor", x, number(-7, DType.I32))),
    ]
    binary = build(program({name: tensor(19, dtype=DType.I32) for name in "xy"}, {}, statements, "s", "t"))
    values = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 19)).astype(np.int32)
    assert_agrees(binary, dict(zip("xy", values, strict=True)))


def test_real_division_and_powers() -> None:
    x, y = read("x", "k"), read("y", "k")
    names = ("floordiv", "mod", "div", "pow", "atan2")
    statements = [nest(f, axes(k=21), call(f, call("abs", x) if f == "pow" else x, y)) for f in names]
    statements.append(nest("square", axes(k=21), call("pow", x, number(2.0))))
    statements.append(nest("root", axes(k=21), call("pow", call("abs", x), number(0.5))))
    nests = program({"x": tensor(21), "y": tensor(21)}, {}, statements, *names, "square", "root")
    check(nests, {"x": (21,), "y": (21,)})


def test_outputs_may_be_arguments_constants_views_and_repeated() -> None:
    statements = [
        nest("y", axes(n="N", k=6), call("exp", read("x", "n", "k"))),
        reshape("v", "y", tensor("N", 2, 3)),
        reshape("w2", "w", tensor(3, 2)),
        nest("z", axes(n="N", a=2), total(mul(read("v", "n", "a", "b"), read("w2", "b", "a")), b=3)),
    ]
    nests = program({"x": tensor("N", 6)}, {"w": normal(6)}, statements, "x", "z", "v", "w2", "z")
    check(nests, {"x": (-1, 6)})


def test_a_number() -> None:
    statements = [nest("s", (), total(read("x", "k"), k=5)), nest("t", (), call("exp", read("s")))]
    binary = check(program({"x": tensor(5)}, {}, statements, "s", "t"), {"x": (5,)})
    assert binary.families[-1] == "pointwise"


def test_floats_are_not_simplified() -> None:
    """x - ((x + c) - c) is the rounding error of x + c and not 0."""
    x, c = read("x", "k"), number(12582912.0)
    body = call("sub", x, call("sub", call("add", x, c), c))
    binary = build(program({"x": tensor(9)}, {}, [nest("y", axes(k=9), body)], "y"))
    x = normal(9)
    np.testing.assert_array_equal(binary(x=x)[0], x - np.rint(x))


def test_nan_passes_through_max_min_and_relu() -> None:
    x = read("x", "k", "r")
    statements = [
        nest("relu", axes(k=8, r=8), call("max", x, number(0.0))),
        nest("low", axes(k=8, r=8), call("min", number(0.0), x)),
        nest("top", axes(k=8), total(x, Reducer.MAX, r=8)),
        nest("top2", axes(r=8), total(x, Reducer.MAX, k=8)),
    ]
    binary = build(program({"x": tensor(8, 8)}, {}, statements, "relu", "low", "top", "top2"))
    values = normal(8, 8)
    values[3, 5] = np.nan
    relu, low, top, top2 = binary(x=values)
    assert np.isnan(relu[3, 5]) and np.isnan(low[3, 5]) and np.isnan(top[3]) and np.isnan(top2[5])
    assert np.isnan(relu).sum() == np.isnan(low).sum() == np.isnan(top).sum() == np.isnan(top2).sum() == 1


def test_equal_nests_share_a_function() -> None:
    statements = [nest("a", axes(n=8, k="N"), call("exp", read("x", "n", "k")), "exp")]
    statements.append(nest("b", axes(n=8, k="N"), call("exp", read("a", "n", "k")), "exp"))
    binary = check(program({"x": tensor(8, "N")}, {}, statements, "b"), {"x": (8, -1)})
    assert [step.function for step in binary.compiled.steps] == ["exp", "exp"]


def test_the_same_input_gives_the_same_bytes() -> None:
    first, *others = (compile_nests(conv(3, 8, 8, 3, 1, 1), parse("cpu")) for _ in range(12))
    for other in others:
        assert other.library == first.library
        assert [name for name, _ in other.constants] == [name for name, _ in first.constants]


def test_an_unknown_primitive_is_refused_by_name() -> None:
    statement = Primitive("fft", (Value("y", tensor(8)),), ("x",), (), ())
    with pytest.raises(UnsupportedError, match="no primitive fft"):
        build(program({"x": tensor(8)}, {}, [statement], "y"))


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("seed", range(5))
def test_random_nests(seed: int, target: str) -> None:
    rng = np.random.default_rng(seed)
    made = [random_nest(rng, f"y{i}") for i in range(8)]
    inputs = {name: type for _, types in made for name, type in types.items()}
    inputs["batch"] = tensor("N")
    binary = build(program(inputs, {}, [n for n, _ in made], *(n.target for n, _ in made)), target)
    for batch in (0, 1, 5):
        shapes = {k: tuple(s.value if s.is_constant else batch for s in t.shape) for k, t in inputs.items()}
        assert_agrees(binary, {k: np.asarray(rng.standard_normal(s), np.float32) for k, s in shapes.items()}, 2e-5)
