"""Programs that compute a batch a part at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import mercer
from mercer.backends.tvm.memory import Storage, repeated
from mercer.backends.tvm.parts import in_parts
from mercer.commands.step_times import measure
from mercer.ir.index import Expr, Read, call
from mercer.ir.nests import Nests, defined
from mercer.ir.types import DType
from mercer.runtime.artifact import Artifact
from tests.backends.tvm_programs import (
    IndexLike,
    as_real,
    assert_agrees,
    axes,
    build,
    index,
    mul,
    nest,
    normal,
    number,
    position,
    program,
    read,
    reshape,
    tensor,
    total,
)

SHAPE = CHANNELS, ROWS, COLUMNS = 16, 64, 64


def image(name: str, sample: IndexLike = "b", column: IndexLike = "j") -> Read:
    return read(name, sample, "c", "i", column)


def images(*bodies: Expr, batch: int | str = 40, outputs: tuple[str, ...] = ()) -> Nests:
    """t0, t1, ... of x f32[batch, channels, rows, columns] and w f32[channels]."""
    loops = axes(b=batch, c=CHANNELS, i=ROWS, j=COLUMNS)
    inputs = {"x": tensor(batch, *SHAPE), "w": tensor(CHANNELS)}
    statements = [nest(f"t{k}", loops, body) for k, body in enumerate(bodies)]
    return program(inputs, {}, statements, *(outputs or (f"t{len(bodies) - 1}",)))


FIRST = call("add", image("x"), read("w", "c"))
SECOND = total(mul(read("t0", "b", "k", "i", "j"), read("w", "c")), k=CHANNELS)
THIRD = call("max", image("t1"), image("x"))


@pytest.mark.parametrize(("batch", "samples"), [(40, 1), (128, 2), (17, 1)])
def test_parts_of_a_batch(batch: int, samples: int) -> None:
    nests = images(FIRST, SECOND, THIRD, batch=batch, outputs=("t2", "t0"))
    parts = in_parts(nests)
    assert parts is not None
    assert (parts.count, [value.name for value in parts.inputs]) == (batch // samples, ["x"])
    assert all(value.type.shape[0].value == samples for s in parts.nests.statements for value in defined(s))
    binary = build(nests)
    assert binary.compiled.parts == batch // samples
    functions = [step.function for step in binary.compiled.steps]
    assert functions[0] == "take"
    assert functions[-2:] == ["join", "join"]
    assert_agrees(binary, {"x": normal(batch, *SHAPE), "w": normal(CHANNELS)})


def test_places_computed_from_the_same_sample() -> None:
    """As those of a deformable convolution are."""
    place = position(call("cast", call("abs", mul(image("t0"), number(3.0))), dtype=DType.I32)).minimum(COLUMNS - 1)
    nests = images(FIRST, image("t0", column=place), THIRD)
    assert in_parts(nests) is not None
    assert_agrees(build(nests), {"x": normal(40, *SHAPE), "w": normal(CHANNELS)})


@pytest.mark.parametrize(
    "second",
    [
        image("t0", 39 - index("b")),
        mul(image("t0"), as_real(index("b"))),
        mul(image("t0"), image("x", 0)),
        total(image("t0", "n"), n=40),
        image("t0", column=(index("j") + index("b")) % COLUMNS),
        mul(image("t0"), total(as_real(index("n")), n=index("b") + 1)),
    ],
    ids=["another sample", "its number", "the first sample", "all samples", "a place by its number", "a sum by it"],
)
def test_samples_that_depend_on_each_other(second: Expr) -> None:
    nests = images(FIRST, second, THIRD)
    assert in_parts(nests) is None
    assert in_parts(images(FIRST, SECOND, THIRD)) is not None


def test_where_parts_would_not_pay() -> None:
    """A batch that a cache holds, few statements, small samples, weights that would be read again and again."""
    assert in_parts(images(FIRST, SECOND, THIRD, batch=8)) is None
    assert in_parts(images(FIRST, SECOND, THIRD, batch=1)) is None
    assert in_parts(images(FIRST, SECOND, THIRD, batch="N")) is None
    assert in_parts(images(FIRST, SECOND)) is None
    loops = axes(b=4096, c=512)
    rows = [nest(f"t{k}", loops, mul(read(f"t{k - 1}" if k else "x", "b", "c"), number(2.0))) for k in range(4)]
    assert in_parts(program({"x": tensor(4096, 512)}, {}, rows, "t3")) is None
    heavy = nest("y", axes(b=40, m=4096), total(mul(read("t2", "b", 0, 0, "k"), read("v", "m", "k")), k=COLUMNS))
    nests = images(FIRST, SECOND, THIRD)
    weights = {"v": np.zeros((4096, 4096), np.float32)}
    statements = [*nests.statements, heavy]
    inputs = {value.name: value.type for value in nests.inputs}
    assert in_parts(program(inputs, weights, statements, "y")) is None
    assert in_parts(program(inputs, {"v": weights["v"][:, :64]}, statements, "y")) is not None


def test_a_view_keeps_the_samples() -> None:
    nests = images(FIRST, SECOND, THIRD)
    inputs = {value.name: value.type for value in nests.inputs}
    flat = reshape("flat", "t2", tensor(40, CHANNELS, ROWS * COLUMNS))
    sums = nest("y", axes(b=40, c=CHANNELS), total(read("flat", "b", "c", "k"), k=ROWS * COLUMNS))
    whole = program(inputs, {}, [*nests.statements, flat, sums], "y")
    assert in_parts(whole) is not None
    assert_agrees(build(whole), {"x": normal(40, *SHAPE), "w": normal(CHANNELS)})
    mixed = reshape("flat", "t2", tensor(40 * CHANNELS, ROWS * COLUMNS))
    sums = nest("y", axes(b=40 * CHANNELS), total(read("flat", "b", "k"), k=ROWS * COLUMNS))
    assert in_parts(program(inputs, {}, [*nests.statements, mixed, sums], "y")) is None


SOURCE = """
model Net(x: f32[16, 8, 64, 64]) -> f32[16, 10] {
  h = x |> Conv2d(32, 3, pad=1) as first |> relu |> Conv2d(32, 3, pad=1, groups=32) as second |> relu
  return h |> Conv2d(64, 1) as third |> relu |> mean(axis = 3) |> mean(axis = 2) |> Linear(10) as head
}
"""


def test_a_network(tmp_path: Path) -> None:
    """Its steps, times and memory are those of the whole batch."""
    path = tmp_path / "net.mrc"
    source = mercer.parse_text(SOURCE)
    executable = mercer.compile(source)
    executable.save(path)
    artifact = Artifact.load(path)
    assert artifact.manifest.entry["parts"] == 16
    x = normal(16, 8, 64, 64)
    w = {name: torch.tensor(array) for name, array in source.initial().items()}
    h = functional.conv2d(torch.tensor(x), w["first.weight"], w["first.bias"], padding=1).relu()
    h = functional.conv2d(h, w["second.weight"], w["second.bias"], padding=1, groups=32).relu()
    h = functional.conv2d(h, w["third.weight"], w["third.bias"]).relu().mean((2, 3))
    expected = functional.linear(h, w["head.weight"], w["head.bias"]).numpy()
    np.testing.assert_allclose(executable(x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    times = measure(artifact, {}, 1)
    assert not times.missing
    names = [step["function"] for step in artifact.manifest.entry["steps"]]
    assert (names[0], names[-1], len(names)) == ("take", "join", len(times.steps))
    products = 2 * 16 * 64 * 64 * (32 * 8 * 9 + 32 * 9 + 64 * 32)
    assert products <= sum(step.flops for step in times.steps) <= 1.1 * products


def test_the_memory_of_parts() -> None:
    """Two calls of a function with three steps, each after a copy; its result and that of the caller stay."""
    part = Storage("a", 0, 1), Storage("result", 2, 3)
    around = Storage("copy", 0, 1), Storage("copy", 2, 3), Storage("whole", 4, 5)
    assert repeated(part, around, 2, 1) == (
        Storage("a", 1, 2),
        Storage("result", 3, 8),
        Storage("a", 5, 6),
        Storage("result", 7, 8),
        Storage("copy", 0, 3),
        Storage("copy", 4, 7),
        Storage("whole", 8, 8),
    )
