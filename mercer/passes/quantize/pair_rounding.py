"""Rounding of pairs of weights to points of the plane, which lie closer together than pairs of numbers do."""

from __future__ import annotations

import numpy as np

from mercer.passes.quantize.code_books import normal_points
from mercer.passes.quantize.ranges import Codes, Matrix

_PARTS = np.geomspace(0.7, 1.3, 9)
"""Scales that are tried, as parts of the root mean square of a row."""
SWEEPS = 2
"""How often scales and codes are improved in turn."""


def paired(weight: Matrix, hessian: Matrix, bits: int, shared: bool) -> tuple[Codes, Matrix]:
    """Codes[g, o, k] and their scales[g, o, 1] for weight[g, o, k], with small (w - q) H (w - q) of every row w.

    k is even; elements j and j + k/2 of a row are a point of `normal_points(bits)`. Pairs are rounded one after the
    other as in `compensated`: each is the point that loses least with what those before have left.
    """
    points = normal_points(bits).astype(np.float64)
    unit = np.sqrt(np.square(points).mean())
    size = np.sqrt(np.square(weight).mean(axis=(0, 1, 2) if shared else 2, keepdims=True))
    sizes = np.broadcast_to(np.where(size > 0.0, size, 1.0) / unit, (*weight.shape[:2], 1))
    found = [_rounded(weight, part * sizes, hessian, points) for part in _PARTS]
    losses = np.stack(
        [_loss(weight - codes * part * sizes, hessian) for codes, part in zip(found, _PARTS, strict=True)]
    )
    if shared:
        losses = np.broadcast_to(losses.sum(axis=(1, 2), keepdims=True), losses.shape)
    best = np.argmin(losses, axis=0)[:, :, None]
    codes = np.take_along_axis(np.stack(found), best[None], 0)[0]
    scales = _PARTS[best] * sizes
    for _ in range(SWEEPS):
        scales = fitted(weight, codes, scales, hessian, shared)
        codes = _improved(weight, codes, scales, hessian, points)
    return codes.astype(np.int8), scales


def _loss(error: Matrix, hessian: Matrix) -> Matrix:
    return ((error @ hessian) * error).sum(axis=2)


def _rounded(weight: Matrix, scales: Matrix, hessian: Matrix, points: Matrix) -> Matrix:
    """Pairs in turn, those with the largest moments first."""
    half = weight.shape[2] // 2
    codes = np.empty_like(weight)
    for group, moments in enumerate(hessian):
        diagonal = np.diagonal(moments)
        pairs = np.argsort(diagonal[:half] + diagonal[half:], kind="stable")
        order = np.stack([pairs, pairs + half], axis=1).reshape(-1)
        lower = np.asarray(np.linalg.cholesky(moments[np.ix_(order, order)]), np.float64)
        root = np.diagonal(lower)
        weigh, upper = np.square(root), (lower / root).T
        rows, step = weight[group][:, order], scales[group]
        error, chosen = np.zeros_like(rows), np.empty_like(rows)
        values = points * step[:, :, None]
        for a in range(len(order) - 2, -1, -2):
            b = a + 1
            carried = error[:, b + 1 :] @ upper[a : b + 1, b + 1 :].T
            second = rows[:, b, None] + carried[:, 1, None] - values[:, :, 1]
            first = rows[:, a, None] + carried[:, 0, None] - values[:, :, 0]
            first = first + upper[a, b] * (rows[:, b, None] - values[:, :, 1])
            best = np.argmin(weigh[b] * np.square(second) + weigh[a] * np.square(first), axis=1)
            chosen[:, a : b + 1] = points[best]
            error[:, a : b + 1] = rows[:, a : b + 1] - points[best] * step
        codes[group][:, order] = chosen
    return codes


def _improved(weight: Matrix, codes: Matrix, scales: Matrix, hessian: Matrix, points: Matrix) -> Matrix:
    """Each pair once at its best point, while the others stay."""
    codes, half = codes.copy(), weight.shape[2] // 2
    values = points * scales[..., None]
    for pair in range(half):
        places = [pair, pair + half]
        slope = (weight - codes * scales) @ hessian[:, :, places]
        change = (codes[:, :, places] * scales)[:, :, None] - values
        block = hessian[:, places][:, :, places]
        loss = 2 * (change @ slope[..., None])[..., 0] + ((change @ block[:, None]) * change).sum(axis=3)
        codes[:, :, places] = points[np.argmin(loss, axis=2)]
    return codes


def fitted(weight: Matrix, codes: Matrix, scales: Matrix, hessian: Matrix, shared: bool) -> Matrix:
    """The scales that lose least with these codes; a row without any keeps its own."""
    weighed = codes @ hessian
    above, below = ((weighed * each).sum(axis=2, keepdims=True) for each in (weight, codes))
    if shared:
        above, below = (np.broadcast_to(each.sum(), scales.shape) for each in (above, below))
    return np.where((below > 0.0) & (above > 0.0), above / np.where(below > 0.0, below, 1.0), scales)
