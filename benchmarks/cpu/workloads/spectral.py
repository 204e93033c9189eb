"""Layers that work on frequencies, state spaces as long convolutions, and divisive normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.fft
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Array, Input, Weights, Workload, fft_flops

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# --- Fourier neural operator ------------------------------------------------------------------------------------------

WIDTH, SIZE, MODES = 32, 64, 16


def _fno_tables(w: Mapping[str, Array]) -> dict[str, Array]:
    """Complex weights, and the truncated transforms as real matrices."""
    rows = np.r_[0:MODES, SIZE - MODES : SIZE]
    place = np.arange(SIZE)
    column = np.exp(-2j * np.pi * np.outer(place, np.arange(MODES)) / SIZE)
    row = np.exp(-2j * np.pi * np.outer(rows, place) / SIZE)
    twice = np.where(np.arange(MODES) == 0, 1, 2)[:, None]
    back = twice * column.conj().T / SIZE**2
    return {
        "spectral": w["re"] + 1j * w["im"],
        "column": np.concatenate([column.real, column.imag], 1),
        "row_re": row.real,
        "row_im": row.imag,
        "back": np.concatenate([back.real, -back.imag], 0),
    }


def _fno_fft(w: Weights, x: Tensor) -> Tensor:
    batch = x.shape[0]
    low = torch.fft.rfft2(x)[..., :MODES]
    low = torch.cat((low[..., :MODES, :], low[..., -MODES:, :]), -2)
    mixed = torch.einsum("ncij,coij->noij", low, w["spectral"])
    full = mixed.new_zeros(batch, WIDTH, SIZE, SIZE // 2 + 1)
    full[..., :MODES, :MODES], full[..., -MODES:, :MODES] = mixed[..., :MODES, :], mixed[..., MODES:, :]
    return F.gelu(torch.fft.irfft2(full, s=(SIZE, SIZE)) + F.conv2d(x, w["skip.weight"], w["skip.bias"]))


def _fno_dft(w: Weights, x: Tensor) -> Tensor:
    """The few modes by matrix products, in real numbers: for engines without complex ones."""
    re, im = (x @ w["column"]).chunk(2, -1)
    a, b = w["row_re"] @ re - w["row_im"] @ im, w["row_re"] @ im + w["row_im"] @ re
    c = torch.einsum("ncij,coij->noij", a, w["re"]) - torch.einsum("ncij,coij->noij", b, w["im"])
    d = torch.einsum("ncij,coij->noij", a, w["im"]) + torch.einsum("ncij,coij->noij", b, w["re"])
    row_re, row_im = w["row_re"].t(), w["row_im"].t()
    e, f = row_re @ c + row_im @ d, row_re @ d - row_im @ c
    y = torch.cat((e, f), -1) @ w["back"]
    return F.gelu(y + F.conv2d(x, w["skip.weight"], w["skip.bias"]))


def _fno(batch: int) -> Workload:
    shape = f"f32[{batch}, {WIDTH}, {SIZE}, {SIZE}]"
    mixing = 8.0 * 2 * MODES * MODES * WIDTH * WIDTH
    transforms = WIDTH * 2 * (SIZE / 2 * fft_flops(SIZE) + MODES * fft_flops(SIZE))
    return Workload(
        name="fno" + (f"-b{batch}" if batch > 1 else ""),
        family="spectral",
        title=f"FNO layer {WIDTH}ch {SIZE}², {MODES} modes",
        source=f"""model Net(x: {shape}) -> {shape} {{
  param re: f32[{WIDTH}, {WIDTH}, {2 * MODES}, {MODES}] = normal(0, {1 / WIDTH})
  param im: f32[{WIDTH}, {WIDTH}, {2 * MODES}, {MODES}] = normal(0, {1 / WIDTH})
  return gelu(spectral_conv2d(x, re, im) + Conv2d(x; {WIDTH}, 1) as skip)
}}""",
        inputs=(Input((batch, WIDTH, SIZE, SIZE)),),
        forms={"fft": _fno_fft, "dft": _fno_dft},
        derived=_fno_tables,
        flops=batch * (mixing + transforms + 2.0 * WIDTH * WIDTH * SIZE * SIZE),
        quick=batch == 1,
    )


# --- S4D --------------------------------------------------------------------------------------------------------------

CHANNELS, STATES, LENGTH = 64, 32, 2048
FFT_SIZE = scipy.fft.next_fast_len(2 * LENGTH - 1, real=True)

S4D = f"""op discretize(log_a: f32[h, s], b: f32[h, s], re: f32[h, s], im: f32[h, s], log_dt: f32[h]) -> c64[h, s] {{
  lambda[h, s] = complex(-exp(log_a[h, s]), b[h, s])
  return y[h, s] = complex(re[h, s], im[h, s]) * (exp(lambda[h, s] * exp(log_dt[h])) - 1) / lambda[h, s]
}}
op vandermonde(log_a: f32[h, s], b: f32[h, s], log_dt: f32[h], gain: c64[h, s]; length) -> f32[h, length] {{
  rate[h, s] = complex(-exp(log_a[h, s]), b[h, s]) * exp(log_dt[h])
  return k[h, l < length] = 2 * real(sum[s] gain[h, s] * exp(rate[h, s] * f32(l)))
}}
model Net(u: f32[1, {CHANNELS}, {LENGTH}]) -> f32[1, {CHANNELS}, {LENGTH}] {{
  param log_a: f32[{CHANNELS}, {STATES}] = constant(log(0.5))
  param b: f32[{CHANNELS}, {STATES}] = arange(0, pi)
  param re: f32[{CHANNELS}, {STATES}] = normal(0, 0.7)
  param im: f32[{CHANNELS}, {STATES}] = normal(0, 0.7)
  param log_dt: f32[{CHANNELS}] = uniform(-6.0, -3.0)
  param d: f32[{CHANNELS}] = normal(0, 1)
  gain = discretize(log_a, b, re, im, log_dt)
  return fft_conv(u, vandermonde(log_a, b, log_dt, gain; length = {LENGTH})) + u * d[:, none]
}}"""


def _s4d_kernel(w: Mapping[str, Array]) -> dict[str, Array]:
    rate = -np.exp(w["log_a"]) + 1j * w["b"]
    step = rate * np.exp(w["log_dt"])[:, None]
    gain = (w["re"] + 1j * w["im"]) * (np.exp(step) - 1) / rate
    kernel = 2 * np.einsum("hs,hsl->hl", gain, np.exp(step[..., None] * np.arange(LENGTH))).real
    return {"kernel": kernel, "spectrum": np.fft.rfft(kernel, FFT_SIZE)}


def _s4d_fft(w: Weights, u: Tensor) -> Tensor:
    y = torch.fft.irfft(torch.fft.rfft(u, n=FFT_SIZE) * w["spectrum"], n=FFT_SIZE)[..., :LENGTH]
    return y + u * w["d"][:, None]


def _s4d_direct(w: Weights, u: Tensor) -> Tensor:
    y = F.conv1d(F.pad(u, (LENGTH - 1, 0)), w["kernel"].flip(-1).unsqueeze(1), groups=CHANNELS)
    return y + u * w["d"][:, None]


def _s4d() -> Workload:
    return Workload(
        name="s4d",
        family="state space",
        title=f"S4D L={LENGTH} {CHANNELS}ch {STATES} states",
        source=S4D,
        inputs=(Input((1, CHANNELS, LENGTH)),),
        forms={"fft": _s4d_fft, "direct": _s4d_direct},
        derived=_s4d_kernel,
        flops=CHANNELS * (fft_flops(FFT_SIZE) + 3.0 * FFT_SIZE),
    )


# --- generalized divisive normalization -------------------------------------------------------------------------------


def _gdn(batch: int) -> Workload:
    c, size = 192, 64

    def plain(w: Weights, x: Tensor) -> Tensor:
        scale = F.conv2d(x.square(), w["gamma"].square()[:, :, None, None], w["beta"].square())
        return x * torch.rsqrt(scale)

    shape = f"f32[{batch}, {c}, {size}, {size}]"
    return Workload(
        name="gdn" + (f"-b{batch}" if batch > 1 else ""),
        family="normalization",
        title=f"GDN {c}ch {size}²",
        source=f"""model Net(x: {shape}) -> {shape} {{
  param beta: f32[{c}] = ones
  param gamma: f32[{c}, {c}] = normal(0, 0.1)
  power = conv2d(square(x), unsqueeze(unsqueeze(square(gamma); -1); -1))
  return x * rsqrt(bias_add(power, square(beta)))
}}""",
        inputs=(Input((batch, c, size, size)),),
        forms={"plain": plain},
        images=True,
        flops=2.0 * batch * c * c * size * size,
    )


WORKLOADS = (_fno(1), _fno(16), _s4d(), _gdn(1), _gdn(16))
