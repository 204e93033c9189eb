"""Operations and bytes that a step cannot do without, counted by hand."""

from __future__ import annotations

import pytest

import mercer
from mercer.backends.tvm import roof
from mercer.runtime.artifact import evaluate_dim


def counted(source: str, **sizes: int) -> list[tuple[str, int, int]]:
    """(schedule, flops, bytes) of every step."""
    steps = mercer.compile(mercer.parse_text(source)).artifact.manifest.entry["steps"]
    return [(s["family"], *(evaluate_dim(s[kind], sizes) for kind in ("flops", "bytes"))) for s in steps]


def test_a_product() -> None:
    ((_, flops, moved),) = counted(
        "op f(x: T[n, i], w: T[o, i]) -> T[n, o] { return y[n, o] = sum[i] w[o, i] * x[n, i] }\n"
        "model M(x: f32[N, 32]) -> f32[N, 8] { param w: f32[8, 32] = normal(0, 1)\n return f(x, w) }",
        N=5,
    )
    assert flops == 2 * 5 * 8 * 32
    assert moved == 4 * (5 * 32 + 8 * 32 + 5 * 8)


def test_what_does_not_depend_on_an_index_counts_once() -> None:
    steps = counted(
        "op f(x: T[n, i], w: T[o, i]) -> T[n, o] { return y[n, o] = sum[i] w[o, i] * exp(x[n, i]) }\n"
        "model M(x: f32[N, 16], w: f32[8, 16]) -> f32[N, 8] { return f(x, w) }",
        N=3,
    )
    assert sum(flops for _, flops, _ in steps) == 3 * 16 * 32 + 2 * 3 * 8 * 16  # exp counts 32


def test_only_what_is_read_moves() -> None:
    ((_, flops, moved),) = counted("model M(x: f32[N, 64]) -> f32[N, 4] { return relu(x[:, :4]) }", N=7)
    assert flops == 7 * 4
    assert moved == 2 * 4 * 7 * 4


def test_a_padded_convolution() -> None:
    steps = counted(
        "model M(x: f32[N, 3, 8, 8]) -> f32[N, 6, 8, 8] { return Conv2d(x; 6, 3, pad = 1, bias = false) }", N=2
    )
    assert sum(flops for _, flops, _ in steps) == 2 * 2 * 6 * 8 * 8 * 27


def test_a_transform() -> None:
    steps = counted("model M(x: f32[N, 256]) -> c64[N, 129] { return rfft(x) }", N=3)
    assert sum(flops for _, flops, _ in steps) == 3 * 256 * 20


def test_the_roof_of_this_machine() -> None:
    found = roof.quick(1, [100, 3 << 20])
    assert [size for size, _ in found.bandwidth] == [1 << 17, 1 << 22]
    assert 1e8 < found.flops < 1e12
    assert all(1e8 < speed < 1e12 for _, speed in found.bandwidth)
    assert found.seconds(found.flops, 0) == pytest.approx(1.0)
    assert not found.counts_operations(1, 1 << 20)
