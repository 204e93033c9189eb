"""Which convolutions are marked for the Fourier transform, and what the ledger says of them."""

from __future__ import annotations

import pytest

import mercer
from mercer.frontend.library import default_library
from mercer.ir.nests import Nest, Nests
from mercer.ir.text import parse_program, print_nests
from mercer.passes.fft_convolution import FftConvolution
from mercer.passes.ledger import Exactness, LedgerEntry
from mercer.passes.manager import PassContext, run_passes
from mercer.passes.pipeline import INFERENCE


def compiled(layer: str, shape: str, advantage: float = 1.0) -> tuple[Nests, list[LedgerEntry]]:
    program = mercer.parse_text(f"model M(x: f32[{shape}]) {{ return {layer} |> relu }}")
    context = PassContext(default_library(), weights=program.initial())
    passes = [FftConvolution(advantage) if isinstance(each, FftConvolution) else each for each in INFERENCE]
    nests = run_passes(program.graph, passes, context)
    assert isinstance(nests, Nests)
    return nests, [entry for entry in context.ledger if entry.pass_name == "fft_convolution"]


@pytest.mark.parametrize(
    ("layer", "shape", "marked"),
    [
        ("Conv2d(x; 8, 3, pad=1, groups=8)", "N, 8, 56, 56", False),
        ("Conv2d(x; 8, 7, pad=3, groups=8)", "N, 8, 56, 56", False),
        ("Conv2d(x; 8, 15, pad=7, groups=8)", "N, 8, 56, 56", True),
        ("Conv2d(x; 8, 31, pad=15, groups=8)", "1, 8, 56, 56", True),
        ("Conv1d(x; 8, 16, pad=8, groups=8)", "N, 8, 4096", False),
        ("Conv1d(x; 8, 512, pad=256, groups=8)", "N, 8, 4096", True),
    ],
)
def test_the_cheaper_algorithm_is_chosen(layer: str, shape: str, marked: bool) -> None:
    nests, (entry,) = compiled(layer, shape)
    assert [s.algorithm for s in nests.statements if isinstance(s, Nest)] == ["fft" if marked else ""]
    assert (entry.fired, entry.exactness) == (marked, Exactness.REAL)
    if marked:
        assert entry.cost_before is not None
        assert entry.cost_after is not None
        assert entry.cost_after.flops < entry.cost_before.flops
    else:
        assert "multiply-adds at 1.5 a cycle" in (entry.reason or "")


def test_too_large_for_a_transform() -> None:
    _, (entry,) = compiled("Conv2d(x; 2, 31, pad=15, groups=2)", "1, 2, 300, 300")
    assert entry.reason == "300 x 300 inputs are more than a transform takes"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv2d(x; 8, 15, pad=7)", "1, 8, 56, 56"),
        ("Conv2d(x; 8, 15, pad=7, stride=2, groups=8)", "1, 8, 56, 56"),
        ("Linear(x; 512)", "N, 512"),
    ],
)
def test_other_sums_are_left_alone(layer: str, shape: str) -> None:
    nests, entries = compiled(layer, shape)
    assert not entries
    assert not any(s.algorithm for s in nests.statements if isinstance(s, Nest))


def test_the_advantage_that_is_asked_for() -> None:
    _, (entry,) = compiled("Conv2d(x; 8, 15, pad=7, groups=8)", "1, 8, 56, 56", advantage=100.0)
    assert not entry.fired


def test_the_mark_is_in_the_text() -> None:
    nests, _ = compiled("Conv2d(x; 8, 31, pad=15, groups=8)", "1, 8, 56, 56")
    text = print_nests(nests)
    assert " by fft  @ " in text
    again = parse_program(text)
    assert isinstance(again, Nests)
    assert [s.algorithm for s in again.statements if isinstance(s, Nest)] == ["fft"]
    with pytest.raises(mercer.MercerError, match="no algorithm is named magic"):
        parse_program(text.replace(" by fft", " by magic"))
