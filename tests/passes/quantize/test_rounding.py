"""Rounding on data: what a layer sees, sums that lose less than with the nearest codes, and the books of codes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import mercer
from mercer.ir.graph import AttributeValue, Node
from mercer.ir.spans import NOWHERE
from mercer.ir.types import DType
from mercer.passes.factorize.approximation import compute
from mercer.passes.manager import PipelineError
from mercer.passes.quantize.code_books import code_books, nearest_level
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.ranges import weight_codes
from mercer.passes.quantize.rounding import compensated, moments, seen
from mercer.runtime.errors import MercerError
from tests.passes.quantize.test_quantize import distance, integer, program

LIBRARY = program("x |> flatten |> Linear(5)").library
CNN = "x |> Conv2d(8, 3, pad = 1) |> relu |> Conv2d(8, 3, stride = 2, groups = 2) |> relu |> flatten |> Linear(5)"
KERNELS = "x |> flatten |> Linear(4) |> KernelMachine(5, centers = 16, kernel = gaussian(gamma = 0.02))"


def smooth(count: int = 96, seed: int = 0) -> np.ndarray:
    """Images whose pixels depend on each other, as those of photographs do."""
    x = np.random.default_rng(seed).standard_normal((count, 4, 8, 8)).cumsum(axis=2).cumsum(axis=3)
    return (x / 8).astype(np.float32)


def correlated(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((1, rows, 4)) @ random.standard_normal(
        (1, 4, columns)
    ) + 0.1 * random.standard_normal((1, rows, columns))


# --- what a layer sees ------------------------------------------------------------------------------------------------

GEOMETRIES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, AttributeValue]]] = [
    ((3, 4, 11), (6, 4, 3), {"stride": 2, "pad": 1}),
    ((3, 4, 7, 9), (6, 4, 3, 2), {"stride": (2, 1), "pad": (1, 0), "dilation": (1, 3)}),
    ((2, 4, 6, 6), (4, 1, 3, 3), {"groups": 4, "pad": 1}),
    ((2, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    ((2, 2, 5, 6, 4), (3, 2, 2, 3, 1), {"pad": (0, 1, 0)}),
]


@pytest.mark.parametrize(("x", "weight", "attributes"), GEOMETRIES)
def test_windows_times_the_weight_are_the_convolution(
    x: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, AttributeValue]
) -> None:
    random = np.random.default_rng(0)
    arrays = random.standard_normal(x), random.standard_normal(weight)
    operator = f"conv{len(x) - 2}d"
    node = Node(operator, ("x", "w"), LIBRARY.normalize(operator, attributes), (), NOWHERE)
    rows = seen(LIBRARY, node, arrays[:1], weight)
    assert rows is not None
    sums = rows @ np.swapaxes(arrays[1].reshape(len(rows), -1, rows.shape[2]), 1, 2)
    expected = np.moveaxis(compute(LIBRARY, operator, arrays, attributes), 1, -1)
    np.testing.assert_allclose(np.concatenate(list(sums), axis=-1).reshape(expected.shape), expected, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_samples_times_the_weight_are_the_deformable_convolution(groups: int) -> None:
    random = np.random.default_rng(0)
    x, offset, mask = (random.standard_normal((2, count, 5, 6)) for count in (4, 36, 18))
    weight = random.standard_normal((6, 4 // groups, 3, 3))
    attributes: dict[str, AttributeValue] = {"pad": 1, "groups": groups, "offset_groups": 2}
    names = ("x", "offset", "mask", "w")
    node = Node("deform_conv2d", names, LIBRARY.normalize("deform_conv2d", attributes), (), NOWHERE)
    rows = seen(LIBRARY, node, (x, offset, mask), weight.shape)
    assert rows is not None
    sums = np.concatenate(list(rows @ np.swapaxes(weight.reshape(groups, -1, rows.shape[2]), 1, 2)), axis=-1)
    expected = np.moveaxis(compute(LIBRARY, "deform_conv2d", (x, offset, mask, weight), attributes), 1, -1)
    np.testing.assert_allclose(sums.reshape(expected.shape), expected, atol=1e-12)


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_less_is_lost_than_with_the_nearest_codes(bits: int, shared: bool) -> None:
    rows = correlated(300, 96)
    weight = np.random.default_rng(1).standard_normal((1, 7, 96))
    near, scale = weight_codes(weight[0], bits, None if shared else 0)
    codes, scales = compensated(weight, moments(rows, centered=False), code_books("uniform", bits), shared)
    assert np.abs(codes).max() <= max((1 << bits - 1) - 1, 1)
    assert not shared or len(np.unique(scales)) == 1
    before, after = (rows @ (weight - each).transpose(0, 2, 1) for each in (near * scale[:, None], codes * scales))
    assert np.linalg.norm(after) < 0.5 * np.linalg.norm(before)


def test_groups_are_rounded_on_their_own() -> None:
    random = np.random.default_rng(0)
    rows, weight = random.standard_normal((3, 200, 9)), random.standard_normal((3, 2, 9))
    hessian, books = moments(rows, centered=True), code_books("uniform", 3)
    codes, scales = compensated(weight, hessian, books, shared=False)
    for group in range(3):
        alone = compensated(weight[group : group + 1], hessian[group : group + 1], books, shared=False)
        np.testing.assert_array_equal(codes[group], alone[0][0])
        np.testing.assert_allclose(scales[group], alone[1][0])


def test_codes_are_near_the_best_of_all() -> None:
    """Against every choice of five ternary codes, at the same scale."""
    rows, weight = correlated(100, 5), np.random.default_rng(2).standard_normal((1, 40, 5))
    hessian = moments(rows, centered=False)
    codes, scales = compensated(weight, hessian, code_books("ternary", 2), shared=False)
    every = np.array(list(itertools.product((-1, 0, 1), repeat=5)))

    def loss(error: np.ndarray) -> np.ndarray:
        return ((error @ hessian[0]) * error).sum(axis=-1)

    best = loss(weight[0][:, None] - every * scales[0][:, None]).min(axis=1)
    found = loss(weight[0] - codes[0] * scales[0])
    assert (found >= best - 1e-9).all() and np.median(found / best) < 1.001 and found.sum() < 1.3 * best.sum()


def test_a_row_of_zeros() -> None:
    codes, scales = compensated(
        np.zeros((1, 2, 8)), moments(np.zeros((1, 5, 8)), centered=True), code_books("uniform", 4), shared=False
    )
    assert not codes.any() and (scales > 0).all()


@pytest.mark.parametrize("body", [CNN, KERNELS])
def test_programs_of_four_bits(body: str) -> None:
    model, x, unseen = program(body), smooth(), smooth(seed=1)
    (expected,) = model.evaluate(unseen, weights=model.initial(), precision=DType.F64)
    errors: list[float] = []
    for rounding in ("nearest", "gptq"):
        whole, _ = integer(model, x, Quantize(weights=4, rounding=rounding))
        errors.append(distance(whole.evaluate(unseen, weights={})[0], expected))
    assert errors[1] < 0.8 * errors[0]


def test_a_stack_of_matrices_has_a_scale_per_column() -> None:
    text = "param w: f32[3, 6, 5] = normal(0, 1)\n return matmul(x, w)"
    model = mercer.parse_text(f"model M(x: f32[N, 3, 4, 6]) -> f32[N, 3, 4, 5] {{ {text} }}")
    x = np.random.default_rng(0).standard_normal((16, 3, 4, 6)).astype(np.float32)
    weights = {"w": model.initial()["w"] * np.float32([1, 10, 100, 1000, 1e4])}
    (expected,) = model.evaluate(x, weights=weights, precision=DType.F64)
    for per_channel, bound in ((True, 0.02), (False, 1.1)):
        binary = mercer.compile(model, weights=weights, data=x, quantize=Quantize(per_channel=per_channel))
        assert max(distance(binary(x)[..., n], expected[..., n]) for n in range(5)) < bound


def test_sums_of_a_transposed_convolution_run_over_its_inputs() -> None:
    text = "param w: f32[140000, 1, 1] = uniform(1, 1)\n return conv_transpose1d(x, w)"
    model = mercer.parse_text(f"model M(x: f32[N, 140000, 1]) -> f32[N, 1, 1] {{ {text} }}")
    weights = {"w": np.ones((140000, 1, 1), np.float32)}
    with pytest.raises(MercerError, match="overflow"):
        mercer.compile(model, weights=weights, data=np.ones((2, 140000, 1), np.float32), quantize="w8a8")


# --- code books -------------------------------------------------------------------------------------------------------


def test_books() -> None:
    assert [list(book) for book in code_books("uniform", 3)] == [[-3, -2, -1, 0, 1, 2, 3]]
    assert [list(book) for book in code_books("uniform", 1)] == [[-1, 1]]
    assert [list(book) for book in code_books("ternary", 8)] == [[-1, 0, 1]]
    assert [list(book) for book in code_books("power_of_two", 3)] == [[-4, -2, -1, 0, 1, 2, 4]]
    assert [max(map(abs, book)) for book in code_books("power_of_two", 8)] == [64]
    power = code_books("power", 4)
    assert all(len(book) == 15 and book[-1] == 127 and (book == -book[::-1]).all() for book in power)
    assert list(power[-1][8:]) == [3, 10, 23, 41, 65, 93, 127]


def test_nearest_level() -> None:
    levels, values = np.array([-4, -1, 0, 1, 4]), np.random.default_rng(0).normal(0, 3, 1000)
    assert (np.abs(nearest_level(values, levels) - values) == np.abs(values[:, None] - levels).min(axis=1)).all()


def test_books_that_suit_the_weights_lose_less() -> None:
    """Heavy tails: codes that are close around zero beat steps of one size, which beat three codes."""
    weight = np.random.default_rng(0).laplace(size=(5, 256)) ** 3
    errors: dict[str, float] = {}
    for codes in ("power", "power_of_two", "uniform", "ternary"):
        found, scales = weight_codes(weight, 4, 0, codes)
        errors[codes] = distance(found * scales[:, None], weight)
    assert errors["power"] < 0.8 * errors["uniform"] < 0.8 * errors["ternary"]
    assert errors["power_of_two"] < errors["uniform"]


@pytest.mark.parametrize(
    ("quantize", "bound"),
    [
        (Quantize(weights=2, codes="ternary"), 0.6),
        (Quantize(weights=4, codes="power_of_two"), 0.2),
        (Quantize(weights=4, codes="power"), 0.1),
        (Quantize(weights=4, codes="power", per_channel=False, rounding="nearest"), 0.2),
    ],
)
def test_programs_with_books(quantize: Quantize, bound: float) -> None:
    model, x = program(CNN), smooth()
    (expected,) = model.evaluate(x, weights=model.initial(), precision=DType.F64)
    whole, _ = integer(model, x, quantize)
    (reference,) = whole.evaluate(x, weights={})
    assert distance(reference, expected) <= bound
    codes = [c.data.array for c in whole.graph.constants if c.name.endswith(".codes")]
    books = [set(map(int, book)) for book in code_books(quantize.codes, quantize.weights)]
    assert len(codes) == 3
    assert all(
        array is not None and any({int(c) for c in np.unique(array)} <= book for book in books) for array in codes
    )
    with torch.no_grad():
        np.testing.assert_array_equal(whole.torch()(torch.from_numpy(x)).numpy(), reference)


def test_bad_options() -> None:
    for option in ({"rounding": "up"}, {"codes": "huffman"}):
        with pytest.raises(PipelineError):
            replace(Quantize(), **option)
