"""The order of the loops over tiles."""

from __future__ import annotations

import pytest

from mercer.backends.tvm.schedules.order import Stream, ordered, traffic
from mercer.backends.tvm.schedules.weights_ahead import Ahead
from mercer.backends.tvm.target import parse
from mercer.ir.index import Axis
from mercer.ir.integers import IntExpr
from tests.backends.tvm_programs import assert_agrees, axes, build, mul, nest, normal, program, read, tensor, total

KIB = 1 << 10


def loop(name: str, extent: int | str) -> Axis:
    return Axis(name, IntExpr.constant(extent) if isinstance(extent, int) else IntExpr.dim(extent))


ROWS, COLUMNS = frozenset({"rows"}), frozenset({"columns"})


def test_heavy_weights_are_read_once() -> None:
    """A tile of weights passes all rows before the next one comes."""
    loops = [loop("rows", 49), loop("columns", 64)]
    streams = [Stream(6 * KIB, ROWS), Stream(36 * KIB, COLUMNS)]
    assert [each.name for each in ordered(loops, streams, 2304)] == ["columns", "rows"]
    assert traffic(["columns", "rows"], {"rows": 49, "columns": 64}, streams, 320 * KIB) == 64 * (49 * 6 + 36) * KIB
    assert traffic(["rows", "columns"], {"rows": 49, "columns": 64}, streams, 320 * KIB) == 49 * (64 * 36 + 6) * KIB


@pytest.mark.parametrize("rows", [4, "N"])
def test_the_order_of_the_result_stays(rows: int | str) -> None:
    """Where nothing is gained, and where a number of steps is not known."""
    loops = [loop("rows", rows), loop("columns", 16)]
    assert ordered(loops, [Stream(512, ROWS), Stream(KIB, COLUMNS)], 100) == tuple(loops)


def test_what_does_not_change_stays_in_cache() -> None:
    trips = {"rows": 10, "columns": 10}
    small, large = Stream(KIB, ROWS), Stream(100 * KIB, COLUMNS)
    assert traffic(["rows", "columns"], trips, [small], 24 * KIB) == 10 * KIB
    assert traffic(["rows", "columns"], trips, [small, large], 24 * KIB) == 10 * KIB + 100 * 100 * KIB


def test_a_product_with_heavy_weights() -> None:
    """Columns are the outer loop; neither rows nor columns are whole tiles."""
    product = nest("y", axes(n=67, m=500), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=700))
    binary = build(program({"x": tensor(67, 700)}, {"w": normal(500, 700)}, [product], "y"))
    assert binary.families == ["contraction"]
    assert_agrees(binary, {"x": normal(67, 700)}, 1e-5)


@pytest.mark.parametrize(
    ("rows", "inner", "columns", "target"),
    [(49, 3072, 48, "cpu"), (50, 2048, 100, "cpu"), (29, 4096, 32, "cpu"), (13, 4096, 32, "cpu:avx2")],
)
def test_long_sums_are_made_in_blocks(rows: int, inner: int, columns: int, target: str) -> None:
    """A tile of weights that does not stay in cache passes all rows a block at a time; 13 rows are two large tiles."""
    product = nest("y", axes(n=rows, m=columns), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=inner))
    inputs = {"x": normal(rows, inner)}
    binary = build(program({"x": tensor(rows, inner)}, {"w": normal(columns, inner)}, [product], "y"), target)
    assert f"512 of {inner} k at a time" in binary.compiled.steps[0].detail
    assert_agrees(binary, inputs, 1e-5)


@pytest.mark.parametrize(("rows", "columns", "tile"), [(1, 1000, "5 vectors of 8 m"), (64, 1024, "2 vectors of 8 m")])
def test_tiles_cut_long_rows_of_weights_without_a_rest(rows: int, columns: int, tile: str) -> None:
    product = nest("y", axes(n=rows, m=columns), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=160))
    types = {"x": tensor(rows, 160)}
    binary = build(program(types, {"w": normal(columns, 160)}, [product], "y"), "cpu:avx2")
    assert binary.compiled.steps[0].detail.endswith(tile)
    assert_agrees(binary, {"x": normal(rows, 160)}, 1e-5)


@pytest.mark.parametrize(("inner", "width"), [(200, 16), (300, 8)])
def test_weights_that_no_cache_keeps_are_cut_into_half_vectors_without_a_rest(inner: int, width: int) -> None:
    """1000 are 25 tiles of 5 vectors of 8; a megabyte is lost from the second-level cache between calls."""
    product = nest("y", axes(n=1, m=1000), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=inner))
    nests = program({"x": tensor(1, inner)}, {"w": normal(1000, inner)}, [product], "y")
    assert build(nests, "cpu:avx512").compiled.steps[0].detail.endswith(f"vectors of {width} m")


@pytest.mark.parametrize("target", ["cpu", "cpu:avx2"])
@pytest.mark.parametrize(
    ("heads", "left", "right"),
    [(8, 64, 64), (5, 100, 50), (7, 28, 72), (3, 33, 20), (2, 100, 12), (4, 14, 40), (2, 200, 256)],
)
def test_operands_across_are_copied_for_each_block(heads: int, left: int, right: int, target: str) -> None:
    """A sum over positions of products of heads, whose rows lie apart; tiles overlap where sizes leave a rest.

    Tiles of several heads, which long vectors may have of small ones, read what they need where it lies.
    """
    product = mul(read("k", "s", "g", "d"), read("v", "s", "g", "e"))
    state = nest("y", axes(g=heads, d=left, e=right), total(product, s=1024))
    types = {"k": tensor(1024, heads, left), "v": tensor(1024, heads, right)}
    binary = build(program(types, {}, [state], "y"), target)
    detail, small = binary.compiled.steps[0].detail, min(left, right) <= 20
    several = " g x " in detail
    assert ("operands in panels" in detail) != several
    assert not several or (small and parse(target).lanes > 8)
    assert_agrees(binary, {name: normal(*(n.value for n in type.shape)) for name, type in types.items()}, 1e-5)


def test_of_tiles_that_cost_the_same_the_one_with_the_fewest_loads_is_taken() -> None:
    """6 rows of two heads, 2 vectors each, take 16 loads; 6 rows of one head, 4 vectors each, take 10."""
    product = mul(read("q", "l", "g", "d"), read("s", "g", "d", "e"))
    result = nest("y", axes(l=96, g=8, e=64), total(product, d=64))
    nests = program({"q": tensor(96, 8, 64), "s": tensor(8, 64, 64)}, {}, [result], "y")
    assert build(nests, "cpu:avx512").compiled.steps[0].detail.startswith("6 l x 4 vectors of 16 e")


@pytest.mark.parametrize(
    ("rows", "inner", "columns", "target"),
    [
        (49, 768, 1104, "cpu"),
        (50, 2048, 480, "cpu"),
        (32, 1000, 912, "cpu"),
        (50, 2048, 400, "cpu:avx2"),
        (24, 1000, 912, "cpu:avx2"),
    ],
)
def test_the_next_weights_are_asked_for(rows: int, inner: int, columns: int, target: str) -> None:
    """Whole sums and blocks; the last piece has no next one. Four tiles of rows share a piece, which is a whole tile:
    of 16 lanes, 24 rows are three tiles, and 400 columns have no whole ones."""
    product = nest("y", axes(n=rows, m=columns), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=inner))
    binary = build(program({"x": tensor(rows, inner)}, {"w": normal(columns, inner)}, [product], "y"), target)
    assert "next weights ahead" in binary.compiled.steps[-1].detail
    assert_agrees(binary, {"x": normal(rows, inner)}, 1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(49, 496), (6, 1104)])
def test_near_weights_are_not_asked_for(rows: int, columns: int) -> None:
    """Those that a cache keeps, and those that hardly any tiles share."""
    product = nest("y", axes(n=rows, m=columns), total(mul(read("x", "n", "k"), read("w", "m", "k")), k=768))
    binary = build(program({"x": tensor(rows, 768)}, {"w": normal(columns, 768)}, [product], "y"))
    assert "ahead" not in binary.compiled.steps[-1].detail


def test_a_piece_of_weights() -> None:
    """A tile of 16 columns: 768 steps of a line each, which ten tiles of rows ask for, one before every 8 steps."""
    e = total(mul(read("x", "n", "k"), read("w", "t", "k", "m")), k=768)
    loops = {loop("t#", 30): "t", loop("n#", 10): "n", loop("m#", 1): "m"}
    ahead = Ahead.of(e, {"w": tensor(30, 768, 16)}, {"k": 768, "n": 5, "m": 16}, loops, "k")
    assert ahead is not None
    assert (ahead.piece, ahead.line, ahead.every, [axis.name for axis in ahead.around]) == (12288, 16, 8, ["n#"])
    apart = Ahead.of(e, {"w": tensor(30, 768, 32)}, {"k": 768, "n": 5, "m": 16}, loops, "k")
    assert apart is None, "the weights of a tile do not lie in a row"
