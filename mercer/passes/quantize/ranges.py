"""How codes stand for real numbers, and how their scale is found from samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mercer.passes.quantize.code_books import Levels, code_books, nearest_level

Matrix = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]

_CANDIDATES = 80
"""Clipping ranges that `mse` and `entropy` try, as parts of the whole range."""
_BINS = 2048


@dataclass(frozen=True)
class Encoding:
    """Codes q of real numbers scale * (q - zero), low <= q <= high (Jacob et al. 2018, equation 1)."""

    scale: float
    zero: int
    low: int
    high: int

    def encode(self, values: Matrix) -> Codes:
        """The nearest codes, ties to even, as the operator `quantize` has them."""
        return np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high).astype(np.int8)

    def decode(self, codes: npt.NDArray[np.integer]) -> Matrix:
        return (codes.astype(np.float64) - self.zero) * self.scale

    @property
    def reach(self) -> tuple[int, int]:
        """The least and the largest q - zero."""
        return self.low - self.zero, self.high - self.zero


@dataclass(frozen=True)
class Point:
    """The range of a value, and how many bits the codes have that it is rounded to, 0 when only the range counts."""

    low: float
    high: float
    bits: int


PREFIX = "ranges."
"""Of the buffers that hold ranges, among the names of parameters."""


def buffer_of(name: str) -> str:
    """The buffer that holds the range of a value; a dot would make it a module."""
    return PREFIX + name.replace(".", "__")


def encoding(low: float, high: float, bits: int, symmetric: bool = False) -> Encoding:
    """The codes of `bits` bits whose range holds low, high and zero, which has a code of its own.

    Symmetric codes have zero = 0 and leave out the lowest code. A range without width counts as 0..1.
    """
    first, last = -(1 << bits - 1), (1 << bits - 1) - 1
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        scale = np.float32((max(-low, high) or 1.0) / max(last, 1))
        return Encoding(float(scale), 0, -max(last, 1), max(last, 1))
    scale = float(np.float32((high - low or 1.0) / (last - first)))
    zero = int(np.clip(np.rint(first - low / scale), first, last))
    return Encoding(scale, zero, first, last)


# --- calibration ------------------------------------------------------------------------------------------------------

CALIBRATIONS = ("minmax", "percentile", "mse", "entropy")


def calibrated(values: Matrix, bits: int, method: str, percentile: float) -> Encoding:
    """The codes for samples of a tensor, by one of CALIBRATIONS; `percentile` is how much that method keeps.

    Samples on a grid that codes can hold, such as pixels or coordinates, are kept as they are by every method.
    """
    flat = values.reshape(-1)
    if not flat.size:
        return encoding(0.0, 0.0, bits)
    if (exact := _of_grid(flat, bits)) is not None:
        return exact
    match method:
        case "percentile":
            low, high = (float(each) for each in np.percentile(flat, [100.0 - percentile, percentile]))
        case "mse":
            low, high = _best(flat, _squared_error(_thinned(flat), bits))
        case "entropy":
            low, high = _best(flat, _divergence(flat, bits))
        case _:
            low, high = float(flat.min()), float(flat.max())
    return encoding(low, high, bits)


def _of_grid(values: Matrix, bits: int) -> Encoding | None:
    """The finest codes that have every sample, up to a thousandth of their step."""
    most = (1 << bits) - 1
    if np.unique(values[: 16 << bits]).size > most + 1 or (levels := np.unique(values)).size > most + 1:
        return None
    low, high = min(float(levels[0]), 0.0), max(float(levels[-1]), 0.0)
    for count in range(most, 0, -1) if high > low else ():
        scale = float(np.float32((high - low) / count))
        places = levels / scale
        if np.abs(places - np.rint(places)).max() <= 1e-3:
            first = -(1 << bits - 1)
            return Encoding(scale, first - round(low / scale), first, first + most)
    return None


def _best(values: Matrix, error: Callable[[float, float], float]) -> tuple[float, float]:
    """Of the ranges [t low, t high], the one with the least error; the wider one of equals."""
    low, high = float(values.min()), float(values.max())
    parts = np.linspace(1.0, 0.2, _CANDIDATES)
    best = parts[int(np.argmin([error(part * low, part * high) for part in parts]))]
    return float(best * low), float(best * high)


def _squared_error(sample: Matrix, bits: int) -> Callable[[float, float], float]:
    """Of rounding and clipping together."""

    def error(low: float, high: float) -> float:
        codes = encoding(low, high, bits)
        return float(np.square(codes.decode(codes.encode(sample)) - sample).sum())

    return error


def _divergence(values: Matrix, bits: int) -> Callable[[float, float], float]:
    """What a histogram loses, in the sense of Kullback and Leibler, when it is clipped and its bins are merged into as
    many as there are codes (Migacz 2017, 8-bit inference with TensorRT)."""
    counts, edges = np.histogram(values, _BINS)
    centers = (edges[:-1] + edges[1:]) / 2

    def error(low: float, high: float) -> float:
        codes = encoding(low, high, bits)
        inside = np.clip(centers, low, high)
        clipped = np.bincount(np.searchsorted(edges[1:-1], inside), counts, _BINS)
        group = codes.encode(inside).astype(np.int64) - codes.low
        held = clipped > 0
        size, mass = np.bincount(group, held), np.bincount(group, counts * (inside == centers))
        spread = np.where(held, mass[group] / np.maximum(size[group], 1), 0.0)
        p, q = clipped / clipped.sum(), np.maximum(spread, 1e-9) / max(float(spread.sum()), 1e-9)
        return float((p[held] * np.log(p[held] / q[held])).sum())

    return error


def _thinned(values: Matrix, most: int = 1 << 16) -> Matrix:
    """Evenly spaced samples, with the least and the largest."""
    if values.size <= most:
        return values
    kept = values[:: -(-values.size // most)]
    return np.concatenate([kept, [values.min(), values.max()]])


# --- weights ----------------------------------------------------------------------------------------------------------


def weight_codes(weight: Matrix, bits: int, axis: int | None, codes: str = "uniform") -> tuple[Codes, Matrix]:
    """Symmetric codes of a weight and their scales, one for each place along `axis` (one for all when it is None).

    Codes are those of `code_books`. 1 bit is the sign with the mean magnitude as scale (Rastegari et al. 2016), for
    `bits` 2 and more the scale with the least squared error is taken.
    """
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    books = code_books(codes, bits)
    found, scales, _ = min((_nearest(rows, levels) for levels in books), key=lambda each: each[2])
    if axis is None:
        return found.reshape(weight.shape), scales
    moved = tuple(np.moveaxis(weight, axis, 0).shape)
    return np.ascontiguousarray(np.moveaxis(found.reshape(moved), 0, axis)), scales


def aligned(channels: Matrix, trailing: int = 0) -> Matrix:
    """One number per channel, before `trailing` axes; a single number for all."""
    return channels.reshape(-1, *[1] * trailing) if channels.size > 1 else channels.reshape(())


def _nearest(rows: Matrix, levels: Levels) -> tuple[Codes, Matrix, float]:
    """Codes, scales and the squared error."""
    if len(levels) == 2:
        scales = np.abs(rows).mean(axis=1)
        best = np.where(scales > 0.0, scales, 1.0)
    else:
        best = best_scales(rows, levels)
    codes = nearest_level(rows / best[:, None], levels)
    return codes.astype(np.int8), best, float(np.square(codes * best[:, None] - rows).sum())


def best_scales(rows: Matrix, levels: Levels) -> Matrix:
    """The scale of each row with the least squared error of the nearest codes; rows that codes can hold keep theirs."""
    widest = np.abs(rows).max(axis=1, initial=0.0)
    widest = np.where(widest > 0.0, widest, 1.0) / float(levels[-1])
    best, least = widest, np.full(len(rows), np.inf)
    for part in np.linspace(1.0, 0.3, _CANDIDATES):
        scale = part * widest
        rounded = nearest_level(rows / scale[:, None], levels) * scale[:, None]
        error = np.square(rounded - rows).sum(axis=1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    exact = _grid_scales(rows, levels)
    return np.where(exact > 0.0, exact, best)


def largest_levels(levels: Levels) -> Levels:
    """What the largest weight of a row may become; with less, codes twice as large are there as well."""
    return levels[levels > levels[-1] // 2]


def _grid_scales(rows: Matrix, levels: Levels) -> Matrix:
    """The scale of rows that are levels times it, up to a thousandth of a step; 0 for others."""
    widest = np.abs(rows).max(axis=1, initial=0.0)
    steps = np.diff(np.sort(rows, axis=1), axis=1) > 1e-3 * widest[:, None] / float(levels[-1])
    found = np.zeros(len(rows))
    few = np.flatnonzero((steps.sum(axis=1) < len(levels)) & (widest > 0.0))
    for largest in largest_levels(levels) if few.size else ():
        scale = widest[few] / float(largest)
        places = rows[few] / scale[:, None]
        exact = np.abs(places - nearest_level(places, levels)).max(axis=1, initial=0.0) <= 1e-3
        found[few] = np.where(exact, scale, found[few])
    return found
