"""Grids of the least mean squared error for normally distributed weights, as weights are after a rotation (HIGGS,
Malinovskii et al. 2025, Pushing the limits of large language model quantization via the linearity theorem)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

_SAMPLES = 1 << 15
_STEPS = 80


@cache
def normal_levels(count: int) -> Matrix:
    """The `count` numbers, ascending, that a standard normal one is rounded to with the least mean squared error.

    An even count. Each is the mean of what is rounded to it (Lloyd 1982; Max 1960, Quantizing for minimum distortion).
    """
    from scipy.special import ndtr, ndtri

    levels = np.asarray(ndtri((np.arange(count // 2) + 0.5 + count / 2) / count), np.float64)
    while True:
        ends = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        density, mass = np.exp(-(ends**2) / 2) / np.sqrt(2 * np.pi), np.asarray(ndtr(ends))
        moved = (density[:-1] - density[1:]) / np.diff(mass)
        if np.abs(moved - levels).max() < 1e-9:
            return np.concatenate([-moved[::-1], moved])
        levels = moved


@cache
def normal_pairs(count: int) -> Matrix:
    """Points[count, 2] that pairs of standard normal numbers are rounded to with nearly the least squared error.

    Found by Lloyd's steps on evenly spread samples, from the best grid of numbers, so that it is no worse than that.
    """
    from scipy.special import ndtri

    golden = (np.sqrt(5) - 1) / 2
    places = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    samples = np.stack([ndtri(places), ndtri((np.arange(_SAMPLES) * golden + 0.5 * golden) % 1.0)], axis=1)
    root = round(count**0.5)
    points = np.stack(np.meshgrid(*[normal_levels(root)] * 2), axis=-1).reshape(-1, 2)
    angle = 0.4  # a grid along the axes is a saddle point
    points = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points + 0.05 * np.random.default_rng(0).standard_normal(points.shape)
    for _ in range(_STEPS):
        nearest = np.argmax(samples @ points.T - np.square(points).sum(axis=1) / 2, axis=1)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, column, count) for column in samples.T], axis=1)
        points = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], points)
    return points
