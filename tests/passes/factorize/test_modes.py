"""Spectral convolutions on fewer modes: the error of Parseval, and none where weights are zero."""

from __future__ import annotations

import numpy as np
import pytest

from mercer.passes.factorize.modes import Modes
from mercer.passes.ledger import Exactness
from tests.passes.factorize.approximations import Result, apply

RANDOM = np.random.default_rng(13)
LENGTH, MODES, CHANNELS, OUT = 32, 12, 3, 4


def line(modes: int = MODES) -> str:
    return f"""model M(x: f32[N, {CHANNELS}, {LENGTH}]) -> f32[N, {OUT}, {LENGTH}] {{
      param re: f32[{CHANNELS}, {OUT}, {modes}] = normal(0, 1)
      param im: f32[{CHANNELS}, {OUT}, {modes}] = normal(0, 1)
      return spectral_conv1d(x, re, im)
    }}"""


def image(rows: int = 8, columns: int = 5) -> str:
    return f"""model M(x: f32[N, {CHANNELS}, 16, 12]) -> f32[N, {OUT}, 16, 12] {{
      param re: f32[{CHANNELS}, {OUT}, {rows}, {columns}] = normal(0, 1)
      param im: f32[{CHANNELS}, {OUT}, {rows}, {columns}] = normal(0, 1)
      return spectral_conv2d(x, re, im)
    }}"""


def weights(*modes: int, decay: float = 1.0) -> dict[str, np.ndarray]:
    shape = (CHANNELS, OUT, *modes)
    factor = decay ** np.arange(modes[-1])
    return {name: (RANDOM.normal(size=shape) * factor).astype(np.float32) for name in ("re", "im")}


LINE = RANDOM.normal(size=(6, CHANNELS, LENGTH)).astype(np.float32)
IMAGE = RANDOM.normal(size=(6, CHANNELS, 16, 12)).astype(np.float32)


@pytest.mark.parametrize("modes", [1, 4, 9])
def test_error_is_the_energy_of_the_dropped_modes(modes: int) -> None:
    values = weights(MODES)
    result = apply(line(), Modes(modes=modes), LINE, values)
    weight = values["re"].astype(np.float64) + 1j * values["im"]
    spectrum = np.einsum("nck,cok->nok", np.fft.rfft(LINE[1::2].astype(np.float64))[..., :MODES], weight)
    energy = np.sum(np.abs(spectrum[..., 1:]) ** 2, axis=(0, 1)) * 2.0
    zero = np.sum(spectrum[..., 0].real ** 2)
    expected = np.sqrt(energy[modes - 1 :].sum() / (zero + energy.sum()))
    assert result.error == pytest.approx(expected, rel=1e-5)
    assert result.fired.exactness is Exactness.APPROX


@pytest.mark.parametrize(("text", "x", "shape"), [(line(), LINE, (MODES,)), (image(), IMAGE, (8, 5))])
def test_error_falls_with_the_modes(text: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    values = weights(*shape, decay=0.4)
    errors = [apply(text, Modes(modes=modes), x, values).error for modes in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1 * errors[0]


def kept(result: Result) -> list[int]:
    (node,) = result.after.nodes
    return [extent.value for extent in result.after.types()[node.operands[1]].shape[2:]]


def test_exact_where_weights_are_zero() -> None:
    values = weights(MODES)
    values["re"][..., 7:], values["im"][..., 6:] = 0.0, 0.0
    result = apply(line(), Modes(), LINE, values)
    assert kept(result) == [7] and result.fired.exactness is Exactness.REAL
    assert result.error < 1e-7


def test_exact_on_images() -> None:
    """Rows have the frequencies 0 to 3, then -4 to -1."""
    values = weights(8, 5)
    for array in values.values():
        array[..., [2, 3, 4, 5], :] = 0.0
        array[..., 2:] = 0.0
    result = apply(image(), Modes(), IMAGE, values)
    assert kept(result) == [4, 2] and result.error < 1e-7


def test_rows_keep_frequencies_of_both_signs() -> None:
    result = apply(image(), Modes(modes=3), IMAGE, weights(8, 5))
    assert kept(result) == [6, 3]


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (Modes(), "every mode has a weight"),
        (Modes(modes=MODES), "there are no modes above 12"),
        (Modes(modes=-1), "-1 modes are fewer than none"),
        (Modes(modes=1, max_error=0.01), "exceeds max_error"),
    ],
)
def test_refusals(each: Modes, reason: str) -> None:
    assert reason in apply(line(), each, LINE, weights(MODES)).reason


def test_weights_that_are_not_bound_are_refused() -> None:
    assert apply(line(), Modes(), LINE, bind=False).reason == "the re %re is not a constant"
