"""Fourier transforms. They are c64 and f32, so that all of it is computed in f32."""

from __future__ import annotations

from typing import Any

import scipy.fft
import torch

from tests.operators.records.complex import complex_normal, real_normal
from tests.operators.records.record import Record, bad, sample

TOLERANCE = 2e-6
LENGTHS = (1, 2, 3, 4, 8, 16, 17, 30, 64, 100)
"""Every kind of butterfly, a large prime, four steps, and a mixture."""


def _long_convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    channels, length = weight.shape
    padded = torch.nn.functional.pad(x, (length - 1, 0))
    return torch.nn.functional.conv1d(padded, weight.flip(-1)[:, None], groups=channels)


def _dct(x: torch.Tensor, kind: int = 2, norm: str = "backward") -> Any:
    return scipy.fft.dct(x.numpy(), type=kind, norm=norm)


def _spectral1d(x: torch.Tensor, re: torch.Tensor, im: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(x)
    low = torch.einsum("ncm,com->nom", spectrum[..., : re.shape[-1]], torch.complex(re, im))
    return torch.fft.irfft(torch.nn.functional.pad(low, (0, spectrum.shape[-1] - low.shape[-1])), n=x.shape[-1])


def _spectral2d(x: torch.Tensor, re: torch.Tensor, im: torch.Tensor) -> torch.Tensor:
    """The layer of the authors, with their two weights stacked."""
    spectrum = torch.fft.rfft2(x)
    weight = torch.complex(re, im)
    rows, columns = re.shape[-2] // 2, re.shape[-1]
    result = torch.zeros(x.shape[0], re.shape[1], *spectrum.shape[2:], dtype=spectrum.dtype)
    for part, own in ((slice(0, rows), slice(0, rows)), (slice(-rows, None), slice(rows, None))):
        result[:, :, part, :columns] = torch.einsum(
            "ncij,coij->noij", spectrum[:, :, part, :columns], weight[:, :, own]
        )
    return torch.fft.irfft2(result, s=x.shape[-2:])


RECORDS = (
    Record("fft_last", tuple(sample(complex_normal(3, n)) for n in LENGTHS), torch.fft.fft, tolerance=TOLERANCE),
    Record("ifft_last", tuple(sample(complex_normal(3, n)) for n in LENGTHS), torch.fft.ifft, tolerance=TOLERANCE),
    Record(
        "rfft_last",
        tuple(sample(real_normal(3, 2 * n)) for n in LENGTHS),
        torch.fft.rfft,
        tolerance=TOLERANCE,
    ),
    Record(
        "irfft_last",
        tuple(sample(complex_normal(3, n + 1)) for n in LENGTHS),
        torch.fft.irfft,
        differentiable=False,
        tolerance=TOLERANCE,
    ),
    Record(
        "fft_inner",
        tuple(sample(complex_normal(2, n, k)) for n, k in ((1, 3), (8, 1), (12, 5), (17, 8), (30, 13), (64, 16))),
        lambda x: torch.fft.fft(x, dim=-2),
        tolerance=TOLERANCE,
    ),
    Record(
        "ifft_inner",
        tuple(sample(complex_normal(2, n, k)) for n, k in ((1, 3), (12, 5), (17, 8), (64, 16))),
        lambda x: torch.fft.ifft(x, dim=-2),
        tolerance=TOLERANCE,
    ),
    Record(
        "fft",
        (sample(complex_normal(2, 3, 12)), *(sample(complex_normal(6, 5, 8), axis=a) for a in (0, 1, -1, 2))),
        lambda x, axis=-1: torch.fft.fft(x, dim=axis),
        tolerance=TOLERANCE,
    ),
    Record(
        "ifft",
        (sample(complex_normal(2, 3, 12)), *(sample(complex_normal(6, 5, 8), axis=a) for a in (0, 1, -1, 2))),
        lambda x, axis=-1: torch.fft.ifft(x, dim=axis),
        tolerance=TOLERANCE,
    ),
    Record(
        "rfft",
        (*(sample(real_normal(3, n)) for n in (1, 2, 5, 8, 30, 128)), sample(real_normal(6, 5, 3), axis=-2)),
        lambda x, axis=-1: torch.fft.rfft(x, dim=axis),
        tolerance=TOLERANCE,
    ),
    Record(
        "irfft",
        (
            *(sample(complex_normal(3, n)) for n in (2, 4, 5, 65)),
            *(sample(complex_normal(3, n // 2 + 1), n=n) for n in (1, 2, 7, 8)),
            sample(complex_normal(4, 5, 3), axis=-2),
            sample(complex_normal(4, 5, 3), n=7, axis=0),
        ),
        lambda x, n=None, axis=-1: torch.fft.irfft(x, n=n, dim=axis),
        differentiable=False,
        tolerance=TOLERANCE,
    ),
    Record("fft2", (sample(complex_normal(2, 6, 8)),), torch.fft.fft2, tolerance=TOLERANCE),
    Record("ifft2", (sample(complex_normal(2, 6, 8)),), torch.fft.ifft2, tolerance=TOLERANCE),
    Record("rfft2", (sample(real_normal(2, 6, 8)), sample(real_normal(5, 7))), torch.fft.rfft2, tolerance=TOLERANCE),
    Record(
        "irfft2",
        (sample(complex_normal(2, 6, 5)), sample(complex_normal(5, 4), n=7)),
        lambda x, n=None: torch.fft.irfft2(x, s=(x.shape[-2], n or 2 * (x.shape[-1] - 1))),
        differentiable=False,
        tolerance=TOLERANCE,
    ),
    Record(
        "dct",
        tuple(
            sample(real_normal(2, n), kind=kind, norm=norm)
            for n in (1, 8, 33, 64)
            for kind in (2, 3)
            for norm in ("backward", "ortho")
        ),
        _dct,
        (bad("found 4", (2, 8), kind=4), bad("found forward", (2, 8), norm="forward")),
        differentiable=False,
        tolerance=TOLERANCE,
    ),
    Record(
        "fft_conv",
        (
            sample(real_normal(2, 3, 40), real_normal(3, 40)),
            sample(real_normal(1, 2, 70), real_normal(2, 9)),
            sample(real_normal(2, 1, 1), real_normal(1, 1)),
        ),
        _long_convolution,
        (bad("3", (1, 2, 8), (3, 8)),),
        tolerance=TOLERANCE,
        gradient_tolerance=1e-5,
    ),
    Record(
        "spectral_conv1d",
        (
            sample(real_normal(2, 3, 16), real_normal(3, 4, 5), real_normal(3, 4, 5)),
            sample(real_normal(2, 3, 9), real_normal(3, 2, 5), real_normal(3, 2, 5)),
        ),
        _spectral1d,
        (bad("9 modes; the weights have 10", (1, 2, 16), (2, 2, 10), (2, 2, 10)),),
        tolerance=TOLERANCE,
        gradient_tolerance=1e-5,
    ),
    Record(
        "spectral_conv2d",
        (
            sample(real_normal(2, 3, 12, 16), real_normal(3, 4, 6, 5), real_normal(3, 4, 6, 5)),
            sample(real_normal(1, 2, 8, 7), real_normal(2, 2, 8, 4), real_normal(2, 2, 8, 4)),
        ),
        _spectral2d,
        (
            bad("the weights have 5", (1, 2, 8, 8), (2, 2, 5, 3), (2, 2, 5, 3)),
            bad("5 modes; the weights have 6", (1, 2, 8, 8), (2, 2, 4, 6), (2, 2, 4, 6)),
        ),
        tolerance=TOLERANCE,
        gradient_tolerance=1e-5,
    ),
)
